package oauth

import (
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

// SigningKey signs assertions. The zero value signs nothing.
type SigningKey struct {
	key any // *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey, or []byte
	alg jose.SignatureAlgorithm

	// ID is the key's identifier, by which the server finds its public half; empty if the key has none.
	ID string
}

// Format implements fmt.Formatter: however a key is printed, it does not show.
func (SigningKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// minRSABits is RFC 7518 section 3.3's.
const minRSABits = 2048

var (
	errNoKey     = errors.New("it is neither a private key in PEM, nor a JWK, nor a key file with private_key in it")
	errEncrypted = errors.New("the key is encrypted: store it without a passphrase, readable by this process alone")
	errPublic    = errors.New("it has no private key in it: a certificate or a public key cannot sign")
)

// ParseSigningKey reads a private key: PEM (PKCS #8, PKCS #1 or SEC 1), a JWK (RFC 7517), or a JSON key file as Google
// issues them for service accounts. Its errors repeat nothing of it.
func ParseSigningKey(text string) (SigningKey, error) {
	if text = strings.TrimSpace(text); !strings.HasPrefix(text, "{") {
		return parsePEM(text)
	}
	file, _ := parseFields("application/json", []byte(text))
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
		found = errPublic // or parameters, or a certificate: the key may follow
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
	return SigningKey{}, errors.New("the private key in it is damaged, or of a kind that cannot sign")
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
	if k, err = k.WithAlg(jwk.Algorithm); err != nil { // which quotes the JWK
		return SigningKey{}, errors.New("the JWK is for another algorithm (alg) than its key can be used with")
	}
	return k, nil
}

// newSigningKey chooses the algorithm that every server knows for the kind of key.
func newSigningKey(key any) (SigningKey, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSABits {
			return SigningKey{}, fmt.Errorf("the RSA key has %d bits: it needs at least %d", key.N.BitLen(), minRSABits)
		}
	case *ecdsa.PrivateKey, ed25519.PrivateKey:
	default:
		return SigningKey{}, errors.New("a key of this kind cannot sign")
	}
	k := SigningKey{key: key}
	algs := k.algs()
	if len(algs) == 0 {
		return SigningKey{}, errors.New("no algorithm is defined for the curve of this key: use P-256, P-384, P-521 or Ed25519")
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok && !halvesMatch(ec) {
		return SigningKey{}, errors.New("the private key in it is damaged: its two halves do not belong together")
	}
	k.alg = algs[0]
	return k, nil
}

// halvesMatch reports whether the public half is the private one's. Of a JWK, nobody else compares them, and signatures
// that no server accepts would be all that comes of it.
func halvesMatch(key *ecdsa.PrivateKey) bool {
	private, err := key.ECDH()
	if err != nil {
		return false
	}
	public, err := key.PublicKey.ECDH()
	return err == nil && private.PublicKey().Equal(public)
}

// SecretKey makes a key of a client secret, for client_secret_jwt.
func SecretKey(secret string) SigningKey {
	return SigningKey{key: []byte(secret), alg: jose.HS256}
}

// algs lists what the key can be used with (RFC 7518 section 3.1, RFC 8037 section 3.1), the usual one first.
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

// WithAlg returns the key for use with another algorithm, by its name in JWTs.
func (k SigningKey) WithAlg(alg string) (SigningKey, error) {
	fitting := k.algs()
	if !slices.Contains(fitting, jose.SignatureAlgorithm(alg)) {
		return SigningKey{}, fmt.Errorf("this algorithm does not fit the key, which can be used with %s", names(fitting))
	}
	k.alg = jose.SignatureAlgorithm(alg)
	return k, nil
}

func names(algs []jose.SignatureAlgorithm) string {
	var list []string
	for _, alg := range algs {
		list = append(list, string(alg))
	}
	return strings.Join(list, ", ")
}
