// Package devserver has token endpoints that behave like the real ones, and an API that demands their tokens. Both can
// be told to misbehave. Tests, the quick start and the rehearsal of an outage use this one implementation.
//
//	tokens := devserver.NewRegistry()
//	endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, Registry: tokens}
//	api := &devserver.API{Registry: tokens}
//	endpoint.SetFault(devserver.Fault{Status: 503, RetryAfter: "2", Count: 3})
//
// Both are http.Handlers, and answer clients on this machine only. They follow the API descriptions of the two services,
// the clients that Elastic Path publishes, and the source of Doorkeeper, which is the server behind Optoro. The dialect
// OAuth2 imitates no service. It verifies requests against Demands, and shares no code with the client that it tests.
package devserver

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// HeaderName and HeaderValue mark every answer, so that nobody takes a development server for the real thing.
const (
	HeaderName  = "X-Dev-Server"
	HeaderValue = "development only, not a real service"
)

const (
	typeJSON     = "application/json"
	typeJSONUTF8 = "application/json; charset=utf-8"
	typeHTML     = "text/html; charset=utf-8"
)

// admit marks the answer and reports whether the peer may have one. Others get 403: the default secret is public.
func admit(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set(HeaderName, HeaderValue)
	if localPeer(r) {
		return true
	}
	http.Error(w, "this development server answers loopback and unix sockets only", http.StatusForbidden)
	return false
}

// localPeer judges by the connection alone: anybody can write a forwarded header.
func localPeer(r *http.Request) bool {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && strings.HasPrefix(a.Network(), "unix") {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// answer is one complete response.
type answer struct {
	status int
	header map[string]string
	body   []byte
}

// empty has no body. kind is its media type, because Doorkeeper's empty answers call themselves HTML.
func empty(status int, kind string) answer {
	a := answer{status: status, header: map[string]string{}}
	if kind != "" {
		a.header["Content-Type"] = kind
	}
	return a
}

func (a answer) write(w http.ResponseWriter) {
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // whoever stopped reading needs no answer
}

// encode is json.Marshal for the values of this package, which cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
