package caddymodule

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// injector wraps reverse_proxy's transport. It sees the final request, after all changes by Caddy, and adds the token to a
// copy, so that no handler that logs the request sees the token.
type injector struct {
	next         http.RoundTripper
	bound        *boundTransport // nil if no certificate is to be shown
	destinations *destinations
	route        *route // nil if the transport is not reverse_proxy's own
	credential   *client
	forwarded    bool  // the API gets the fields that reverse_proxy adds
	marks        bool  // header_up may change these fields
	setsHost     bool  // the injector sets Host in place of reverse_proxy, see leaveHost
	rejected     []int // the statuses that reject the token
	replay       bool
	replayBuffer int
	timed        bool // the duration of a round trip counts, see Handler.timed
	leaves       bool // requests leave reverse_proxy before they wait for another token, see Handler.leaves
	buffers      bool // reverse_proxy buffers request bodies
	logger       *zap.Logger
	denials      rate.Sometimes // limits what is logged of denied destinations
	field        tokenField
}

// RoundTrip implements http.RoundTripper.
func (i *injector) RoundTrip(req *http.Request) (*http.Response, error) {
	p, ok := req.Context().Value(proxiedKey{}).(*proxied)
	if !ok {
		return i.checkHealth(req)
	}
	if answer := p.second.takeAnswer(); answer != nil {
		closeBody(req)
		i.noticeDemand(answer, p)
		return i.deliver(answer, p), nil
	}
	p.late = true
	if !p.expired {
		p.denial = i.deny(req, p)
	}
	if p.denial != nil {
		closeBody(req)
		return nil, errDenied
	}
	// The request of reverse_proxy is of this attempt. It is changed itself, so that its debug log shows what the API gets.
	if i.setsHost {
		setHost(req)
	}
	if !i.forwarded {
		p.restore(req.Header, i.marks)
	}
	res, err := i.carry(req, p)
	if err != nil {
		return nil, i.field.withoutEcho(err, &p.fields)
	}
	return i.deliver(res, p), nil
}

// deliver returns an answer for the application.
func (i *injector) deliver(res *http.Response, p *proxied) *http.Response {
	i.field.withoutQuery(res.Header, &p.fields)
	i.field.guard(res, &p.answer, &p.fields)
	return res
}

// carry sends the request with the token, or with the application's own credentials.
func (i *injector) carry(req *http.Request, p *proxied) (*http.Response, error) {
	if p.keeps {
		return i.roundTrip(i.next, i.copyOf(req), p)
	}
	res, err := i.exchange(req, p, p.keepBody(newReplayBody(req, i.replayBuffer)))
	if err == nil {
		i.noticeDemand(res, p)
	}
	return res, err
}

// exchange sends the request, and sends it again if the token is rejected.
func (i *injector) exchange(req *http.Request, p *proxied, body *replayBody) (*http.Response, error) {
	if p.second != nil {
		defer body.finish()
		return i.sendAgain(req, p, body, body.first())
	}
	res, err := i.sendProved(req, p, body, body.first())
	if err != nil {
		body.finish()
		return nil, err
	}
	if !i.rejects(res.StatusCode) {
		i.accept(res, p)
		body.finish()
		return res, nil
	}
	return i.unauthorized(req, res, p, body)
}

// accept reports to the source that the API accepts the token. A 401 shows no such thing, even if rejected_status lacks it.
func (i *injector) accept(res *http.Response, p *proxied) {
	if res.StatusCode != http.StatusUnauthorized {
		p.lease.Accepted()
	}
}

// checkHealth sends an active health check. It carries no token, so it may go where the token may not go. No request uses the
// connection that it leaves there, because the destination of each request is checked first.
func (i *injector) checkHealth(req *http.Request) (*http.Response, error) {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	if err := checkNetwork(di.Network); err != nil {
		closeBody(req)
		return nil, err
	}
	if i.route != nil {
		req = i.route.healthCheck(req, di)
	}
	res, err := i.next.RoundTrip(req) // may be on a connection that has carried tokens
	if err != nil {
		return nil, i.field.withoutEcho(err, nil)
	}
	i.field.guard(res, new(answerBody), nil)
	return res, nil
}

// deny returns the problem because of which the request must not be sent, or nil. The problem is its method or its destination.
// The destination also counts for a request with the application's own credentials, because the next request may use the same
// connection.
func (i *injector) deny(req *http.Request, p *proxied) *problem {
	if !p.keeps && !mayCarryToken(req) { // reverse_proxy can change the method
		i.credential.status.Denied(status.DeniedMethod)
		return &problemMethod
	}
	di, _ := reverseproxy.GetDialInfo(req.Context())
	to := destination{network: di.Network, host: di.Host, port: di.Port, name: p.found.nameOf(di.Upstream)}
	if err := i.destinations.check(to); err != nil {
		return i.denyDestination(di, err)
	}
	return nil
}

// denyDestination counts and logs that the token may not go to an upstream.
func (i *injector) denyDestination(di reverseproxy.DialInfo, reason error) *problem {
	i.credential.status.Denied(status.DeniedDestination)
	i.denials.Do(func() {
		i.credential.status.DeniedDestination(di.Address + ": " + reason.Error())
		i.logger.Error("the token may not go to this upstream",
			zap.String("credential", i.credential.name),
			zap.String("upstream", di.Address),
			zap.Error(reason))
	})
	return &problemDestination
}

// send sends a copy of the request that carries the token. If the upstream reports that it has not processed the request, as
// it may whenever it closes an HTTP/2 connection, send sends the request again.
func (i *injector) send(req *http.Request, p *proxied, body *replayBody, attempt io.ReadCloser) (*http.Response, error) {
	for resends := 0; ; resends++ {
		res, err := i.sendOnce(req, p, attempt)
		if err == nil || resends == maxResends || !unprocessed(err) {
			return res, err
		}
		again, ok := body.again()
		if !ok {
			return nil, err
		}
		attempt = again
	}
}

// sendOnce makes one attempt, with a proof of its own if the token is bound to a key.
func (i *injector) sendOnce(req *http.Request, p *proxied, attempt io.ReadCloser) (*http.Response, error) {
	out := i.withToken(req, p, attempt)
	if p.lease.Prover() == nil {
		return i.roundTrip(i.transport(p), out, p)
	}
	proven, err := proveRequest(out, p.lease, p.proof)
	if err != nil {
		closeBody(out)
		return nil, err
	}
	return i.roundTripProved(i.transport(p), proven, p)
}

// sendProved sends a request, and sends it once more if the API refuses only its proof and has just sent the nonce or the time for
// another one. The token is the same, because the API has not judged it (RFC 9449 section 9).
func (i *injector) sendProved(req *http.Request, p *proxied, body *replayBody, attempt io.ReadCloser) (*http.Response, error) {
	p.proof = nil
	res, err := i.send(req, p, body, attempt)
	if err != nil || p.proof == nil || res.StatusCode != http.StatusUnauthorized || !challengeIn(res, p.lease).demandsProof() {
		return res, err
	}
	if res.ProtoMajor == 1 && 0 <= req.ContentLength && req.ContentLength <= int64(i.replayBuffer) { // so that all of the body is kept
		readAhead(res)
	}
	again, ok := body.again()
	if !ok { // more of the body has been sent than is kept
		return res, nil
	}
	go res.Body.Close() // as for a replay with another token
	return i.send(req, p, body, again)
}

// roundTrip sends a request. It denies the request if the transport finds that a network proxy would see the token.
func (i *injector) roundTrip(transport http.RoundTripper, req *http.Request, p *proxied) (*http.Response, error) {
	res, err := transport.RoundTrip(req)
	if errors.Is(err, errNetworkProxy) {
		di, _ := reverseproxy.GetDialInfo(req.Context())
		p.denial = i.denyDestination(di, errNetworkProxy)
		return nil, errDenied
	}
	return res, err
}

// transport returns the transport for the request's lease. It shows the certificate that the token is bound to, if any.
func (i *injector) transport(p *proxied) http.RoundTripper {
	if certificate := p.lease.Certificate(); certificate != nil && i.bound != nil {
		return i.bound.with(p.tenant.nameOrNone(), certificate)
	}
	return i.next
}

// outgoing is a request and its URL. Every request needs both, so that one allocation is better than two.
type outgoing struct {
	http.Request
	url url.URL
}

// copyOf returns a copy of req with a header map and a URL of its own, which has the host that is dialed. It shares the values of the
// header, because no code changes them in place.
func (i *injector) copyOf(req *http.Request) *http.Request {
	c := new(outgoing)
	c.Request = *req
	c.Header = maps.Clone(req.Header)
	c.url = *req.URL
	c.URL = &c.url
	if i.route == nil {
		return &c.Request
	}
	di, _ := reverseproxy.GetDialInfo(req.Context())
	i.route.direct(&c.Request, di)
	return &c.Request
}

// withToken returns a copy of req that carries the token.
func (i *injector) withToken(req *http.Request, p *proxied, body io.ReadCloser) *http.Request {
	c := i.copyOf(req)
	header := &i.credential.header
	if p.lease.Prover() != nil {
		header = &dpopHeader
	}
	if !p.fields.latest.isOf(header, p.lease.Value()) {
		p.fields.add(i.field.of(header, p.lease.Value()))
	}
	header.addTo(c, p.fields.latest.values)
	c.Body = body
	if a, ok := body.(*bodyAttempt); ok {
		c.Trailer = a.trailer
		if idempotent(req) {
			c.GetBody = a.body.rewind
		}
	}
	return i.withoutTrace(c, header, &p.fields)
}

// withoutTrace hides the token from the client traces of reverse_proxy and other handlers. Such a trace may see the header of
// the request. reverse_proxy passes on the header of an informational answer, in which the API may repeat the query.
func (i *injector) withoutTrace(req *http.Request, header *TokenHeader, sent *sentFields) *http.Request {
	trace := httptrace.ContextClientTrace(req.Context())
	if trace == nil {
		return req
	}
	informed := trace.Got1xxResponse
	repeats := informed != nil && header.parameter != ""
	if trace.WroteHeaderField == nil && !repeats {
		return req
	}
	quiet := *trace
	quiet.WroteHeaderField = nil
	if repeats {
		now := *sent // because net/http may call it late, while the next attempt begins
		quiet.Got1xxResponse = func(status int, fields textproto.MIMEHeader) error {
			i.field.withoutQuery(http.Header(fields), &now)
			return informed(status, fields)
		}
	}
	return replaceTrace(req, &quiet)
}

// replaceTrace returns the request with another client trace in place of its own.
func replaceTrace(req *http.Request, trace *httptrace.ClientTrace) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(noClientTrace{req.Context()}, trace))
}

// noClientTrace is a context without its client trace. Without it, httptrace would call the old trace after the new one.
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
// the request once more. Such an answer means that the request has not been applied (RFC 9110 section 15.5.2).
func (i *injector) unauthorized(req *http.Request, res *http.Response, p *proxied, body *replayBody) (*http.Response, error) {
	if !i.reportRejection(res, p, body) {
		body.finish()
		return res, nil
	}
	if i.leaves && i.mayStartOver(body) && p.lease.MustWait() {
		p.second = &secondRun{rejected: p.lease, answer: res, upstream: upstreamOf(req)}
		return nil, errStartOver // and the body stays on hold
	}
	defer body.finish()
	other, ok := p.lease.Another(req.Context())
	if !ok {
		return res, nil
	}
	rejected := p.lease
	sameKept := maps.Equal(rejected.Kept(), other.Kept())
	startOver := (i.timed || !sameKept) && i.mayStartOver(body)
	if !startOver && !sameKept {
		return res, nil
	}
	again, ok := p.take(other, res, body)
	if !ok {
		return res, nil
	}
	if startOver {
		rest, _ := again.(*bodyAttempt)
		p.second = &secondRun{rejected: rejected, upstream: upstreamOf(req), rest: rest}
		return nil, errStartOver
	}
	i.credential.status.Replayed()
	return i.sendAgain(req, p, body, again)
}

// reportRejection counts an answer that rejects the token, and reports it to the source. It returns whether the request can be
// sent again with another token. If so, the body is on hold.
func (i *injector) reportRejection(res *http.Response, p *proxied, body *replayBody) bool {
	i.credential.status.Unauthorized()
	challenge := challengeIn(res, p.lease)
	doubt, ours := judgeRejection(res, challenge)
	if !ours {
		return false
	}
	if claims := challenge.demandedClaims(); claims != "" {
		p.lease.Demand(claims)
	}
	if !i.replay || !body.hold() {
		p.lease.Discard(doubt)
		return false
	}
	return p.lease.Rejected(doubt)
}

// mayStartOver reports whether a second run can send the body. A buffer of reverse_proxy lasts as long as the first run.
func (i *injector) mayStartOver(body *replayBody) bool { return !i.buffers || body.whole() }

// upstreamOf returns the upstream that reverse_proxy has selected for the attempt.
func upstreamOf(req *http.Request) *reverseproxy.Upstream {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	return di.Upstream
}

// noticeDemand reports to operators that the API demands more than any token of the client has. The answer passes through as it
// is, and the proxy requests nothing that the challenge names.
func (i *injector) noticeDemand(res *http.Response, p *proxied) {
	if res.StatusCode != http.StatusUnauthorized && res.StatusCode != http.StatusForbidden {
		return
	}
	c := challengeIn(res, p.lease)
	if c.errorCode != errInsufficientScope && c.errorCode != errInsufficientAuthentication {
		return
	}
	i.credential.status.Demanded(p.tenant.nameOrNone(), status.Demand{
		Code: c.errorCode, Scope: c.scope, ACR: c.acr, MaxAge: c.maxAge, Metadata: c.metadata,
	}, func(text string) bool { return i.field.echoes(text, &p.fields) })
}

// sendAgain sends a replay, and reports to the source whether the API accepts the new token.
func (i *injector) sendAgain(req *http.Request, p *proxied, body *replayBody, attempt io.ReadCloser) (*http.Response, error) {
	res, err := i.sendProved(req, p, body, attempt)
	switch {
	case err != nil:
	case i.rejects(res.StatusCode):
		p.lease.RejectedAgain()
	default:
		i.accept(res, p)
	}
	return res, err
}

// closeBody closes the body of a request that is not sent, as a transport must.
func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// The methods below pass on the optional interfaces that reverse_proxy looks for in a transport at run time. If the wrapped
// transport lacks an interface, its method returns what reverse_proxy assumes in that case.

// RequestHeaderOps implements reverseproxy.RequestHeaderOpsTransport.
func (i *injector) RequestHeaderOps() *headers.HeaderOps {
	if i.setsHost {
		return nil
	}
	ops := headerOpsOf(i.next)
	if i.marks {
		return withoutAdded(ops)
	}
	return ops
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

// rejects reports whether a status of the API means that it rejects the token.
func (i *injector) rejects(status int) bool { return slices.Contains(i.rejected, status) }
