package oauth

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func rsaKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	return must(key, err)
}

// It takes long to generate an RSA key, so the tests share them.
var (
	rsa2048 = sync.OnceValue(func() *rsa.PrivateKey { return rsaKey(2048) })
	rsa1024 = sync.OnceValue(func() *rsa.PrivateKey { return rsaKey(1024) })
	rsa2040 = sync.OnceValue(func() *rsa.PrivateKey { return rsaKey(2040) })
)

func ecKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	return must(key, err)
}

func edKey() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return must(key, err)
}

// must is for calls that fail only if the test is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(key any) string { return pemText("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))) }

func pkcs1(key *rsa.PrivateKey) string {
	return pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func sec1(key *ecdsa.PrivateKey) string {
	return pemText("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key)))
}

func publicPEM(key crypto.Signer) string {
	return pemText("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(key.Public())))
}

func jwkText(key jose.JSONWebKey) string { return string(must(json.Marshal(key))) }

// jwkWith returns the JWK of a key with another value of one member. The value nil removes the member.
func jwkWith(key any, name string, value any) string {
	var members map[string]any
	if err := json.Unmarshal([]byte(jwkText(jose.JSONWebKey{Key: key})), &members); err != nil {
		panic(err)
	}
	members[name] = value
	if value == nil {
		delete(members, name)
	}
	return string(must(json.Marshal(members)))
}

func googleFile(pem, id string) string {
	return string(must(json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": id, "private_key": pem,
		"client_email": "a@p.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
	}, "", "  ")))
}

// The names of members of a key file are case-sensitive.
func TestSigningKeyNamesAreExact(t *testing.T) {
	file := googleFile(pkcs8(rsa2048()), "id")
	if _, err := ParseSigningKey(strings.Replace(file, `"private_key"`, `"Private_Key"`, 1)); !errors.Is(err, errNoKey) {
		t.Errorf("got error %v", err)
	}
	k, err := ParseSigningKey(strings.Replace(file, `"private_key_id"`, `"Private_Key_ID"`, 1))
	if err != nil || k.ID != "" {
		t.Errorf("got the identifier %q, %v", k.ID, err)
	}
}

func TestSigningKey(t *testing.T) {
	p256, p384, p521, ed := ecKey(elliptic.P256()), ecKey(elliptic.P384()), ecKey(elliptic.P521()), edKey()
	// "openssl ecparam -genkey" writes the curve before the key. A key may also follow its certificates.
	parameters := pemText("EC PARAMETERS", []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})
	certificate := pemText("CERTIFICATE", newAuthority(t).certificate.Raw)

	for name, tc := range map[string]struct {
		text string
		key  crypto.Signer
		alg  jose.SignatureAlgorithm
		id   string
	}{
		"PKCS #8, RSA":                   {pkcs8(rsa2048()), rsa2048(), jose.RS256, ""},
		"PKCS #8, P-256":                 {pkcs8(p256), p256, jose.ES256, ""},
		"PKCS #8, P-384":                 {pkcs8(p384), p384, jose.ES384, ""},
		"PKCS #8, P-521":                 {pkcs8(p521), p521, jose.ES512, ""},
		"PKCS #8, Ed25519":               {pkcs8(ed), ed, jose.EdDSA, ""},
		"PKCS #1":                        {pkcs1(rsa2048()), rsa2048(), jose.RS256, ""},
		"SEC 1":                          {sec1(p256), p256, jose.ES256, ""},
		"SEC 1, P-521":                   {sec1(p521), p521, jose.ES512, ""},
		"SEC 1 after its parameters":     {parameters + sec1(p256), p256, jose.ES256, ""},
		"a key after its certificates":   {certificate + certificate + pkcs8(p256), p256, jose.ES256, ""},
		"a key before its certificate":   {pkcs8(p256) + certificate, p256, jose.ES256, ""},
		"a key after its public half":    {publicPEM(p256) + pkcs8(p256), p256, jose.ES256, ""},
		"text around it":                 {"Bag Attributes\n    friendlyName: x\n" + pkcs8(p256) + "the end\n", p256, jose.ES256, ""},
		"white space around it":          {"\n \t" + pkcs8(p256) + " \n", p256, jose.ES256, ""},
		"CRLF":                           {strings.ReplaceAll(pkcs8(p256), "\n", "\r\n"), p256, jose.ES256, ""},
		"no line break at the end":       {strings.TrimSpace(pkcs8(p256)), p256, jose.ES256, ""},
		"PKCS #8 with another label":     {pemText("RSA PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsa2048()))), rsa2048(), jose.RS256, ""},
		"JWK, RSA":                       {jwkText(jose.JSONWebKey{Key: rsa2048()}), rsa2048(), jose.RS256, ""},
		"JWK, RSA, with kid":             {jwkText(jose.JSONWebKey{Key: rsa2048(), KeyID: "k 1"}), rsa2048(), jose.RS256, "k 1"},
		"JWK, RSA, for PS384":            {jwkText(jose.JSONWebKey{Key: rsa2048(), Algorithm: "PS384"}), rsa2048(), jose.PS384, ""},
		"JWK, P-256, with kid, alg, use": {jwkText(jose.JSONWebKey{Key: p256, KeyID: "1", Algorithm: "ES256", Use: "sig"}), p256, jose.ES256, "1"},
		"JWK, P-384":                     {jwkText(jose.JSONWebKey{Key: p384}), p384, jose.ES384, ""},
		"JWK, P-521":                     {jwkText(jose.JSONWebKey{Key: p521}), p521, jose.ES512, ""},
		"JWK, Ed25519":                   {jwkText(jose.JSONWebKey{Key: ed}), ed, jose.EdDSA, ""},
		"JWK, Ed25519, for EdDSA":        {jwkText(jose.JSONWebKey{Key: ed, Algorithm: "EdDSA"}), ed, jose.EdDSA, ""},
		"JWK, white space around it":     {" \n" + jwkText(jose.JSONWebKey{Key: p256}) + "\n", p256, jose.ES256, ""},
		"Google's key file":              {googleFile(pkcs8(rsa2048()), "0a1b"), rsa2048(), jose.RS256, "0a1b"},
		"Google's key file without id":   {googleFile(pkcs8(rsa2048()), ""), rsa2048(), jose.RS256, ""},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseSigningKey(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if k.alg != tc.alg || k.ID != tc.id {
				t.Errorf("got alg %s and id %q, want %s and %q", k.alg, k.ID, tc.alg, tc.id)
			}
			jwt := sign(t, Assertion{Issuer: "id"}, k)
			verify(t, jwt, tc.alg, tc.key.Public())
		})
	}
}

// keyErrors contains all texts of the errors of ParseSigningKey, with N for the number of bits. An error with one of these
// texts cannot show the key.
var keyErrors = []string{
	errNoKey.Error(), errEncrypted.Error(), errPublic.Error(),
	"the private key is damaged or of a kind that cannot sign",
	"the private key is damaged, because its public part does not match",
	"a key of this kind cannot sign",
	"the RSA key has N bits, but needs at least 2048",
	"no algorithm is defined for the curve of this key; use P-256, P-384, P-521 or Ed25519",
	"the algorithm (alg) of the JWK does not fit its key",
}

var bitCount = regexp.MustCompile(`has \d{1,5} bits`)

func constantKeyError(err error) bool {
	return slices.Contains(keyErrors, bitCount.ReplaceAllString(err.Error(), "has N bits"))
}

func TestInvalidSigningKey(t *testing.T) {
	p256, p384, p224 := ecKey(elliptic.P256()), ecKey(elliptic.P384()), ecKey(elliptic.P224())
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	withScalar := func(d []byte) string { return jwkWith(p256, "d", base64.RawURLEncoding.EncodeToString(d)) }
	whole := pkcs8(p256)
	damaged := must(x509.MarshalPKCS8PrivateKey(p256))
	damaged = damaged[:len(damaged)-20]
	oldStyle := string(pem.EncodeToMemory(&pem.Block{
		Type:    "RSA PRIVATE KEY",
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC," + strings.Repeat("C4", 16)},
		Bytes:   x509.MarshalPKCS1PrivateKey(rsa2048()),
	}))

	for name, tc := range map[string]struct{ text, want string }{
		"nothing":                       {"", "neither"},
		"white space":                   {" \n\t ", "neither"},
		"garbage":                       {canary + " is no key of any kind whatsoever", "neither"},
		"binary garbage":                {"\x00\xff" + canary, "neither"},
		"DER":                           {string(must(x509.MarshalPKCS8PrivateKey(p256))), "neither"},
		"a path":                        {"/run/secrets/" + canary + ".pem", "neither"},
		"base64 alone":                  {strings.Join(strings.Split(whole, "\n")[1:3], "\n"), "neither"},
		"truncated text":                {whole[:len(whole)-40], "neither"},
		"a first line alone":            {"-----BEGIN PRIVATE KEY-----\n", "neither"},
		"one line":                      {strings.ReplaceAll(whole, "\n", " "), "neither"},
		"truncated DER":                 {pemText("PRIVATE KEY", damaged), "damaged"},
		"no DER":                        {pemText("PRIVATE KEY", []byte(canary+canary+canary)), "damaged"},
		"an empty block":                {pemText("PRIVATE KEY", nil), "damaged"},
		"encrypted":                     {pemText("ENCRYPTED PRIVATE KEY", []byte(canary+canary)), "encrypted"},
		"encrypted, old style":          {oldStyle, "encrypted"},
		"encrypted after a certificate": {pemText("CERTIFICATE", []byte(canary)) + oldStyle, "encrypted"},
		"an OpenSSH key":                {pemText("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00"+canary)), "damaged"},
		"a DSA key":                     {pemText("DSA PRIVATE KEY", []byte{0x30, 0x03, 0x02, 0x01, 0x00}), "damaged"},
		"an X25519 key":                 {pkcs8(x25519), "kind"},
		"a public key":                  {publicPEM(p256), "no private key"},
		"a PKCS #1 public key":          {pemText("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsa2048().PublicKey)), "no private key"},
		"a certificate":                 {pemText("CERTIFICATE", newAuthority(t).certificate.Raw), "no private key"},
		"parameters alone":              {pemText("EC PARAMETERS", []byte{6, 0}), "no private key"},
		"RSA with 1024 bits":            {pkcs8(rsa1024()), "1024 bits"},
		"RSA with 1024 bits, PKCS #1":   {pkcs1(rsa1024()), "1024 bits"},
		"RSA with 2040 bits":            {pkcs8(rsa2040()), "2040 bits"},
		"P-224":                         {pkcs8(p224), "curve"},
		"P-224, SEC 1":                  {sec1(p224), "curve"},
		"JWK, RSA with 1024 bits":       {jwkText(jose.JSONWebKey{Key: rsa1024()}), "1024 bits"},
		"JWK, public":                   {jwkText(jose.JSONWebKey{Key: p256.Public(), KeyID: canary}), "no private key"},
		"JWK, public RSA":               {jwkText(jose.JSONWebKey{Key: rsa2048().Public(), KeyID: canary}), "no private key"},
		"JWK, public Ed25519":           {jwkText(jose.JSONWebKey{Key: edKey().Public(), KeyID: canary}), "no private key"},
		"JWK, oct":                      {jwkText(jose.JSONWebKey{Key: []byte(strings.Repeat(canary, 10))}), "kind"},
		"JWK, oct with alg":             {jwkText(jose.JSONWebKey{Key: []byte(strings.Repeat(canary, 10)), Algorithm: "HS256"}), "kind"},
		"JWK, an unknown kind":          {jwkWith(p256, "kty", canary), "neither"},
		"JWK, an unknown curve":         {jwkWith(p256, "crv", canary), "neither"},
		"JWK, another curve":            {jwkWith(p256, "crv", "P-384"), "neither"},
		"JWK, alg of another curve":     {jwkText(jose.JSONWebKey{Key: p256, Algorithm: "ES384"}), "alg"},
		"JWK, alg none":                 {jwkText(jose.JSONWebKey{Key: p256, Algorithm: "none"}), "alg"},
		"JWK, alg to encrypt":           {jwkText(jose.JSONWebKey{Key: rsa2048(), Algorithm: "RSA-OAEP"}), "alg"},
		"JWK, alg of a secret":          {jwkText(jose.JSONWebKey{Key: rsa2048(), Algorithm: "HS256"}), "alg"},
		"JWK, an unknown alg":           {jwkText(jose.JSONWebKey{Key: rsa2048(), Algorithm: canary + " in alg"}), "alg"},
		"JWK, RSA without primes":       {jwkWith(rsa2048(), "p", nil), "neither"},
		"JWK, d of another type":        {jwkWith(p256, "d", 7), "neither"},
		"JWK, d of another size":        {jwkWith(p256, "d", "c4n4ry"), "neither"},
		"JWK, halves of two keys":       {withScalar(must(ecKey(elliptic.P256()).Bytes())), "damaged"},
		"JWK, d is zero":                {withScalar(make([]byte, 32)), "damaged"},
		"JWK, d is the order":           {withScalar(elliptic.P256().Params().N.Bytes()), "damaged"},
		"JWK, halves of two Ed25519":    {jwkWith(edKey(), "x", strings.Repeat("A", 43)), "neither"},
		"JWK, RSA modulus of another":   {jwkWith(rsa2048(), "n", strings.Repeat("A", 342)), "neither"},
		"JWK Set":                       {`{"keys":[` + jwkText(jose.JSONWebKey{Key: p384}) + `]}`, "neither"},
		"JWK, cut":                      {jwkText(jose.JSONWebKey{Key: p256})[:100], "neither"},
		"JWK, two":                      {jwkText(jose.JSONWebKey{Key: p256}) + jwkText(jose.JSONWebKey{Key: p384}), "neither"},
		"JSON of something else":        {`{"secret":"` + canary + canary + `"}`, "neither"},
		"an empty object":               {`{}`, "neither"},
		"an array":                      {`[` + jwkText(jose.JSONWebKey{Key: p256}) + `]`, "neither"},
		"Google's, without key":         {googleFile("", canary), "neither"},
		"Google's, key of another type": {`{"private_key":7,"private_key_id":"` + canary + `"}`, "neither"},
		"Google's, with garbage":        {googleFile(canary+canary+canary, canary), "neither"},
		"Google's, encrypted":           {googleFile(oldStyle, canary), "encrypted"},
		"Google's, RSA with 1024 bits":  {googleFile(pkcs8(rsa1024()), canary), "1024 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseSigningKey(tc.text)
			if err == nil {
				t.Fatal("ParseSigningKey accepts it")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want a text with %q", err, tc.want)
			}
			wantSilent(t, err)
			if !constantKeyError(err) || token.NewSecret(tc.text).In(err.Error()) {
				t.Errorf("the error may show a part of the key: %q", err)
			}
			if k.key != nil {
				t.Error("got a key in addition to the error")
			}
		})
	}
}

// An algorithm fits one kind of key (RFC 7518 section 3.1). An algorithm of ECDSA fits one curve.
func TestSigningKeyAlgs(t *testing.T) {
	all := []string{
		"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
		"none", "", "rs256", "ES256K", "RSA-OAEP", "Ed25519",
	}
	for name, tc := range map[string]struct {
		key SigningKey
		fit []string
	}{
		"RSA":      {parsed(t, pkcs8(rsa2048())), all[0:6]},
		"P-256":    {parsed(t, pkcs8(ecKey(elliptic.P256()))), all[6:7]},
		"P-384":    {parsed(t, pkcs8(ecKey(elliptic.P384()))), all[7:8]},
		"P-521":    {parsed(t, pkcs8(ecKey(elliptic.P521()))), all[8:9]},
		"Ed25519":  {parsed(t, pkcs8(edKey())), all[9:10]},
		"a secret": {SecretKey(strings.Repeat("s", 64)), all[10:13]},
		"no key":   {SigningKey{}, nil},
	} {
		for _, alg := range all {
			k, err := tc.key.WithAlg(alg)
			if fits := slices.Contains(tc.fit, alg); (err == nil) != fits {
				t.Errorf("%s with %q: got %v", name, alg, err)
			} else if fits && string(k.alg) != alg {
				t.Errorf("%s with %q: got %s", name, alg, k.alg)
			}
			if err == nil {
				continue
			}
			if k.key != nil {
				t.Errorf("%s with %q: got a key in addition to the error", name, alg)
			}
			for _, fit := range tc.fit {
				if !strings.Contains(err.Error(), fit) {
					t.Errorf("%s with %q: the error %q does not name %s, which fits", name, alg, err, fit)
				}
			}
		}
	}
}

func parsed(t *testing.T, text string) SigningKey {
	t.Helper()
	k, err := ParseSigningKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A log of a value that contains a key must not show the key.
func TestSigningKeyIsNotShown(t *testing.T) {
	k := SecretKey(canary)
	for _, v := range []any{k, &k, []SigningKey{k}, map[string]any{"k": k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			if text := fmt.Sprintf(verb, v); showsCanary(text) || strings.Contains(text, "99 52") {
				t.Errorf("printed with %s, a %T shows the key: %s", verb, v, text)
			}
		}
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k)
	if showsCanary(log.String()) || strings.Contains(log.String(), "99 52") {
		t.Errorf("the log shows the key: %s", log.String())
	}
}

// FuzzSigningKey checks that ParseSigningKey does not panic, that its errors do not quote the text, and that the public key
// verifies the signatures of an accepted key.
func FuzzSigningKey(f *testing.F) {
	p256, ed := ecKey(elliptic.P256()), edKey()
	for _, text := range []string{
		pkcs8(p256), sec1(p256), pkcs8(ed), pkcs8(rsa2048()), pkcs1(rsa1024()), publicPEM(p256),
		jwkText(jose.JSONWebKey{Key: p256, KeyID: "1", Algorithm: "ES256"}), jwkText(jose.JSONWebKey{Key: ed}),
		jwkText(jose.JSONWebKey{Key: rsa2048()}), jwkText(jose.JSONWebKey{Key: []byte(canary)}),
		googleFile(pkcs8(p256), "1"), pemText("ENCRYPTED PRIVATE KEY", []byte(canary)), "", "{", "-----BEGIN ",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseSigningKey(text)
		if err != nil {
			if k.key != nil || !constantKeyError(err) {
				t.Fatalf("got error %q and a key: %t", err, k.key != nil)
			}
			return
		}
		public := k.key.(crypto.Signer).Public()
		if key, ok := public.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
			t.Fatalf("accepted an RSA key of %d bits", key.N.BitLen())
		}
		verify(t, sign(t, Assertion{}, k), k.alg, public)
	})
}
