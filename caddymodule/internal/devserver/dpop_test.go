package devserver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// jwk returns a key as it is in the header of a proof.
func jwk(t *testing.T, key any) (members map[string]any) {
	t.Helper()
	if err := json.Unmarshal(encode(jose.JSONWebKey{Key: key}), &members); err != nil {
		t.Fatal(err)
	}
	return members
}

// thumbprint follows RFC 7638, section 3, for a key of P-256.
func thumbprint(t *testing.T, key string) string {
	t.Helper()
	m := jwk(t, testKeys()[key].Public())
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, m["crv"], m["kty"], m["x"], m["y"]))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// proof is a DPoP proof before it is signed.
type proof struct{ header, claims map[string]any }

// newProof returns a good proof for a request.
func newProof(t *testing.T, method, url, token string) proof {
	t.Helper()
	p := proof{
		map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(t, testKeys()["p256"].Public())},
		map[string]any{"jti": urlsafeToken(), "htm": method, "htu": url, "iat": time.Now().Unix()},
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		p.claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return p
}

// sign signs with ES256, even if the header has another alg. It uses no library, unlike the servers.
func (p proof) sign(t *testing.T, key string) string {
	t.Helper()
	text := segment(p.header) + "." + segment(p.claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, testKeys()[key].(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

const (
	dpopTokenURL = "http://example.com/token"
	dpopAPIURL   = "http://example.com/v1/orders"
)

func dpopTokenRequest(proofs ...string) *http.Request {
	r := basicForm("grant_type=client_credentials")
	r.Header["Dpop"] = proofs
	return r
}

func dpopAPIRequest(token string, proofs ...string) *http.Request {
	r := apiRequest(http.MethodGet, "/v1/orders?page=2", "")
	r.Header["Authorization"], r.Header["Dpop"] = []string{"DPoP " + token}, proofs
	return r
}

// boundToken returns a live token that is bound to the key p256.
func boundToken(t *testing.T, tokens *Registry) string {
	t.Helper()
	return tokens.issue(Token{Value: urlsafeToken(), Thumbprint: thumbprint(t, "p256")}, time.Hour, ModeDefault).Value
}

// TestDPoPProofs changes good proofs in one point each, and sends them to a token endpoint and to an API.
func TestDPoPProofs(t *testing.T) {
	header := func(name string, value any) func(*testing.T, proof) string {
		return func(t *testing.T, p proof) string {
			if p.header[name] = value; value == nil {
				delete(p.header, name)
			}
			return p.sign(t, "p256")
		}
	}
	claim := func(name string, value any) func(*testing.T, proof) string {
		return func(t *testing.T, p proof) string {
			if p.claims[name] = value; value == nil {
				delete(p.claims, name)
			}
			return p.sign(t, "p256")
		}
	}
	age := func(d time.Duration) func(*testing.T, proof) string {
		return func(t *testing.T, p proof) string { return claim("iat", time.Now().Add(d).Unix())(t, p) }
	}
	text := func(change func(string) string) func(*testing.T, proof) string {
		return func(t *testing.T, p proof) string { return change(p.sign(t, "p256")) }
	}
	htu := func(change func(string) string) func(*testing.T, proof) string {
		return func(t *testing.T, p proof) string { return claim("htu", change(p.claims["htu"].(string)))(t, p) }
	}
	tests := []struct {
		name string
		make func(*testing.T, proof) string
		want string // the reason, or empty if the proof is good
	}{
		{"good", text(func(s string) string { return s }), ""},
		{"surplus claim", claim("x", 1), ""},
		{"a fraction in iat", func(t *testing.T, p proof) string { return claim("iat", float64(time.Now().Unix())+0.5)(t, p) }, ""},

		{"empty", text(func(string) string { return "" }), "the proof is not a signed JWT"},
		{"no JWT", text(func(string) string { return "x" }), "the proof is not a signed JWT"},
		{"two JWTs in a field", text(func(s string) string { return s + ", " + s }), "the proof is not a signed JWT"},
		{"padding", text(func(s string) string { return s + "=" }), "the proof is not a signed JWT"},
		{"no JSON", text(func(s string) string { return "e30x." + s[strings.Index(s, ".")+1:] }), "the header or the claims are not a JSON object"},
		{"crit", header("crit", []string{"b64"}), "crit is not supported"},
		{"no typ", header("typ", nil), "typ is not dpop+jwt"},
		{"typ JWT", header("typ", "JWT"), "typ is not dpop+jwt"},
		{"no alg", header("alg", nil), "alg is not one of RS256"},
		{"alg none", header("alg", "none"), "alg is not one of RS256"},
		{"alg none, no signature", text(func(s string) string {
			return segment(map[string]any{"typ": "dpop+jwt", "alg": "none"}) + s[strings.Index(s, "."):strings.LastIndex(s, ".")+1]
		}), "the proof is not a signed JWT"},
		{"symmetric alg", header("alg", "HS256"), "alg is not one of RS256"},
		{"symmetric key", func(t *testing.T, p proof) string {
			p.header["jwk"] = map[string]any{"kty": "oct", "k": "c2VjcmV0"}
			return hmacJWT("HS256", "secret", p.header, p.claims)
		}, "alg is not one of RS256"},
		{"no jwk", header("jwk", nil), "jwk is missing or not an object"},
		{"jwk of a wrong type", header("jwk", "key"), "jwk is missing or not an object"},
		{"empty jwk", header("jwk", map[string]any{}), "jwk is not a key"},
		{"private jwk", header("jwk", jwk(t, testKeys()["p256"])), "jwk has a private part"},
		{"symmetric jwk", header("jwk", map[string]any{"kty": "oct", "k": "c2VjcmV0"}), "jwk has a private part"},
		{"jwk for another alg", header("jwk", jwk(t, testKeys()["rsa"].Public())), "jwk does not fit alg"},
		{"jwk of another curve", header("jwk", jwk(t, testKeys()["p384"].Public())), "jwk does not fit alg"},
		{"signed by another key", func(t *testing.T, p proof) string { return p.sign(t, "other p256") }, "the signature is wrong"},
		{"changed afterwards", func(t *testing.T, p proof) string {
			signature := p.sign(t, "p256")
			p.claims["x"] = 1
			return segment(p.header) + "." + segment(p.claims) + signature[strings.LastIndex(signature, "."):]
		}, "the signature is wrong"},

		{"no htm", claim("htm", nil), "htm is missing"},
		{"another htm", claim("htm", "PUT"), "htm is not the required string"},
		{"htm in lower case", func(t *testing.T, p proof) string {
			return claim("htm", strings.ToLower(p.claims["htm"].(string)))(t, p)
		}, "htm is not the required string"},
		{"no htu", claim("htu", nil), "htu is missing or not a string"},
		{"htu of a wrong type", claim("htu", []string{dpopTokenURL}), "htu is missing or not a string"},
		{"htu without a host", claim("htu", "/token"), "htu is not a URL of HTTP"},
		{"htu of another path", htu(func(s string) string { return s + "/" }), "htu is not the URL of the request"},
		{"htu of another host", claim("htu", "http://example.org/token"), "htu is not the URL of the request"},
		{"htu of another scheme", htu(func(s string) string { return "https" + s[4:] }), "htu is not the URL of the request"},
		{"htu with a query", htu(func(s string) string { return s + "?page=2" }), "htu has a query or a fragment"},
		{"htu with a fragment", htu(func(s string) string { return s + "#x" }), "htu has a query or a fragment"},
		{"htu in another form", htu(func(s string) string { return "HTTP://EXAMPLE.com:80/a/.." + s[len("http://example.com"):] }), ""},

		{"no iat", claim("iat", nil), "iat is missing or not a number"},
		{"iat of a wrong type", claim("iat", "1"), "iat is missing or not a number"},
		{"old", age(-proofWindow - time.Second), "iat is more than 1m0s from"},
		{"in the future", age(proofWindow + time.Second), "iat is more than 1m0s from"},
		{"almost old", age(-proofWindow), ""},
		{"almost in the future", age(proofWindow), ""},
		{"no jti", claim("jti", nil), "jti is missing or not a string"},
		{"empty jti", claim("jti", ""), "jti is missing or not a string"},
		{"jti of a wrong type", claim("jti", 1), "jti is missing or not a string"},
	}
	synctest.Test(t, func(t *testing.T) { // iat is exact
		tokens := NewRegistry()
		token := boundToken(t, tokens)
		api := &API{Registry: tokens, DPoP: DPoP{Mode: dpopRequired}}
		endpoint := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired}})
		atAPI := func(compact, want string) {
			t.Helper()
			w := serve(api, dpopAPIRequest(token, compact))
			if want == "" {
				if w.Code != 200 {
					t.Errorf("API: got %d %s", w.Code, w.Header())
				}
				return
			}
			want = `DPoP error="invalid_dpop_proof", error_description="` + want
			if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || !strings.HasPrefix(got, want) {
				t.Errorf("API: got %d %s, want %s", w.Code, got, want)
			}
		}
		for _, tc := range tests {
			t.Log(tc.name)
			want := tc.want
			if want != "" {
				want = "400 invalid_dpop_proof: " + want
			}
			checkJudgement(t, endpoint, dpopTokenRequest(tc.make(t, newProof(t, "POST", dpopTokenURL, ""))), want)
			atAPI(tc.make(t, newProof(t, "GET", dpopAPIURL, token)), tc.want)
		}
		t.Log("ath")
		good := newProof(t, "GET", dpopAPIURL, token)
		atAPI(claim("ath", nil)(t, good), "ath is missing")
		atAPI(claim("ath", base64.RawURLEncoding.EncodeToString([]byte("x")))(t, good), "ath is not the required string")
		atAPI(newProof(t, "GET", dpopAPIURL, "another token").sign(t, "p256"), "ath is not the required string")
		atAPI(newProof(t, "GET", dpopAPIURL, token).sign(t, "p256"), "")
	})
}

// The number of fields is checked before their content.
func TestDPoPFields(t *testing.T) {
	tokens := NewRegistry()
	token := boundToken(t, tokens)
	api := &API{Registry: tokens, DPoP: DPoP{Mode: dpopOptional}}
	const invalid = `DPoP error="invalid_dpop_proof", error_description="the header field DPoP `
	for n, want := range map[int]string{0: invalid + "is missing", 1: "", 2: invalid + "occurs 2 times"} {
		proofs := make([]string, n)
		for i := range proofs {
			proofs[i] = newProof(t, "GET", dpopAPIURL, token).sign(t, "p256")
		}
		if got := serve(api, dpopAPIRequest(token, proofs...)).Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%d proofs at the API: got %q", n, got)
		}
	}
	one, two := newProof(t, "POST", dpopTokenURL, "").sign(t, "p256"), newProof(t, "POST", dpopTokenURL, "").sign(t, "p256")
	for _, tc := range []struct {
		mode   string
		proofs []string
		want   string
		bound  bool
	}{
		{"", nil, "", false},
		{"", []string{"x"}, "", false},
		{dpopOff, []string{"x", "y"}, "", false},
		{dpopOptional, nil, "", false},
		{dpopOptional, []string{one}, "", true},
		{dpopOptional, []string{"x"}, "400 invalid_dpop_proof: the proof is not a signed JWT", false},
		{dpopOptional, []string{one, two}, "400 invalid_dpop_proof: the header field DPoP occurs 2 times", false},
		{dpopRequired, nil, "400 invalid_dpop_proof: the header field DPoP is missing", false},
		{dpopRequired, []string{two}, "", true},
		{dpopRequired, []string{one, two}, "400 invalid_dpop_proof: the header field DPoP occurs 2 times", false},
	} {
		e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: tc.mode}})
		checkJudgement(t, e, dpopTokenRequest(tc.proofs...), tc.want)
		if tc.want != "" {
			continue
		}
		if got := e.Registry.order[0].Thumbprint; (got != "") != tc.bound {
			t.Errorf("%q with %d proofs: the token has the thumbprint %q", tc.mode, len(tc.proofs), got)
		}
	}
}

// Each algorithm that a server allows, and an algorithm that it does not allow.
func TestDPoPAlgs(t *testing.T) {
	keys := map[string]string{"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed"}
	for _, alg := range dpopAlgs {
		key := keys[alg]
		if key == "" {
			key = "rsa"
		}
		proof := func() string {
			p := newProof(t, "POST", dpopTokenURL, "")
			return keyJWT(t, alg, key, map[string]any{"typ": "dpop+jwt", "jwk": jwk(t, testKeys()[key].Public())}, p.claims)
		}
		e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired}})
		checkJudgement(t, e, dpopTokenRequest(proof()), "")
		sum, err := (&jose.JSONWebKey{Key: testKeys()[key].Public()}).Thumbprint(crypto.SHA256)
		if got := e.Registry.order[0].Thumbprint; err != nil || got != base64.RawURLEncoding.EncodeToString(sum) {
			t.Errorf("%s: got the thumbprint %s", alg, got)
		}
		others := slices.DeleteFunc(slices.Clone(dpopAlgs), func(other string) bool { return other == alg })
		e = oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired, Algs: others}})
		checkJudgement(t, e, dpopTokenRequest(proof()), "400 invalid_dpop_proof: alg is not one of "+strings.Join(others, ", "))
	}
}

// A proof is good for one request, even if it is old enough to be forgotten almost.
func TestDPoPReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired}})
		p := newProof(t, "POST", dpopTokenURL, "")
		p.claims["iat"] = time.Now().Add(proofWindow).Unix()
		compact := p.sign(t, "p256")
		checkJudgement(t, e, dpopTokenRequest(compact), "")
		checkJudgement(t, e, dpopTokenRequest(compact), "400 invalid_dpop_proof: jti was used before")
		advance(2 * proofWindow)
		checkJudgement(t, e, dpopTokenRequest(compact), "400 invalid_dpop_proof: jti was used before")
		checkJudgement(t, e, dpopTokenRequest(p.sign(t, "p256")), "400 invalid_dpop_proof: jti was used before")
		advance(time.Second)
		checkJudgement(t, e, dpopTokenRequest(compact), "400 invalid_dpop_proof: iat is more than")

		tokens := NewRegistry()
		token := boundToken(t, tokens)
		api := &API{Registry: tokens, DPoP: DPoP{Mode: dpopRequired}}
		compact = newProof(t, "GET", dpopAPIURL, token).sign(t, "p256")
		for _, want := range []int{200, 401, 401} {
			if w := serve(api, dpopAPIRequest(token, compact)); w.Code != want {
				t.Errorf("got %d, want %d", w.Code, want)
			}
		}
	})
}

// A server whose clock is wrong refuses proofs by its clock, and its answers have its time.
func TestDPoPAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ahead := range []time.Duration{-time.Hour, time.Hour} {
			tokens := NewRegistry()
			token := boundToken(t, tokens)
			dpop := DPoP{Mode: dpopRequired, Ahead: ahead}
			endpoint, api := oauth2Endpoint(Demands{DPoP: dpop}), &API{Registry: tokens, DPoP: dpop}
			for name, ask := range map[string]func(iat time.Time) *httptest.ResponseRecorder{
				"token endpoint": func(iat time.Time) *httptest.ResponseRecorder {
					p := newProof(t, "POST", dpopTokenURL, "")
					p.claims["iat"] = iat.Unix()
					return serve(endpoint, dpopTokenRequest(p.sign(t, "p256")))
				},
				"API": func(iat time.Time) *httptest.ResponseRecorder {
					p := newProof(t, "GET", dpopAPIURL, token)
					p.claims["iat"] = iat.Unix()
					return serve(api, dpopAPIRequest(token, p.sign(t, "p256")))
				},
			} {
				w := ask(time.Now())
				date, err := http.ParseTime(w.Header().Get("Date"))
				if err != nil || w.Code == 200 || !date.Equal(time.Now().Add(ahead)) {
					t.Errorf("%s, %s: got %d at %s", name, ahead, w.Code, date)
				}
				if w := ask(date); w.Code != 200 {
					t.Errorf("%s, %s: got %d with the time of the server", name, ahead, w.Code)
				}
			}
		}
	})
}

// The servers hand out nonces, and accept the current one and the one before.
func TestDPoPNonces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := NewRegistry()
		token := boundToken(t, tokens)
		endpoint := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired, Nonce: true}})
		api := &API{Registry: tokens, DPoP: DPoP{Mode: dpopRequired, Nonce: true}}
		for name, server := range map[string]struct {
			ask    func(nonce any) *httptest.ResponseRecorder
			demand func(w *httptest.ResponseRecorder) bool
			rotate func()
		}{
			"token endpoint": {
				func(nonce any) *httptest.ResponseRecorder {
					p := newProof(t, "POST", dpopTokenURL, "")
					p.claims["nonce"] = nonce
					return serve(endpoint, dpopTokenRequest(p.sign(t, "p256")))
				},
				func(w *httptest.ResponseRecorder) bool {
					return w.Code == 400 && w.Body.String() == `{"error":"use_dpop_nonce"}`
				},
				endpoint.RotateNonce,
			},
			"API": {
				func(nonce any) *httptest.ResponseRecorder {
					p := newProof(t, "GET", dpopAPIURL, token)
					p.claims["nonce"] = nonce
					return serve(api, dpopAPIRequest(token, p.sign(t, "p256")))
				},
				func(w *httptest.ResponseRecorder) bool {
					return w.Code == 401 && strings.HasPrefix(w.Header().Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce", `)
				},
				api.RotateNonce,
			},
		} {
			demanded := func(nonce any) string {
				t.Helper()
				w := server.ask(nonce)
				fresh := w.Header().Get("DPoP-Nonce")
				if !server.demand(w) || fresh == "" || fresh == nonce {
					t.Errorf("%s: got %d %s %v", name, w.Code, w.Body, w.Header())
				}
				return fresh
			}
			accepted := func(nonce string) string {
				t.Helper()
				w := server.ask(nonce)
				if w.Code != 200 {
					t.Errorf("%s: got %d %s %v", name, w.Code, w.Body, w.Header())
				}
				return w.Header().Get("DPoP-Nonce")
			}
			first := demanded(nil)
			for _, wrong := range []any{"", 1, []string{first}, first + "x"} {
				demanded(wrong)
			}
			if again := accepted(first); again != first {
				t.Errorf("%s: the nonce changed before its time", name)
			}
			advance(nonceLife)
			second := accepted(first) // was handed out until now
			if second == first || second == "" {
				t.Errorf("%s: the nonce did not change", name)
			}
			accepted(second)
			advance(nonceLife)
			third := demanded(first)
			accepted(second)
			advance(2 * nonceLife)
			fourth := demanded(third)
			server.rotate()
			fifth := accepted(fourth)
			server.rotate()
			demanded(fourth)
			accepted(fifth)
		}
	})
}

// Refusals other than use_dpop_nonce have a nonce as well, and a server that demands none hands out none.
func TestDPoPNonceOnEachAnswer(t *testing.T) {
	with, without := DPoP{Mode: dpopRequired, Nonce: true}, DPoP{Mode: dpopRequired}
	for _, r := range []*http.Request{dpopTokenRequest(), basicForm("grant_type=password"), dpopTokenRequest("x")} {
		if w := serve(oauth2Endpoint(Demands{DPoP: with}), r); w.Code != 400 || w.Header().Get("DPoP-Nonce") == "" {
			t.Errorf("token endpoint: got %d %v", w.Code, w.Header())
		}
	}
	if w := serve(oauth2Endpoint(Demands{DPoP: without}), dpopTokenRequest()); w.Header()["Dpop-Nonce"] != nil {
		t.Errorf("token endpoint without nonces: got %v", w.Header())
	}
	for _, r := range []*http.Request{apiRequest("GET", "/", ""), apiRequest("GET", "/?access_token=x", ""), dpopAPIRequest("x")} {
		if w := serve(&API{Registry: NewRegistry(), DPoP: with}, r); w.Code < 400 || w.Header().Get("DPoP-Nonce") == "" {
			t.Errorf("API: got %d %v", w.Code, w.Header())
		}
		if w := serve(&API{Registry: NewRegistry(), DPoP: without}, r); w.Header()["Dpop-Nonce"] != nil {
			t.Errorf("API without nonces: got %v", w.Header())
		}
	}
}

// The endpoint demands a nonce of good requests only, and the assertion of the client is used by then.
func TestDPoPNonceComesLast(t *testing.T) {
	e := oauth2Endpoint(Demands{ClientAuth: authKeyJWT, ClientKey: publicPEM(t, "rsa"), DPoP: DPoP{Mode: dpopRequired, Nonce: true}})
	assertion := withAssertion(keyJWT(t, "RS256", "rsa", clientTyp(), goodClaims()))
	ask := func(body string) *http.Request {
		r := post("/token", formType, body)
		r.Header.Set("DPoP", newProof(t, "POST", dpopTokenURL, "").sign(t, "p256"))
		return r
	}
	checkJudgement(t, e, ask(assertion+"&scope=a"), "400 invalid_request: the parameter scope is not described")
	checkJudgement(t, e, ask(assertion), "401 invalid_client: client_assertion: jti was used before")
	assertion = withAssertion(keyJWT(t, "RS256", "rsa", clientTyp(), goodClaims()))
	checkJudgement(t, e, ask(assertion), "400 use_dpop_nonce: nonce is missing")
	checkJudgement(t, e, ask(assertion), "401 invalid_client: client_assertion: jti was used before")
}

func TestDPoPJKT(t *testing.T) {
	e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopOptional}})
	for _, tc := range []struct {
		parameters string
		proof      bool
		want       string
	}{
		{"&dpop_jkt=" + thumbprint(t, "p256"), true, ""},
		{"&dpop_jkt=" + thumbprint(t, "other p256"), true, "400 invalid_dpop_proof: dpop_jkt is not"},
		{"&dpop_jkt=" + thumbprint(t, "p256"), false, "400 invalid_dpop_proof: dpop_jkt is not"},
		{"&dpop_jkt=&dpop_jkt=" + thumbprint(t, "p256"), true, "400 invalid_dpop_proof: dpop_jkt is not"},
	} {
		r := basicForm("grant_type=client_credentials" + tc.parameters)
		if tc.proof {
			r.Header.Set("DPoP", newProof(t, "POST", dpopTokenURL, "").sign(t, "p256"))
		}
		checkJudgement(t, e, r, tc.want)
	}
	checkJudgement(t, oauth2Endpoint(Demands{}), basicForm("grant_type=client_credentials&dpop_jkt=x"),
		"400 invalid_request: the parameter dpop_jkt is not described")
}

// TestDPoPKeyBinding presents tokens with and without a key in both schemes.
func TestDPoPKeyBinding(t *testing.T) {
	const (
		dpopInvalid = `DPoP error="invalid_token", error_description="The access token `
		algs        = `algs="ES256"`
		doorkeeper  = `Bearer realm="Doorkeeper", error="invalid_token", error_description="The access token `
	)
	tokens := NewRegistry()
	bound, bearer := boundToken(t, tokens), tokens.Issue("c", time.Hour).Value
	for _, tc := range []struct {
		mode, scheme, token, key string
		want                     string // WWW-Authenticate, or empty for 200
	}{
		{dpopRequired, "DPoP", bound, "p256", ""},
		{dpopRequired, "dpop", bound, "p256", ""},
		{dpopRequired, "DPoP", bound, "other p256", dpopInvalid + `is bound to another key", ` + algs},
		{dpopRequired, "DPoP", bearer, "p256", dpopInvalid + `is not bound to a key", ` + algs},
		{dpopRequired, "DPoP", "unknown", "p256", dpopInvalid + `is invalid", ` + algs},
		{dpopRequired, "Bearer", bound, "p256", dpopInvalid + `is bound to a key, but its scheme is not DPoP", ` + algs},
		{dpopRequired, "Bearer", bearer, "p256", dpopInvalid + `is not bound to a key", ` + algs},
		{dpopRequired, "Basic", bound, "p256", dpopInvalid + `is invalid", ` + algs},

		{dpopOptional, "DPoP", bound, "p256", ""},
		{dpopOptional, "Bearer", bearer, "p256", ""},
		{dpopOptional, "DPoP", bearer, "p256", dpopInvalid + `is not bound to a key", ` + algs},
		{dpopOptional, "Bearer", bound, "p256", doorkeeper + `is bound to a key, but its scheme is not DPoP", DPoP ` + algs},
		{dpopOptional, "Bearer", "unknown", "p256", doorkeeper + `is invalid", DPoP ` + algs},

		{"", "Bearer", bearer, "p256", ""},
		{"", "Bearer", bound, "p256", doorkeeper + `is bound to a key, but its scheme is not DPoP"`},
		{"", "DPoP", bound, "p256", doorkeeper + `is invalid"`},
	} {
		api := &API{Registry: tokens, DPoP: DPoP{Mode: tc.mode}}
		if tc.mode != "" {
			api.DPoP.Algs = []string{"ES256"}
		}
		if err := api.Validate(); err != nil {
			t.Fatal(err)
		}
		p := newProof(t, "GET", dpopAPIURL, tc.token)
		p.header["jwk"] = jwk(t, testKeys()[tc.key].Public())
		r := dpopAPIRequest(tc.token, p.sign(t, tc.key))
		r.Header.Set("Authorization", tc.scheme+" "+tc.token)
		w := serve(api, r)
		status := http.StatusOK
		if tc.want != "" {
			status = http.StatusUnauthorized
		}
		if got := w.Header().Get("WWW-Authenticate"); got != tc.want || w.Code != status {
			t.Errorf("%q, %s: got %d %s\nwant %s", tc.mode, tc.scheme, w.Code, got, tc.want)
		}
	}
}

// A token that the endpoint issues for a proof is good at the API with a proof of the same key.
func TestDPoPFlow(t *testing.T) {
	e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired, Algs: []string{"ES256", "PS256"}}, Issuer: "https://as.example"})
	w := serve(e, dpopTokenRequest(newProof(t, "POST", dpopTokenURL, "").sign(t, "p256")))
	body := decode[tokenBody](t, w.Body)
	if body.TokenType != "DPoP" || w.Code != 200 {
		t.Errorf("got %d with token_type %q", w.Code, body.TokenType)
	}
	api := &API{Registry: e.Registry, DPoP: e.Demands.DPoP}
	if w := serve(api, dpopAPIRequest(body.AccessToken, newProof(t, "GET", dpopAPIURL, body.AccessToken).sign(t, "p256"))); w.Code != 200 {
		t.Errorf("API: got %d %v", w.Code, w.Header())
	}
	if issued, _ := e.Registry.Lookup(body.AccessToken); issued.Thumbprint != thumbprint(t, "p256") {
		t.Errorf("got the thumbprint %s", issued.Thumbprint)
	}
	metadata := httptest.NewRequest("GET", "/.well-known/oauth-authorization-server", nil)
	metadata.RemoteAddr = "127.0.0.1:1"
	if w := serve(e, metadata); !bytes.Contains(w.Body.Bytes(), []byte(`"dpop_signing_alg_values_supported":["ES256","PS256"]`)) {
		t.Errorf("metadata: got %s", w.Body)
	}
}

// In the mode reuse, a token is for the same key and the same claims only.
func TestDPoPReuse(t *testing.T) {
	e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopOptional}, AcceptClaims: true})
	e.Mode = ModeReuse
	ask := func(key, claims string) string {
		body := "grant_type=client_credentials"
		if claims != "" {
			body += "&claims=" + claims
		}
		r := basicForm(body)
		if key != "" {
			p := newProof(t, "POST", dpopTokenURL, "")
			p.header["jwk"] = jwk(t, testKeys()[key].Public())
			r.Header.Set("DPoP", p.sign(t, key))
		}
		return decode[tokenBody](t, serve(e, r).Body).AccessToken
	}
	seen := make(map[string]bool)
	for _, key := range []string{"", "p256", "other p256"} {
		for _, claims := range []string{"", "{}", `{"a":1}`} {
			token := ask(key, claims)
			if seen[token] || token == "" {
				t.Errorf("%s, %s: got the token of another request", key, claims)
			}
			if seen[token] = true; ask(key, claims) != token {
				t.Errorf("%s, %s: the token was not reused", key, claims)
			}
		}
	}
}

func TestNormalizeHTU(t *testing.T) {
	for htu, want := range map[string]string{
		"https://as.example/token":               "https://as.example/token",
		"HTTPS://AS.Example/Token":               "https://as.example/Token",
		"https://as.example:443/token":           "https://as.example/token",
		"https://as.example:/token":              "https://as.example/token",
		"https://as.example:80/token":            "https://as.example:80/token",
		"http://as.example:80/token":             "http://as.example/token",
		"http://as.example:8080/token":           "http://as.example:8080/token",
		"https://as.example":                     "https://as.example/",
		"https://as.example/":                    "https://as.example/",
		"https://[2001:DB8::1]:443/":             "https://[2001:db8::1]/",
		"https://as.example/a/./b/../c":          "https://as.example/a/c",
		"https://as.example/../a":                "https://as.example/a",
		"https://as.example/a//b/":               "https://as.example/a//b/",
		"https://as.example//as.example/a":       "https://as.example//as.example/a",
		"https://as.example/a/%2e%2E/b":          "https://as.example/b",
		"https://as.example/a%2Fb/../c":          "https://as.example/c",
		"https://as.example/%7euser/%2d%5F%2E":   "https://as.example/~user/-_.",
		"https://as.example/a%2fb%c3%a9":         "https://as.example/a%2Fb%C3%A9",
		"https://as.example/a%20b;v=1,2@x:y!$&'": "https://as.example/a%20b;v=1,2@x:y!$&'",
		"https://as.example/a%25%32%35":          "https://as.example/a%2525", // only once
	} {
		if got, err := normalizeHTU(htu); err != nil || got != want {
			t.Errorf("%s: got %s, %v", htu, got, err)
		}
	}
	for htu, want := range map[string]string{
		"https://as.example/?": "query", "https://as.example/?a": "query", "https://as.example/#": "fragment",
		"": "not a URL", "/token": "not a URL", "//as.example/token": "not a URL", "ftp://as.example/": "not a URL",
		"https:as.example": "not a URL", "https://user@as.example/": "not a URL", "https://as.example/%zz": "not a URL",
		"https:///token": "not a URL",
	} {
		if got, err := normalizeHTU(htu); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %s, %v", htu, got, err)
		}
	}
}

// No answer to a bad request repeats the token or the proof.
func TestDPoPRefusalsRepeatNothing(t *testing.T) {
	tokens := NewRegistry()
	token := boundToken(t, tokens)
	api := &API{Registry: tokens, DPoP: DPoP{Mode: dpopRequired, Nonce: true}}
	p := newProof(t, "GET", dpopAPIURL, token)
	p.claims["nonce"], p.claims["jti"], p.header["kid"] = "CANARY", "CANARY", "CANARY"
	compact := p.sign(t, "p256")
	w := serve(api, dpopAPIRequest(token, compact))
	all := fmt.Sprint(w.Header(), w.Body)
	if w.Code != 401 || strings.Contains(all, "CANARY") || strings.Contains(all, token) || strings.Contains(all, compact) {
		t.Errorf("got %d %s", w.Code, all)
	}
}

// The examples of RFC 9449, sections 4.1, 5, 6.1 and 7.1.
func TestDPoPExamples(t *testing.T) {
	const (
		header = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFV" +
			"ZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
		atEndpoint = header + "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0" +
			"IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
		atAPI = header + "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIs" +
			"ImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9." +
			"2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
		token      = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
		thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	)
	synctest.Test(t, func(t *testing.T) {
		advance(time.Until(time.Unix(1562262616, 0)))
		e := oauth2Endpoint(Demands{DPoP: DPoP{Mode: dpopRequired}})
		r := basicForm("grant_type=client_credentials")
		r.Host, r.TLS = "server.example.com", new(tls.ConnectionState)
		r.Header.Set("DPoP", atEndpoint)
		checkJudgement(t, e, r, "")
		if got := e.Registry.order[0].Thumbprint; got != thumbprint {
			t.Errorf("got the thumbprint %s", got)
		}

		tokens := NewRegistry()
		tokens.issue(Token{Value: token, Thumbprint: thumbprint}, time.Hour, ModeDefault)
		r = httptest.NewRequest(http.MethodGet, "https://resource.example.org/protectedresource", nil)
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", atAPI)
		if w := serve(&API{Registry: tokens, DPoP: DPoP{Mode: dpopRequired}}, r); w.Code != 200 {
			t.Errorf("API: got %d %v", w.Code, w.Header())
		}
	})
}
