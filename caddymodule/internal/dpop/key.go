// Package dpop proves to a server that the sender of a token has the key that the token is bound to (RFC 9449).
package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for the algorithms with 384 and 512
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
)

// DefaultAlg is the algorithm that most servers know.
const DefaultAlg = "ES256"

// Key is a private key that signs proofs. It is safe for concurrent use.
type Key struct {
	alg        string
	sign       func(signed []byte) ([]byte, error)
	header     string // of each proof, encoded, with the dot after it
	thumbprint string
	series     string        // what each jti begins with; random, because replicas may have the same key
	proofs     atomic.Uint64 // how many have been made
}

// Format implements fmt.Formatter. It prints "[redacted]" for every verb.
func (*Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// NewKey returns a key that signs with the algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1). It returns an error if the
// algorithm does not fit the private key.
func NewKey(private crypto.Signer, alg string) (*Key, error) {
	k := &Key{alg: alg, series: rand.Text() + "-"}
	var jwk string
	switch key := private.(type) {
	case *ecdsa.PrivateKey:
		jwk, k.sign = newEC(key, alg)
	case *rsa.PrivateKey:
		jwk, k.sign = newRSA(key, alg)
	case ed25519.PrivateKey:
		jwk, k.sign = newEd25519(key, alg)
	}
	if k.sign == nil {
		return nil, errors.New("the algorithm does not fit the key")
	}
	digest := sha256.Sum256([]byte(jwk))
	k.thumbprint = encode(digest[:])
	k.header = encode([]byte(`{"typ":"dpop+jwt","alg":"`+alg+`","jwk":`+jwk+`}`)) + "."
	return k, nil
}

// Generate returns a new key for the algorithm.
func Generate(alg string) (*Key, error) {
	private, err := generate(alg)
	if err != nil {
		return nil, err
	}
	return NewKey(private, alg)
}

func generate(alg string) (crypto.Signer, error) {
	for name, curve := range curves {
		if name == alg {
			return ecdsa.GenerateKey(curve.curve, rand.Reader)
		}
	}
	if _, ok := rsaHashes[alg]; ok {
		return rsa.GenerateKey(rand.Reader, 2048) // the minimum of RFC 7518 section 3.3
	}
	if alg == algEdDSA {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, errors.New("unknown algorithm")
}

// Alg returns the algorithm.
func (k *Key) Alg() string { return k.alg }

// Thumbprint returns the SHA-256 thumbprint of the public key (RFC 7638), by which servers know the key.
func (k *Key) Thumbprint() string { return k.thumbprint }

// The functions below return the public key as a JWK, and the function that signs with the private key. The JWK has only the
// required members, in their lexicographic order, because its thumbprint is the digest of that text (RFC 7638 section 3.2).

var curves = map[string]struct {
	curve elliptic.Curve
	hash  crypto.Hash
}{
	"ES256": {elliptic.P256(), crypto.SHA256},
	"ES384": {elliptic.P384(), crypto.SHA384},
	"ES512": {elliptic.P521(), crypto.SHA512},
}

func newEC(key *ecdsa.PrivateKey, alg string) (jwk string, sign func([]byte) ([]byte, error)) {
	fitting, ok := curves[alg]
	if !ok || fitting.curve != key.Curve {
		return "", nil
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return "", nil
	}
	size := (len(point) - 1) / 2 // the point is a byte, x and y
	x, y := point[1:1+size], point[1+size:]
	jwk = `{"crv":"` + key.Params().Name + `","kty":"EC","x":"` + encode(x) + `","y":"` + encode(y) + `"}`
	return jwk, func(signed []byte) ([]byte, error) {
		r, s, err := ecdsa.Sign(rand.Reader, key, digestOf(fitting.hash, signed))
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 2*size) // RFC 7518 section 3.4
		r.FillBytes(signature[:size])
		s.FillBytes(signature[size:])
		return signature, nil
	}
}

var rsaHashes = map[string]crypto.Hash{
	"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512,
	"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512,
}

func newRSA(key *rsa.PrivateKey, alg string) (jwk string, sign func([]byte) ([]byte, error)) {
	hash, ok := rsaHashes[alg]
	if !ok {
		return "", nil
	}
	var options crypto.SignerOpts = hash
	if alg[0] == 'P' {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash} // RFC 7518 section 3.5
	}
	return rsaJWK(&key.PublicKey), func(signed []byte) ([]byte, error) {
		return key.Sign(rand.Reader, digestOf(hash, signed), options)
	}
}

func rsaJWK(key *rsa.PublicKey) string {
	exponent := big.NewInt(int64(key.E)).Bytes()
	return `{"e":"` + encode(exponent) + `","kty":"RSA","n":"` + encode(key.N.Bytes()) + `"}`
}

const algEdDSA = "EdDSA"

func newEd25519(key ed25519.PrivateKey, alg string) (jwk string, sign func([]byte) ([]byte, error)) {
	if alg != algEdDSA {
		return "", nil
	}
	public := key.Public().(ed25519.PublicKey)
	jwk = `{"crv":"Ed25519","kty":"OKP","x":"` + encode(public) + `"}`
	return jwk, func(signed []byte) ([]byte, error) { return ed25519.Sign(key, signed), nil }
}

func digestOf(hash crypto.Hash, text []byte) []byte {
	h := hash.New()
	h.Write(text)
	return h.Sum(nil)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
