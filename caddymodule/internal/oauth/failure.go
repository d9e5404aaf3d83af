package oauth

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// failure returns the error for an answer without a token. An error code that means "try again" decides its kind. For all
// other codes, the status does.
func (a *Answer) failure(code string, l Layout) *token.Error {
	e := &token.Error{Kind: token.Refused, Status: a.Status, Code: code}
	switch {
	case a.transient(code, l):
		e.Kind = token.Unavailable
		e.Reason = "the token endpoint asks to try again later"
		e.RetryAfter = a.retryAfter(l)
	case a.Status >= 300 && a.Status < 400:
		e.Cause = token.CauseRedirect
		e.Reason = "the token endpoint redirects, and the proxy does not follow because the secret would go to another URL"
	case a.WantsCertificate && code == "" && a.refusesCertificate():
		e.Cause = token.CauseClientCertificate
		e.Reason = "the token endpoint refused the request, after it had asked for a client certificate and got none"
	case a.Status == http.StatusNotFound, a.Status == http.StatusGone:
		e.Cause = token.CauseNoEndpoint
		e.Reason = "the server has no token endpoint at this URL"
	case a.Status == http.StatusMethodNotAllowed:
		e.Cause = token.CauseMethod
		e.Reason = "this URL does not accept POST, which token endpoints require"
	case a.Status == http.StatusUnsupportedMediaType:
		e.Reason = "the token endpoint does not accept the encoding of the request"
	case a.Status < 300 && !a.success():
		e.Kind = token.Unreadable
		e.Cause = token.CauseNoToken
		e.Reason = "the answer holds no token"
	}
	e.Passing = e.Kind == token.Refused && !a.judgesClient(e, l)
	switch {
	case e.Reason != "":
	case e.Passing: // the operator need not check the client and its secret
		e.Cause = token.CauseNotJSON
		e.Reason = "the answer does not come from a token endpoint, because it is neither JSON nor a form"
	default:
		e.Reason = "the token endpoint refused the request"
	}
	return e
}

// clientCodes are the error codes with which a token endpoint judges the client and its request (RFC 6749 section 5.2).
var clientCodes = []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}

// judgesClient reports whether a refusal shows that the token endpoint itself has judged the client, so that another call
// would most likely be in vain. An error code of RFC 6749 shows it with any status. Without one, a redirect, 404, 405 and 410 do
// not, because gateways send them until they have found their route. 400, 401 and 422 do. With all other statuses, the answer
// has to be in a format of token endpoints, as a firewall or a captive portal answers with a page.
func (a *Answer) judgesClient(e *token.Error, l Layout) bool {
	if slices.Contains(clientCodes, e.Code) {
		return true
	}
	switch e.Cause {
	case token.CauseRedirect, token.CauseNoEndpoint, token.CauseMethod:
		return false
	case token.CauseClientCertificate:
		return true
	}
	switch a.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusUnprocessableEntity:
		return true
	}
	_, readable := a.fields()
	return e.Code != "" || readable || slices.Contains(l.Token, wholePath)
}

// refusesCertificate reports whether servers use this status for a missing client certificate. That of nginx is 400.
func (a *Answer) refusesCertificate() bool {
	return a.Status == http.StatusBadRequest || a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden
}

// transientCodes are the error codes that mean "try again" with any status (RFC 6749 section 4.1.2.1, RFC 8628 section 3.5).
var transientCodes = []string{"temporarily_unavailable", "server_error", "slow_down"}

func (a *Answer) transient(code string, l Layout) bool {
	switch a.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return a.Status >= 500 ||
		slices.Contains(l.TransientStatus, a.Status) ||
		slices.Contains(transientCodes, code) ||
		code != "" && slices.Contains(l.Transient, code) ||
		l.TransientText != "" && bytes.Contains(a.Body, []byte(l.TransientText))
}

// retryAfter returns the wait in the header Retry-After or, without it, in the body. Zero means that neither has one.
func (a *Answer) retryAfter(l Layout) time.Duration {
	if wait := parseRetryAfter(a.Header.Get("Retry-After"), time.Now()); wait > 0 {
		return wait
	}
	fields, _ := a.fields()
	seconds, _ := fields.number(l.RetryAfter...)
	return fromSeconds(seconds)
}

// plausibleCode matches error codes. They are words joined by underscores (RFC 6749 section 5.2), a number, or letters and a
// number, such as AADSTS7000215. Secrets and tokens have longer runs of letters or digits.
var plausibleCode = regexp.MustCompile(`^([A-Za-z]{1,16}([_-][A-Za-z]{1,16}){0,5}|[0-9]{1,6}|[A-Z]{1,8}[0-9]{1,8})$`)

// errorCode returns the first value at the paths that looks like an error code, or "". Errors and logs show no other text of
// an answer.
func errorCode(f fields, paths []string) string {
	for _, path := range paths {
		var code string
		switch v := f.at(path).(type) {
		case string:
			code = v
		case json.Number:
			code = v.String()
		}
		if plausibleCode.MatchString(code) && !meansSuccess(code) {
			return code
		}
	}
	return ""
}

// reportsFailure reports whether a value at the paths means that the request failed, even if it does not look like an error
// code.
func reportsFailure(f fields, paths []string) bool {
	for _, path := range paths {
		switch v := f.at(path).(type) {
		case nil, bool, json.Number: // "error": false, "errcode": 0; other numbers are codes
		case string:
			if !meansSuccess(v) {
				return true
			}
		case []any:
			if len(v) > 0 {
				return true
			}
		case map[string]any:
			if len(v) > 0 {
				return true
			}
		}
	}
	return false
}

// meansSuccess reports whether a server means success by this value of an error code. Many answers have a member for errors
// in any case.
func meansSuccess(code string) bool {
	switch strings.ToLower(strings.TrimSpace(code)) {
	case "none", "null", "nil", "false", "no", "ok", "success":
		return true
	default:
		return strings.Trim(code, "0 ") == "" // 0, "0", "0000" and ""
	}
}

// parseRetryAfter parses both forms of Retry-After (RFC 9110 section 10.2.3). It returns 0 for a value that is empty, in the
// past, or malformed.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 31)
		if err != nil { // too large for the type
			seconds = maxSeconds
		}
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
