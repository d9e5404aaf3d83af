package caddymodule

import "net/http"

// mayCarryToken reports whether a request may carry the token. TRACE may not, because servers answer it with the request that
// they received (RFC 9110 section 9.3.8). CONNECT may not, because it opens a tunnel, unless it starts a WebSocket (RFC 8441,
// RFC 9220).
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
