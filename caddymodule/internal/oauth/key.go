package oauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// SigningKey signs assertions. The zero value cannot sign.
type SigningKey struct {
	key any // *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey, or []byte
	alg jose.SignatureAlgorithm

	// ID is the key identifier (kid), by which the server finds the public key. Default: none.
	ID string
}

// Format implements fmt.Formatter. It prints "[redacted]" for every verb.
func (SigningKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// minRSABits is the minimum of RFC 7518 section 3.3.
const minRSABits = 2048

var (
	errNoKey     = errors.New("the value is neither a private key in PEM, nor a JWK, nor a key file with private_key")
	errEncrypted = errors.New("the key is encrypted; store it without a passphrase, in a file that only this process can read")
	errPublic    = errors.New("the value contains no private key, and a certificate or a public key cannot sign")
)

// ParseSigningKey parses a private key in PEM (PKCS #8, PKCS #1 or SEC 1), in a JWK (RFC 7517), or in the JSON key file of a
// Google service account. Its errors do not quote the key.
func ParseSigningKey(text string) (SigningKey, error) {
	if text = strings.TrimSpace(text); !strings.HasPrefix(text, "{") {
		return parsePEM(text)
	}
	file, _ := parseJSON([]byte(text))
	if key, _ := file.text("private_key"); key != "" {
		k, err := parsePEM(key)
		k.ID, _ = file.text("private_key_id")
		return k, err
	}
	return parseJWK(text)
}

func parsePEM(text string) (SigningKey, error) {
	found := errNoKey
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return SigningKey{}, found
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return SigningKey{}, errEncrypted
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return parseDER(block.Bytes)
		}
		found = errPublic // a certificate, a public key or parameters, which the private key may follow
	}
}

func parseDER(der []byte) (SigningKey, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return newSigningKey(key)
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return newSigningKey(key)
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return newSigningKey(key)
	}
	return SigningKey{}, errors.New("the private key is damaged or of a kind that cannot sign")
}

func parseJWK(text string) (SigningKey, error) {
	var jwk jose.JSONWebKey
	if jwk.UnmarshalJSON([]byte(text)) != nil {
		return SigningKey{}, errNoKey
	}
	if jwk.IsPublic() {
		return SigningKey{}, errPublic
	}
	k, err := newSigningKey(jwk.Key)
	if err != nil {
		return k, err
	}
	k.ID = jwk.KeyID
	if jwk.Algorithm == "" {
		return k, nil
	}
	if k, err = k.WithAlg(jwk.Algorithm); err != nil { // err could quote the JWK
		return SigningKey{}, errors.New("the algorithm (alg) of the JWK does not fit its key")
	}
	return k, nil
}

// newSigningKey checks a private key and chooses the most common algorithm for its kind.
func newSigningKey(key any) (SigningKey, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSABits {
			return SigningKey{}, fmt.Errorf("the RSA key has %d bits, but needs at least %d", key.N.BitLen(), minRSABits)
		}
	case *ecdsa.PrivateKey, ed25519.PrivateKey:
	default:
		return SigningKey{}, errors.New("a key of this kind cannot sign")
	}
	k := SigningKey{key: key}
	algs := k.algs()
	if len(algs) == 0 {
		return SigningKey{}, errors.New("no algorithm is defined for the curve of this key; use P-256, P-384, P-521 or Ed25519")
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok && !isPair(ec) {
		return SigningKey{}, errors.New("the private key is damaged, because its public part does not match")
	}
	k.alg = algs[0]
	return k, nil
}

// isPair reports whether the public part of the key matches the private part. go-jose does not compare the parts of a JWK,
// and no server would accept the signatures.
func isPair(key *ecdsa.PrivateKey) bool {
	private, err := key.ECDH()
	if err != nil {
		return false
	}
	public, err := key.PublicKey.ECDH()
	return err == nil && private.PublicKey().Equal(public)
}

// SecretKey returns the key of client_secret_jwt, which is the client secret itself. Its algorithm is HS256.
func SecretKey(secret string) SigningKey {
	return SigningKey{key: []byte(secret), alg: jose.HS256}
}

// algs returns the algorithms that fit the key (RFC 7518 section 3.1, RFC 8037 section 3.1), the most common one first.
func (k SigningKey) algs() []jose.SignatureAlgorithm {
	switch key := k.key.(type) {
	case *rsa.PrivateKey:
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case ed25519.PrivateKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}
	case []byte:
		return []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}
		}
	}
	return nil
}

// WithAlg returns the key with another algorithm (alg). It returns an error if the algorithm does not fit the key.
func (k SigningKey) WithAlg(alg string) (SigningKey, error) {
	fitting := k.algs()
	if !slices.Contains(fitting, jose.SignatureAlgorithm(alg)) {
		return SigningKey{}, fmt.Errorf("the algorithm does not fit the key; use %s", names(fitting))
	}
	k.alg = jose.SignatureAlgorithm(alg)
	return k, nil
}

// Signer returns the private key and the name of its algorithm (alg). The key of SecretKey is not one.
func (k SigningKey) Signer() (private crypto.Signer, alg string) {
	private, _ = k.key.(crypto.Signer)
	return private, string(k.alg)
}

// privateAlgs are the algorithms (alg) of private keys.
var privateAlgs = []jose.SignatureAlgorithm{
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA, jose.PS256, jose.PS384, jose.PS512, jose.RS256, jose.RS384, jose.RS512,
}

// CheckAlg returns an error if an algorithm (alg) has no private keys. "" stands for the default.
func CheckAlg(alg string) error {
	if alg == "" || slices.Contains(privateAlgs, jose.SignatureAlgorithm(alg)) {
		return nil
	}
	return fmt.Errorf("unknown algorithm, must be one of %s", names(privateAlgs))
}

// FirstAlg returns the first algorithm of private keys that a list has, in the order ES, EdDSA, PS, RS. Without any, it returns "".
func FirstAlg(list []string) string {
	for _, alg := range privateAlgs {
		if slices.Contains(list, string(alg)) {
			return string(alg)
		}
	}
	return ""
}

func names(algs []jose.SignatureAlgorithm) string {
	var list []string
	for _, alg := range algs {
		list = append(list, string(alg))
	}
	return strings.Join(list, ", ")
}
