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

// problem is an answer of the proxy itself to the application. It has a body in the format of RFC 9457, and a Proxy-Status
// field (RFC 9209) that tells it from an answer of the API. Its texts are constants, so that no text of the token endpoint
// is in them.
type problem struct {
	status     int
	proxyError string // a registered proxy error type, RFC 9209 section 2.3
	slug       string // a heading of the README
	title      string
	detail     string
	retryAt    time.Time
	allow      string
	policy     string // Content-Security-Policy, for a browser that shows the answer
	challenge  string // WWW-Authenticate
}

var (
	problemClient = problem{
		status: http.StatusForbidden, proxyError: "http_request_denied", slug: "client-not-allowed",
		title:  "Client not allowed",
		detail: "This client may not use the proxy. The operator of the proxy can allow the client with the option clients.",
	}
	problemCrossSite = problem{
		status: http.StatusForbidden, proxyError: "http_request_denied", slug: "cross-site-request-not-allowed",
		title:  "Cross-site request not allowed",
		detail: "A page of another site may not use the proxy through a browser. The operator of the proxy can allow such requests with the option cross_site.",
		// A browser that shows this answer would otherwise request /favicon.ico for it, as for a page of the proxy's own site.
		policy: "default-src 'none'; sandbox",
	}
	problemMethod = problem{
		status: http.StatusMethodNotAllowed, proxyError: "http_request_denied", slug: "method-not-allowed",
		title:  "Method not allowed",
		detail: "With this method, a server sends the request back or opens a tunnel. The proxy sends no token with it.",
		allow:  "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
	}
	problemAuthorization = problem{
		status: http.StatusBadRequest, proxyError: "http_request_denied", slug: "authorization-not-allowed",
		title:  "Authorization not allowed",
		detail: "The request has credentials of its own, and the proxy is configured to deny such requests.",
	}
	problemDestination = problem{
		status: http.StatusBadGateway, proxyError: "proxy_configuration_error", slug: "destination-not-allowed",
		title:  "Destination not allowed",
		detail: "The token may not go to this upstream. The log of the proxy names the rule.",
	}
	problemLoop = problem{
		status: http.StatusBadGateway, proxyError: "proxy_loop_detected", slug: "request-loop",
		title:  "Request loop",
		detail: "The request keeps coming back, because the upstream's name leads to the proxy itself. The log of the proxy has the remedy.",
	}
	problemUnavailable = problem{
		status: http.StatusServiceUnavailable, proxyError: "destination_unavailable", slug: "token-endpoint-unavailable",
		title:  "Token endpoint unavailable",
		detail: "The proxy has no valid token, and the token endpoint is unavailable. Try again later.",
	}
	problemRefused = problem{
		status: http.StatusBadGateway, proxyError: "proxy_configuration_error", slug: "token-refused",
		title:  "Token refused",
		detail: "The token endpoint refuses this credential, or the proxy cannot read its secret. The log of the proxy has the reason.",
	}
	problemUnreadable = problem{
		status: http.StatusBadGateway, proxyError: "http_protocol_error", slug: "token-answer-unreadable",
		title:  "Token answer unreadable",
		detail: "The token endpoint answered, but not with a usable token. The log of the proxy has the reason.",
	}
	problemTenantName = problem{
		status: http.StatusBadRequest, proxyError: "http_request_denied", slug: "tenant-name-not-valid",
		title:  "Tenant name not valid",
		detail: "The request must name its tenant exactly once. A name has 1 to 64 of the characters a-z, 0-9, '-', '_' and '.', begins and ends with a letter or a digit, and has no two dots in a row.",
	}
	problemTenantBasic = problem{ // a status that many clients wait for before they send the credentials that they have
		status: http.StatusUnauthorized, proxyError: "http_request_denied", slug: "client-credentials-missing",
		title:     "Client credentials missing",
		detail:    "The request must have the id and the secret of an OAuth client in Authorization, once and with the scheme Basic.",
		challenge: `Basic realm="token-proxy", charset="UTF-8"`,
	}
	problemTenant = problem{ // for unknown tenants and for refused credentials, so that clients cannot find out which tenants exist
		status: http.StatusForbidden, proxyError: "http_request_denied", slug: "tenant-not-allowed",
		title:  "Tenant not allowed",
		detail: "The proxy has no token for this tenant. The operator of the proxy can find the reason in its log.",
	}
	problemTenantLater = problem{
		status: http.StatusServiceUnavailable, proxyError: "http_request_denied", slug: "too-many-new-tenants",
		title:  "Too many new tenants",
		detail: "The proxy limits how many tenants it serves, and how many new ones at once. Try again later.",
	}
	problemWait = problem{
		status: http.StatusGatewayTimeout, proxyError: "http_response_timeout", slug: "waited-too-long-for-a-token",
		title:  "Waited too long for a token",
		detail: "The proxy got no token within the time that this request may wait.",
	}
)

// problemOf returns the answer for a request that got no token, by the failure.
func problemOf(err error) problem {
	e, ok := errors.AsType[*token.Error](err)
	if !ok { // the request's own context
		return problemWait
	}
	switch e.Kind {
	case token.Unavailable:
		p := problemUnavailable
		p.retryAt = e.RetryAt
		p.detail = unavailableDetail(e)
		return p
	case token.Refused:
		p := problemRefused
		p.detail = refusedDetail(e)
		return p
	case token.WaitedTooLong:
		return problemWait
	default:
		return problemUnreadable
	}
}

// unavailableDetail names the party that is unavailable. The application gets no more than that, because the rest is for the
// operator.
func unavailableDetail(e *token.Error) string {
	switch {
	case e.Peer == token.PeerProxy:
		return "The proxy has no valid token, and the network proxy on the way to the token endpoint does not work. The log of the proxy has the reason. Try again later."
	case e.Peer == token.PeerIssuer:
		return "The proxy has no valid token, and the issuer that names the token endpoint is unavailable. The log of the proxy has the reason. Try again later."
	case e.Status == 0:
		return "The proxy has no valid token, and cannot reach the token endpoint. The log of the proxy has the reason. Try again later."
	default:
		return problemUnavailable.detail
	}
}

// refusedDetail names what is wrong: the metadata of the issuer, the configuration, or the credential.
func refusedDetail(e *token.Error) string {
	switch {
	case e.Peer == token.PeerIssuer:
		return "The proxy cannot find the token endpoint, because the metadata of the issuer are missing or not usable. The log of the proxy has the reason."
	case e.Cause == token.CauseRedirect || e.Cause == token.CauseNoEndpoint || e.Cause == token.CauseMethod:
		return "The server has no token endpoint at the configured URL. The log of the proxy has the reason."
	case e.Cause == token.CauseNotJSON:
		return "The answer to the token request does not come from a token endpoint. The log of the proxy has the reason."
	case e.Status == 0:
		return "The proxy cannot request a token, because of its configuration or an unreadable secret. The log of the proxy has the reason."
	case e.Cause == token.CauseTokenType || e.Cause == token.CauseNotBound:
		return "The token endpoint issued a token of a type that the proxy does not accept. The log of the proxy has the reason."
	default:
		return "The token endpoint refuses this credential. The log of the proxy has the reason."
	}
}

// problemType is the address of the README, which has a heading for each problem.
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
	if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	if p.policy != "" {
		h.Set("Content-Security-Policy", p.policy)
	}
	return h
}

// retryAfter returns whole seconds, rounded up, so that a call is due when the application comes back.
func retryAfter(at time.Time) string {
	seconds := int64((time.Until(at) + time.Second - 1) / time.Second)
	return strconv.FormatInt(max(1, seconds), 10)
}

func (p problem) body(credential string) []byte {
	body, _ := json.Marshal(struct { // this cannot fail, because it has only strings and a number
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

// clientGone reports whether a failure only means that the client has left.
func clientGone(err error) bool { return errors.Is(err, context.Canceled) }

// writeJSON answers a request with JSON that no cache may store.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}
