package caddymodule

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// injector is the transport around reverse_proxy's transport. It sees the final request, after all that Caddy does
// to it, and puts the token on a copy, so that whoever logs the request does not see it.
type injector struct {
	next         http.RoundTripper
	bound        *boundTransport // nil if there is nothing to show
	destinations *destinations
	route        *route // nil if the transport is not reverse_proxy's own
	credential   *client
	replay       bool
	replayBuffer int
	logger       *zap.Logger
	refused      rate.Sometimes
	field        tokenField
}

// RoundTrip implements http.RoundTripper.
func (i *injector) RoundTrip(req *http.Request) (*http.Response, error) {
	p, ok := req.Context().Value(proxiedKey{}).(*proxied)
	if !ok {
		return i.checkHealth(req)
	}
	if p.refusal = i.refuse(req, p); p.refusal != nil {
		closeBody(req)
		return nil, errRefused
	}
	if p.keeps {
		return i.roundTrip(i.next, i.copyOf(req), p)
	}
	res, err := i.exchange(req, p, p.keepBody(newReplayBody(req, i.replayBuffer)))
	if err == nil {
		p.guard(res, &i.field)
	}
	return res, err
}

// exchange sends the request, and sends it again if the token is rejected.
func (i *injector) exchange(req *http.Request, p *proxied, body *replayBody) (*http.Response, error) {
	res, err := i.send(req, p, body, body.first())
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

// checkHealth sends an active health check. It carries no token and goes where the operator wants, which may be where no
// token may go: a request that may not go there does not take the connection that it leaves.
func (i *injector) checkHealth(req *http.Request) (*http.Response, error) {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	if err := checkNetwork(di.Network); err != nil {
		closeBody(req)
		return nil, err
	}
	if i.route != nil {
		req = i.route.healthCheck(req, di)
	}
	return i.next.RoundTrip(req)
}

// refuse says why the request may not be sent, if it may not: for where it goes, or for want of a token. Where a request
// with the application's own credentials may go is judged as well, because its connection is kept for the next request.
func (i *injector) refuse(req *http.Request, p *proxied) *problem {
	if !p.keeps && !mayCarryToken(req) { // reverse_proxy can change the method
		i.credential.status.Denied(status.DeniedMethod)
		return &problemMethod
	}
	di, _ := reverseproxy.GetDialInfo(req.Context())
	to := destination{network: di.Network, host: di.Host, port: di.Port, name: p.found.nameOf(di.Upstream)}
	if err := i.destinations.check(to); err != nil {
		return i.refuseDestination(di, err)
	}
	if p.keeps {
		return nil
	}
	if err := i.renew(req, p); err != nil {
		refusal := problemOf(err)
		return &refusal
	}
	return nil
}

// refuseDestination counts and logs that a request may not go to its upstream.
func (i *injector) refuseDestination(di reverseproxy.DialInfo, reason error) *problem {
	i.credential.status.Denied(status.DeniedDestination)
	i.refused.Do(func() {
		i.credential.status.DeniedDestination(reason.Error() + ": " + di.Address)
		i.logger.Error("the token may not go to this upstream",
			zap.String("credential", i.credential.name),
			zap.String("upstream", di.Address),
			zap.Error(reason))
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

// send sends a copy of the request that carries the token. If the upstream says that it has not processed it, which may
// happen whenever it closes an HTTP/2 connection, send does it again.
func (i *injector) send(req *http.Request, p *proxied, body *replayBody, attempt io.ReadCloser) (*http.Response, error) {
	for resends := 0; ; resends++ {
		res, err := i.roundTrip(i.transport(p.lease), i.withToken(req, p.lease, attempt), p)
		if err == nil || resends == maxResends || !unprocessed(err) {
			return res, i.field.withoutEcho(err)
		}
		again, ok := body.again()
		if !ok {
			return nil, err
		}
		attempt = again
	}
}

// roundTrip tells the handler if the transport finds that a network proxy stands in the way.
func (i *injector) roundTrip(transport http.RoundTripper, req *http.Request, p *proxied) (*http.Response, error) {
	res, err := transport.RoundTrip(req)
	if errors.Is(err, errNetworkProxy) {
		di, _ := reverseproxy.GetDialInfo(req.Context())
		p.refusal = i.refuseDestination(di, errNetworkProxy)
		return nil, errRefused
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

// outgoing is a request with its URL, made at once: this is done for every request.
type outgoing struct {
	http.Request
	url url.URL
}

// copyOf returns a copy of req with a URL that says what is dialed.
func (i *injector) copyOf(req *http.Request) *http.Request {
	c := new(outgoing)
	c.Request = *req
	if i.route == nil {
		return &c.Request
	}
	c.url = *req.URL
	c.URL = &c.url
	di, _ := reverseproxy.GetDialInfo(req.Context())
	i.route.direct(&c.Request, di)
	return &c.Request
}

// withToken returns a copy of req that carries the token. The copy's header map is its own; the values are shared,
// since nobody changes those in place.
func (i *injector) withToken(req *http.Request, lease token.Lease, body io.ReadCloser) *http.Request {
	c := i.copyOf(req)
	c.Header = maps.Clone(req.Header)
	c.Header[i.credential.header.Name] = i.field.values(&i.credential.header, lease.Value())
	c.Body = body
	if a, ok := body.(*bodyAttempt); ok {
		c.Trailer = a.trailer
		if idempotent(req) {
			c.GetBody = a.body.rewind
		}
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

// unauthorized reports the token as rejected and, if that yields another one and the body can be sent again, sends
// the request once more. RFC 9110 section 15.5.2: a 401 says that the request has not been applied.
func (i *injector) unauthorized(req *http.Request, res *http.Response, p *proxied, body *replayBody) (*http.Response, error) {
	defer body.finish()
	i.credential.status.Unauthorized()
	doubt, ours := judgeChallenge(res.Header.Values("WWW-Authenticate"))
	if !ours {
		return res, nil
	}
	if !i.replay || !body.replayable() {
		p.lease.Discard(doubt)
		return res, nil
	}
	other, ok := p.lease.Reject(req.Context(), doubt)
	if !ok {
		return res, nil
	}
	again, ok := body.again()
	if !ok { // while we waited, more of the body went out than is kept
		return res, nil
	}
	p.lease, p.replayed = other, true
	i.credential.status.Replayed()
	// Unread, because the API may not have finished it; and not waited for, because HTTP/2 waits until nobody reads the
	// first attempt's body, which may be when the client sends more.
	go res.Body.Close()
	return i.sendAgain(req, p, body, again)
}

// sendAgain sends a replay, and tells the source what the API thinks of the new token.
func (i *injector) sendAgain(req *http.Request, p *proxied, body *replayBody, attempt io.ReadCloser) (*http.Response, error) {
	res, err := i.send(req, p, body, attempt)
	switch {
	case err != nil:
	case res.StatusCode == http.StatusUnauthorized:
		p.lease.RejectedAgain()
	default:
		p.lease.Accepted()
	}
	return res, err
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
