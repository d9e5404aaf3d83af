package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each algorithm signs what go-jose verifies, and the thumbprint is that of go-jose.
func TestAlgorithms(t *testing.T) {
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		t.Run(alg, func(t *testing.T) {
			key := newKey(t, alg)
			proof, err := key.Proof(Claims{Method: "GET", Target: "https://api.example.com/", Time: time.Unix(1, 0)})
			if err != nil {
				t.Fatal(err)
			}
			c, thumbprint := verify(t, proof)
			if c.Method != "GET" || thumbprint != key.Thumbprint() {
				t.Errorf("claims %+v, thumbprint %s, want %s", c, thumbprint, key.Thumbprint())
			}
			if !strings.Contains(string(decoded(t, proof[:strings.IndexByte(proof, '.')])), `"alg":"`+alg+`"`) {
				t.Error("the header has another alg")
			}
			if key.Alg() != alg {
				t.Errorf("Alg returns %s", key.Alg())
			}
			if !In("malformed answer: " + proof) {
				t.Error("In does not recognize the proof")
			}
		})
	}
}

func TestKeyThatDoesNotFit(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		key crypto.Signer
		alg string
	}{
		{ec, "ES384"}, {ec, "EdDSA"}, {ec, "PS256"}, {ec, "HS256"}, {ec, "none"}, {ec, ""},
		{p224, "ES256"}, {ed, "ES256"}, {r, "ES256"}, {r, "EdDSA"}, {nil, "ES256"},
	} {
		if _, err := NewKey(tc.key, tc.alg); err == nil {
			t.Errorf("%T signs with %q", tc.key, tc.alg)
		}
	}
	for _, alg := range []string{"", "none", "HS256", "es256"} {
		if _, err := Generate(alg); err == nil {
			t.Errorf("a key is generated for %q", alg)
		}
	}
}

// A coordinate that begins with zeros keeps them (RFC 7518 section 6.2.1.2), and so does a part of the signature.
func TestLeadingZeros(t *testing.T) {
	for short := 0; short < 2; {
		key := newKey(t, "ES256")
		proof, err := key.Proof(Claims{Method: "GET", Target: "https://api.example.com/", Time: time.Unix(1, 0)})
		if err != nil {
			t.Fatal(err)
		}
		verify(t, proof)
		signature := decoded(t, proof[strings.LastIndexByte(proof, '.')+1:])
		if len(signature) != 64 {
			t.Fatalf("the signature has %d bytes", len(signature))
		}
		if signature[0] == 0 || signature[32] == 0 {
			short++
		}
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	key := newKey(t, "ES256")
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %q %x", key, key, key, key, key, key)} {
		if strings.ReplaceAll(strings.ReplaceAll(text, "[redacted]", ""), " ", "") != "" {
			t.Errorf("the key is printed as %s", text)
		}
	}
}
