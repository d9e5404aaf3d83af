package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func sign(t *testing.T, a Assertion, k SigningKey) string {
	t.Helper()
	jwt, err := a.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	return jwt
}

// jwtParts decodes the parts of a JWT in its compact form (RFC 7515 section 7.1).
func jwtParts(t *testing.T, jwt string) (header, claims map[string]any, signature []byte) {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT of %d parts: %s", len(parts), jwt)
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
	}
	for i, into := range []*map[string]any{&header, &claims} {
		d := json.NewDecoder(bytes.NewReader(decoded[i]))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
	}
	return header, claims, decoded[2]
}

// verify checks a signature with the standard library, because go-jose must not be the only judge of its own work. Then it
// checks the signature with go-jose, as a server may. key is the public key or the secret.
func verify(t *testing.T, jwt string, alg jose.SignatureAlgorithm, key any) {
	t.Helper()
	header, _, signature := jwtParts(t, jwt)
	if header["alg"] != string(alg) {
		t.Errorf("got alg %v, want %s", header["alg"], alg)
	}
	signed := []byte(jwt[:strings.LastIndex(jwt, ".")])
	if !verifies(t, alg, key, signed, signature) {
		t.Errorf("the standard library does not verify the signature with %s", alg)
	}
	if verifies(t, alg, key, append([]byte("x"), signed...), signature) {
		t.Fatal("the test verifies the signature of another text")
	}
	parsed, err := jose.ParseSigned(jwt, []jose.SignatureAlgorithm{alg})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parsed.Verify(key); err != nil {
		t.Errorf("go-jose does not verify the signature with %s: %v", alg, err)
	}
}

var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

func verifies(t *testing.T, alg jose.SignatureAlgorithm, key any, signed, signature []byte) bool {
	t.Helper()
	if alg == jose.EdDSA { // RFC 8037 section 3.1
		return ed25519.Verify(key.(ed25519.PublicKey), signed, signature)
	}
	family, hash := alg[:2], hashes[string(alg[2:])]
	h := hash.New()
	h.Write(signed)
	digest := h.Sum(nil)
	switch family {
	case "RS": // RFC 7518 section 3.3
		return rsa.VerifyPKCS1v15(key.(*rsa.PublicKey), hash, digest, signature) == nil
	case "PS": // section 3.5, where the salt is as long as the hash
		return rsa.VerifyPSS(key.(*rsa.PublicKey), hash, digest, signature, &rsa.PSSOptions{SaltLength: hash.Size()}) == nil
	case "ES": // section 3.4, where both numbers have the full size of the curve
		public := key.(*ecdsa.PublicKey)
		size := (public.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			t.Errorf("a signature of %d bytes with %s, want %d", len(signature), alg, 2*size)
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(public, digest, r, s)
	case "HS": // section 3.2
		mac := hmac.New(hash.New, key.([]byte))
		mac.Write(signed)
		return hmac.Equal(mac.Sum(nil), signature)
	default:
		t.Fatalf("unknown algorithm %s", alg)
		return false
	}
}

func TestAssertionAlgs(t *testing.T) {
	p256, p384, p521, ed := ecKey(elliptic.P256()), ecKey(elliptic.P384()), ecKey(elliptic.P521()), edKey()
	secret := strings.Repeat("geheim: ü~", 6)
	for alg, key := range map[string]SigningKey{
		"RS256": parsed(t, pkcs8(rsa2048())), "RS384": parsed(t, pkcs8(rsa2048())), "RS512": parsed(t, pkcs8(rsa2048())),
		"PS256": parsed(t, pkcs8(rsa2048())), "PS384": parsed(t, pkcs8(rsa2048())), "PS512": parsed(t, pkcs8(rsa2048())),
		"ES256": parsed(t, pkcs8(p256)), "ES384": parsed(t, pkcs8(p384)), "ES512": parsed(t, pkcs8(p521)),
		"EdDSA": parsed(t, pkcs8(ed)),
		"HS256": SecretKey(secret), "HS384": SecretKey(secret), "HS512": SecretKey(secret),
	} {
		t.Run(alg, func(t *testing.T) {
			k, err := key.WithAlg(alg)
			if err != nil {
				t.Fatal(err)
			}
			var public any = []byte(secret)
			if signer, ok := k.key.(crypto.Signer); ok {
				public = signer.Public()
			}
			for range 5 { // the numbers of an ECDSA signature vary in length
				verify(t, sign(t, Assertion{Issuer: "id", Subject: "id", Audience: "https://as.example"}, k), k.alg, public)
			}
		})
	}
	if k := SecretKey(secret); k.alg != jose.HS256 { // the documented default
		t.Errorf("the default algorithm of a secret is %s", k.alg)
	}
}

// The header contains no other fields. A server could trust a key in "jwk" or "x5c".
func TestAssertionHeader(t *testing.T) {
	var chain [][]byte
	var x5t string
	signer := ecKey(elliptic.P256())
	certificate := func(serial int64) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(serial)}
		return must(x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer))
	}
	for i := int64(1); !strings.Contains(x5t, "-") || !strings.Contains(x5t, "_"); i++ { // a thumbprint with both characters that only base64url has
		chain = [][]byte{certificate(i), certificate(1000 + i)}
		thumbprint := sha256.Sum256(chain[0])
		x5t = base64.RawURLEncoding.EncodeToString(thumbprint[:]) // RFC 7515 section 4.1.8
	}
	sum := sha1.Sum(chain[0])
	sha1x5t := base64.RawURLEncoding.EncodeToString(sum[:]) // section 4.1.7
	// section 4.1.6 has base64, not base64url
	x5c := []any{base64.StdEncoding.EncodeToString(chain[0]), base64.StdEncoding.EncodeToString(chain[1])}
	named := func(fields ...string) Assertion { return Assertion{Chain: chain, CertificateFields: fields} }
	everything := named(CertificateSHA256, CertificateSHA1, CertificateChain)
	everything.Type = "x"
	key := parsed(t, pkcs8(ecKey(elliptic.P256())))
	for name, tc := range map[string]struct {
		a    Assertion
		id   string
		want map[string]any
	}{
		"bare":       {Assertion{}, "", map[string]any{"alg": "ES256"}},
		"typ":        {Assertion{Type: TypeClientAuthentication}, "", map[string]any{"alg": "ES256", "typ": "client-authentication+jwt"}},
		"typ JWT":    {Assertion{Type: TypeJWT}, "", map[string]any{"alg": "ES256", "typ": "JWT"}},
		"kid":        {Assertion{}, `k "1" ü`, map[string]any{"alg": "ES256", "kid": `k "1" ü`}},
		"no field":   {Assertion{Chain: chain}, "", map[string]any{"alg": "ES256"}},
		"x5t#S256":   {named(CertificateSHA256), "", map[string]any{"alg": "ES256", "x5t#S256": x5t}},
		"x5t":        {named(CertificateSHA1), "", map[string]any{"alg": "ES256", "x5t": sha1x5t}},
		"x5c":        {named(CertificateChain), "", map[string]any{"alg": "ES256", "x5c": x5c}},
		"x5t, x5c":   {named(CertificateSHA1, CertificateChain), "", map[string]any{"alg": "ES256", "x5t": sha1x5t, "x5c": x5c}},
		"both x5t":   {named(CertificateSHA1, CertificateSHA256), "", map[string]any{"alg": "ES256", "x5t": sha1x5t, "x5t#S256": x5t}},
		"everything": {everything, "k", map[string]any{"alg": "ES256", "typ": "x", "kid": "k", "x5t#S256": x5t, "x5t": sha1x5t, "x5c": x5c}},
		"claims":     {Assertion{Claims: map[string]json.RawMessage{"kid": []byte(`"no"`), "alg": []byte(`"none"`)}}, "", map[string]any{"alg": "ES256"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := key
			k.ID = tc.id
			jwt := sign(t, tc.a, k)
			if header, _, _ := jwtParts(t, jwt); !reflect.DeepEqual(header, tc.want) {
				t.Errorf("got header %v, want %v", header, tc.want)
			}
			verify(t, jwt, jose.ES256, k.key.(crypto.Signer).Public())
		})
	}
}

// RFC 7523 section 3 requires iss, sub, aud and exp. The assertion also has iat and jti. RFC 10070 requires that the audience
// is a string and not an array.
func TestAssertionClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Unix()
		standard := map[string]any{
			"iss": "the id", "sub": "the subject", "aud": "https://as.example/?a=b&c=<d>",
			"iat": now - 5, "exp": now + 55, // 60 s in total, with 5 s for a clock that is ahead
		}
		for name, tc := range map[string]struct {
			claims map[string]any
			want   map[string]any // in addition to the standard claims; nil removes one
		}{
			"none":               {nil, nil},
			"more":               {map[string]any{"scope": "a b", "target_audience": "x"}, map[string]any{"scope": "a b", "target_audience": "x"}},
			"another issuer":     {map[string]any{"iss": "other"}, map[string]any{"iss": "other"}},
			"another subject":    {map[string]any{"sub": "user@example.com"}, map[string]any{"sub": "user@example.com"}},
			"no subject":         {map[string]any{"sub": ""}, map[string]any{"sub": nil}},
			"no jti":             {map[string]any{"jti": "", "iat": ""}, map[string]any{"jti": nil, "iat": nil}},
			"no such claim":      {map[string]any{"nbf": ""}, nil},
			"a number":           {map[string]any{"level": 3}, map[string]any{"level": json.Number("3")}},
			"a large number":     {map[string]any{"level": json.Number("9007199254740993")}, map[string]any{"level": json.Number("9007199254740993")}},
			"a fraction":         {map[string]any{"level": 0.5}, map[string]any{"level": json.Number("0.5")}},
			"a boolean":          {map[string]any{"admin": true}, map[string]any{"admin": true}},
			"false":              {map[string]any{"admin": false}, map[string]any{"admin": false}},
			"an array":           {map[string]any{"groups": []any{"a", json.Number("1")}}, map[string]any{"groups": []any{"a", json.Number("1")}}},
			"an empty array":     {map[string]any{"groups": []any{}}, map[string]any{"groups": []any{}}},
			"an object":          {map[string]any{"box": map[string]any{"id": "x"}}, map[string]any{"box": map[string]any{"id": "x"}}},
			"several audiences":  {map[string]any{"aud": []any{"a", "b"}}, map[string]any{"aud": []any{"a", "b"}}},
			"a text of digits":   {map[string]any{"tenant": "12"}, map[string]any{"tenant": "12"}},
			"zero is not empty":  {map[string]any{"nbf": 0}, map[string]any{"nbf": json.Number("0")}},
			"characters of JSON": {map[string]any{`"a":1,"`: "\"},\"exp\":9\u2028ü"}, map[string]any{`"a":1,"`: "\"},\"exp\":9\u2028ü"}},
		} {
			a := Assertion{Issuer: "the id", Subject: "the subject", Audience: "https://as.example/?a=b&c=<d>", Claims: make(map[string]json.RawMessage)}
			for name, value := range tc.claims {
				a.Claims[name] = must(json.Marshal(value))
			}
			k := SecretKey(strings.Repeat("s", 32))
			_, got, _ := jwtParts(t, sign(t, a, k))

			want := maps.Clone(standard)
			want["jti"] = got["jti"] // TestAssertionIsFresh checks it
			maps.Copy(want, tc.want)
			maps.DeleteFunc(want, func(_ string, v any) bool { return v == nil })
			for name, v := range want {
				if n, ok := v.(int64); ok {
					want[name] = json.Number(big.NewInt(n).String())
				}
			}
			// JSON distinguishes a string from an array with one string
			if g, w := must(json.Marshal(got)), must(json.Marshal(want)); !bytes.Equal(g, w) {
				t.Errorf("%s: got claims\n%s, want\n%s", name, g, w)
			}
		}
	})
}

// Each assertion has a new jti. A server accepts a jti only once, to prevent replays (RFC 7523 section 3).
func TestAssertionIsFresh(t *testing.T) {
	const n = 100
	a := Assertion{Issuer: "id", Subject: "id", Audience: "https://as.example"}
	k := SecretKey(strings.Repeat("s", 32))
	var (
		mu    sync.Mutex
		group sync.WaitGroup
		ids   []string
	)
	for range n {
		group.Go(func() {
			jwt, err := a.Sign(k)
			if err != nil {
				t.Error(err)
				return
			}
			_, claims, _ := jwtParts(t, jwt)
			id, _ := claims["jti"].(string)
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, id)
		})
	}
	group.Wait()
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) != n || len(ids[0]) < 22 { // 128 bits in base64
		t.Errorf("%d assertions have %d different jti, such as %q", n, len(ids), ids[0])
	}
	if a.Claims != nil {
		t.Error("Sign has changed the assertion")
	}
}

// Sign returns an error for a key that cannot sign. It does not panic, and the error does not show the key.
func TestAssertionThatCannotBeSigned(t *testing.T) {
	withAlg := func(secret, alg string) SigningKey { return must(SecretKey(secret).WithAlg(alg)) }
	for name, tc := range map[string]struct {
		key  SigningKey
		want string
	}{
		"no key":                        {SigningKey{}, ""},
		"an id alone":                   {SigningKey{ID: canary}, ""},
		"no secret":                     {SecretKey(""), "too short for HS256, which needs 32 bytes"},
		"a short secret":                {SecretKey(canary), "too short for HS256"},
		"a secret short by one":         {SecretKey(canary + strings.Repeat("x", 31-len(canary))), "too short for HS256, which needs 32 bytes"},
		"a secret short for HS384":      {withAlg(canary+strings.Repeat("x", 47-len(canary)), "HS384"), "too short for HS384, which needs 48 bytes"},
		"a secret short for HS512":      {withAlg(canary+strings.Repeat("x", 63-len(canary)), "HS512"), "too short for HS512, which needs 64 bytes"},
		"a key with an alien alg":       {SigningKey{key: []byte(strings.Repeat("s", 64)), alg: jose.RS256}, ""},
		"a key with no alg":             {SigningKey{key: []byte(strings.Repeat("s", 64))}, ""},
		"a key of an alien kind":        {SigningKey{key: "text", alg: jose.HS256}, ""},
		"a kind of key for another alg": {SigningKey{key: ed25519.PrivateKey(nil), alg: jose.RS256}, ""},
	} {
		jwt, err := Assertion{Issuer: "id"}.Sign(tc.key)
		if err == nil || jwt != "" {
			t.Errorf("%s: got %q, %v", name, jwt, err)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %q, want a text with %q", name, err, tc.want)
		}
		wantSilent(t, err)
	}
	for alg, size := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} { // RFC 7518 section 3.2
		sign(t, Assertion{}, withAlg(strings.Repeat("s", size), alg))
	}
}
