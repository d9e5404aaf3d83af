package oauth

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// both is a layout with fields at the top level or below "data", and with a relative and an absolute expiry.
var both = Layout{
	Token:     []string{"access_token", "data.access_token"},
	Type:      []string{"token_type", "data.token_type"},
	ExpiresIn: []string{"expires_in", "data.expires_in"},
	ExpiresAt: []string{"expires", "data.expires"},
	Code:      []string{"error", "errors.0.code", "errors.0.status"},
	Transient: []string{"invalid_token_reuse"},
}

// sentAt is the time of the token requests of these tests.
var sentAt = time.Unix(1_700_000_000, 0)

func answerOf(status int, contentType, body string) *Answer {
	a := &Answer{Status: status, Header: make(http.Header), Body: []byte(body), Sent: sentAt}
	if contentType != "" {
		a.Header.Set("Content-Type", contentType)
	}
	return a
}

func jsonAnswer(body string) *Answer { return answerOf(http.StatusOK, "application/json", body) }

func TestAnswerExpiresIn(t *testing.T) {
	const longest = maxSeconds * time.Second
	for value, want := range map[string]time.Duration{
		`3600`:        time.Hour,
		`1`:           time.Second,
		`"3600"`:      time.Hour, // PayPal, UPS, Entra v1
		`" 3600 "`:    time.Hour,
		`3600.0`:      time.Hour,
		`3599.9`:      time.Hour - 100*time.Millisecond,
		`"3599.9"`:    time.Hour - 100*time.Millisecond,
		`3.6e3`:       time.Hour,
		`3.6E+3`:      time.Hour,
		`"3.6e3"`:     time.Hour,
		`90000`:       25 * time.Hour,
		`0`:           0, // Doorkeeper, in the last half second of a token
		`-0`:          0,
		`"0"`:         0,
		`0.0`:         0,
		`-1`:          0,
		`"-1"`:        0,
		`-4294967290`: 0, // 6 as an int32
		`-1e400`:      0,
		`1e-400`:      0,
		// In nanoseconds, these overflow. Package token limits the result.
		`9999999999`:           longest,
		`18446744074`:          longest,
		`9223372036854775807`:  longest,
		`18446744073709551616`: longest,
		`1e20`:                 longest,
		`"1e20"`:               longest,
		`1e400`:                longest,
		`"1e400"`:              longest,
		// A value that is not a decimal number counts as absent, so that a good token stays in use.
		`null`:        token.UnknownLifetime,
		`""`:          token.UnknownLifetime,
		`" "`:         token.UnknownLifetime,
		`"soon"`:      token.UnknownLifetime,
		`"3600s"`:     token.UnknownLifetime,
		`"1h"`:        token.UnknownLifetime,
		`"0x10"`:      token.UnknownLifetime,
		`"0X1p4"`:     token.UnknownLifetime,
		`"1_000"`:     token.UnknownLifetime,
		`"Infinity"`:  token.UnknownLifetime,
		`"inf"`:       token.UnknownLifetime,
		`"-Infinity"`: token.UnknownLifetime,
		`"NaN"`:       token.UnknownLifetime,
		`"e"`:         token.UnknownLifetime,
		`"."`:         token.UnknownLifetime,
		`"--1"`:       token.UnknownLifetime,
		`"٣٦٠٠"`:      token.UnknownLifetime,
		`true`:        token.UnknownLifetime,
		`[]`:          token.UnknownLifetime,
		`[3600]`:      token.UnknownLifetime,
		`{}`:          token.UnknownLifetime,
		`{"in":3600}`: token.UnknownLifetime,
	} {
		for _, body := range []string{
			`{"access_token":"T","expires_in":` + value + `}`,
			`{"data":{"access_token":"T","expires_in":` + value + `}}`,
		} {
			wantLifetime(t, body, want)
		}
	}
	wantLifetime(t, `{"access_token":"T"}`, token.UnknownLifetime)
}

// An absolute expiry depends on the clock of the server, so it counts only without a relative one.
func TestAnswerExpires(t *testing.T) {
	at := func(d time.Duration) string { return strconv.FormatInt(sentAt.Add(d).Unix(), 10) }
	for members, want := range map[string]time.Duration{
		`"expires":` + at(time.Hour):                time.Hour,
		`"expires":"` + at(time.Hour) + `"`:         time.Hour,
		`"expires":` + at(time.Hour) + `.5`:         time.Hour + 500*time.Millisecond,
		`"expires":` + at(50*time.Minute):           50 * time.Minute, // the server's clock is 10 min behind
		`"expires":` + at(70*time.Minute):           70 * time.Minute, // or ahead
		`"expires":` + at(0):                        0,
		`"expires":` + at(-time.Hour):               0,
		`"expires":0`:                               0,
		`"expires":-1`:                              0,
		`"expires":1e400`:                           maxSeconds * time.Second,
		`"expires":-1e400`:                          0,
		`"expires":` + at(time.Hour) + `000`:        maxSeconds * time.Second, // milliseconds; package token limits it
		`"expires":null`:                            token.UnknownLifetime,
		`"expires":"2023-11-14T23:13:20Z"`:          token.UnknownLifetime,
		`"expires":[]`:                              token.UnknownLifetime,
		`"expires_in":60,"expires":` + at(-hour10):  time.Minute,
		`"expires_in":60,"expires":` + at(hour10):   time.Minute,
		`"expires_in":0,"expires":` + at(time.Hour): 0,
		// an expires_in that is not a number counts as absent
		`"expires_in":null,"expires":` + at(time.Hour):   time.Hour,
		`"expires_in":"","expires":` + at(time.Hour):     time.Hour,
		`"expires_in":"soon","expires":` + at(time.Hour): time.Hour,
		`"expires_in":{},"expires":` + at(time.Hour):     time.Hour,
	} {
		wantLifetime(t, `{"access_token":"T",`+members+`}`, want)
		wantLifetime(t, `{"data":{"access_token":"T",`+members+`}}`, want)
	}
}

const hour10 = 10 * time.Hour

func wantLifetime(t *testing.T, body string, want time.Duration) {
	t.Helper()
	issued, err := jsonAnswer(body).Read(both)
	if err != nil || issued.Token.Reveal() != "T" {
		t.Errorf("%s: got token %q, error %v", body, issued.Token.Reveal(), err)
		return
	}
	if diff := issued.Lifetime - want; diff.Abs() > time.Microsecond { // seconds are float64
		t.Errorf("%s: got lifetime %s, want %s", body, issued.Lifetime, want)
	}
}

func TestAnswerToken(t *testing.T) {
	var visible strings.Builder
	for c := byte('!'); c <= '~'; c++ {
		if c != '"' && c != '\\' {
			visible.WriteByte(c)
		}
	}
	for _, value := range []string{
		"T", "xa3521ca621113e44eeed9232fa3e54571cb08bc", "G0ybScDl_7CA3tWVou", "eyJhbGciOiJub25lIn0.e30.", "a+/b==",
		visible.String(), strings.Repeat("t", maxToken),
	} {
		issued, err := jsonAnswer(`{"access_token":"` + value + `"}`).Read(both)
		if err != nil || issued.Token.Reveal() != value {
			t.Errorf("a token of %d bytes, %.50q: got %.50q, %v", len(value), value, issued.Token.Reveal(), err)
		}
	}
	for name, value := range map[string]string{
		"null":                    `null`,
		"empty":                   `""`,
		"a number":                `123456789`,
		"a boolean":               `true`,
		"an array":                `["c4n4ry"]`,
		"an object":               `{"access_token":"c4n4ry"}`,
		"longer than 16 KiB":      `"c4n4ry` + strings.Repeat("t", maxToken-len(canary)+1) + `"`,
		"CR and LF":               `"c4n4ry\r\nX-Injected: 1"`,
		"LF at the end":           `"c4n4ry\n"`,
		"NUL":                     `"c4n4ry\u0000"`,
		"TAB":                     `"c4n4ry\tx"`,
		"ESC":                     `"c4n4ry\u001b[2J"`,
		"DEL":                     `"c4n4ry\u007f"`,
		"C1":                      `"c4n4ry\u0085"`,
		"a space inside":          `"c4n4ry x"`,
		"a space before":          `" c4n4ry"`,
		"a space after":           `"c4n4ry "`,
		"Latin-1":                 `"c4n4ryé"`,
		"a wide space":            `"c4n4ry\u00a0"`,
		"a line separator":        `"c4n4ry\u2028"`,
		"a letter that looks ok":  `"с4n4ry"`,
		"an emoji":                `"c4n4ry😀"`,
		"half a surrogate":        `"c4n4ry\ud800"`,
		"bytes that are no UTF-8": "\"c4n4ry\xff\"",
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []string{`{"access_token":` + value + `}`, `{"data":{"access_token":` + value + `}}`} {
				issued, err := jsonAnswer(body).Read(both)
				wantError(t, err, token.Unreadable)
				if !issued.Token.Empty() {
					t.Errorf("got token %q in addition to the error", issued.Token.Reveal())
				}
			}
		})
	}
}

func TestAnswerTokenType(t *testing.T) {
	for _, member := range []string{
		``,
		`,"token_type":null`,
		`,"token_type":""`,
		`,"token_type":"Bearer"`,
		`,"token_type":"bearer"`,
		`,"token_type":"BEARER"`,
		// eBay sends a description instead of a type, and its APIs expect Bearer
		`,"token_type":"Application Access Token"`,
		`,"token_type":"User Access Token"`,
		`,"token_type":"BearerToken"`, // some gateways
		`,"Token_Type":"MAC"`,         // another member
		`,"token_type":7`,
	} {
		issued, err := jsonAnswer(`{"access_token":"T"` + member + `}`).Read(both)
		if err != nil || issued.Token.Reveal() != "T" {
			t.Errorf("%s: got %q, %v", member, issued.Token.Reveal(), err)
		}
	}
	// A client must not use a token whose type it does not understand (RFC 6749 section 7.1).
	for kind, shown := range map[string]string{
		"mac": "MAC", "MAC": "MAC", "DPoP": "DPoP", "dpop": "DPoP", "pop": "PoP", "N_A": "N_A", "n_a": "N_A",
		canary: "another kind", "Bearer-" + canary: "another kind",
		"Bearer2": "another kind", "bearer token": "another kind", "Bearer ": "another kind", " Bearer": "another kind", "Bea": "another kind",
		"DPoP bound": "another kind", "MAC access token": "another kind", "Bearer,DPoP": "another kind",
	} {
		for _, body := range []string{
			`{"access_token":"c4n4ry","token_type":"` + kind + `"}`,
			`{"data":{"access_token":"c4n4ry","token_type":"` + kind + `"}}`,
		} {
			_, err := jsonAnswer(body).Read(both)
			if e := wantError(t, err, token.Refused); !strings.Contains(e.Reason, shown) {
				t.Errorf("%s: the reason %q does not name the type", body, e.Reason)
			}
		}
	}
}

// The names of members are case-sensitive in JSON and in forms. encoding/json alone would accept them in any case.
func TestAnswerNamesAreExact(t *testing.T) {
	for _, body := range []string{
		`{"Access_Token":"c4n4ry"}`, `{"ACCESS_TOKEN":"c4n4ry"}`, `{"accessToken":"c4n4ry"}`, `{"access_token ":"c4n4ry"}`,
		`{"access-token":"c4n4ry"}`, `{"Data":{"access_token":"c4n4ry"}}`, `{"data":{"Access_token":"c4n4ry"}}`,
		`{"acceſs_token":"c4n4ry"}`, // Unicode folds ſ to s
	} {
		if issued, err := jsonAnswer(body).Read(both); err == nil {
			t.Errorf("%s is accepted with the token %q", body, issued.Token.Reveal())
		}
	}
	for _, body := range []string{
		`{"access_token":"T","Access_Token":"c4n4ry","expires_in":60,"EXPIRES_IN":1,"Error":"invalid_client"}`,
		`{"ACCESS_TOKEN":"c4n4ry","Expires_In":1,"error ":"x","access_token":"T","expires_in":60}`,
	} {
		issued, err := jsonAnswer(body).Read(both)
		if err != nil || issued.Token.Reveal() != "T" || issued.Lifetime != time.Minute {
			t.Errorf("%s: got %q for %s, %v", body, issued.Token.Reveal(), issued.Lifetime, err)
		}
	}
	form := &Answer{Status: 200, Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: []byte("Access_Token=c4n4ry")}
	if _, err := form.Read(both); err == nil {
		t.Error("a form with another name is accepted")
	}
}

// The fields may be at the top level or below "data". Elastic Path sends them at the top level, and its description has them
// below "data". The top level takes precedence.
func TestAnswerFlatAndWrapped(t *testing.T) {
	for body, want := range map[string]string{
		`{"access_token":"flat"}`:                                                                  "flat",
		`{"data":{"access_token":"wrapped"}}`:                                                      "wrapped",
		`{"access_token":"flat","data":{"access_token":"wrapped"}}`:                                "flat",
		`{"data":{"access_token":"wrapped"},"access_token":"flat"}`:                                "flat",
		`{"access_token":null,"data":{"access_token":"wrapped"}}`:                                  "wrapped",
		`{"access_token":"flat","data":null}`:                                                      "flat",
		`{"access_token":"flat","data":"text"}`:                                                    "flat",
		`{"access_token":"flat","data":[]}`:                                                        "flat",
		`{"access_token":"flat","expires_in":60,"data":{"access_token":"wrapped","expires_in":1}}`: "flat",
	} {
		issued, err := jsonAnswer(body).Read(both)
		if err != nil || issued.Token.Reveal() != want {
			t.Errorf("%s: got %q, %v", body, issued.Token.Reveal(), err)
		}
		if strings.Contains(body, `"expires_in":60`) && issued.Lifetime != time.Minute {
			t.Errorf("%s: got the lifetime %s of the other token", body, issued.Lifetime)
		}
	}
}

func TestAnswerShapes(t *testing.T) {
	const good = `{"access_token":"T","expires_in":60}`
	for name, a := range map[string]*Answer{
		"201":                           answerOf(201, "application/json", good),
		"text/plain":                    answerOf(200, "text/plain", good),
		"text/html":                     answerOf(200, "text/html; charset=utf-8", good),
		"JSON with a charset":           answerOf(200, "application/json;charset=ISO-8859-1", good),
		"no content type":               answerOf(200, "", good),
		"a broken content type":         answerOf(200, "application/json; charset", good),
		"a BOM":                         jsonAnswer("\xef\xbb\xbf" + good),
		"a BOM and white space":         jsonAnswer("\xef\xbb\xbf\r\n" + good),
		"white space around":            jsonAnswer(" \t\r\n" + good + "\r\n \t\n"),
		"unknown fields":                jsonAnswer(`{"a":[1,{"b":null}],"access_token":"T","expires_in":60,"error_description":"","refresh_token":"R"}`),
		"an escaped name":               jsonAnswer(`{"\u0061ccess_token":"T","expires_in":60}`),
		"names in another case too":     jsonAnswer(`{"access_token":"T","ACCESS_TOKEN":"evil","Access_Token":"evil","expires_in":60,"EXPIRES_IN":1}`),
		"the same member twice":         jsonAnswer(`{"access_token":"T","access_token":"T","expires_in":60,"expires_in":60}`),
		"deep nesting":                  jsonAnswer(`{"access_token":"T","expires_in":60,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`),
		"a form":                        answerOf(200, "application/x-www-form-urlencoded", "access_token=T&scope=a%2Cb&expires_in=60"), // GitHub
		"a form with a charset":         answerOf(200, "Application/X-WWW-Form-Urlencoded; charset=utf-8", "expires_in=60&access_token=T"),
		"a form with a parameter twice": answerOf(200, "application/x-www-form-urlencoded", "access_token=T&access_token=U&expires_in=60"),
		"an empty error too":            jsonAnswer(`{"access_token":"T","expires_in":60,"error":""}`),
		"an error of null too":          jsonAnswer(`{"access_token":"T","expires_in":60,"error":null}`),
		"an error of false too":         jsonAnswer(`{"access_token":"T","expires_in":60,"error":false}`),
		"an error of 0 too":             jsonAnswer(`{"access_token":"T","expires_in":60,"error":0}`), // Feishu and WeChat report success as 0
		"an empty list of errors too":   jsonAnswer(`{"access_token":"T","expires_in":60,"errors":[]}`),
		"errors of null too":            jsonAnswer(`{"access_token":"T","expires_in":60,"errors":null}`),
	} {
		t.Run(name, func(t *testing.T) {
			issued, err := a.Read(both)
			if err != nil || issued.Token.Reveal() != "T" || issued.Lifetime != time.Minute {
				t.Errorf("got %q for %s, %v", issued.Token.Reveal(), issued.Lifetime, err)
			}
		})
	}
}

// JSON does not specify which of two members with the same name counts (RFC 8259 section 4). Read must return one of them.
func TestAnswerDuplicateMembers(t *testing.T) {
	issued, err := jsonAnswer(`{"access_token":"A","expires_in":1,"access_token":"B","expires_in":2}`).Read(both)
	if got := issued.Token.Reveal(); err != nil || got != "A" && got != "B" {
		t.Errorf("got token %q, %v", got, err)
	}
	if got := issued.Lifetime; got != time.Second && got != 2*time.Second {
		t.Errorf("got lifetime %s", got)
	}
}

func TestAnswerWithoutToken(t *testing.T) {
	const good = `{"access_token":"c4n4ry","expires_in":60}`
	deep := strings.Repeat("[", 30_000)
	for name, a := range map[string]*Answer{
		"empty":                       answerOf(200, "application/json", ""),
		"white space":                 jsonAnswer(" \r\n"),
		"a BOM alone":                 jsonAnswer("\xef\xbb\xbf"),
		"UTF-16":                      jsonAnswer("\xff\xfe{\x00}\x00"),
		"HTML":                        answerOf(200, "text/html", "<!doctype html><title>c4n4ry</title>"),
		"HTML labeled as JSON":        jsonAnswer("<html>c4n4ry</html>"),
		"plain text":                  answerOf(200, "text/plain", "access_token: c4n4ry"),
		"a link in HTML":              answerOf(200, "text/html", `<a href="/?a=b&access_token=c4n4ry&c=d">`),
		"a form in a sentence":        answerOf(200, "text/plain", "the access_token=c4n4ry is yours"),
		"null":                        jsonAnswer("null"),
		"true":                        jsonAnswer("true"),
		"a number":                    jsonAnswer("1e999"),
		"a string":                    jsonAnswer(`"c4n4ry"`),
		"JSON in a string":            jsonAnswer(`"{\"data\":{\"access_token\":\"c4n4ry\",\"expires_in\":3600}}"`), // encoded twice
		"an array":                    jsonAnswer(`[` + good + `]`),
		"an empty object":             jsonAnswer(`{}`),
		"data in a string":            jsonAnswer(`{"data":"c4n4ry"}`),
		"data in an array":            jsonAnswer(`{"data":[` + good + `]}`),
		"a name in another case":      jsonAnswer(`{"ACCESS_TOKEN":"c4n4ry"}`),
		"a second object":             jsonAnswer(good + good),
		"letters after it":            jsonAnswer(good + " c4n4ry"),
		"a bracket after it":          jsonAnswer(good + "}"),
		"NUL after it":                jsonAnswer(good + "\x00"),
		"something before it":         jsonAnswer(")]}',\n" + good),
		"two BOMs":                    jsonAnswer("\xef\xbb\xbf\xef\xbb\xbf" + good),
		"single quotes":               jsonAnswer(`{'access_token':'c4n4ry'}`),
		"a comma too many":            jsonAnswer(`{"access_token":"c4n4ry",}`),
		"a bare Infinity":             jsonAnswer(`{"access_token":"c4n4ry","expires_in":Infinity}`),
		"a bare NaN":                  jsonAnswer(`{"access_token":"c4n4ry","expires_in":NaN}`),
		"a bare hexadecimal number":   jsonAnswer(`{"access_token":"c4n4ry","expires_in":0x10}`),
		"nesting without end":         jsonAnswer(`{"access_token":"c4n4ry","x":` + deep + `}`),
		"too deep nesting":            jsonAnswer(deep + strings.Repeat("]", 30_000)),
		"deep objects":                jsonAnswer(strings.Repeat(`{"a":`, 13_000)),
		"a form with a broken escape": answerOf(200, "application/x-www-form-urlencoded", "access_token=c4n4ry&x=%zz"),
		"a form without a token":      answerOf(200, "application/x-www-form-urlencoded", "expires_in=c4n4ry"),
		"an empty form":               answerOf(200, "application/x-www-form-urlencoded", ""),
		"202":                         answerOf(202, "application/json", good),
		"no content":                  answerOf(204, "", ""),
		"partial content":             answerOf(206, "application/json", good),
		"226":                         answerOf(226, "application/json", good),
	} {
		t.Run(name, func(t *testing.T) {
			issued, err := a.Read(both)
			e := wantError(t, err, token.Unreadable)
			if e.Status != a.Status {
				t.Errorf("got status %d, want %d", e.Status, a.Status)
			}
			if !issued.Token.Empty() {
				t.Error("got a token in addition to the error")
			}
		})
	}
}

// A status of 2xx is not success. The answer must have a token and no error, because GitHub, Feishu and WeChat report errors
// with status 200.
func TestAnswerErrorInSuccess(t *testing.T) {
	for _, status := range []int{200, 201} {
		for body, want := range map[string]token.Error{
			`{"error":"invalid_client"}`:                                        {Kind: token.Refused, Code: "invalid_client"},
			`{"error":"invalid_client","access_token":"c4n4ry"}`:                {Kind: token.Refused, Code: "invalid_client"},
			`{"errors":[{"code":"601"}],"data":{"access_token":"c4n4ry"}}`:      {Kind: token.Refused, Code: "601"},
			`{"errors":[{"status":401,"title":"c4n4ry"}]}`:                      {Kind: token.Refused, Code: "401"},
			`{"error":"server_error","access_token":"c4n4ry"}`:                  {Kind: token.Unavailable, Code: "server_error"},
			`{"error":"temporarily_unavailable","error_description":"c4n4ry"}`:  {Kind: token.Unavailable, Code: "temporarily_unavailable"},
			`{"error":"invalid_token_reuse","error_description":"c4n4ry more"}`: {Kind: token.Unavailable, Code: "invalid_token_reuse"},
		} {
			_, err := answerOf(status, "application/json", body).Read(both)
			if e := wantError(t, err, want.Kind); e.Code != want.Code || e.Status != status {
				t.Errorf("%s: got %+v", body, e)
			}
		}
		// an error counts even if it does not look like a code
		for _, body := range []string{
			`{"error":"c4n4ry is not allowed","access_token":"c4n4ry"}`,
			`{"error":{"code":"c4n4ry"},"access_token":"c4n4ry"}`,
			`{"error":"c4n4ry is not allowed"}`,
			`{"error":{"code":"c4n4ry"}}`,
		} {
			if issued, err := answerOf(status, "application/json", body).Read(both); err == nil {
				t.Errorf("%s: got token %q", body, issued.Token.Reveal())
			} else {
				wantSilent(t, err)
			}
		}
	}
}

// An answer that is cut must not yield a shorter token.
func TestAnswerTruncated(t *testing.T) {
	for _, whole := range []string{
		`{"access_token":"c4n4ryc4n4ry","token_type":"Bearer","expires_in":3600}`,
		`{"data":{"access_token":"c4n4ryc4n4ry","token_type":"Bearer","expires":1524486008}}`,
	} {
		for n := range len(whole) {
			_, err := jsonAnswer(whole[:n]).Read(both)
			wantError(t, err, token.Unreadable)
		}
	}
}

func TestAnswerUnits(t *testing.T) {
	at := func(d time.Duration) int64 { return sentAt.Add(d).Unix() }
	layout := func(in, at Unit) Layout {
		return Layout{Token: []string{"t"}, ExpiresIn: []string{"in"}, ExpiresInUnit: in, ExpiresAt: []string{"at"}, ExpiresAtUnit: at}
	}
	for _, tc := range []struct {
		in, at  Unit
		members string
		want    time.Duration
	}{
		{"", "", `"in":60`, time.Minute},
		{Seconds, "", `"in":60`, time.Minute},
		{Milliseconds, "", `"in":60000`, time.Minute},
		{Milliseconds, "", `"in":"60000"`, time.Minute},
		{Milliseconds, "", `"in":1500.5`, 1500*time.Millisecond + 500*time.Microsecond},
		{Milliseconds, "", `"in":0`, 0},
		{Milliseconds, "", `"in":-1`, 0},
		{Milliseconds, "", `"in":1e400`, maxSeconds * time.Second},
		{Milliseconds, "", `"in":"soon"`, token.UnknownLifetime},
		{Milliseconds, Seconds, fmt.Sprintf(`"in":60000,"at":%d`, at(time.Hour)), time.Minute},
		{"", Seconds, fmt.Sprintf(`"at":%d`, at(time.Hour)), time.Hour},
		{"", Milliseconds, fmt.Sprintf(`"at":%d000`, at(time.Hour)), time.Hour},
		{"", Milliseconds, fmt.Sprintf(`"at":"%d500"`, at(time.Hour)), time.Hour + 500*time.Millisecond},
		{"", Milliseconds, fmt.Sprintf(`"at":%d`, at(time.Hour)), 0}, // seconds, which are long ago in milliseconds
		{"", Milliseconds, `"at":1e400`, maxSeconds * time.Second},
		{"", RFC3339, `"at":"` + sentAt.Add(time.Hour).UTC().Format(time.RFC3339) + `"`, time.Hour},
		{"", RFC3339, `"at":"` + sentAt.Add(time.Hour).In(time.FixedZone("", -5*3600)).Format(time.RFC3339) + `"`, time.Hour},
		{"", RFC3339, `"at":"` + sentAt.Add(time.Hour+250*time.Millisecond).UTC().Format(time.RFC3339Nano) + `"`, time.Hour + 250*time.Millisecond},
		{"", RFC3339, `"at":"` + sentAt.Add(-time.Hour).UTC().Format(time.RFC3339) + `"`, 0},
		{"", RFC3339, `"at":"0001-01-01T00:00:00Z"`, 0},
		{"", RFC3339, `"at":"9999-12-31T23:59:59Z"`, maxSeconds * time.Second},
		{"", RFC3339, `"at":"2023-11-14"`, token.UnknownLifetime},
		{"", RFC3339, `"at":"Tue, 14 Nov 2023 23:13:20 GMT"`, token.UnknownLifetime},
		{"", RFC3339, fmt.Sprintf(`"at":%d`, at(time.Hour)), token.UnknownLifetime}, // a number instead of text
		{"", RFC3339, `"at":""`, token.UnknownLifetime},
		{"", RFC3339, `"at":null`, token.UnknownLifetime},
		{"", RFC3339, `"x":1`, token.UnknownLifetime},
		{"", RFC3339, `"in":60,"at":"` + sentAt.Add(time.Hour).UTC().Format(time.RFC3339) + `"`, time.Minute},
	} {
		issued, err := jsonAnswer(`{"t":"T",` + tc.members + `}`).Read(layout(tc.in, tc.at))
		if diff := issued.Lifetime - tc.want; err != nil || diff.Abs() > time.Microsecond {
			t.Errorf("%s in %q and %q: got %s, %v, want %s", tc.members, tc.in, tc.at, issued.Lifetime, err, tc.want)
		}
	}
}

// jwtWith returns a JWT with these claims and without a valid signature.
func jwtWith(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + ".c2ln"
}

// The claim exp of a token (RFC 7519 section 4.1.4) counts if the answer has no lifetime. Only the default lifetime comes
// after it.
func TestAnswerJWTExpiry(t *testing.T) {
	at := func(d time.Duration) string { return fmt.Sprint(sentAt.Add(d).Unix()) }
	const standard = 20 * time.Minute // full.DefaultLifetime
	for name, tc := range map[string]struct {
		value   string
		members string
		want    time.Duration
	}{
		"exp":                      {jwtWith(`{"exp":` + at(time.Hour) + `}`), "", time.Hour},
		"exp soon":                 {jwtWith(`{"exp":` + at(time.Second) + `}`), "", time.Second},
		"exp with a fraction":      {jwtWith(`{"exp":` + at(time.Hour) + `.5}`), "", time.Hour + 500*time.Millisecond},
		"exp in a string":          {jwtWith(`{"exp":"` + at(time.Hour) + `"}`), "", time.Hour},
		"exp in a padded payload":  {"e30." + base64.URLEncoding.EncodeToString([]byte(`{"exp":`+at(time.Hour)+` }`)) + ".x", "", time.Hour},
		"no signature":             {strings.TrimSuffix(jwtWith(`{"exp":`+at(time.Hour)+`}`), "c2ln"), "", time.Hour},
		"far future":               {jwtWith(`{"exp":99999999999}`), "", maxSeconds * time.Second}, // package token limits it
		"huge":                     {jwtWith(`{"exp":1e400}`), "", maxSeconds * time.Second},
		"past":                     {jwtWith(`{"exp":` + at(-time.Hour) + `}`), "", standard}, // one of the clocks is wrong
		"now":                      {jwtWith(`{"exp":` + at(0) + `}`), "", standard},
		"zero":                     {jwtWith(`{"exp":0}`), "", standard},
		"negative":                 {jwtWith(`{"exp":-1e400}`), "", standard},
		"no exp":                   {jwtWith(`{"iat":` + at(time.Hour) + `}`), "", standard},
		"exp of null":              {jwtWith(`{"exp":null}`), "", standard},
		"exp in words":             {jwtWith(`{"exp":"tomorrow"}`), "", standard},
		"exp as a list":            {jwtWith(`{"exp":[` + at(time.Hour) + `]}`), "", standard},
		"exp deeper":               {jwtWith(`{"a":{"exp":` + at(time.Hour) + `}}`), "", standard},
		"claims in an array":       {jwtWith(`[` + at(time.Hour) + `]`), "", standard},
		"claims that are a number": {jwtWith(at(time.Hour)), "", standard},
		"claims that are cut":      {jwtWith(`{"exp":` + at(time.Hour)), "", standard},
		"claims that are a form":   {jwtWith("exp=" + at(time.Hour)), "", standard},
		"two parts":                {"e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":`+at(time.Hour)+`}`)), "", standard},
		"five parts":               {jwtWith(`{"exp":`+at(time.Hour)+`}`) + ".x.y", "", standard}, // encrypted
		"no base64":                {"e30.%%%.x", "", standard},
		"an ordinary token":        {"xa3521ca62.1113e4.4eeed9", "", standard},
		"dots":                     {"..", "", standard},
		"expires_in is first":      {jwtWith(`{"exp":` + at(time.Hour) + `}`), `,"expires_in":60`, time.Minute},
		"expires_in of 0 is first": {jwtWith(`{"exp":` + at(time.Hour) + `}`), `,"expires_in":0`, 0},
		"expires_at is first":      {jwtWith(`{"exp":` + at(time.Hour) + `}`), `,"expires_at":"` + sentAt.Add(time.Minute).UTC().Format(time.RFC3339) + `"`, time.Minute},
		"expires_in of null":       {jwtWith(`{"exp":` + at(time.Hour) + `}`), `,"expires_in":null`, time.Hour},
		"not a JWT":                {"opaque", "", standard},
	} {
		issued, err := jsonAnswer(`{"access_token":"` + tc.value + `"` + tc.members + `}`).Read(full)
		if diff := issued.Lifetime - tc.want; err != nil || diff.Abs() > time.Microsecond {
			t.Errorf("%s: got %s, %v, want %s", name, issued.Lifetime, err, tc.want)
		}
	}
	// A layout without a default leaves the lifetime to package token.
	if issued, err := jsonAnswer(`{"access_token":"opaque"}`).Read(both); err != nil || issued.Lifetime != token.UnknownLifetime {
		t.Errorf("got %s, %v", issued.Lifetime, err)
	}
}

func TestAnswerRefreshIn(t *testing.T) {
	for value, want := range map[string]time.Duration{
		`1800`: 30 * time.Minute, `"1800"`: 30 * time.Minute, `0.5`: 500 * time.Millisecond,
		`0`: 0, `-1`: 0, `null`: 0, `"soon"`: 0, `true`: 0, `{}`: 0, `-1e400`: 0,
		`1e400`: maxSeconds * time.Second, `9223372036854775807`: maxSeconds * time.Second,
	} {
		issued, err := jsonAnswer(`{"access_token":"T","expires_in":3600,"refresh_in":` + value + `}`).Read(full)
		if err != nil || issued.RefreshIn != want || issued.Lifetime != time.Hour {
			t.Errorf("%s: got %s for %s, %v, want %s", value, issued.RefreshIn, issued.Lifetime, err, want)
		}
	}
	l := full
	l.RefreshIn = nil
	if issued, _ := jsonAnswer(`{"access_token":"T","refresh_in":60}`).Read(l); issued.RefreshIn != 0 {
		t.Errorf("got RefreshIn %s from a layout without its path", issued.RefreshIn)
	}
}

// The path "$" leads to the whole body, which must be a JSON string. The checks of a token apply to it.
func TestAnswerWholeBody(t *testing.T) {
	l := Layout{Token: []string{"$"}, Type: []string{"token_type"}, Code: []string{"error"}}
	for _, body := range []string{`"T"`, " \"T\"\r\n", "\xef\xbb\xbf\"T\"", `"\u0054"`, "T", " T\r\n", "\xef\xbb\xbfT", "Bearer T", `"Bearer T"`} {
		issued, err := jsonAnswer(body).Read(l)
		if err != nil || issued.Token.Reveal() != "T" || issued.Lifetime != token.UnknownLifetime {
			t.Errorf("%q: got %q for %s, %v", body, issued.Token.Reveal(), issued.Lifetime, err)
		}
	}
	for _, body := range []string{
		`""`, `null`, `7`, `true`, `["c4n4ry"]`, `{"access_token":"c4n4ry"}`, `{"$":"c4n4ry"}`, `"c4n4ry" "x"`, `"c4n4ry x"`, `"c4n4ry\n"`,
		`"c4n4ry`, ``, `<html>c4n4ry</html>`,
	} {
		_, err := jsonAnswer(body).Read(l)
		wantError(t, err, token.Unreadable)
	}
	_, err := jsonAnswer(`{"error":"invalid_client"}`).Read(l)
	if e := wantError(t, err, token.Refused); e.Code != "invalid_client" {
		t.Errorf("got %+v", e)
	}
}

func TestAnswerText(t *testing.T) {
	a := jsonAnswer(`{"a":"top","b":{"c":["zero","one"]},"n":5,"z":null}`)
	for path, want := range map[string]string{
		"a": "top", "b.c.0": "zero", "b.c.1": "one", "b.c.2": "", "b.c.-1": "", "b.c.x": "", "b.c": "", "b": "", "n": "", "z": "",
		"a.b": "", "": "", ".": "", "b..c": "", "missing": "", "missing.too": "",
	} {
		if got, ok := a.Text(path); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v", path, got, ok)
		}
	}
	if got, _ := a.Text("z", "missing", "a"); got != "top" {
		t.Errorf("Text does not pass over null and missing members: got %q", got)
	}
	if got, ok := jsonAnswer("<html>").Text("a"); ok {
		t.Errorf("got %q from HTML", got)
	}
}

// FuzzAnswer checks that Read does not panic, that a header field can carry every token, and that no error quotes the answer.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"access_token":"T","token_type":"Bearer","expires_in":3600,"scope":"read write","created_at":1656518368}`,
		`{"data":{"access_token":"T","expires":1524486008,"identifier":"implicit"}}`,
		`{"access_token":"T","expires_in":1e400}`, `{"access_token":"T","expires_in":"-3.6e3"}`, `{"access_token":"T","expires":1e999}`,
		`{"access_token":"c4n4ry\r\n"}`, `{"error":"c4n4ry x"}`, `{"errors":[{"status":"c4n4ry!"}]}`, `{"token_type":"c4n4ry","access_token":"T"}`,
		"\xef\xbb\xbf[]", "access_token=T&expires_in=60", "%", `"`, `{"errors":{"0":{"code":1}}}`, "",
	} {
		f.Add(200, "application/json", []byte(body))
		f.Add(503, "application/x-www-form-urlencoded; charset=utf-8", []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		a := answerOf(status, contentType, string(body))
		a.Header.Set("Retry-After", contentType)
		issued, err := a.Read(both)
		if err == nil {
			checkIssued(t, a, issued)
			return
		}
		e, ok := err.(*token.Error)
		if !ok {
			t.Fatalf("got %T", err)
		}
		if !issued.Token.Empty() {
			t.Fatal("got a token in addition to the error")
		}
		if e.Code != "" && !plausibleCode.MatchString(e.Code) {
			t.Fatalf("got code %q", e.Code)
		}
		if e.RetryAfter < 0 {
			t.Fatalf("got Retry-After %s", e.RetryAfter)
		}
		if strings.Contains(e.Reason, canary) {
			t.Fatalf("got reason %q", e.Reason)
		}
	})
}

func checkIssued(t *testing.T, a *Answer, issued token.Issued) {
	t.Helper()
	value := issued.Token.Reveal()
	if a.Status != 200 && a.Status != 201 {
		t.Fatalf("got a token from status %d", a.Status)
	}
	if value == "" || len(value) > 16<<10 {
		t.Fatalf("got a token of %d bytes", len(value))
	}
	for i := range len(value) {
		if value[i] <= ' ' || value[i] >= 0x7f {
			t.Fatalf("got token %q", value)
		}
	}
	if issued.Lifetime < 0 && issued.Lifetime != token.UnknownLifetime || issued.Lifetime > maxSeconds*time.Second {
		t.Fatalf("got lifetime %s", issued.Lifetime)
	}
}
