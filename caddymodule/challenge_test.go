package caddymodule

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func TestJudgeChallenge(t *testing.T) {
	const (
		certain  = "certain"
		doubtful = "doubtful"
		notOurs  = "not ours"
	)
	tests := []struct {
		name   string
		fields []string
		want   string
	}{
		{"none", nil, doubtful},
		{"empty", []string{""}, doubtful},
		{"scheme alone", []string{"Bearer"}, doubtful},
		{"realm alone (RFC 6750 section 3: no token was sent)", []string{`Bearer realm="api"`}, doubtful},
		{"invalid_token", []string{`Bearer error="invalid_token"`}, certain},
		{"Doorkeeper", []string{`Bearer realm="Doorkeeper", error="invalid_token", error_description="The access token was revoked"`}, certain},
		{"without quotes", []string{`Bearer error=invalid_token`}, certain},
		{"without quotes, then more", []string{`Bearer error=invalid_token, realm=x`}, certain},
		{"no space after the comma", []string{`Bearer realm="x",error="invalid_token"`}, certain},
		{"tabs", []string{"Bearer\trealm=\"x\"\t,\terror=\"invalid_token\""}, certain},
		{"name in capitals", []string{`Bearer ERROR="invalid_token"`}, certain},
		{"scheme in small letters", []string{`bearer error="invalid_token"`}, certain},
		{"invalid_request", []string{`Bearer error="invalid_request"`}, doubtful},
		{"insufficient_scope (RFC 6750 section 3.1)", []string{`Bearer error="insufficient_scope", scope="a b"`}, notOurs},
		{"insufficient_scope without quotes", []string{`Bearer error=insufficient_scope`}, notOurs},
		{"DPoP nonce (RFC 9449 section 9)", []string{`DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof"`}, notOurs},
		{"DPoP proof", []string{`DPoP error="invalid_dpop_proof"`}, notOurs},

		{"quoted comma", []string{`Bearer realm="a, error=\"invalid_token\", b", error="insufficient_scope"`}, notOurs},
		{"quoted equals sign", []string{`Bearer realm="error=invalid_token", error="insufficient_scope"`}, notOurs},
		{"escaped quote at the end of a value", []string{`Bearer realm="a\"", error="insufficient_scope"`}, notOurs},
		{"escaped backslash at the end of a value", []string{`Bearer realm="a\\", error="insufficient_scope"`}, notOurs},
		{"escape in the value itself", []string{`Bearer error="invalid\_token"`}, certain},
		{"error in the description only", []string{`Bearer error_description="error=invalid_token"`}, doubtful},
		{"error_uri is not error", []string{`Bearer error_uri="insufficient_scope", error="invalid_token"`}, certain},
		{"x_error is not error", []string{`Bearer x_error="insufficient_scope", error="invalid_token"`}, certain},

		{"Basic, then Bearer", []string{`Basic realm="x", Bearer realm="y", error="invalid_token"`}, certain},
		{"Basic, then Bearer with error first", []string{`Basic realm="x", Bearer error="insufficient_scope"`}, notOurs},
		{"Bearer, then Basic", []string{`Bearer error="insufficient_scope", Basic realm="x"`}, notOurs},
		{"token68, then Bearer", []string{`Negotiate YWJjZA==, Bearer error="insufficient_scope"`}, notOurs},
		{"token68 without padding, then Bearer", []string{`NTLM TlRMTVNTUAAC/+x, Bearer error="insufficient_scope"`}, notOurs},
		{"schemes without parameters", []string{`Negotiate, NTLM, Bearer error="insufficient_scope"`}, notOurs},
		{"empty list members (RFC 9110 section 5.6.1)", []string{`, ,, Bearer ,realm="x",, error="insufficient_scope",`}, notOurs},
		{"several fields", []string{`Negotiate`, `Basic realm="x"`, `Bearer error="insufficient_scope"`}, notOurs},

		// RFC 9110 section 11.2: auth-param = token BWS "=" BWS ( token / quoted-string ), and section 5.6.3: a
		// recipient must parse bad white space.
		{"BWS after the equals sign", []string{`Bearer error= "insufficient_scope"`}, notOurs},
		{"BWS before the equals sign", []string{`Bearer realm="x", error ="insufficient_scope"`}, notOurs},
		{"BWS before the equals sign, right after the scheme", []string{`Bearer error ="insufficient_scope"`}, notOurs},
		{"BWS around the equals sign, right after the scheme", []string{"Bearer error \t= \tinvalid_token"}, certain},

		// RFC 9110 section 11.6.1: each challenge has parameters of its own.
		{"another scheme's error first", []string{`Basic realm="x", error="insufficient_scope", Bearer error="invalid_token"`}, certain},
		{"another scheme's error last", []string{`Bearer error="insufficient_scope", Custom error="invalid_token"`}, notOurs},
		{"another scheme's error alone", []string{`Custom error="invalid_token"`}, doubtful},
		{"another scheme's error, in fields", []string{`Custom error="insufficient_scope"`, `BEARER error="invalid_token"`}, certain},
		{"no scheme at all", []string{`error="invalid_token"`}, doubtful},
		{"a scheme that begins like Bearer", []string{`Bearer2 error="invalid_token"`}, doubtful},
		{"Bearer without an error, another with one", []string{`Bearer realm="x", Custom error="invalid_token"`}, doubtful},
		{"Bearer alone, DPoP with an error", []string{`Bearer, DPoP error="invalid_token"`}, doubtful},
		{"DPoP with an error, Bearer alone", []string{`DPoP error="use_dpop_nonce"`, `Bearer realm="x"`}, doubtful},
		{"DPoP and Bearer, each with an error", []string{`DPoP error="use_dpop_nonce", Bearer error="invalid_token"`}, certain},
		{"DPoP alone", []string{`DPoP algs="ES256", error="invalid_token"`}, certain},
		{"DPoP in capitals", []string{`DPOP error="invalid_token"`}, certain},
		{"two Bearer challenges", []string{`Bearer realm="a"`, `Bearer realm="b", error="invalid_token"`}, certain},
		{"two Bearer challenges with an error", []string{`Bearer error="invalid_token", Bearer error="insufficient_scope"`}, certain},
		{"a challenge in two fields (RFC 9110 section 5.3)", []string{`Bearer realm="x"`, `error="invalid_token"`}, certain},
		{"a challenge in two fields, another's", []string{`Basic realm="x"`, `error="invalid_token"`}, doubtful},
		{"token68 that reads like a scheme", []string{`Negotiate Bearer, error="invalid_token"`}, doubtful},
		{"token68 that reads like a parameter", []string{`Negotiate error==, Bearer error="invalid_token"`}, certain},
		{"token68 of Bearer", []string{`Bearer error=, Custom error="invalid_token"`}, doubtful},
		{"no commas", []string{`Bearer realm="x" error="invalid_token"`}, certain},
		{"no commas between schemes", []string{`Bearer realm="x" Custom error="invalid_token"`}, doubtful},
		{"a quoted scheme", []string{`Custom realm="Bearer error=invalid_token"`}, doubtful},
		{"another scheme's quote never ends", []string{`Custom realm="x, Bearer error="invalid_token"`}, doubtful},
		{"a field whose quote never ends, then another", []string{`Custom realm="x`, `Bearer error="invalid_token"`}, certain},

		{"quote that never ends", []string{`Bearer realm="x, error="insufficient_scope"`}, doubtful},
		{"value that never ends", []string{`Bearer error="invalid_token`}, certain},
		{"backslash at the very end", []string{`Bearer error="invalid_token\`}, doubtful},
		{"equals sign at the very end", []string{`Bearer error=`}, doubtful},
		{"quote without a name", []string{`"Bearer error=insufficient_scope", Bearer error="invalid_token"`}, certain},
		{"insufficient_claims", []string{`Bearer error="insufficient_claims", claims="{\"a\":null}"`}, certain},
		{"insufficient_claims of Entra", []string{`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwgInZhbHVlIjoiMTYwNDEwNjY1MSJ9fX0="`}, certain},
		{"insufficient_claims without claims", []string{`Bearer error="insufficient_claims"`}, notOurs},
		{"insufficient_claims with other text", []string{`Bearer error="insufficient_claims", claims="text"`}, notOurs},
		{"insufficient_user_authentication (RFC 9470)", []string{`Bearer error="insufficient_user_authentication", acr_values="myACR", max_age="5"`}, notOurs},

		{"not even a scheme", []string{`="x",="y"`}, doubtful},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			doubt, ours := readChallenge(tc.fields, false).judge()
			got := notOurs
			switch {
			case ours && doubt == token.Certain:
				got = certain
			case ours:
				got = doubtful
			}
			if got != tc.want {
				t.Errorf("%q is %s, want %s", tc.fields, got, tc.want)
			}
		})
	}
}

// A token that was sent with DPoP is judged by the DPoP challenge, if there is one.
func TestChallengeOfBoundToken(t *testing.T) {
	for _, tc := range []struct{ field, bearer, dpop string }{
		{`Bearer error="invalid_token", DPoP error="use_dpop_nonce"`, "invalid_token", "use_dpop_nonce"},
		{`DPoP error="use_dpop_nonce", Bearer error="invalid_token"`, "invalid_token", "use_dpop_nonce"},
		{`Bearer realm="x", DPoP algs="ES256", error="invalid_dpop_proof"`, "", "invalid_dpop_proof"},
		{`Bearer error="invalid_token", DPoP algs="ES256"`, "invalid_token", ""},
		{`Bearer error="invalid_token"`, "invalid_token", "invalid_token"},
		{`DPoP error="invalid_token"`, "invalid_token", "invalid_token"},
	} {
		if got := readChallenge([]string{tc.field}, false).errorCode; got != tc.bearer {
			t.Errorf("%s: a bearer token meets %q, want %q", tc.field, got, tc.bearer)
		}
		if got := readChallenge([]string{tc.field}, true).errorCode; got != tc.dpop {
			t.Errorf("%s: a bound token meets %q, want %q", tc.field, got, tc.dpop)
		}
	}
}

func TestChallengeParameters(t *testing.T) {
	got := readChallenge([]string{`Bearer error="insufficient_user_authentication", acr_values="a b", max_age=5, scope="x y", ` +
		`resource_metadata="https://api.example.com/.well-known/oauth-protected-resource", error="invalid_token", claims="e30", unknown=1`}, false)
	want := challenge{
		errorCode: errInsufficientAuthentication, acr: "a b", maxAge: "5", scope: "x y", claims: "e30",
		metadata: "https://api.example.com/.well-known/oauth-protected-resource",
	}
	if got != want {
		t.Errorf("the challenge is %+v", got)
	}
}

// An API that knows both schemes may name its metadata in the challenge of either.
func TestMetadataOfEitherScheme(t *testing.T) {
	const url = "https://api.example.com/.well-known/oauth-protected-resource"
	for _, bound := range []bool{false, true} {
		for _, field := range []string{`Bearer realm="x", DPoP algs="ES256", resource_metadata="` + url + `"`, `DPoP, Bearer resource_metadata="` + url + `"`} {
			if got := readChallenge([]string{field}, bound).metadata; got != url {
				t.Errorf("%s, bound %t: the metadata are at %q", field, bound, got)
			}
		}
	}
}

func TestDemandedClaims(t *testing.T) {
	const object = `{"access_token":{"x":{"values":["?>~"]}}}`
	for name, tc := range map[string]struct{ claims, want string }{
		"JSON":                  {object, object},
		"base64":                {base64.StdEncoding.EncodeToString([]byte(object)), object},
		"base64, no padding":    {base64.RawStdEncoding.EncodeToString([]byte(object)), object},
		"base64url":             {base64.URLEncoding.EncodeToString([]byte(object)), object},
		"base64url, no padding": {base64.RawURLEncoding.EncodeToString([]byte(object)), object},
		"missing":               {"", ""},
		"an array":              {"[]", ""},
		"null in base64":        {"bnVsbA==", ""},
		"broken JSON":           {`{"a":`, ""},
		"broken base64":         {"e30*", ""},
		"too long":              {`{"a":"` + strings.Repeat("x", maxClaims) + `"}`, ""},
	} {
		if got := (challenge{errorCode: errInsufficientClaims, claims: tc.claims}).demandedClaims(); got != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := (challenge{errorCode: "invalid_token", claims: object}).demandedClaims(); got != "" {
		t.Errorf("with another error: %q", got)
	}
}

// FuzzChallenge has two halves: whatever the API sends, reading it ends without a panic; and wherever a well-formed
// challenge stands in well-formed company, its error is found.
func FuzzChallenge(f *testing.F) {
	for _, field := range []string{
		``, `Bearer`, `Bearer error="invalid_token"`, `Bearer realm="a\"b, c", error=invalid_token`,
		`Negotiate YWJjZA==, Basic realm="x"`, `"`, `\`, `=`, `Bearer error="`, "\x00\xff,=\"\\", `a=b=c,,;`,
	} {
		for _, seed := range []uint64{0, 1, 0xa5a5a5a5a5a5a5a5, ^uint64(0)} {
			f.Add(field, seed)
		}
	}
	f.Fuzz(func(t *testing.T, field string, seed uint64) {
		for _, bound := range []bool{false, true} {
			readChallenge([]string{field}, bound).judge()
			readChallenge([]string{field, field}, bound).judge()
			challenge{errorCode: errInsufficientClaims, claims: field}.demandedClaims()
		}

		wellFormed, code := composeChallenge(seed, field)
		for _, bound := range []bool{false, true} {
			if got := readChallenge([]string{wellFormed}, bound).errorCode; got != code {
				t.Errorf("the error in %q is %q, want %q", wellFormed, got, code)
			}
		}
	})
}

// composeChallenge makes a well-formed field (RFC 9110 sections 5.6.1 and 11.6.1) around one error parameter. The
// bits of seed choose its shape; text goes into quoted strings.
func composeChallenge(seed uint64, text string) (field, code string) {
	choose := func(from ...string) string {
		chosen := from[seed%uint64(len(from))]
		seed /= uint64(len(from))
		return chosen
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	quote := func(s string) string { return `"` + escape.Replace(s) + `"` }
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f { // no part of a quoted-string
			return -1
		}
		return r
	}, text)

	comma := func() string { return choose(", ", ",", " ,\t", ",, ") }
	equals := func() string { return choose("=", "= ", " =", " \t= ") }
	other := func() string {
		return choose("", `realm=`+quote(text), `error_description=`+quote(text), `scope=plain`, `realm`+equals()+quote(`a, error="x"`))
	}
	code = choose("invalid_token", "insufficient_scope", "use_dpop_nonce", "insufficient_claims")

	var b strings.Builder
	company := func() string {
		return choose("Negotiate", "Negotiate YWJj/+==", "Negotiate Bearer", "Basic realm="+quote(text), `Custom error="x"`, `Custom a=b, error=`+quote(text))
	}
	b.WriteString(choose("", company()+comma(), ", "))
	b.WriteString(choose("Bearer ", "bearer  ", "DPoP "))
	if before := other(); before != "" {
		b.WriteString(before + comma())
	}
	b.WriteString(choose("error", "Error") + equals() + choose(code, quote(code)))
	if after := other(); after != "" {
		b.WriteString(comma() + after)
	}
	b.WriteString(choose("", comma()+company(), ","))
	return b.String(), code
}
