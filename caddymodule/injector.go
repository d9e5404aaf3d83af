package caddymodule

import (
	"io"
	"maps"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// injector is the transport around reverse_proxy's transport. It sees the final request, after all that Caddy does
// to it, and puts the token on a copy, so that whoever logs the request does not see it.
type injector struct {
	next         http.RoundTripper
	destinations *destinations
	credential   *Credential
	replay       bool
	replayBuffer int
	logger       *zap.Logger
	refused      rate.Sometimes
	field        atomic.Pointer[tokenField]
}

// tokenField is the header field of one token, made once and shared by all its requests.
type tokenField struct {
	token  Secret
	values []string
}

func newInjector(h *Handler, next http.RoundTripper, d *destinations) *injector {
	return &injector{
		next:         next,
		destinations: d,
		credential:   h.credential,
		replay:       h.OnUnauthorized == unauthorizedReplay,
		replayBuffer: int(*h.ReplayBuffer),
		logger:       h.logger,
		refused:      rate.Sometimes{Interval: warnInterval},
	}
}

// RoundTrip implements http.RoundTripper. Requests without a lease pass untouched: active health checks, and
// requests that keep the application's own credentials.
func (i *injector) RoundTrip(req *http.Request) (*http.Response, error) {
	p, ok := req.Context().Value(proxiedKey{}).(*proxied)
	if !ok {
		return i.next.RoundTrip(req)
	}
	if refusal := i.refuse(req); refusal != nil {
		closeBody(req)
		return refusal, nil
	}
	if err := i.renew(req, p); err != nil {
		closeBody(req)
		return problemOf(err).response(req, i.credential.name), nil
	}
	body := newReplayBody(req.Body, i.replayBuffer)
	res, err := i.next.RoundTrip(i.withToken(req, p.lease, body.first()))
	if err != nil || res.StatusCode != http.StatusUnauthorized {
		body.finish()
		return res, err
	}
	return i.unauthorized(req, res, p, body)
}

// refuse checks the destination. It answers instead of failing, because an error would count as the upstream's.
func (i *injector) refuse(req *http.Request) *http.Response {
	if !mayCarryToken(req) { // reverse_proxy can change the method
		return problemMethod.response(req, i.credential.name)
	}
	di, _ := reverseproxy.GetDialInfo(req.Context())
	err := i.destinations.check(di.Network, di.Host, di.Port)
	if err == nil {
		return nil
	}
	i.refused.Do(func() {
		i.logger.Error("the token may not go to this upstream",
			zap.String("credential", i.credential.name),
			zap.String("upstream", di.Address),
			zap.Error(err))
	})
	return problemDestination.response(req, i.credential.name)
}

// renew replaces a token that has expired while reverse_proxy was trying upstreams. The first try always uses the
// token that was just acquired, even one that lives for less than a moment.
func (i *injector) renew(req *http.Request, p *proxied) error {
	if !p.sent || !p.lease.Expired() {
		p.sent = true
		return nil
	}
	lease, err := i.credential.source.Acquire(req.Context())
	if err != nil {
		return err
	}
	p.lease = lease
	return nil
}

// withToken returns a copy of req that carries the token. The copy's header map is its own; the values are shared,
// since nobody changes those in place.
func (i *injector) withToken(req *http.Request, lease token.Lease, body io.ReadCloser) *http.Request {
	c := new(http.Request)
	*c = *req
	c.Header = maps.Clone(req.Header)
	c.Header[i.credential.header.Name] = i.fieldFor(lease)
	c.Body = body
	return c
}

func (i *injector) fieldFor(lease token.Lease) []string {
	value := lease.Value()
	if f := i.field.Load(); f != nil && f.token == value {
		return f.values
	}
	f := &tokenField{token: value, values: []string{i.credential.header.value(value)}}
	i.field.Store(f)
	return f.values
}

// unauthorized reports the token as rejected and, if that yields another one and the body can be sent again, sends
// the request once more. RFC 9110 section 15.5.2: a 401 says that the request has not been applied.
func (i *injector) unauthorized(req *http.Request, res *http.Response, p *proxied, body *replayBody) (*http.Response, error) {
	defer body.finish()
	doubt, ours := judgeChallenge(res.Header.Values("WWW-Authenticate"))
	if !ours {
		return res, nil
	}
	if !i.replay || !body.replayable() {
		i.credential.source.Discard(p.lease, doubt)
		return res, nil
	}
	other, ok := i.credential.source.Reject(req.Context(), p.lease, doubt)
	if !ok {
		return res, nil
	}
	again, ok := body.again()
	if !ok { // while we waited, more of the body went out than is kept
		return res, nil
	}
	p.lease = other
	drain(res.Body)
	return i.next.RoundTrip(i.withToken(req, other, again))
}

// maxDrain is how much of a refused response is read so that its connection can be used again.
const maxDrain = 4 << 10

func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxDrain)
	_ = body.Close()
}

// closeBody does what a transport must do with the body of a request that it does not send.
func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// What follows hands on what reverse_proxy asks its transport at run time. A transport that has no answer gives the
// same one as a transport that cannot be asked.

// RequestHeaderOps implements reverseproxy.RequestHeaderOpsTransport.
func (i *injector) RequestHeaderOps() *headers.HeaderOps {
	if t, ok := i.next.(reverseproxy.RequestHeaderOpsTransport); ok {
		return t.RequestHeaderOps()
	}
	return nil
}

// ProxyProtocolEnabled implements reverseproxy.ProxyProtocolTransport.
func (i *injector) ProxyProtocolEnabled() bool {
	t, ok := i.next.(reverseproxy.ProxyProtocolTransport)
	return ok && t.ProxyProtocolEnabled()
}

// OverrideHealthCheckScheme implements reverseproxy.HealthCheckSchemeOverriderTransport.
func (i *injector) OverrideHealthCheckScheme(base *url.URL, port string) {
	if t, ok := i.next.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		t.OverrideHealthCheckScheme(base, port)
	}
}

// RequiresContentLength implements reverseproxy.ContentLengthRequiredTransport.
func (i *injector) RequiresContentLength() bool {
	t, ok := i.next.(reverseproxy.ContentLengthRequiredTransport)
	return ok && t.RequiresContentLength()
}

// Interface guards
var (
	_ http.RoundTripper                                = (*injector)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*injector)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*injector)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*injector)(nil)
	_ reverseproxy.ContentLengthRequiredTransport      = (*injector)(nil)
)
