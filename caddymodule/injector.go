package caddymodule

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

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
	bound        *boundTransport // nil if there is nothing to show
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
		bound:        h.bound,
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
	if p.refusal = i.refuse(req, p); p.refusal != nil {
		closeBody(req)
		return nil, errRefused
	}
	body := newReplayBody(req, i.replayBuffer)
	res, err := i.send(req, p.lease, body.first())
	if err != nil {
		body.finish()
		return nil, err
	}
	if res.StatusCode != http.StatusUnauthorized {
		p.lease.Accepted()
		body.finish()
		return res, nil
	}
	return i.unauthorized(req, res, p, body)
}

// refuse says why the request may not be sent, if it may not: for where it goes, or for want of a token.
func (i *injector) refuse(req *http.Request, p *proxied) *problem {
	if !mayCarryToken(req) { // reverse_proxy can change the method
		return &problemMethod
	}
	if refusal := i.refuseDestination(req); refusal != nil {
		return refusal
	}
	if err := i.renew(req, p); err != nil {
		refusal := problemOf(err)
		return &refusal
	}
	return nil
}

func (i *injector) refuseDestination(req *http.Request) *problem {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	err := i.destinations.check(di.Network, di.Host, di.Port)
	if err == nil {
		return nil
	}
	i.credential.counted().refused[refusedDestination].Inc()
	i.refused.Do(func() {
		i.credential.observation.add(occurrence{At: time.Now(), Outcome: outcomeDestination, Reason: err.Error() + ": " + di.Address})
		i.logger.Error("the token may not go to this upstream",
			zap.String("credential", i.credential.name),
			zap.String("upstream", di.Address),
			zap.Error(err))
	})
	return &problemDestination
}

// renew replaces a token that has expired while reverse_proxy was trying upstreams. The first try always uses the
// token that was just acquired, even one that lives for less than a moment.
func (i *injector) renew(req *http.Request, p *proxied) error {
	if !p.sent || !p.lease.Expired() {
		p.sent = true
		return nil
	}
	lease, err := i.credential.acquire(req.Context())
	if err != nil {
		return err
	}
	p.lease = lease
	return nil
}

// send sends a copy of the request that carries the token. An error that quotes the token, because the upstream sent it
// back in place of an answer, is replaced: errors are logged.
func (i *injector) send(req *http.Request, lease token.Lease, body io.ReadCloser) (*http.Response, error) {
	res, err := i.transport(lease).RoundTrip(i.withToken(req, lease, body))
	if err != nil && lease.Value().In(err.Error()) {
		return nil, errEcho
	}
	return res, err
}

// transport returns the one that shows the certificate that the token may be bound to.
func (i *injector) transport(lease token.Lease) http.RoundTripper {
	if certificate := lease.Certificate(); certificate != nil && i.bound != nil {
		return i.bound.with(certificate)
	}
	return i.next
}

var errEcho = errors.New("the upstream sent back the token in place of an answer")

// withToken returns a copy of req that carries the token. The copy's header map is its own; the values are shared,
// since nobody changes those in place.
func (i *injector) withToken(req *http.Request, lease token.Lease, body io.ReadCloser) *http.Request {
	c := new(http.Request)
	*c = *req
	c.Header = maps.Clone(req.Header)
	c.Header[i.credential.header.Name] = i.fieldFor(lease)
	c.Body = body
	if a, ok := body.(*bodyAttempt); ok {
		c.Trailer = a.trailer
	}
	return withoutHeaderTrace(c)
}

// withoutHeaderTrace hides the header from traces that other handlers have put into the context.
func withoutHeaderTrace(req *http.Request) *http.Request {
	trace := httptrace.ContextClientTrace(req.Context())
	if trace == nil || trace.WroteHeaderField == nil {
		return req
	}
	quiet := *trace
	quiet.WroteHeaderField = nil
	return req.WithContext(httptrace.WithClientTrace(noClientTrace{req.Context()}, &quiet))
}

// noClientTrace is a context without its client trace: a new one would be added to it, not replace it.
type noClientTrace struct {
	context.Context
}

// Value implements context.Context.
func (c noClientTrace) Value(key any) any {
	value := c.Context.Value(key)
	if _, ok := value.(*httptrace.ClientTrace); ok {
		return nil
	}
	return value
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
	counted := i.credential.counted()
	counted.unauthorized.Inc()
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
	p.lease, p.replayed = other, true
	counted.replays.Inc()
	// Unread, because the API may not have finished it; and not waited for, because HTTP/2 waits until nobody reads the
	// first attempt's body, which may be when the client sends more.
	go res.Body.Close()
	return i.send(req, other, again)
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
