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

// failure classifies an answer that is not a token: by its error code where that is known to mean "try again", by
// the class of its status otherwise.
func (a *Answer) failure(code string, l Layout) *token.Error {
	e := &token.Error{Kind: token.Refused, Status: a.Status, Code: code, Reason: "the token endpoint refused the request"}
	switch {
	case a.transient(code, l):
		e.Kind = token.Unavailable
		e.Reason = "the token endpoint asks to try again later"
		e.RetryAfter = a.retryAfter(l)
	case a.Status >= 300 && a.Status < 400:
		e.Cause = token.CauseRedirect
		e.Reason = "the token endpoint redirects, which is not followed because it would pass the secret on: set token_url to the final URL"
	case a.Status == http.StatusNotFound:
		e.Reason = "there is no token endpoint at this URL: check token_url"
	case a.Status == http.StatusUnsupportedMediaType:
		e.Reason = "the token endpoint refuses this encoding of the request"
	case a.Status < 300 && !a.success():
		e.Kind = token.Unreadable
		e.Reason = "the answer holds no token"
	}
	return e
}

// transientCodes mean "try again" whatever the status (RFC 6749 section 4.1.2.1, RFC 8628 section 3.5).
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

// retryAfter reads the header, or else what the layout says the body has.
func (a *Answer) retryAfter(l Layout) time.Duration {
	if wait := parseRetryAfter(a.Header.Get("Retry-After"), time.Now()); wait > 0 {
		return wait
	}
	fields, _ := parseFields(a.Header.Get("Content-Type"), a.Body)
	seconds, _ := fields.number(l.RetryAfter...)
	return fromSeconds(seconds)
}

// plausibleCode is what error codes look like: words joined by underscores as RFC 6749 section 5.2 has them, a number,
// or letters and a number as in AADSTS7000215. Secrets and tokens have longer runs.
var plausibleCode = regexp.MustCompile(`^([A-Za-z]{1,16}([_-][A-Za-z]{1,16}){0,5}|[0-9]{1,6}|[A-Z]{1,8}[0-9]{1,8})$`)

// errorCode returns the error code at the paths, or "" if there is none that looks like one. It is the only thing
// of a token endpoint's that is ever shown.
func errorCode(f fields, paths []string) string {
	for _, path := range paths {
		var code string
		switch v := f.at(path).(type) {
		case string:
			code = v
		case json.Number:
			if code = v.String(); code == "0" { // no error, as a number
				code = ""
			}
		}
		if plausibleCode.MatchString(code) {
			return code
		}
	}
	return ""
}

// failed reports whether there is anything at the paths that says that the request failed, plausible code or not.
func failed(f fields, paths []string) bool {
	for _, path := range paths {
		switch v := f.at(path).(type) {
		case nil, bool, json.Number: // "error": false, "errcode": 0; other numbers are codes
		case string:
			if v != "" {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// parseRetryAfter reads both forms of RFC 9110 section 10.2.3; 0 if it is absent, past, or nonsense.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 31)
		if err != nil { // more than anybody would wait
			seconds = maxSeconds
		}
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}
