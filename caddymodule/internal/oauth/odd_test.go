package oauth

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// The label of an answer is a hint. Read finds JSON and forms by what they are.
func TestContentTypeIsAHint(t *testing.T) {
	for _, label := range []string{
		"", "application/json", "text/plain", "text/html", "text/html; charset=utf-8", "application/x-www-form-urlencoded", "application/octet-stream",
		"text/javascript", "application/xml", "json", "application/json; charset", ";", "multipart/form-data; boundary=x", "application/json, text/html",
	} {
		for what, body := range map[string]string{
			"JSON":                   `{"access_token":"T","expires_in":60}`,
			"JSON with a line break": "{\"access_token\":\"T\",\n \"expires_in\":60}\r\n",
			"JSON with = and &":      `{"access_token":"T","expires_in":60,"x":"a=b&c=d"}`,
			"a form":                 "access_token=T&expires_in=60",
			"a form with escapes":    "scope=a%2Cb+c&access_token=%54&expires_in=60&empty=",
			"a form after a BOM":     "\xef\xbb\xbfexpires_in=60&access_token=T",
			"a form with padding":    "other=dA==&access_token=T&expires_in=60",
		} {
			issued, err := answerOf(200, label, body).Read(both)
			if err != nil || issued.Token.Reveal() != "T" || issued.Lifetime != time.Minute {
				t.Errorf("%q, %s: got %q for %s, %v", label, what, issued.Token.Reveal(), issued.Lifetime, err)
			}
		}
		for _, body := range []string{
			"<p>access_token=c4n4ry</p>", "access_token=c4n4ry\n", "see access_token=c4n4ry", `{"access_token":"c4n4ry"`,
			`'access_token=c4n4ry'`, "c4n4ry", "&", "=", "access_token", "access_token:c4n4ry",
		} {
			if issued, err := answerOf(200, label, body).Read(both); err == nil {
				t.Errorf("%q, %s: got %q", label, body, issued.Token.Reveal())
			} else {
				wantSilent(t, err)
			}
		}
	}
}

// The text of an answer can be the token as a whole, with any label.
func TestTokenIsTheWholeText(t *testing.T) {
	l := Layout{Token: []string{"$"}, Code: []string{"error"}}
	const jwt = "eyJhbGciOiJub25lIn0.e30.c2ln"
	for _, label := range []string{"", "text/plain", "text/plain; charset=utf-8", "application/jwt", "application/json", "text/html", "application/x-www-form-urlencoded"} {
		for body, want := range map[string]string{
			jwt: jwt, jwt + "\n": jwt, " " + jwt + "\r\n": jwt, "\xef\xbb\xbf" + jwt: jwt, `"` + jwt + `"`: jwt, "Bearer " + jwt: jwt, "bearer " + jwt + "\n": jwt,
			"dG9rZW4=": "dG9rZW4=", "dG9rZW4+/w==": "dG9rZW4+/w==", "00D5g!AQ.x_y": "00D5g!AQ.x_y", "12|c3": "12|c3", "a-b_c~d": "a-b_c~d", "1f3e": "1f3e",
		} {
			issued, err := answerOf(200, label, body).Read(l)
			if err != nil || issued.Token.Reveal() != want || issued.Lifetime != token.UnknownLifetime {
				t.Errorf("%q, %q: got %q for %s, %v", label, body, issued.Token.Reveal(), issued.Lifetime, err)
			}
		}
		for _, body := range []string{
			"", " ", "c4n4ry x", "c4n4ry\nc4n4ry", "<c4n4ry>", "{c4n4ry", `{"error":"invalid_client"}`, `{"access_token":"c4n4ry"}`, `["c4n4ry"]`, `"c4n4ry`, "'c4n4ry'",
			"c4n4ry\x00", "c4n4ryé", "null", "true", "Basic c4n4ry",
		} {
			if issued, err := answerOf(200, label, body).Read(l); err == nil {
				t.Errorf("%q, %q: got %q", label, body, issued.Token.Reveal())
			} else {
				wantSilent(t, err)
			}
		}
	}
	if issued, err := answerOf(200, "text/plain", "1234567890123456").Read(l); err != nil || issued.Token.Reveal() != "1234567890123456" {
		t.Errorf("digits: got %q, %v", issued.Token.Reveal(), err)
	}
}

// The member access_token can contain the authentication scheme.
func TestTokenWithItsScheme(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer T": "T", "bearer T": "T", "BEARER T": "T", "BearerT": "BearerT", "Bearer": "Bearer", "Bearer-T": "Bearer-T", "T": "T", "Bearer=T": "Bearer=T",
		"Bearer  T": "", "Bearer ": "", " Bearer T": "", "Bearer T ": "", "Bearer T x": "", "Bearer\\tT": "", "Bearer Bearer T": "", "Basic T": "", "Token T": "",
	} {
		issued, err := jsonAnswer(`{"access_token":"` + value + `"}`).Read(both)
		if got := issued.Token.Reveal(); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", value, got, err, want)
		}
	}
}

// A member that is odd costs no good token.
func TestOddMembers(t *testing.T) {
	for _, member := range []string{
		`"error":[]`, `"error":{}`, `"error":"none"`, `"error":"None"`, `"error":"0"`, `"error":"0000"`, `"error":" "`, `"error":"false"`, `"error":"ok"`,
		`"error":"success"`, `"error":"null"`, `"errors":{}`, `"errors":[{}]`, `"errors":[{"code":"0"}]`, `"errors":[null]`, `"errors":"none"`,
		`"token_type":7`, `"token_type":[]`, `"token_type":{}`, `"token_type":false`, `"scope":{}`, `"scope":7`, `"scope":[[]]`,
		`"expires":[]`, `"refresh_in":"soon"`, `"data":7`, `"data":{"access_token":7}`, `"data":[]`, `"x":"\ud800"`, `"x":1e99999`,
	} {
		l := both
		l.Scope, l.AskedScope, l.RefreshIn = []string{"scope"}, []string{"read"}, []string{"refresh_in"}
		issued, err := jsonAnswer(`{"access_token":"T","expires_in":60,` + member + `}`).Read(l)
		if err != nil || issued.Token.Reveal() != "T" || issued.Lifetime != time.Minute {
			t.Errorf("%s: got %q for %s, %v", member, issued.Token.Reveal(), issued.Lifetime, err)
		}
	}
	// a path that leads to something odd does not hide the next path
	l := Layout{Token: []string{"token", "token.value", "data.token"}, ExpiresIn: []string{"ttl", "ttl.seconds", "expires_in"}}
	for _, body := range []string{
		`{"token":{"value":"T"},"ttl":{"seconds":60}}`, `{"token":"","data":{"token":"T"},"ttl":"","expires_in":60}`,
		`{"token":7,"data":{"token":"T"},"ttl":"soon","expires_in":"60"}`, `{"token":[],"data":{"token":"T"},"ttl":null,"expires_in":60}`,
	} {
		issued, err := jsonAnswer(body).Read(l)
		if err != nil || issued.Token.Reveal() != "T" || issued.Lifetime != time.Minute {
			t.Errorf("%s: got %q for %s, %v", body, issued.Token.Reveal(), issued.Lifetime, err)
		}
	}
}

// The layout decides which token types Read accepts. The default is exact.
func TestAcceptedTypes(t *testing.T) {
	for _, tc := range []struct {
		types    []string
		kind     string // JSON
		accepted bool
	}{
		{nil, `"Bearer"`, true}, {nil, `"bEARER"`, true}, {nil, `"Application Access Token"`, true},
		{nil, `"Bearer\r\nX-Evil: 1"`, false}, {nil, `"Bearer\n"`, false}, {nil, `"Bearer\u0000"`, false}, {nil, `"Bearer\u00a0"`, false},
		{nil, `"BearerTo\u212aen"`, false}, // the Kelvin sign, which Unicode folds to k
		{nil, `"Bearer Bearer"`, false}, {nil, `"access_token"`, false}, {nil, `"JWT"`, false}, {nil, `"any"`, false}, {nil, `"Beare"`, false},
		{[]string{"JWT"}, `"JWT"`, true}, {[]string{"JWT"}, `"jwt"`, true}, {[]string{"JWT"}, `"Bearer"`, false}, {[]string{"JWT"}, `"JWT\r\n"`, false},
		{[]string{"JWT"}, `null`, true}, {[]string{"JWT"}, `""`, true},
		{[]string{"access_token", "Bearer"}, `"Access_Token"`, true}, {[]string{"access_token", "Bearer"}, `"bearer"`, true},
		{[]string{"access_token", "Bearer"}, `"BearerToken"`, false}, {[]string{"access_token"}, `"access token"`, false},
		{[]string{AnyType}, `"mac"`, true}, {[]string{AnyType}, `"Bearer\r\nX-Evil: 1"`, true}, {[]string{AnyType}, `{}`, true},
	} {
		l := both
		l.Types = tc.types
		issued, err := jsonAnswer(`{"access_token":"c4n4ry","token_type":` + tc.kind + `}`).Read(l)
		if (err == nil) != tc.accepted || tc.accepted && issued.Token.Reveal() != canary {
			t.Errorf("%q, %s: got %q, %v", tc.types, tc.kind, issued.Token.Reveal(), err)
		}
		if !tc.accepted {
			e := wantError(t, err, token.Refused)
			if !strings.Contains(e.Reason, "token_type") || strings.Contains(e.Reason, "Evil") {
				t.Errorf("%s: got reason %q", tc.kind, e.Reason)
			}
		}
	}
}
