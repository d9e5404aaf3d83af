package caddymodule

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const jwtBearerGrant = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// A server finds the key by the certificate in fields of the header, and each vendor wants others.
func TestOAuth2AssertionCertificate(t *testing.T) {
	key := signingKeyOf("RSA")
	certificate, other := newTestCertificate(t, key, 2*time.Hour), newTestCertificate(t, key, 2*time.Hour)
	authority := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	for name, tc := range map[string]struct {
		fields   []string // of the provider; nil for the default
		demanded []string
		chain    string // after the certificate
		refusal  string
	}{
		"by default":                     {nil, nil, "", ""},
		"by default, of a chain":         {nil, nil, authority.certificate, ""},
		"x5t#S256":                       {[]string{"x5t#S256"}, []string{"x5t#S256"}, "", ""},
		"x5t":                            {[]string{"x5t"}, []string{"x5t"}, "", ""},
		"x5t, of a chain":                {[]string{"x5t"}, []string{"x5t"}, authority.certificate, ""},
		"x5c":                            {[]string{"x5c"}, []string{"x5c"}, "", ""},
		"x5c, of a chain":                {[]string{"x5c"}, []string{"x5c"}, authority.certificate, ""},
		"x5t and x5c, as Entra takes":    {[]string{"x5t", "x5c"}, []string{"x5c", "x5t"}, authority.certificate, ""},
		"both thumbprints":               {[]string{"x5t", "x5t#S256"}, []string{"x5t#S256", "x5t"}, "", ""},
		"all":                            {[]string{"x5c", "x5t", "x5t#S256"}, []string{"x5c", "x5t", "x5t#S256"}, authority.certificate, ""},
		"x5t for a server of today":      {[]string{"x5t"}, nil, "", "x5t must be absent"},
		"the default for an older one":   {nil, []string{"x5t"}, "", "x5t#S256 must be absent"},
		"a chain that nobody asked for":  {[]string{"x5t#S256", "x5c"}, nil, "", "x5c must be absent"},
		"no chain for one that wants it": {[]string{"x5t#S256"}, []string{"x5t#S256", "x5c"}, "", "x5c does not name"},
	} {
		t.Run(name, func(t *testing.T) {
			trip := oauth2Trip{
				noSecret: true,
				demands:  devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: certificate.certificate, AssertionCertificate: tc.demanded},
				options: options{"client_auth": "private_key_jwt", "signing_key": certificate.key,
					"client_certificate": certificate.certificate + tc.chain, "client_certificate_key": certificate.key},
			}
			set := options{"assertion_certificate": tc.fields}
			if tc.fields == nil {
				set = nil
			}
			if tc.refusal == "" {
				trip.options = trip.options.with(set)
				trip.wrong = []wrongTrip{wrong("invalid_client", "does not name", options{"client_certificate": other.certificate})}
			} else {
				trip.options["assertion_certificate"] = orElse(tc.demanded, "x5t#S256")
				trip.wrong = []wrongTrip{wrong("invalid_client", tc.refusal, options{"assertion_certificate": nil}.with(set))}
			}
			trip.run(t)
		})
	}
	t.Run("the grant's assertion", oauth2Trip{
		noSecret: true,
		demands: devserver.Demands{ClientAuth: "none", Grant: text(jwtBearerGrant), ClientKey: certificate.certificate,
			AssertionCertificate: []string{"x5t", "x5c"}},
		options: options{"client_auth": "none", "grant": jwtBearerGrant, "signing_key": certificate.key, "assertion_certificate": []string{"x5c", "x5t"},
			"client_certificate": certificate.certificate, "client_certificate_key": certificate.key},
		wrong: []wrongTrip{wrong("invalid_grant", "must be absent", options{"assertion_certificate": nil})},
	}.run)
	t.Run("the chain is whole and in order", func(t *testing.T) {
		s := newOAuth2Server(t, false, oddID, "s", devserver.Demands{})
		_, c, _ := provisionCredential(t, oauth2JSON(oddID, "", options{"token_url": s.URL + "/token", "client_auth": "private_key_jwt", "signing_key": certificate.key,
			"client_certificate": certificate.certificate + authority.certificate, "client_certificate_key": certificate.key, "assertion_certificate": []string{"x5c"}}))
		_, _ = fetchOnce(t, c)
		r, _ := s.last(t)
		header, _ := jwtParts(t, r.form(t).Get("client_assertion"))
		var want []any
		for _, text := range []string{certificate.certificate, authority.certificate} {
			lines := strings.Split(strings.TrimSpace(text), "\n")
			want = append(want, strings.Join(lines[1:len(lines)-1], "")) // PEM has base64 too
		}
		if got, _ := header["x5c"].([]any); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func orElse(values []string, standard string) []string {
	if values == nil {
		return []string{standard}
	}
	return values
}

// Claims of every type, in the assertion that proves the client and in that of the grant.
func TestOAuth2AssertionClaimTypes(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_TENANT", `t"1`)
	key := signingKeyOf("P-256")
	const secret = "a secret that is long enough for HS256 to sign with it"
	methods := map[string]struct {
		secret  string
		options options
		demands devserver.Demands
		code    string
	}{
		"private_key_jwt": {"", options{"client_auth": "private_key_jwt", "signing_key": pkcs8(key)},
			devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(key)}, "invalid_client"},
		"client_secret_jwt": {secret, options{"client_auth": "client_secret_jwt"}, devserver.Demands{ClientAuth: "client_secret_jwt"}, "invalid_client"},
		"bearer_jwt": {"", options{"client_auth": "bearer_jwt", "signing_key": pkcs8(key)},
			devserver.Demands{ClientAuth: "bearer_jwt", ClientKey: publicPEM(key)}, "invalid_client"},
		"the grant": {"", options{"client_auth": "none", "grant": jwtBearerGrant, "signing_key": pkcs8(key)},
			devserver.Demands{ClientAuth: "none", Grant: text(jwtBearerGrant), ClientKey: publicPEM(key)}, "invalid_grant"},
	}
	claims := map[string]struct {
		name, value, demanded string
		wrong                 any
	}{
		"text":                     {"c", `"a b"`, `"a b"`, "a"},
		"digits as text":           {"c", `"12"`, `"12"`, 12},
		"number":                   {"c", `12`, `12`, "12"},
		"negative fraction":        {"c", `-0.5`, `-0.5`, 0.5},
		"zero":                     {"c", `0`, `0`, false},
		"true":                     {"c", `true`, `true`, "true"},
		"false":                    {"c", `false`, `false`, 0},
		"array":                    {"c", `["a",1,true]`, `["a",1,true]`, []any{1, "a", true}},
		"empty array":              {"c", `[]`, `[]`, []any{""}},
		"object":                   {"c", `{"a":{"b":["c"]}}`, `{"a":{"b":["c"]}}`, options{"a": "b"}},
		"empty object":             {"c", `{}`, `{}`, []any{}},
		"several audiences":        {"aud", `["urn:a","urn:b"]`, `["urn:a","urn:b"]`, "urn:a"},
		"another subject":          {"sub", `"user@example.com"`, `"user@example.com"`, "x"},
		"left out":                 {"sub", `""`, `""`, "x"},
		"variable in a text":       {"c", `"{env.TOKEN_PROXY_TEST_TENANT}!"`, `"t\"1!"`, "x"},
		"variable in an object":    {"c", `{"tenant":["{env.TOKEN_PROXY_TEST_TENANT}"]}`, `{"tenant":["t\"1"]}`, options{}},
		"name of odd characters":   {`a "b": {ü}`, `1`, `1`, 2},
		"exp, for a server's rule": {"nbf", `1000000000`, `1000000000`, 1000000001},
	}
	for method, m := range methods {
		for name, tc := range claims {
			t.Run(method+", "+name, func(t *testing.T) {
				demands := m.demands
				demands.AssertionJSONClaims = []devserver.JSONField{{Name: tc.name, Value: []byte(tc.demanded)}}
				trip := oauth2Trip{
					id: oddID, secret: m.secret, noSecret: m.secret == "", demands: demands,
					options: m.options.with(options{"assertion_claims": options{tc.name: json.RawMessage(tc.value)}}),
					wrong:   []wrongTrip{wrong(m.code, tc.name[:1], options{"assertion_claims": options{tc.name: tc.wrong}})},
				}
				if trip.secret == "" {
					trip.secret = oddSecret
				}
				trip.run(t)
			})
		}
	}
	t.Run("two assertions", oauth2Trip{ // the client's must have the client id as its subject
		noSecret: true,
		demands: devserver.Demands{ClientAuth: "private_key_jwt", Grant: text(jwtBearerGrant), ClientKey: publicPEM(key), AssertionTyp: text("JWT"),
			AssertionClaims: fields("sub", "user")},
		options: options{"client_auth": "private_key_jwt", "grant": jwtBearerGrant, "signing_key": pkcs8(key), "assertion_typ": "JWT",
			"assertion_claims": options{"sub": "user"}},
		wrong: []wrongTrip{wrong("invalid_grant", "sub is not", options{"assertion_claims": nil})},
	}.run)
}

// A request has a parameter once for each of its values, in their order.
func TestOAuth2RepeatedParams(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_PARAM", "of & the environment")
	file := secretPath(t, "of a file\n")
	raw := func(name, value string) []devserver.JSONField {
		return []devserver.JSONField{{Name: name, Value: []byte(value)}}
	}
	asJSON := options{"client_auth": "client_secret_post", "encoding": "json"}
	for name, trip := range map[string]oauth2Trip{
		"two audiences": {
			demands: devserver.Demands{Params: fields("audience", "urn:a", "audience", "urn:b")},
			options: options{"audience": []string{"urn:a", "urn:b"}},
			wrong: []wrongTrip{
				wrong("invalid_request", "audience has the wrong value", options{"audience": []string{"urn:b", "urn:a"}}),
				wrong("invalid_request", "audience occurs 1 times", options{"audience": "urn:a"}),
				wrong("invalid_request", "audience occurs 1 times", options{"audience": "urn:a urn:b"}),
				wrong("invalid_request", "audience occurs 3 times", options{"audience": []string{"urn:a", "urn:b", "urn:b"}}),
			},
		},
		"one audience in a list":   {demands: devserver.Demands{Params: fields("audience", "urn:a")}, options: options{"audience": []string{"urn:a"}}},
		"one audience":             {demands: devserver.Demands{Params: fields("audience", "urn:a")}, options: options{"audience": "urn:a"}},
		"an empty audience":        {options: options{"audience": ""}},
		"an audience of variables": {demands: devserver.Demands{Params: fields("audience", "a", "audience", "of & the environment")}, options: options{"audience": []string{"a", "{env.TOKEN_PROXY_TEST_PARAM}"}}},
		"the same value twice":     {demands: devserver.Demands{Params: fields("p", "a", "p", "a")}, options: options{"params": options{"p": []string{"a", "a"}}}},
		"values of each kind": {
			demands: devserver.Demands{Params: fields("p", "text", "p", "", "p", "of & the environment", "p", "of a file", "q", "one")},
			options: options{"params": options{"p": []string{"text", "", "{env.TOKEN_PROXY_TEST_PARAM}", inFile(file)}, "q": "one"}},
			wrong: []wrongTrip{
				wrong("invalid_request", "p occurs 1 times", options{"params": options{"p": "text", "q": "one"}}),
				wrong("invalid_request", "p has the wrong value", options{"params": options{"p": []string{"text", "", inFile(file), "{env.TOKEN_PROXY_TEST_PARAM}"}, "q": "one"}}),
			},
		},
		"fresh values": {demands: devserver.Demands{Params: []devserver.Field{{Name: "p"}, {Name: "p"}}}, options: options{"params": options{"p": []string{"{uuid}", "{uuid}"}}}},
		"in JSON": {
			demands: devserver.Demands{ClientAuth: "client_secret_post", Encoding: "json", JSONParams: raw("p", `["a","b"]`)},
			options: asJSON.with(options{"params": options{"p": []string{"a", "b"}}}),
			wrong:   []wrongTrip{wrong("invalid_request", "p", options{"params": options{"p": "a"}})},
		},
		"audiences in JSON": {
			demands: devserver.Demands{ClientAuth: "client_secret_post", Encoding: "json", JSONParams: raw("audience", `["a","b"]`)},
			options: asJSON.with(options{"audience": []string{"a", "b"}}),
		},
		"in the query": {
			demands: devserver.Demands{Encoding: "query", Params: fields("p", "a&", "p", "b")},
			options: options{"encoding": "query", "params": options{"p": []string{"a&", "b"}}},
		},
		"scopes of a server's own, one by one": {
			demands: devserver.Demands{Params: fields("scopes[]", "a", "scopes[]", "b", "scopes[]", "c")},
			options: options{"params": options{"scopes[]": []string{"a", "b", "c"}}},
		},
	} {
		t.Run(name, trip.run)
	}
	t.Run("of a file that is replaced", func(t *testing.T) {
		s := newOAuth2Server(t, false, "id", "secret", devserver.Demands{})
		_, c, _ := provisionCredential(t, oauth2JSON("id", "secret", options{"token_url": s.URL + "/token", "params": options{"p": []string{"first", inFile(file)}}}))
		for _, now := range []string{"as it was", "as it is"} {
			writeFile(t, file, now+"\n")
			_, _ = fetchOnce(t, c)
			if r, _ := s.last(t); !slices.Equal(r.form(t)["p"], []string{"first", now}) {
				t.Errorf("got %q", r.form(t)["p"])
			}
		}
	})
}

// GitHub Apps prove themselves by a JWT as the Bearer of the token request.
func TestOAuth2BearerJWT(t *testing.T) {
	key := signingKeyOf("RSA")
	oauth2Trip{
		noSecret: true,
		demands:  devserver.Demands{ClientAuth: "bearer_jwt", ClientKey: publicPEM(key), SigningAlg: "RS256", AnswerStatus: http.StatusCreated},
		options:  options{"client_auth": "bearer_jwt", "signing_key": pkcs8(key)},
		wrong: []wrongTrip{
			wrong("invalid_client", "the signature is wrong", options{"signing_key": pkcs8(anotherKeyOf("RSA"))}),
			wrong("invalid_client", "alg is not one of", options{"signing_alg": "RS512"}),
			wrong("invalid_client", "alg is not one of", options{"signing_key": pkcs8(signingKeyOf("P-256"))}),
			wrong("invalid_client", "typ is not", options{"assertion_typ": "client-authentication+jwt"}),
			wrong("invalid_client", "typ is missing", options{"assertion_typ": ""}),
			wrong("invalid_client", "aud is not", options{"assertion_audience": "https://other.example"}),
			wrong("invalid_client", "iss is not", options{"assertion_claims": options{"iss": "another app"}}),
			wrong("invalid_client", "iss is missing", options{"assertion_claims": options{"iss": ""}}),
			wrong("invalid_client", "exp", options{"assertion_claims": options{"exp": 1}}),
			wrong("invalid_client", "by [client_assertion]", options{"client_auth": "private_key_jwt"}),
			wrong("invalid_client", "by []", options{"client_auth": "none", "signing_key": nil}),
			wrong("invalid_request", "client_id is not described", options{"params": options{"client_id": oddID}}),
		},
	}.run(t)
}

// With client_auth auto, the issuer's metadata set the method. The proxy tries none.
func TestOAuth2AuthFromMetadata(t *testing.T) {
	const secret = "a secret that is long enough for HS256 to sign with it"
	key := signingKeyOf("P-256")
	certificate := newTestCertificate(t, key, time.Hour)
	shown := options{"client_certificate": certificate.certificate, "client_certificate_key": certificate.key}
	file := secretPath(t, "an.assertion.of-a-platform\n")
	ofKey := devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(key)}
	ofTLS := devserver.Demands{ClientAuth: "tls_client_auth", ClientCertificate: certificate.certificate}
	ofSelfSigned := devserver.Demands{ClientAuth: "self_signed_tls_client_auth", ClientCertificate: certificate.certificate}
	for name, tc := range map[string]struct {
		secret  string
		options options
		listed  string // token_endpoint_auth_methods_supported; "" for no such member
		demands devserver.Demands
		failure string // in the reason; "" for success
	}{
		"basic alone":                {secret, nil, `["client_secret_basic"]`, devserver.Demands{}, ""},
		"post alone":                 {secret, nil, `["client_secret_post"]`, devserver.Demands{ClientAuth: "client_secret_post"}, ""},
		"basic is preferred to post": {secret, nil, `["client_secret_post","client_secret_basic"]`, devserver.Demands{}, ""},
		"a JWT of the secret alone":  {secret, nil, `["client_secret_jwt"]`, devserver.Demands{ClientAuth: "client_secret_jwt"}, ""},
		"post is preferred to a JWT": {secret, nil, `["client_secret_jwt","private_key_jwt","client_secret_post"]`, devserver.Demands{ClientAuth: "client_secret_post"}, ""},
		"no list means basic":        {secret, nil, "", devserver.Demands{}, ""},
		"a list that is none":        {secret, nil, `"client_secret_post"`, devserver.Demands{}, ""},
		"odd members of the list":    {secret, nil, `[null,1,"urn:own",{"a":1},"client_secret_post"]`, devserver.Demands{ClientAuth: "client_secret_post"}, ""},
		"names of its own for post":  {secret, options{"client_secret_param": "pass"}, `["client_secret_post"]`, devserver.Demands{ClientAuth: "client_secret_post", ClientSecretParam: "pass"}, ""},
		"raw basic":                  {secret, options{"basic_encoding": "raw"}, `["client_secret_basic"]`, devserver.Demands{BasicEncoding: "raw"}, ""},
		"a key":                      {"", options{"signing_key": pkcs8(key)}, `["client_secret_basic","private_key_jwt"]`, ofKey, ""},
		"an assertion of a platform": {"", options{"client_assertion_file": file}, `["private_key_jwt"]`, devserver.Demands{ClientAuth: "private_key_jwt", ClientAssertion: "an.assertion.of-a-platform"}, ""},
		"a certificate":              {"", shown, `["self_signed_tls_client_auth","tls_client_auth"]`, ofTLS, ""},
		"a self-signed certificate":  {"", shown, `["self_signed_tls_client_auth","client_secret_basic"]`, ofSelfSigned, ""},
		"a key and a certificate":    {"", shown.with(options{"signing_key": pkcs8(key)}), `["tls_client_auth","private_key_jwt"]`, devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: certificate.certificate}, ""},
		"a secret for a grant of a key": {secret, options{"signing_key": pkcs8(key), "grant": jwtBearerGrant}, `["client_secret_post","private_key_jwt"]`,
			devserver.Demands{ClientAuth: "client_secret_post", Grant: text(jwtBearerGrant), ClientKey: publicPEM(key)}, ""},

		"a secret, where keys are wanted":      {secret, nil, `["private_key_jwt"]`, ofKey, "the issuer's metadata list none of client_secret_basic, client_secret_post, client_secret_jwt"},
		"a key, where secrets are wanted":      {"", options{"signing_key": pkcs8(key)}, `["client_secret_basic"]`, devserver.Demands{}, "list none of private_key_jwt"},
		"a key, and no list":                   {"", options{"signing_key": pkcs8(key)}, "", ofKey, "list none of private_key_jwt"},
		"a certificate, where keys are wanted": {"", shown, `["private_key_jwt"]`, ofKey, "list none of tls_client_auth, self_signed_tls_client_auth"},
		"nothing":                              {secret, nil, `[]`, devserver.Demands{}, "list none of"},
		"a secret too short for a JWT":         {"short", nil, `["client_secret_jwt"]`, devserver.Demands{ClientAuth: "client_secret_jwt"}, "too short for HS256"},
	} {
		t.Run(name, func(t *testing.T) {
			id := oddID
			if tc.demands.BasicEncoding == "raw" {
				id = "b c%26"
			}
			tokens := newOAuth2Server(t, true, id, tc.secret, tc.demands)
			demands := tc.demands
			issuer := newIssuerOf(t, tokens, `,"token_endpoint_auth_methods_supported":`+tc.listed)
			if tc.listed == "" {
				issuer = newIssuerOf(t, tokens, "")
			}
			demands.AssertionAudience = issuer
			if demands.ClientAuth != "private_key_jwt" && demands.ClientAuth != "client_secret_jwt" && demands.Grant == nil || demands.ClientAssertion != "" {
				demands.AssertionAudience = ""
			}
			tokens.demand(t, id, tc.secret, demands)
			_, c, _ := provisionCredential(t, oauth2JSON(id, tc.secret, tc.options.with(options{"issuer": issuer, "client_auth": "auto"}), tokens.transport()))
			_, err := fetchOnce(t, c)
			calls := len(tokens.requests)
			if tc.failure != "" {
				e := wantTokenError(t, err, token.Refused)
				if !strings.Contains(e.Reason, tc.failure) || calls != 0 {
					t.Errorf("got %v after %d token requests, want %q after none", e, calls, tc.failure)
				}
				return
			}
			if err != nil || calls != 1 {
				_, refusal := tokens.last(t)
				t.Errorf("got %v after %d token requests; the server says %q", err, calls, refusal)
			}
		})
	}
}

// newIssuerOf serves metadata that name the token endpoint, with further members, beside it.
func newIssuerOf(t *testing.T, tokens *oauth2Server, members string) (issuer string) {
	t.Helper()
	handler := tokens.Config.Handler
	tokens.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"issuer":"`+tokens.URL+`","token_endpoint":"`+tokens.URL+`/token"`+members+`}`)
			return
		}
		handler.ServeHTTP(w, r)
	})
	return tokens.URL
}

// What contradicts itself, or has no effect, is refused when it is loaded.
func TestOAuth2VendorAuthRefused(t *testing.T) {
	key := pkcs8(signingKeyOf("P-256"))
	certificate := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	shown := options{"client_certificate": certificate.certificate, "client_certificate_key": certificate.key}
	ofKey := options{"client_auth": "private_key_jwt", "signing_key": key}
	bearer := options{"client_auth": "bearer_jwt", "signing_key": key}
	auto := options{"client_auth": "auto", "issuer": "https://login.example", "token_url": nil}
	for name, tc := range map[string]struct {
		secret string
		o      options
		wants  []string
	}{
		"bearer_jwt without a key":           {"", options{"client_auth": "bearer_jwt"}, []string{"client_auth", "bearer_jwt needs signing_key"}},
		"bearer_jwt and a grant of the key":  {"", bearer.with(options{"grant": jwtBearerGrant}), []string{"client_auth", "exclude each other"}},
		"bearer_jwt and client_id_param":     {"", bearer.with(options{"client_id_param": "id"}), []string{"client_id_param", "bearer_jwt does not use it"}},
		"bearer_jwt and a secret":            {"CANARY", bearer, []string{"client_secret", "remove it"}},
		"bearer_jwt and a file":              {"", bearer.with(options{"client_assertion_file": secretPath(t, "a")}), []string{"client_assertion_file", "private_key_jwt"}},
		"bearer_jwt and a type":              {"", bearer.with(options{"client_assertion_type": "urn:x"}), []string{"client_assertion_type", "does not use it"}},
		"bearer_jwt and Authorization":       {"", bearer.with(options{"headers": options{"Authorization": "CANARY"}}), []string{"header Authorization", "two ways"}},
		"auto without an issuer":             {"CANARY", options{"client_auth": "auto"}, []string{"client_auth", "auto needs issuer"}},
		"auto without a secret":              {"", auto, []string{"client_secret is missing"}},
		"auto with a key, and a secret":      {"CANARY", auto.with(options{"signing_key": key}), []string{"client_secret", "remove it"}},
		"auto with a key and basic_encoding": {"", auto.with(options{"signing_key": key, "basic_encoding": "raw"}), []string{"basic_encoding", "does not use it"}},
		"auto with a certificate over http": {"", auto.with(shown).with(options{"issuer": "http://127.0.0.1:1"}),
			[]string{"client_auth", "https"}},
		"auto, and the secret twice":      {"CANARY", auto.with(options{"params": options{"client_secret": "CANARY"}}), []string{"param client_secret", "client_auth"}},
		"auto, and client_id_param taken": {"CANARY", auto.with(options{"client_id_param": "grant_type"}), []string{"client_id_param", "grant_type"}},
		"auto with a header":              {"CANARY", auto.with(options{"headers": options{"Authorization": "CANARY"}}), []string{"header Authorization", "two ways"}},

		"assertion_certificate without one":      {"", ofKey.with(options{"assertion_certificate": []string{"x5t"}}), []string{"assertion_certificate", "client_certificate"}},
		"assertion_certificate without a key":    {"CANARY", shown.with(options{"assertion_certificate": []string{"x5t"}}), []string{"assertion_certificate", "signing_key"}},
		"assertion_certificate unknown":          {"", ofKey.with(shown).with(options{"assertion_certificate": []string{"CANARY"}}), []string{"assertion_certificate", "unknown field", "x5c"}},
		"assertion_certificate x5t twice":        {"", ofKey.with(shown).with(options{"assertion_certificate": []string{"x5t", "x5t"}}), []string{"assertion_certificate", "repeated"}},
		"assertion_claim null":                   {"", ofKey.with(options{"assertion_claims": options{"c": nil}}), []string{"assertion_claim c", "null"}},
		"assertion_claim, a variable in a list":  {"", ofKey.with(options{"assertion_claims": options{"c": []string{"{env.TOKEN_PROXY_TEST_UNSET}"}}}), []string{"assertion_claim c", "TOKEN_PROXY_TEST_UNSET"}},
		"assertion_claim, a file that is gone":   {"", ofKey.with(options{"assertion_claims": options{"c": options{"d": "{file./nonexistent/claim}"}}}), []string{"assertion_claim c", "/nonexistent/claim"}},
		"assertion_claim for another's JWT":      {"", options{"client_auth": "private_key_jwt", "client_assertion_file": secretPath(t, "a"), "assertion_claims": options{"c": 1}}, []string{"assertion_claim", "signing_key"}},
		"param of no value":                      {"CANARY", options{"params": options{"p": []string{}}}, []string{"param p", "missing"}},
		"param of a number":                      {"CANARY", options{"params": options{"p": 1}}, []string{"params", "number"}},
		"param, its second value is a file":      {"CANARY", options{"params": options{"p": []string{"a", "{file./nonexistent/secret}"}}}, []string{"param p", "/nonexistent/secret"}},
		"param, its second value is a variable":  {"CANARY", options{"params": options{"p": []string{"a", "{env.TOKEN_PROXY_TEST_UNSET}"}}}, []string{"param p", "TOKEN_PROXY_TEST_UNSET"}},
		"audience, its second value is variable": {"CANARY", options{"audience": []string{"a", "{env.TOKEN_PROXY_TEST_UNSET}"}}, []string{"audience", "TOKEN_PROXY_TEST_UNSET"}},
	} {
		t.Run(name, func(t *testing.T) {
			wantSourcesBack(t)
			config := oauth2JSON("id", tc.secret, options{"token_url": "https://login.example/token"}.with(tc.o))
			err := validateJSON(configJSON(nowhere, config, goodHandler))
			wantRefused(t, err, tc.wants...)
		})
	}
	for _, level := range []string{"Once", "always", "1", "true", "CANARY"} {
		t.Run("tls_renegotiation "+level, func(t *testing.T) {
			wantSourcesBack(t)
			config := oauth2JSON("id", "CANARY", options{"token_url": "https://login.example/token"}, options{"transport": options{"tls_renegotiation": level}})
			wantRefused(t, validateJSON(configJSON(nowhere, config, goodHandler)), "transport: tls_renegotiation", "never, once or freely")
		})
	}
}

// The level reaches the connection of token requests. TestClientRenegotiation has what it does there.
func TestTLSRenegotiation(t *testing.T) {
	for level, want := range map[string]tls.RenegotiationSupport{
		"": tls.RenegotiateNever, "never": tls.RenegotiateNever, "once": tls.RenegotiateOnceAsClient, "freely": tls.RenegotiateFreelyAsClient,
	} {
		transport := &TokenTransport{TLSRenegotiation: level}
		if err := transport.provision(); err != nil {
			t.Fatal(err)
		}
		if o, err := transport.options(transportFiles{}); err != nil || o.Renegotiation != want {
			t.Errorf("%q: got %v, %v", level, o.Renegotiation, err)
		}
	}
}
