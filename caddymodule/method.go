package caddymodule

import "net/http"

// mayCarryToken refuses methods that would show the token: servers answer TRACE by sending back what they got (RFC
// 9110 section 9.3.8), and CONNECT opens a tunnel, unless it starts a WebSocket (RFC 8441, RFC 9220).
func mayCarryToken(r *http.Request) bool {
	switch r.Method {
	case http.MethodTrace, "TRACK":
		return false
	case http.MethodConnect:
		return r.Header.Get(":protocol") == "websocket" || r.Proto == "websocket"
	default:
		return true
	}
}
