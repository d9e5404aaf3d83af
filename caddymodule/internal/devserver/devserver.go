// Package devserver has a token endpoint that behaves like those of real services, and an API that demands its tokens.
// Both can be made to misbehave. Tests, the quick start and the rehearsal of an outage share this implementation.
//
//	tokens := devserver.NewRegistry()
//	endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, Registry: tokens}
//	api := &devserver.API{Registry: tokens}
//	endpoint.SetFault(devserver.Fault{Status: 503, RetryAfter: "2", Count: 3})
//
// Both are http.Handlers, and answer clients on this machine only. They follow the API descriptions of Optoro and Elastic
// Path, the clients that Elastic Path publishes, and the source of Doorkeeper, which is the server behind Optoro. The
// dialect OAuth2 imitates no service. It verifies requests against Demands, and shares no code with the client that it
// tests.
package devserver

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// HeaderName and HeaderValue mark every answer, so that a development server is not mistaken for a real service.
const (
	HeaderName  = "X-Dev-Server"
	HeaderValue = "development only, not a real service"
)

const (
	typeJSON     = "application/json"
	typeJSONUTF8 = "application/json; charset=utf-8"
	typeHTML     = "text/html; charset=utf-8"
)

// admit marks the answer and reports whether the client is on this machine. It answers any other client with 403,
// because the default secret is public.
func admit(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set(HeaderName, HeaderValue)
	if localPeer(r) {
		return true
	}
	http.Error(w, "this development server answers loopback and unix sockets only", http.StatusForbidden)
	return false
}

// localPeer looks at the connection only, because any client can send a forwarded header.
func localPeer(r *http.Request) bool {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && strings.HasPrefix(a.Network(), "unix") {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// answer is a complete response.
type answer struct {
	status int
	header map[string]string
	body   []byte
}

// empty returns an answer without a body. kind is its media type, or empty. Doorkeeper's empty answers call themselves
// HTML.
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
	_, _ = w.Write(a.body) // fails only if the client has gone
}

// encode is json.Marshal for the values of this package, which cannot fail.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
