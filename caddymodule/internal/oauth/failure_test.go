package oauth

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// The status decides the kind. The code decides only if it is known to mean "try again".
func TestFailureKind(t *testing.T) {
	for kind, statuses := range map[token.Kind][]int{
		token.Refused: {
			300, 301, 302, 303, 304, 307, 308,
			400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 413, 414, 415, 418, 421, 422, 424, 426, 428, 431, 451, 499,
		},
		token.Unavailable: {408, 425, 429, 500, 501, 502, 503, 504, 507, 508, 511, 520, 522, 529, 599, 999},
	} {
		for _, status := range statuses {
			for _, body := range []string{
				"", "c4n4ry", "<html>c4n4ry</html>", `{}`, `{"error_description":"c4n4ry"}`, `{"error":"invalid_client"}`,
				`{"error":"invalid_scope","error_description":"c4n4ry"}`, `{"errors":[{"title":"c4n4ry","status":"401"}]}`,
				`{"access_token":"c4n4ry","expires_in":3600}`, // the client ignores a token in a failure
			} {
				a := answerOf(status, "application/json", body)
				a.Header.Set("Location", "https://c4n4ry.example/")
				a.Header.Set("Www-Authenticate", `Bearer realm="c4n4ry", error="invalid_client"`)
				issued, err := a.Read(both)
				e := wantError(t, err, kind)
				if e.Status != status || !issued.Token.Empty() {
					t.Errorf("%d %s: got %+v and token %q", status, body, e, issued.Token.Reveal())
				}
			}
		}
	}
}

// A refusal counts as an outage unless it shows that the token endpoint has judged the client.
func TestFailureThatPasses(t *testing.T) {
	const (
		page = "<html>blocked</html>"
		text = "default backend - 404"
		own  = `{"message":"c4n4ry"}`
		bare = `{"error":"not_found"}`
		code = `{"error":"invalid_client"}`
	)
	for _, tc := range []struct {
		statuses []int
		bodies   []string
		passing  bool
	}{
		{[]int{301, 302, 303, 307, 308, 404, 405, 410}, []string{"", page, text, own, bare, `{"errors":[{"status":"404"}]}`}, true},
		{[]int{301, 302, 303, 307, 308, 404, 405, 410, 415, 400, 401, 402, 403, 422, 200}, []string{code, `error=unauthorized_client`, `{"error":"invalid_scope"}`}, false},
		{[]int{400, 401, 422}, []string{"", page, text, own, bare, `{}`, "null"}, false},
		{[]int{402, 403, 406, 407, 409, 413, 415, 418, 421, 423, 426, 431, 451}, []string{"", page, text, "RBAC: access denied"}, true},
		{[]int{402, 403, 406, 407, 409, 413, 415, 418, 421, 423, 426, 431, 451}, []string{own, bare, `{}`, `error=access_denied`, `{"errors":[{"status":403}]}`}, false},
	} {
		for _, status := range tc.statuses {
			for _, body := range tc.bodies {
				_, err := answerOf(status, "", body).Read(both)
				if e := wantError(t, err, token.Refused); e.Passing != tc.passing {
					t.Errorf("%d %s: passing %t", status, body, e.Passing)
				} else if e.Passing && strings.Contains(e.Reason, "refused") {
					t.Errorf("%d %s: the reason %q blames the client", status, body, e.Reason)
				}
			}
		}
	}
	for status, kind := range map[int]token.Kind{503: token.Unavailable, 429: token.Unavailable, 204: token.Unreadable} { // the kind suffices
		_, err := answerOf(status, "", "").Read(both)
		if e := wantError(t, err, kind); e.Passing {
			t.Errorf("%d passes", status)
		}
	}
	// An endpoint whose tokens are the whole text of its answers refuses with a text as well.
	_, err := answerOf(403, "text/plain", "c4n4ry").Read(Layout{Token: []string{"$"}})
	if wantError(t, err, token.Refused).Passing {
		t.Error("a text of an endpoint that answers with texts passes")
	}
	a := answerOf(403, "text/html", page)
	a.WantsCertificate = true
	if _, err := a.Read(both); wantError(t, err, token.Refused).Passing {
		t.Error("a missing client certificate passes")
	}
}

func TestFailureCode(t *testing.T) {
	for code, kind := range map[string]token.Kind{
		"invalid_request":         token.Refused,
		"invalid_client":          token.Refused,
		"invalid_grant":           token.Refused,
		"unauthorized_client":     token.Refused,
		"unsupported_grant_type":  token.Refused,
		"invalid_scope":           token.Refused,
		"access_denied":           token.Refused,
		"Invalid_Token_Reuse":     token.Refused, // codes are case-sensitive
		"server_error":            token.Unavailable,
		"temporarily_unavailable": token.Unavailable,
		"slow_down":               token.Unavailable,
		"invalid_token_reuse":     token.Unavailable, // a code of the layout
	} {
		for _, status := range []int{400, 401, 403, 422} {
			_, err := answerOf(status, "application/json", `{"error":"`+code+`"}`).Read(both)
			e := wantError(t, err, kind)
			if e.Code != code || !strings.Contains(e.Error(), code) {
				t.Errorf("%d %s: got %+v", status, code, e)
			}
		}
	}
	without := both
	without.Transient = nil
	_, err := answerOf(400, "application/json", `{"error":"invalid_token_reuse"}`).Read(without)
	wantError(t, err, token.Refused)

	// An answer without a code must not match an empty code in the layout.
	_, err = answerOf(400, "", "").Read(Layout{Code: []string{"error"}, Transient: []string{""}})
	wantError(t, err, token.Refused)
}

// The error shows only text that looks like a code, because a body may contain anything, even a secret.
func TestFailureCodeShown(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":"invalid_client"}`:                          "invalid_client",
		`{"error":"unsupported_grant_type"}`:                  "unsupported_grant_type",
		`{"error":"invalid-key"}`:                             "invalid-key",
		`{"error":"AADSTS7000215"}`:                           "AADSTS7000215",
		`{"error":50200}`:                                     "50200",
		`{"errors":[{"status":"401","title":"c4n4ry"}]}`:      "401",
		`{"errors":[{"status":401,"detail":"c4n4ry"}]}`:       "401",
		`{"errors":[{"code":"no_key","status":401}]}`:         "no_key",
		`{"error":"c4n4ry is prose","errors":[{"code":"x"}]}`: "x",
		`{"error":{"code":"c4n4ry"}}`:                         "",
		`{"error":["c4n4ry"]}`:                                "",
		`{"error":true}`:                                      "",
		`{"error":null}`:                                      "",
		`{"error":""}`:                                        "",
		`{"error":"the secret c4n4ry is wrong"}`:              "",
		`{"error":"c4n4ry!"}`:                                 "",
		`{"error":"c4n4ry\n"}`:                                "",
		`{"error":"c4n4ry\u0000"}`:                            "",
		`{"error":"invalid_client\n"}`:                        "",
		`{"error":"c4n4ry%20"}`:                               "",
		`{"error":"c4n4ry="}`:                                 "",
		`{"error":"<c4n4ry>"}`:                                "",
		`{"error":"c4n4ryé"}`:                                 "",
		`{"error":"с4n4ry c4n4ry"}`:                           "",
		`{"error":"` + strings.Repeat("c4n4ry", 11) + `"}`:    "", // longer than any code
		// values that look like tokens and secrets
		`{"error":"c4n4ryc4n4ryc4n4ryc4n4ryc4n4ryc4"}`:               "",
		`{"error":"G0ybScDl_7CA3tWVouc4n4ry"}`:                       "",
		`{"error":"eyJhbGciOiJub25lIn0.eyJjNG40cnkiOiJjNG40cnkifQ"}`: "",
		`{"error":"xa3521ca621113e44eeed9232fa3e54571cb08bc"}`:       "",
		`{"error":"123e4567-e89b-12d3-a456-426614174000"}`:           "",
		`error=c4n4ry`: "",
		`c4n4ry`:       "",
	} {
		_, err := answerOf(401, "application/json", body).Read(both)
		if e := wantError(t, err, token.Refused); e.Code != want {
			t.Errorf("%s: got code %q, want %q", body, e.Code, want)
		}
	}
	_, err := answerOf(401, "application/x-www-form-urlencoded", "error=invalid_client&error_description=c4n4ry").Read(both)
	if e := wantError(t, err, token.Refused); e.Code != "invalid_client" {
		t.Errorf("a form: got %+v", e)
	}
}

// The reason contains the remedy if it is known.
func TestFailureReason(t *testing.T) {
	for status, want := range map[int]string{
		301: "redirects", 302: "redirects", 307: "redirects", 308: "redirects",
		404: "no token endpoint at this URL", 405: "does not accept POST", 415: "encoding", 429: "later", 503: "later", 401: "refused",
	} {
		_, err := answerOf(status, "", "").Read(both)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprint(status)) {
			t.Errorf("%d: got %v, want a text with %q", status, err, want)
		}
	}
}

// Retry-After counts only for failures that may pass.
func TestFailureRetryAfter(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		want   time.Duration
	}{
		{408, "", 7 * time.Second},
		{425, "", 7 * time.Second},
		{429, `{"errors":[{"status":429}]}`, 7 * time.Second},
		{500, "", 7 * time.Second},
		{503, "<html>", 7 * time.Second},
		{400, `{"error":"invalid_token_reuse"}`, 7 * time.Second},
		{400, `{"error":"slow_down"}`, 7 * time.Second},
		{200, `{"error":"temporarily_unavailable"}`, 7 * time.Second},
		{301, "", 0},
		{400, `{"error":"invalid_client"}`, 0},
		{401, "", 0},
		{200, "", 0},
	} {
		a := answerOf(tc.status, "application/json", tc.body)
		a.Header.Set("Retry-After", "7")
		_, err := a.Read(both)
		e, ok := err.(*token.Error)
		if !ok || e.RetryAfter != tc.want {
			t.Errorf("%d %s: got %+v, want %s", tc.status, tc.body, err, tc.want)
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"1":          time.Second,
		"120":        2 * time.Minute,
		" 5 ":        5 * time.Second,
		"007":        7 * time.Second,
		"2147483647": (1<<31 - 1) * time.Second,
		// the three forms of RFC 9110 section 5.6.7
		"Mon, 23 Nov 2026 10:00:30 GMT":  30 * time.Second,
		"Monday, 23-Nov-26 10:00:30 GMT": 30 * time.Second,
		"Mon Nov 23 10:00:30 2026":       30 * time.Second,
		// a time in the past and a malformed value count as absent
		"":                              0,
		"0":                             0,
		"-1":                            0,
		"Mon, 23 Nov 2026 09:59:30 GMT": 0,
		"Thu, 01 Jan 1970 00:00:00 GMT": 0,
		"Mon, 99 Nov 2026 10:00:30 GMT": 0,
		"+5":                            0,
		"1.5":                           0,
		"1e3":                           0,
		"0x10":                          0,
		"5s":                            0,
		"5, 10":                         0,
		"soon":                          0,
		"c4n4ry":                        0,
		"٥":                             0,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
	// A wait that does not fit the type must not become a short one. Package token limits it.
	for _, value := range []string{
		"2147483648", "9999999999", "9223372036854775807", "18446744073709551616", strings.Repeat("9", 100),
		"Fri, 31 Dec 9999 23:59:59 GMT",
	} {
		if got := parseRetryAfter(value, now); got < 5*time.Minute {
			t.Errorf("%.30q: got %s, want at least the 5 minutes that package token permits", value, got)
		}
	}
}

// The layout adds codes, statuses and a text that mean "try again" to those of RFC 6749 and HTTP.
func TestFailureTransient(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		kind   token.Kind
	}{
		"a status":               {404, ``, token.Unavailable},
		"a status and a code":    {404, `{"error":"invalid_client"}`, token.Unavailable},
		"another status":         {400, ``, token.Refused},
		"a code":                 {400, `{"error":"busy"}`, token.Unavailable},
		"a code with success":    {200, `{"error":"busy"}`, token.Unavailable},
		"another code":           {400, `{"error":"bus"}`, token.Refused},
		"a text":                 {400, `{"error":"x","message":"Please try again later"}`, token.Unavailable},
		"a text outside of JSON": {403, `<html>try again`, token.Unavailable},
		"a text with success":    {200, `{"error":"x","message":"try again"}`, token.Unavailable},
		"a text in another case": {400, `{"message":"Try Again"}`, token.Refused},
		"a text that is cut":     {400, `try agai`, token.Refused},
		"no text":                {200, `{"error":"x"}`, token.Refused},
		"the text and a token":   {200, `{"access_token":"T","message":"try again"}`, ""},
		"a status of HTTP":       {503, ``, token.Unavailable},
		"a code of RFC 8628":     {400, `{"error":"slow_down"}`, token.Unavailable},
	} {
		_, err := answerOf(tc.status, "application/json", tc.body).Read(full)
		if tc.kind == "" {
			if err != nil {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if e := wantError(t, err, tc.kind); e.Status != tc.status {
			t.Errorf("%s: got %+v", name, e)
		}
	}
	// An empty text in the layout must not match every body.
	_, err := answerOf(400, "", "x").Read(Layout{})
	wantError(t, err, token.Refused)
}

// The body may contain the wait. The header takes precedence (RFC 9110 section 10.2.3).
func TestFailureRetryAfterInBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a Retry-After may be a date
		for _, tc := range []struct {
			status       int
			header, body string
			want         time.Duration
		}{
			{429, "", `{"retry_after":30}`, 30 * time.Second},
			{429, "", `{"retry_after":"30"}`, 30 * time.Second},
			{429, "", `{"retry_after":1.5}`, 1500 * time.Millisecond},
			{429, "7", `{"retry_after":30}`, 7 * time.Second},
			{429, time.Now().Add(time.Minute).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), `{"retry_after":30}`, time.Minute},
			{429, "soon", `{"retry_after":30}`, 30 * time.Second},
			{429, "0", `{"retry_after":30}`, 30 * time.Second},
			{404, "", `{"retry_after":30}`, 30 * time.Second}, // a status of the layout
			{200, "", `{"error":"busy","retry_after":30}`, 30 * time.Second},
			{400, "", `{"error":"invalid_client","retry_after":30}`, 0}, // another try would not help
			{429, "", `{"retry_after":null}`, 0},
			{429, "", `{"retry_after":"soon"}`, 0},
			{429, "", `{"retry_after":-5}`, 0},
			{429, "", `{"retry_after":1e400}`, maxSeconds * time.Second},
			{429, "", `retry_after=30`, 30 * time.Second}, // a form with the label of JSON
			{429, "", `retry after 30`, 0},
			{429, "", ``, 0},
		} {
			a := answerOf(tc.status, "application/json", tc.body)
			if tc.header != "" {
				a.Header.Set("Retry-After", tc.header)
			}
			_, err := a.Read(full)
			if e, ok := err.(*token.Error); !ok || e.RetryAfter != tc.want {
				t.Errorf("%d %q %s: got %+v, want %s", tc.status, tc.header, tc.body, err, tc.want)
			}
		}
		a := answerOf(429, "", "c4n4ry=1&retry_after=30")
		a.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if _, err := a.Read(full); wantError(t, err, token.Unavailable).RetryAfter != 30*time.Second {
			t.Errorf("a form: got %+v", err)
		}
		if _, err := answerOf(429, "", `{"retry_after":30}`).Read(both); wantError(t, err, token.Unavailable).RetryAfter != 0 {
			t.Errorf("without a path: got %+v", err)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"120", "-1", "99999999999", "Mon, 23 Nov 2026 10:00:30 GMT", "Monday, 23-Nov-26 10:00:30 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "\x00"} {
		f.Add(value)
	}
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		got := parseRetryAfter(value, now)
		if got < 0 {
			t.Fatalf("%q: got %s", value, got)
		}
		if date, err := http.ParseTime(strings.TrimSpace(value)); err == nil && date.Before(now) && got != 0 {
			t.Fatalf("%q has passed: got %s", value, got)
		}
		digits := strings.Trim(strings.TrimSpace(value), "0123456789") == ""
		if digits && strings.Trim(strings.TrimSpace(value), "0") != "" && got == 0 {
			t.Fatalf("%q is a number of seconds, but counts as absent", value)
		}
	})
}
