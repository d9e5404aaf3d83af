package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// A replay happens inside the round trip of the first attempt if another token is there already. The handler runs reverse_proxy a
// second time in three cases:
//
//   - The request has to wait for the token, and an option makes reverse_proxy judge the upstream by that.
//   - The request was made with placeholders that now have other values.
//   - The duration of the first attempt would count as latency of the upstream.

// errStartOver is the error that the injector returns to reverse_proxy to end the first run. reverse_proxy takes it for a client
// that has left, as it does with errDenied.
var errStartOver = fmt.Errorf("the request needs another token and runs through reverse_proxy again: %w", context.Canceled)

// secondRun is what a request needs for a second run of reverse_proxy.
type secondRun struct {
	rejected token.Lease
	answer   *http.Response         // that rejects the token; nil once another token is there, or the answer is delivered
	upstream *reverseproxy.Upstream // of the first run; nil once the second run has selected one
	rest     *bodyAttempt           // the whole body; nil for a request without a body
	kept     *replayBody            // of the first run, which rest reads
	begun    bool
}

// pending reports whether the first run has ended because a second one must follow.
func (s *secondRun) pending() bool { return s != nil && !s.begun }

// bringsAnswer reports whether the second run brings the answer of the first one, because there is no other token.
func (s *secondRun) bringsAnswer() bool { return s != nil && s.begun && s.answer != nil }

// takeAnswer returns the answer that the second run brings, or nil.
func (s *secondRun) takeAnswer() *http.Response {
	if !s.bringsAnswer() {
		return nil
	}
	answer := s.answer
	s.answer = nil
	return answer
}

// takeUpstream returns the upstream that the second run goes to, or nil once it has selected one.
func (s *secondRun) takeUpstream() *reverseproxy.Upstream {
	if s == nil {
		return nil
	}
	upstream := s.upstream
	s.upstream = nil
	return upstream
}

// discard frees what the first run has kept.
func (s *secondRun) discard() {
	if s == nil {
		return
	}
	s.kept.discard()
	if s.answer != nil {
		_ = s.answer.Body.Close()
	}
}

// startOver returns the request for the second run. If it has to wait for the other token and gets none, the second run brings
// the answer of the first one, because only reverse_proxy can deliver it as configured.
func (p *proxied) startOver(r *http.Request, count *status.Credential) *http.Request {
	s := p.second
	if s.answer != nil {
		p.awaitOther()
	}
	s.begun, p.late = true, false // the token is new, or not needed
	s.kept, p.body = p.body, nil
	if s.answer == nil {
		count.Replayed()
		p.exposeOther(r, s.rejected)
	}
	if s.kept == nil {
		return r
	}
	again := *r
	if s.answer == nil {
		again.Body, again.Trailer = s.rest, s.rest.trailer
	} else {
		again.Trailer = nil // the upload of the first run may go on, and fill it in
	}
	return &again
}

// awaitOther waits for another token, and takes it.
func (p *proxied) awaitOther() {
	defer p.body.finish()
	other, ok := p.lease.Another(p)
	if !ok {
		return
	}
	rest, ok := p.take(other, p.second.answer, p.body)
	if !ok {
		return
	}
	p.second.answer = nil
	p.second.rest, _ = rest.(*bodyAttempt)
}

// take replaces the rejected token by another one, and returns the body for the replay. It reports false if the client has
// stopped sending the body during the wait.
func (p *proxied) take(other token.Lease, rejection *http.Response, body *replayBody) (io.ReadCloser, bool) {
	again, ok := body.again()
	if !ok {
		return nil, false
	}
	p.lease, p.replayed = other, true
	// Close it unread, because the API may not have finished it. Close it in the background, because HTTP/2 waits until no
	// read of the first attempt's body is running, which may last until the client sends more.
	go rejection.Body.Close()
	return again, true
}

// exposeOther sets the placeholders to the values of the present token. before is the lease that they are from.
func (p *proxied) exposeOther(r *http.Request, before token.Lease) {
	hideEarlier(r, before.Kept())
	exposeKept(r, p.lease.Kept())
	p.tenant.expose(r)
}
