package devserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// The algorithms of RFC 7518, section 3.1, and RFC 8037.
var (
	rsaAlgs     = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	ecAlgs      = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
	hmacHashes  = map[string]func() hash.Hash{"HS256": sha256.New, "HS384": sha512.New384, "HS512": sha512.New}
	signingAlgs = append(slices.Clone(rsaAlgs), "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512")
)

func isHMAC(alg string) bool { return hmacHashes[alg] != nil }

// publicKey verifies JWTs.
type publicKey struct {
	public      crypto.PublicKey
	id          string // kid of a JWK
	certificate []byte // in DER
}

// algs returns the algorithms that fit the key.
func (k publicKey) algs() []string {
	switch key := k.public.(type) {
	case *rsa.PublicKey:
		return rsaAlgs
	case *ecdsa.PublicKey:
		if alg, ok := ecAlgs[key.Params().Name]; ok {
			return []string{alg}
		}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

// parseKey reads a JWK, or the first block of a PEM text. It returns the public half of a private key. Its errors do
// not repeat the text.
func parseKey(text string) (publicKey, error) {
	parse := parsePEM
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		parse = parseJWK
	}
	key, err := parse([]byte(text))
	if err != nil {
		return publicKey{}, err
	}
	if private, ok := key.public.(interface{ Public() crypto.PublicKey }); ok {
		key.public = private.Public()
	}
	if key.algs() == nil {
		return publicKey{}, errors.New("must be an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key")
	}
	return key, nil
}

func parseJWK(text []byte) (publicKey, error) {
	var key jose.JSONWebKey
	if json.Unmarshal(text, &key) != nil || !key.Valid() {
		return publicKey{}, errors.New("must be a key in PEM or a JWK")
	}
	return publicKey{public: key.Key, id: key.KeyID}, nil
}

func parsePEM(text []byte) (key publicKey, err error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return publicKey{}, errors.New("must be a key in PEM or a JWK")
	}
	switch block.Type {
	case "CERTIFICATE":
		return certificateKey(block.Bytes)
	case "PUBLIC KEY":
		key.public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key.public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "PRIVATE KEY":
		key.public, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key.public, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key.public, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return publicKey{}, errors.New("the PEM text holds neither a key nor a certificate")
	}
	if err != nil {
		return publicKey{}, fmt.Errorf("the PEM text holds a broken %s", block.Type)
	}
	return key, nil
}

// certificateKey returns the key of a certificate.
func certificateKey(der []byte) (publicKey, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return publicKey{}, errors.New("the PEM text holds a broken CERTIFICATE")
	}
	return publicKey{public: certificate.PublicKey, certificate: der}, nil
}

// parseCertificate reads the first certificate of a PEM text.
func parseCertificate(text string) (*x509.Certificate, error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("must be a certificate in PEM")
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
}
