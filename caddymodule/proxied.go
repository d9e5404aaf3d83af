package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// proxied is the state of one proxied request, and the request's context. Each handler makes its own, because a
// handler in the handle_response of another handler gets the context of that handler's request.
type proxied struct {
	context.Context
	lease    token.Lease
	tenant   requestTenant
	keeps    bool // the request keeps the application's own credentials and has no lease
	returns  bool // the request may have been here before
	trusted  bool // the request comes from one of trusted_proxies
	late     bool // the token may have expired since the request got it
	expired  bool // the token has expired, and denial is why no other one replaces it
	replayed bool
	proof    *dpop.Proof // which the API may have refused; nil unless its answer says that it can accept another one
	denial   *problem    // the injector's reason to deny the request
	received http.Header // with forwarded off: the application's
	via      []string    // with forwarded off: what the API gets in Via
	found    foundUpstreams
	body     *replayBody
	fields   sentFields
	second   *secondRun    // nil unless reverse_proxy runs twice
	request  *http.Request // that reverse_proxy runs with
	answer   answerBody
}

// proxiedKey is the context key of a *proxied. Only this package can use it.
type proxiedKey struct{}

// Value implements context.Context.
func (p *proxied) Value(key any) any {
	if key == (proxiedKey{}) {
		return p
	}
	return p.Context.Value(key)
}

// keepBody stores the body of an attempt of reverse_proxy, and discards that of the attempt before. reverse_proxy may make
// several attempts, one after another.
func (p *proxied) keepBody(b *replayBody) *replayBody {
	p.body.discard()
	p.body = b
	return b
}

// end frees what the request has kept, however the request has ended.
func (p *proxied) end() {
	p.body.discard()
	p.second.discard()
}

// errDenied is the error that the injector returns to reverse_proxy when it denies a request. reverse_proxy takes it for a
// client that has left, so that it does not try again and does not count a failure of the upstream.
var errDenied = fmt.Errorf("the token is not sent: %w", context.Canceled)

// denialWriter takes the place of the 499 that reverse_proxy answers for a client that has left. If the injector has denied the
// request, it answers with the injector's problem. If a second run must follow, it does not answer.
type denialWriter struct {
	caddyhttp.ResponseWriterWrapper
	proxied    *proxied
	credential string
}

func newDenialWriter(w http.ResponseWriter, p *proxied, credential string) *denialWriter {
	return &denialWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, p, credential}
}

// WriteHeader implements http.ResponseWriter.
func (w *denialWriter) WriteHeader(status int) {
	if status == statusClientGone && w.proxied.second.pending() {
		return
	}
	if status == statusClientGone && w.proxied.denial != nil {
		w.proxied.denial.write(w.ResponseWriter, w.credential)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// statusClientGone is the status that Caddy logs for a client that has left.
const statusClientGone = 499

// foundUpstreams are the upstreams that the dynamic sources of a handler have returned for one request, with the names that
// the sources looked up. Each answer of a source has its own upstreams, so that the pointer to an upstream identifies the
// answer.
type foundUpstreams []foundUpstream

type foundUpstream struct {
	name      string
	upstreams []*reverseproxy.Upstream
}

// nameOf returns the name that found an upstream, or "".
func (f foundUpstreams) nameOf(u *reverseproxy.Upstream) string {
	for _, found := range f {
		if slices.Contains(found.upstreams, u) {
			return found.name
		}
	}
	return ""
}
