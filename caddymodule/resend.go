package caddymodule

import (
	"net/http"
	"strings"
)

// maxResends bounds how often a request is sent again because the upstream has not processed it.
const maxResends = 3

// What net/http says of a request with a body that the upstream has not processed, by its own word: it has announced the
// end of the connection before it saw the request, or refused the stream (RFC 9113 section 8.7). TestUnprocessed holds
// net/http to these words.
const (
	cannotRetry   = "http2: Transport: cannot retry err ["
	goAway        = "http2: Transport received Server's graceful shutdown GOAWAY]"
	refusedStream = "; REFUSED_STREAM"
)

// unprocessed reports whether an error says that the upstream has not processed the request. net/http would send such a
// request again by itself if it had GetBody. But then it would do so after PROTOCOL_ERROR too, which does not say that
// (RFC 9113 section 5.1.2), as the HTTP/2 in net/http does and golang.org/x/net/http2, which Caddy uses, does not: a POST could
// be applied twice.
func unprocessed(err error) bool {
	reason, ok := strings.CutPrefix(err.Error(), cannotRetry)
	return ok && (strings.HasPrefix(reason, goAway) || strings.Contains(reason, refusedStream))
}

// idempotent reports whether the request may be applied twice (RFC 9110 section 9.2.2), so that net/http may send it again
// when a connection is lost. It takes the same two fields for a promise of that.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Header["Idempotency-Key"] != nil || req.Header["X-Idempotency-Key"] != nil
}
