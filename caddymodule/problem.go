package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// problem is an answer of our own to the application: an RFC 9457 body, and a Proxy-Status field (RFC 9209) that
// tells it from an answer of the API. Its texts are constants: nothing of the token endpoint's is in it.
type problem struct {
	status     int
	proxyError string // a registered proxy error type, RFC 9209 section 2.3
	slug       string // a heading of the README
	title      string
	detail     string
	retryAt    time.Time
	allow      string
	policy     string // for a browser that shows the answer, CSP
}

var (
	problemClient = problem{
		status: http.StatusForbidden, proxyError: "http_request_denied", slug: "client-not-allowed",
		title:  "Client not allowed",
		detail: "This client may not use the proxy. Its operator can allow it with the option clients.",
	}
	problemCrossSite = problem{
		status: http.StatusForbidden, proxyError: "http_request_denied", slug: "cross-site-request-not-allowed",
		title:  "Cross-site request not allowed",
		detail: "A page of another site may not use the proxy through a browser. Its operator can allow it with the option cross_site.",
		// A browser that shows this answer asks for /favicon.ico on its behalf, as a page of our own would.
		policy: "default-src 'none'; sandbox",
	}
	problemMethod = problem{
		status: http.StatusMethodNotAllowed, proxyError: "http_request_denied", slug: "method-not-allowed",
		title:  "Method not allowed",
		detail: "This method makes servers send back what they got, or opens a tunnel: no token is sent with it.",
		allow:  "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
	}
	problemAuthorization = problem{
		status: http.StatusBadRequest, proxyError: "http_request_denied", slug: "authorization-not-allowed",
		title:  "Authorization not allowed",
		detail: "The request has credentials of its own, which this proxy is configured to reject.",
	}
	problemDestination = problem{
		status: http.StatusBadGateway, proxyError: "proxy_configuration_error", slug: "destination-not-allowed",
		title:  "Destination not allowed",
		detail: "The token may not be sent to this upstream. The proxy's log says which rule forbids it.",
	}
	problemLoop = problem{
		status: http.StatusBadGateway, proxyError: "proxy_loop_detected", slug: "request-loop",
		title:  "Request loop",
		detail: "The request keeps coming back: the upstream's name leads to the proxy itself. The proxy's log says more.",
	}
	problemUnavailable = problem{
		status: http.StatusServiceUnavailable, proxyError: "destination_unavailable", slug: "token-endpoint-unavailable",
		title:  "Token endpoint unavailable",
		detail: "There is no valid token, and the token endpoint cannot be reached or asks to try again later.",
	}
	problemRefused = problem{
		status: http.StatusBadGateway, proxyError: "proxy_configuration_error", slug: "token-refused",
		title:  "Token refused",
		detail: "The token endpoint refuses this credential. The proxy's log says why.",
	}
	problemUnreadable = problem{
		status: http.StatusBadGateway, proxyError: "http_protocol_error", slug: "token-answer-unreadable",
		title:  "Token answer unreadable",
		detail: "The token endpoint answered, but not with a usable token. The proxy's log says more.",
	}
	problemWait = problem{
		status: http.StatusGatewayTimeout, proxyError: "http_response_timeout", slug: "waited-too-long-for-a-token",
		title:  "Waited too long for a token",
		detail: "No token was there when the time that this request may wait for one had passed.",
	}
)

// problemOf says what the application is told about a failure to have a token.
func problemOf(err error) problem {
	e, ok := errors.AsType[*token.Error](err)
	if !ok { // the request's own context
		return problemWait
	}
	switch e.Kind {
	case token.Unavailable:
		p := problemUnavailable
		p.retryAt = e.RetryAt
		return p
	case token.Refused:
		return problemRefused
	case token.WaitedTooLong:
		return problemWait
	default:
		return problemUnreadable
	}
}

// problemType is where the README explains a problem.
const problemType = "https://github.com/tokenproxy/caddy-token-proxy#"

func (p problem) header() http.Header {
	h := http.Header{
		"Content-Type":  {"application/problem+json"},
		"Cache-Control": {"no-store"},
		"Proxy-Status":  {"token-proxy; error=" + p.proxyError},
	}
	if p.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter(p.retryAt))
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.policy != "" {
		h.Set("Content-Security-Policy", p.policy)
	}
	return h
}

// retryAfter gives whole seconds, rounded up: who comes back then will find that a call is due.
func retryAfter(at time.Time) string {
	seconds := int64((time.Until(at) + time.Second - 1) / time.Second)
	return strconv.FormatInt(max(1, seconds), 10)
}

func (p problem) body(credential string) []byte {
	body, _ := json.Marshal(struct { // strings and a number: it cannot fail
		Type       string `json:"type"`
		Title      string `json:"title"`
		Status     int    `json:"status"`
		Detail     string `json:"detail"`
		Credential string `json:"credential"`
	}{problemType + p.slug, p.title, p.status, p.detail, credential})
	return append(body, '\n')
}

// write answers the request with the problem.
func (p problem) write(w http.ResponseWriter, credential string) {
	for name, values := range p.header() {
		w.Header()[name] = values
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(p.body(credential))
}

// clientGone reports whether a failure only means that nobody waits for the answer.
func clientGone(err error) bool { return errors.Is(err, context.Canceled) }

// writeJSON answers a request with JSON that nobody may keep.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}
