package caddymodule

import (
	"context"
	"fmt"
	"net/http"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// A replay usually happens inside the round trip of the first attempt. The handler runs reverse_proxy a second time in two cases:
// the request was made with placeholders that now have other values, or the wait for the token would count as latency of the
// upstream.

// errStartOver is the error that the injector returns to reverse_proxy to end the first run. reverse_proxy takes it for a client
// that has left, as it does with errDenied.
var errStartOver = fmt.Errorf("the request is sent again with another token: %w", context.Canceled)

// secondRun is what a request needs for a second run of reverse_proxy.
type secondRun struct {
	rejected token.Lease
	rest     *bodyAttempt // the whole body; nil for a request without a body
	kept     *replayBody  // of the first run, which rest reads
	begun    bool
}

// pending reports whether the first run has ended because a second one must follow.
func (s *secondRun) pending() bool { return s != nil && !s.begun }

// discard frees what the first run has kept.
func (s *secondRun) discard() {
	if s != nil {
		s.kept.discard()
	}
}

// begin returns the request for the second run. body is that of the first run, and kept has the values of the other token.
func (s *secondRun) begin(r *http.Request, body *replayBody, kept map[string]string) *http.Request {
	s.begun, s.kept = true, body
	hideEarlier(r, s.rejected.Kept())
	exposeKept(r, kept)
	if s.rest == nil {
		return r
	}
	again := *r
	again.Body, again.Trailer = s.rest, s.rest.trailer
	return &again
}
