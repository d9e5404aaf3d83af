package caddymodule

import (
	"net/http"
	"strings"
)

// mayCarryToken reports whether a request may carry the token. TRACE may not, because servers answer it with the request that
// they received (RFC 9110 section 9.3.8). CONNECT may not, because it opens a tunnel, unless it starts a WebSocket (RFC 8441,
// RFC 9220). Methods are case-sensitive (section 9.1), but a server may take `trace` for TRACE.
func mayCarryToken(r *http.Request) bool {
	switch strings.ToUpper(r.Method) {
	case http.MethodTrace, "TRACK":
		return false
	case http.MethodConnect:
		return r.Header.Get(":protocol") == "websocket" || r.Proto == "websocket"
	default:
		return true
	}
}
