package devserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// testKeys returns private keys by name. It makes them once, because RSA keys are slow to make.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	must := func(key crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return key
	}
	ec := func(curve elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		return must(key, err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	other, otherErr := rsa.GenerateKey(rand.Reader, 2048)
	_, ed, edErr := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"rsa": must(rsaKey, err), "other rsa": must(other, otherErr), "ed": must(ed, edErr),
		"p256": ec(elliptic.P256()), "other p256": ec(elliptic.P256()), "p384": ec(elliptic.P384()), "p521": ec(elliptic.P521()),
	}
})

// publicPEM returns the public half of one of testKeys.
func publicPEM(t *testing.T, name string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(testKeys()[name].Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func segment(v any) string { return base64.RawURLEncoding.EncodeToString(encode(v)) }

// hmacJWT signs with a secret of any length, which go-jose does not.
func hmacJWT(alg, secret string, header, claims map[string]any) string {
	header["alg"] = alg
	text := segment(header) + "." + segment(claims)
	mac := hmac.New(hmacHashes[alg], []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// keyJWT signs with one of testKeys.
func keyJWT(t *testing.T, alg, key string, header, claims map[string]any) string {
	t.Helper()
	options := new(jose.SignerOptions)
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: testKeys()[key]}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(encode(claims))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// goodClaims returns the claims of a good client assertion for a request of post("/token", …).
func goodClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": "dev-client", "sub": "dev-client", "aud": "http://example.com/token",
		"iat": now, "exp": now + 60, "jti": base64.RawURLEncoding.EncodeToString(randomBytes(16)),
	}
}

func clientTyp() map[string]any { return map[string]any{"typ": "client-authentication+jwt"} }

// withAssertion returns the body of a request with a client assertion.
func withAssertion(assertion string) string {
	return url.Values{
		"grant_type": {"client_credentials"}, "client_assertion": {assertion}, "client_assertion_type": {assertionJWTBearer},
	}.Encode()
}

// Each algorithm, with the right key and with the wrong key.
func TestOAuth2SigningAlgs(t *testing.T) {
	keys := map[string]string{"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed"}
	for _, alg := range rsaAlgs {
		keys[alg] = "rsa"
	}
	for alg, key := range keys {
		jwt := keyJWT(t, alg, key, clientTyp(), goodClaims())
		judge := func(d Demands, want string) {
			t.Helper()
			d.ClientAuth = authKeyJWT
			e := oauth2Endpoint(d)
			if err := e.ValidateKeys(); err != nil {
				t.Fatal(err)
			}
			checkJudgement(t, e, post("/token", formType, withAssertion(jwt)), want)
		}
		judge(Demands{ClientKey: publicPEM(t, key)}, "")
		judge(Demands{ClientKey: publicPEM(t, key), SigningAlg: alg}, "")
		otherKey := map[bool]string{true: "other rsa", false: "rsa"}[key == "rsa"]
		judge(Demands{ClientKey: publicPEM(t, otherKey)}, "401 invalid_client: client_assertion: ")
	}
	jwt := keyJWT(t, "RS256", "rsa", clientTyp(), goodClaims())
	e := oauth2Endpoint(Demands{ClientAuth: authKeyJWT, ClientKey: publicPEM(t, "rsa"), SigningAlg: "PS256"})
	checkJudgement(t, e, post("/token", formType, withAssertion(jwt)),
		"401 invalid_client: client_assertion: is not a JWT, or alg is not one of [PS256]")
	for alg := range hmacHashes {
		jwt := hmacJWT(alg, DefaultClientSecret, clientTyp(), goodClaims())
		e := oauth2Endpoint(Demands{ClientAuth: authSecretJWT, SigningAlg: alg})
		checkJudgement(t, e, post("/token", formType, withAssertion(jwt)), "")
		e = oauth2Endpoint(Demands{ClientAuth: authSecretJWT, SigningAlg: alg})
		e.ClientSecret = "another"
		checkJudgement(t, e, post("/token", formType, withAssertion(jwt)),
			"401 invalid_client: client_assertion: the signature is wrong")
	}
}

// Attacks, and mistakes of a client.
func TestOAuth2Assertion(t *testing.T) {
	const refused = "401 invalid_client: client_assertion: "
	text := publicPEM(t, "rsa")
	sign := func(header, claims map[string]any) string { return keyJWT(t, "RS256", "rsa", header, claims) }
	with := func(name string, value any) string {
		claims := goodClaims()
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
		return sign(clientTyp(), claims)
	}
	now := time.Now().Unix()
	good := sign(clientTyp(), goodClaims())
	parts := strings.Split(good, ".")
	unsigned := segment(map[string]any{"alg": "none", "typ": "client-authentication+jwt"}) + "." + segment(goodClaims()) + "."
	tests := []struct{ name, jwt, want string }{
		{"good", good, ""},
		{"signature changed", parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), refused + "the signature is wrong"},
		{"claims changed", parts[0] + "." + segment(goodClaims()) + "." + parts[2], refused + "the signature is wrong"},
		{"header changed", segment(map[string]any{"alg": "RS256"}) + "." + parts[1] + "." + parts[2], refused + "the signature is wrong"},
		{"alg none", unsigned, refused + "is missing or not a signed JWT"},
		{"alg none with signature", unsigned + parts[2], refused + "is not a JWT, or alg"},
		{"alg confusion, PEM", hmacJWT("HS256", text, clientTyp(), goodClaims()), refused + "is not a JWT, or alg"},
		{"alg confusion, DER", hmacJWT("HS256", string(x509.MarshalPKCS1PublicKey(testKeys()["rsa"].Public().(*rsa.PublicKey))), clientTyp(), goodClaims()), refused + "is not a JWT, or alg"},
		{"alg confusion, secret", hmacJWT("HS256", DefaultClientSecret, clientTyp(), goodClaims()), refused + "is not a JWT, or alg"},
		{"wrong key", keyJWT(t, "RS256", "other rsa", clientTyp(), goodClaims()), refused + "the signature is wrong"},
		{"key in the header", keyJWT(t, "RS256", "other rsa", map[string]any{
			"typ": "client-authentication+jwt", "jwk": jose.JSONWebKey{Key: testKeys()["other rsa"].Public()},
		}, goodClaims()), refused + "the signature is wrong"},
		{"crit", sign(map[string]any{"typ": "client-authentication+jwt", "crit": []string{"x"}, "x": 1}, goodClaims()), refused + "crit"},
		{"no typ", sign(map[string]any{}, goodClaims()), refused + "typ is missing"},
		{"typ JWT", sign(map[string]any{"typ": "JWT"}, goodClaims()), refused + "typ is not"},
		{"line break", parts[0] + "." + parts[1] + ".\n" + parts[2], refused + "is missing or not a signed JWT"},
		{"padding", good + "=", refused + "is missing or not a signed JWT"},
		{"two parts", parts[0] + "." + parts[1], refused + "is missing or not a signed JWT"},
		{"not JSON", "eA." + parts[1] + "." + parts[2], refused + "the header or the claims are not a JSON object"},
		{"empty", "", refused + "is missing or not a signed JWT"},
		{"no iss", with("iss", nil), refused + "iss is missing"},
		{"iss", with("iss", "x"), refused + "iss is not"},
		{"no sub", with("sub", nil), refused + "sub is missing"},
		{"sub", with("sub", "x"), refused + "sub is not"},
		{"no aud", with("aud", nil), refused + "aud is missing"},
		{"aud", with("aud", "http://example.com/"), refused + "aud is not"},
		{"aud prefix", with("aud", "http://example.com/token/"), refused + "aud is not"},
		{"aud list", with("aud", []string{"http://example.com/token"}), refused + "aud is not the required string"},
		{"no exp", with("exp", nil), refused + "exp is missing"},
		{"expired", with("exp", now-1), refused + "exp has passed"},
		{"exp text", with("exp", "9999999999"), refused + "exp is missing or not a number"},
		{"exp far", with("exp", now+7200), refused + "exp is more than 1h0m0s in the future"},
		{"exp absurd", with("exp", 1e300), refused + "exp is missing or not a number"},
		{"no iat", with("iat", nil), refused + "iat is missing"},
		{"iat text", with("iat", "1"), refused + "iat is missing or not a number"},
		{"future iat", with("iat", now+30), refused + "iat is in the future"},
		{"old iat", with("iat", now-7200), refused + "iat and exp are more than"},
		{"nbf", with("nbf", now), ""},
		{"future nbf", with("nbf", now+30), refused + "nbf"},
		{"nbf text", with("nbf", "1"), refused + "nbf"},
		{"no jti", with("jti", nil), refused + "jti is missing"},
		{"empty jti", with("jti", ""), refused + "jti is missing"},
		{"jti number", with("jti", 7), refused + "jti is missing or not a string"},
		{"surplus claim", with("x", 7), ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			e := oauth2Endpoint(Demands{ClientAuth: authKeyJWT, ClientKey: text})
			checkJudgement(t, e, post("/token", formType, withAssertion(tc.jwt)), tc.want)
		})
	}
}

func TestOAuth2AssertionDemands(t *testing.T) {
	const refused = "401 invalid_client: client_assertion: "
	claims := func(aud string) map[string]any {
		c := goodClaims()
		c["aud"] = aud
		return c
	}
	tests := []struct {
		name    string
		demands Demands
		jwt     string
		want    string
	}{
		{"audience", Demands{AssertionAudience: "api"}, hmacJWT("HS256", "dev-secret", clientTyp(), claims("api")), ""},
		{"not audience", Demands{AssertionAudience: "api"}, hmacJWT("HS256", "dev-secret", clientTyp(), goodClaims()), refused + "aud"},
		{"issuer", Demands{Issuer: "https://as.example"}, hmacJWT("HS256", "dev-secret", clientTyp(), claims("https://as.example")), ""},
		{"not issuer", Demands{Issuer: "https://as.example"}, hmacJWT("HS256", "dev-secret", clientTyp(), goodClaims()), refused + "aud"},
		{"typ", Demands{AssertionTyp: new("JWT")}, hmacJWT("HS256", "dev-secret", map[string]any{"typ": "JWT"}, goodClaims()), ""},
		{"other typ", Demands{AssertionTyp: new("JWT")}, hmacJWT("HS256", "dev-secret", clientTyp(), goodClaims()), refused + "typ is not"},
		{"no typ", Demands{AssertionTyp: new("")}, hmacJWT("HS256", "dev-secret", map[string]any{}, goodClaims()), ""},
		{"surplus typ", Demands{AssertionTyp: new("")}, hmacJWT("HS256", "dev-secret", clientTyp(), goodClaims()), refused + "typ must be absent"},
		{"alg", Demands{}, hmacJWT("HS512", "dev-secret", clientTyp(), goodClaims()), refused + "alg is not HS256"},
		{"key for the secret", Demands{}, keyJWT(t, "RS256", "rsa", clientTyp(), goodClaims()), refused + "alg is not HS256"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tc.demands.ClientAuth = authSecretJWT
			checkJudgement(t, oauth2Endpoint(tc.demands), post("/token", formType, withAssertion(tc.jwt)), tc.want)
		})
	}
	jwt := hmacJWT("HS256", "dev-secret", clientTyp(), claims("https://example.com/token"))
	r := post("/token", formType, withAssertion(jwt))
	r.TLS = new(tls.ConnectionState)
	checkJudgement(t, oauth2Endpoint(Demands{ClientAuth: authSecretJWT}), r, "")
}

func TestOAuth2JTI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := oauth2Endpoint(Demands{ClientAuth: authSecretJWT})
		ask := func(claims map[string]any) string {
			jwt := hmacJWT("HS256", DefaultClientSecret, clientTyp(), claims)
			return judgement(t, e, post("/token", formType, withAssertion(jwt)))
		}
		claims := goodClaims()
		if got := ask(claims); got != "" {
			t.Fatal(got)
		}
		claims["exp"] = time.Now().Unix() + 61
		if got := ask(claims); got != "401 invalid_client: client_assertion: jti was used before" {
			t.Errorf("got %q", got)
		}
		forged := goodClaims()
		jwt := hmacJWT("HS256", "guess", clientTyp(), forged)
		judgement(t, e, post("/token", formType, withAssertion(jwt)))
		if got := ask(forged); got != "" {
			t.Errorf("a forged JWT used up the jti: %s", got)
		}
		advance(2 * time.Minute)
		if got := ask(goodClaims()); got != "" || len(e.jtis.until) != 1 {
			t.Errorf("got %q, and %d are remembered", got, len(e.jtis.until))
		}
	})
}

func TestOAuth2Kid(t *testing.T) {
	key := string(encode(jose.JSONWebKey{Key: testKeys()["p256"].Public(), KeyID: "k1"}))
	for kid, want := range map[string]string{"k1": "", "k2": "401 invalid_client: client_assertion: kid", "": ""} {
		header := clientTyp()
		if kid != "" {
			header["kid"] = kid
		}
		jwt := keyJWT(t, "ES256", "p256", header, goodClaims())
		e := oauth2Endpoint(Demands{ClientAuth: authKeyJWT, ClientKey: key})
		checkJudgement(t, e, post("/token", formType, withAssertion(jwt)), want)
	}
}

// If client_key is a certificate, the JWT must name it.
func TestOAuth2CertificateThumbprint(t *testing.T) {
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	key := testKeys()["rsa"]
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	sum := sha256.Sum256(der)
	for thumbprint, want := range map[string]string{
		base64.RawURLEncoding.EncodeToString(sum[:]): "",
		base64.StdEncoding.EncodeToString(sum[:]):    "401 invalid_client: client_assertion: x5t#S256 does not name",
		"": "401 invalid_client: client_assertion: x5t#S256 does not name",
	} {
		header := clientTyp()
		if thumbprint != "" {
			header["x5t#S256"] = thumbprint
		}
		jwt := keyJWT(t, "PS256", "rsa", header, goodClaims())
		e := oauth2Endpoint(Demands{ClientAuth: authKeyJWT, ClientKey: text})
		checkJudgement(t, e, post("/token", formType, withAssertion(jwt)), want)
	}
}

// The fields that name the certificate are exactly those that are demanded.
func TestOAuth2CertificateFields(t *testing.T) {
	key := testKeys()["rsa"]
	certificate := func(serial int64) []byte {
		template := x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	der, other := certificate(1), certificate(2)
	fields := func(der []byte) map[string]any {
		long, short := sha256.Sum256(der), sha1.Sum(der)
		return map[string]any{
			"x5t#S256": base64.RawURLEncoding.EncodeToString(long[:]),
			"x5t":      base64.RawURLEncoding.EncodeToString(short[:]),
			"x5c":      [][]byte{der},
		}
	}
	right, wrong := fields(der), fields(other)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	const refused = "401 invalid_client: client_assertion: "
	for _, tc := range []struct {
		name     string
		demanded []string
		header   map[string]any
		want     string
	}{
		{"x5t", []string{"x5t"}, map[string]any{"x5t": right["x5t"]}, ""},
		{"x5t of another", []string{"x5t"}, map[string]any{"x5t": wrong["x5t"]}, refused + "x5t does not name"},
		{"x5t missing", []string{"x5t"}, nil, refused + "x5t does not name"},
		{"x5t with the longer hash", []string{"x5t"}, map[string]any{"x5t": right["x5t#S256"]}, refused + "x5t does not name"},
		{"x5t#S256 surplus", []string{"x5t"}, map[string]any{"x5t": right["x5t"], "x5t#S256": right["x5t#S256"]}, refused + "x5t#S256 must be absent"},
		{"x5c", []string{"x5c"}, map[string]any{"x5c": right["x5c"]}, ""},
		{"x5c with a chain", []string{"x5c"}, map[string]any{"x5c": [][]byte{der, other}}, ""},
		{"x5c in the wrong order", []string{"x5c"}, map[string]any{"x5c": [][]byte{other, der}}, refused + "x5c does not name"},
		{"x5c of another", []string{"x5c"}, map[string]any{"x5c": wrong["x5c"]}, refused + "x5c does not name"},
		{"x5c surplus", nil, map[string]any{"x5t#S256": right["x5t#S256"], "x5c": right["x5c"]}, refused + "x5c must be absent"},
		{"all", []string{"x5c", "x5t", "x5t#S256"}, right, ""},
		{"none", []string{}, nil, ""},
	} {
		header := clientTyp()
		maps.Copy(header, tc.header)
		jwt := keyJWT(t, "PS256", "rsa", header, goodClaims())
		e := oauth2Endpoint(Demands{ClientAuth: authKeyJWT, ClientKey: text, AssertionCertificate: tc.demanded})
		t.Run(tc.name, func(t *testing.T) { checkJudgement(t, e, post("/token", formType, withAssertion(jwt)), tc.want) })
	}
}

// Claims of any type, in a JWT that proves the client.
func TestOAuth2JSONClaims(t *testing.T) {
	const refused = "401 invalid_client: client_assertion: "
	for _, tc := range []struct {
		name, demanded string
		got            any
		want           string
	}{
		{"number", `3`, 3, ""},
		{"another number", `3`, 4, refused + "c is not the required value"},
		{"number as text", `3`, "3", refused + "c is not the required value"},
		{"text as a number", `"3"`, 3, refused + "c is not the required string"},
		{"text", `"3"`, "3", ""},
		{"true", `true`, true, ""},
		{"false", `false`, false, ""},
		{"false, missing", `false`, nil, refused + "c is missing"},
		{"array", `["a",1]`, []any{"a", 1}, ""},
		{"array in another order", `["a",1]`, []any{1, "a"}, refused + "c is not the required value"},
		{"object", `{"a":{"b":[]}}`, map[string]any{"a": map[string]any{"b": []any{}}}, ""},
		{"object with more", `{"a":1}`, map[string]any{"a": 1, "b": 2}, refused + "c is not the required value"},
	} {
		claims := goodClaims()
		if tc.got != nil {
			claims["c"] = tc.got
		}
		e := oauth2Endpoint(Demands{
			ClientAuth: authKeyJWT, ClientKey: publicPEM(t, "rsa"), AssertionJSONClaims: []JSONField{{"c", []byte(tc.demanded)}},
		})
		jwt := keyJWT(t, "RS256", "rsa", clientTyp(), claims)
		t.Run(tc.name, func(t *testing.T) { checkJudgement(t, e, post("/token", formType, withAssertion(jwt)), tc.want) })
	}
}

// The method bearer_jwt has its JWT in Authorization, and no client id besides.
func TestOAuth2BearerJWT(t *testing.T) {
	jwt := func(key string, header, edit map[string]any) string {
		claims := goodClaims()
		maps.Copy(claims, edit)
		return keyJWT(t, "RS256", key, header, claims)
	}
	typ := map[string]any{"typ": "JWT"}
	const refused = "401 invalid_client: "
	for _, tc := range []struct{ name, authorization, body, want string }{
		{"right", "Bearer " + jwt("rsa", typ, nil), "", ""},
		{"another key", "Bearer " + jwt("other rsa", typ, nil), "", refused + "the JWT in Authorization: the signature"},
		{"another client", "Bearer " + jwt("rsa", typ, map[string]any{"iss": "x"}), "", refused + "the JWT in Authorization: iss"},
		{"another audience", "Bearer " + jwt("rsa", typ, map[string]any{"aud": "x"}), "", refused + "the JWT in Authorization: aud"},
		{"ended", "Bearer " + jwt("rsa", typ, map[string]any{"exp": 1}), "", refused + "the JWT in Authorization: exp"},
		{"typ", "Bearer " + jwt("rsa", clientTyp(), nil), "", refused + "the JWT in Authorization: typ"},
		{"another scheme", "JWT " + jwt("rsa", typ, nil), "", refused + "Authorization is not Bearer"},
		{"Basic", "Basic ZGV2LWNsaWVudDpkZXYtc2VjcmV0", "", refused + "Authorization is not Bearer"},
		{"no Authorization", "", "", refused + "the client authenticates by []"},
		{"in the body", "", "client_assertion=" + jwt("rsa", typ, nil), refused + "the client authenticates by [client_assertion]"},
		{"a client id", "Bearer " + jwt("rsa", typ, nil), "client_id=dev-client", "400 invalid_request: the parameter client_id is not described"},
	} {
		r := post("/token", formType, "grant_type=client_credentials&"+tc.body)
		if tc.authorization != "" {
			r.Header.Set("Authorization", tc.authorization)
		}
		e := oauth2Endpoint(Demands{ClientAuth: authBearerJWT, ClientKey: publicPEM(t, "rsa")})
		t.Run(tc.name, func(t *testing.T) { checkJudgement(t, e, r, tc.want) })
	}
}

// The grant of RFC 7523, which Google and Salesforce have.
func TestOAuth2GrantAssertion(t *testing.T) {
	const refused = "400 invalid_grant: assertion: "
	text := publicPEM(t, "rsa")
	google := []Field{{"sub", new("")}, {"scope", new("a b")}}
	claims := func(edit map[string]any) map[string]any {
		c := goodClaims()
		maps.Copy(c, edit)
		maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
		return c
	}
	tests := []struct {
		name     string
		demanded []Field
		header   map[string]any
		claims   map[string]any
		want     string
	}{
		{"plain", nil, map[string]any{"typ": "JWT"}, claims(nil), ""},
		{"typ", nil, clientTyp(), claims(nil), refused + "typ is not"},
		{"no typ", nil, map[string]any{}, claims(nil), refused + "typ is missing"},
		{"sub", nil, map[string]any{"typ": "JWT"}, claims(map[string]any{"sub": nil}), refused + "sub is missing"},
		{"claims", google, map[string]any{"typ": "JWT"}, claims(map[string]any{"sub": nil, "scope": "a b"}), ""},
		{"claim missing", google, map[string]any{"typ": "JWT"}, claims(map[string]any{"sub": nil}), refused + "scope is missing"},
		{"claim other", google, map[string]any{"typ": "JWT"}, claims(map[string]any{"sub": nil, "scope": "a"}), refused + "scope is not"},
		{"claim surplus", google, map[string]any{"typ": "JWT"}, claims(map[string]any{"scope": "a b"}), refused + "sub must be absent"},
		{"iss", []Field{{"iss", new("x")}}, map[string]any{"typ": "JWT"}, claims(map[string]any{"iss": "x"}), ""},
		{"without jti and iat", []Field{{"jti", new("")}, {"iat", new("")}}, map[string]any{"typ": "JWT"}, claims(map[string]any{"jti": nil, "iat": nil}), ""},
		{"surplus jti", []Field{{"jti", new("")}}, map[string]any{"typ": "JWT"}, claims(nil), refused + "jti must be absent"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			e := oauth2Endpoint(Demands{
				ClientAuth: authNone, ClientIDParam: new(""), Grant: new(grantJWTBearer), ClientKey: text, AssertionClaims: tc.demanded,
			})
			body := url.Values{"grant_type": {grantJWTBearer}, "assertion": {keyJWT(t, "RS256", "rsa", tc.header, tc.claims)}}
			checkJudgement(t, e, post("/token", formType, body.Encode()), tc.want)
		})
	}
	e := oauth2Endpoint(Demands{ClientAuth: authNone, ClientIDParam: new(""), Grant: new(grantJWTBearer), ClientKey: text})
	checkJudgement(t, e, post("/token", formType, "grant_type="+url.QueryEscape(grantJWTBearer)), refused+"is missing")

	// The secret signs the client assertion and the key signs the grant. Both need a jti of their own.
	e = oauth2Endpoint(Demands{
		ClientAuth: authSecretJWT, Grant: new(grantJWTBearer), ClientKey: text, SigningAlg: "HS512", AssertionTyp: new("JWT"),
	})
	both := func(first, second map[string]any) string {
		return url.Values{
			"grant_type": {grantJWTBearer}, "client_assertion_type": {assertionJWTBearer},
			"client_assertion": {hmacJWT("HS512", DefaultClientSecret, map[string]any{"typ": "JWT"}, first)},
			"assertion":        {keyJWT(t, "RS256", "rsa", map[string]any{"typ": "JWT"}, second)},
		}.Encode()
	}
	checkJudgement(t, e, post("/token", formType, both(goodClaims(), goodClaims())), "")
	same := goodClaims()
	checkJudgement(t, e, post("/token", formType, both(same, same)), refused+"jti was used before")
}

func TestParseKey(t *testing.T) {
	rsaKey := testKeys()["rsa"].(*rsa.PrivateKey)
	ecKey := testKeys()["p256"].(*ecdsa.PrivateKey)
	block := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(testKeys()["ed"])
	ecDER, ecErr := x509.MarshalECPrivateKey(ecKey)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p224DER, p224Err := x509.MarshalPKIXPublicKey(p224.Public())
	for text, want := range map[string]crypto.PublicKey{
		publicPEM(t, "rsa"):                                                         rsaKey.Public(),
		block("PRIVATE KEY", pkcs8, err):                                            testKeys()["ed"].Public(),
		block("EC PRIVATE KEY", ecDER, ecErr):                                       ecKey.Public(),
		block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil):          rsaKey.Public(),
		block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey), nil): rsaKey.Public(),
		string(encode(jose.JSONWebKey{Key: ecKey})):                                 ecKey.Public(),
		"\n" + string(encode(jose.JSONWebKey{Key: testKeys()["ed"].Public()})):      testKeys()["ed"].Public(),
	} {
		key, err := parseKey(text)
		if err != nil || !want.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.public) {
			t.Errorf("%.40q: got %T, %v", text, key.public, err)
		}
	}
	for _, text := range []string{
		"CANARY", `{"kty":"CANARY"}`, `{"CANARY":`, string(encode(jose.JSONWebKey{Key: []byte("CANARYCANARY")})), `{"keys":[]}`,
		block("PUBLIC KEY", []byte("CANARY"), nil), block("CERTIFICATE", []byte("CANARY"), nil), block("X", nil, nil),
		block("PUBLIC KEY", p224DER, p224Err),
	} {
		if _, err := parseKey(text); err == nil || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%.40q: got error %v", text, err)
		}
	}
}
