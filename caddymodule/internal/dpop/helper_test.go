package dpop

import (
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// claims are the claims of a proof as a server reads them.
type claims struct {
	ID     string `json:"jti"`
	Method string `json:"htm"`
	Target string `json:"htu"`
	Time   int64  `json:"iat"`
	Digest string `json:"ath"`
	Nonce  string `json:"nonce"`
}

// verify checks the signature of a proof with the key in its header, as a server does (RFC 9449 section 4.3), and returns its
// claims and the thumbprint of the key.
func verify(t testing.TB, proof string) (c claims, thumbprint string) {
	t.Helper()
	jws, err := jose.ParseSigned(proof, []jose.SignatureAlgorithm{
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	})
	if err != nil {
		t.Fatal(err)
	}
	header := jws.Signatures[0].Protected
	if header.ExtraHeaders[jose.HeaderType] != "dpop+jwt" {
		t.Errorf("typ is %v", header.ExtraHeaders[jose.HeaderType])
	}
	if !header.JSONWebKey.IsPublic() || !header.JSONWebKey.Valid() {
		t.Fatal("the header has no public key")
	}
	payload, err := jws.Verify(header.JSONWebKey.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	digest, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return c, base64.RawURLEncoding.EncodeToString(digest)
}

// newKey returns a new key.
func newKey(t testing.TB, alg string) *Key {
	t.Helper()
	k, err := Generate(alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// request returns a request with this method and URL.
func request(t testing.TB, method, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func decoded(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exampleRSA returns the public key in a JWK.
func exampleRSA(t testing.TB, text string) *rsa.PublicKey {
	t.Helper()
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return jwk.Key.(*rsa.PublicKey)
}
