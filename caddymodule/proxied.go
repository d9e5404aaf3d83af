package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// proxied is the state of one proxied request, and the request's context. Each handler makes its own: a handler in
// another's handle_response gets the context of the request that the other one has proxied.
type proxied struct {
	context.Context
	lease    token.Lease
	keeps    bool // the application's own credentials, and has no lease
	sent     bool
	replayed bool
	refusal  *problem // what the injector refused the request with
	found    foundUpstreams
	body     *replayBody
	answer   answerBody
}

// proxiedKey is the context key of a *proxied. Only this package can ask for one.
type proxiedKey struct{}

// Value implements context.Context.
func (p *proxied) Value(key any) any {
	if key == (proxiedKey{}) {
		return p
	}
	return p.Context.Value(key)
}

// keepBody takes over the body of one try of reverse_proxy, of which there may be several, one after another.
func (p *proxied) keepBody(b *replayBody) *replayBody {
	p.body.discard()
	p.body = b
	return b
}

// end lets go of what the request has kept, however it has ended.
func (p *proxied) end() { p.body.discard() }

// guard puts the guard around the body of an answer. That of 101 Switching Protocols is a connection, of which no error
// quotes anything.
func (p *proxied) guard(res *http.Response, field *tokenField) {
	if _, connection := res.Body.(io.Writer); connection || res.Body == http.NoBody {
		return
	}
	p.answer = answerBody{res.Body, field}
	res.Body = &p.answer
}

// answerBody is the body of an answer. Errors of reading it may quote what the upstream has sent, such as a trailer or
// the reason why it closes the connection, and reverse_proxy logs them.
type answerBody struct {
	io.ReadCloser
	field *tokenField
}

// Read implements io.Reader.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	return n, b.field.withoutEcho(err)
}

// Close implements io.Closer.
func (b *answerBody) Close() error { return b.field.withoutEcho(b.ReadCloser.Close()) }

// errRefused is what the injector tells reverse_proxy when it has refused a request. reverse_proxy takes it for a
// client that has left: it does not try again, and holds nothing against the upstream.
var errRefused = fmt.Errorf("the token is not sent: %w", context.Canceled)

// refusalWriter answers with the injector's refusal where reverse_proxy says 499 for the client that has left.
type refusalWriter struct {
	caddyhttp.ResponseWriterWrapper
	proxied    *proxied
	credential string
}

func newRefusalWriter(w http.ResponseWriter, p *proxied, credential string) *refusalWriter {
	return &refusalWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, p, credential}
}

// WriteHeader implements http.ResponseWriter.
func (w *refusalWriter) WriteHeader(status int) {
	if status == statusClientGone && w.proxied.refusal != nil {
		w.proxied.refusal.write(w.ResponseWriter, w.credential)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// statusClientGone is what Caddy logs for a client that has left.
const statusClientGone = 499

// foundUpstreams are the upstreams that the dynamic sources of a handler have returned for one request, with the name
// that each was found by. Each answer of a source has upstreams of its own, so that a pointer tells where one is from.
type foundUpstreams []foundUpstream

type foundUpstream struct {
	name      string
	upstreams []*reverseproxy.Upstream
}

// nameOf returns "" for upstreams that were not found by a name.
func (f foundUpstreams) nameOf(u *reverseproxy.Upstream) string {
	for _, found := range f {
		if slices.Contains(found.upstreams, u) {
			return found.name
		}
	}
	return ""
}
