package caddymodule

import (
	"errors"
	"net/http"
	"strings"
)

// maxResends bounds how often a request is sent again because the upstream has not processed it.
const maxResends = 3

// The parts of net/http's errors for a request with a body that the upstream reports as not processed. The upstream announced
// the end of the connection before it saw the request, or it refused the stream (RFC 9113 section 8.7). TestUnprocessed fails
// if net/http changes these texts.
const (
	cannotRetry   = "http2: Transport: cannot retry err ["
	goAway        = "http2: Transport received Server's graceful shutdown GOAWAY]"
	refusedStream = "; REFUSED_STREAM"
)

// unprocessed reports whether an error means that the upstream has not processed the request. net/http would send such a
// request again by itself if the request had GetBody. But the HTTP/2 in net/http would then do so after PROTOCOL_ERROR as
// well, which does not mean that (RFC 9113 section 5.1.2), and a POST could be applied twice. golang.org/x/net/http2, which
// Caddy uses, would not.
func unprocessed(err error) bool {
	if errors.Is(err, errExpectation) {
		return true
	}
	reason, ok := strings.CutPrefix(err.Error(), cannotRetry)
	return ok && (strings.HasPrefix(reason, goAway) || strings.Contains(reason, refusedStream))
}

// idempotent reports whether the request may be applied twice (RFC 9110 section 9.2.2), so that net/http may send it again
// when a connection is lost. Like net/http, it takes either of two header fields as a promise of that.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Header["Idempotency-Key"] != nil || req.Header["X-Idempotency-Key"] != nil
}
