package oauth

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// The registered names of assertions.
const (
	// AssertionJWTBearer is the client_assertion_type of a JWT (RFC 7523 section 2.2).
	AssertionJWTBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

	// GrantJWTBearer is the grant type with a JWT as the authorization grant (RFC 7523 section 2.1).
	GrantJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

	// TypeClientAuthentication is the JWT type of a client assertion (RFC 10070). A server that knows only RFC 7523 ignores
	// it or needs TypeJWT.
	TypeClientAuthentication = "client-authentication+jwt"

	// TypeJWT is the JWT type of assertions without a type of their own.
	TypeJWT = "JWT"
)

// Assertion is a JWT that a client signs as proof or as authorization grant (RFC 7523 section 3).
type Assertion struct {
	// Type is typ in the header. Default: none.
	Type string

	// Chain is the client certificate in DER, followed by the certificates of its authorities. Default: none.
	Chain [][]byte

	// CertificateFields are the fields of the header that name the certificate, such as CertificateSHA256. They need Chain.
	// Default: none.
	CertificateFields []string

	// Issuer and Subject are the claims iss and sub. For client authentication, both are the client id.
	Issuer, Subject string

	// Audience is the claim aud, the only recipient.
	Audience string

	// Claims are further claims, in JSON. They take precedence over the standard claims. An empty text removes the claim.
	Claims map[string]json.RawMessage
}

// The fields of a header that name the certificate of the key (RFC 7515 sections 4.1.6 to 4.1.8).
const (
	CertificateSHA256 = "x5t#S256" // the SHA-256 thumbprint
	CertificateSHA1   = "x5t"      // the SHA-1 thumbprint
	CertificateChain  = "x5c"      // the certificate and its chain
)

const (
	// assertionLifetime is the time from iat to exp. By default, Keycloak refuses assertions that live much longer.
	assertionLifetime = time.Minute

	// assertionBackdate puts iat into the past, in case the clock of the server is slightly behind.
	assertionBackdate = 5 * time.Second
)

// Sign returns the signed JWT. It has a new jti at each call, because a server accepts each jti only once. An error does not
// show the key.
func (a Assertion) Sign(k SigningKey) (string, error) {
	options := new(jose.SignerOptions)
	if a.Type != "" {
		options.WithType(jose.ContentType(a.Type))
	}
	if k.ID != "" {
		options.WithHeader("kid", k.ID)
	}
	for _, field := range a.CertificateFields {
		options.WithHeader(jose.HeaderKey(field), a.certificateField(field))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: k.key}, options)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(a.claims(time.Now()))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if errors.Is(err, jose.ErrInvalidKeySize) { // RFC 7518 section 3.2
		size := map[jose.SignatureAlgorithm]string{jose.HS256: "32", jose.HS384: "48", jose.HS512: "64"}[k.alg]
		return "", errors.New("the secret is too short for " + string(k.alg) + ", which needs " + size + " bytes")
	}
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// certificateField returns the value of a header field that names the certificate.
func (a Assertion) certificateField(name string) any {
	switch name {
	case CertificateSHA256:
		thumbprint := sha256.Sum256(a.Chain[0])
		return base64.RawURLEncoding.EncodeToString(thumbprint[:])
	case CertificateSHA1: // the hash identifies the certificate and protects nothing
		thumbprint := sha1.Sum(a.Chain[0])
		return base64.RawURLEncoding.EncodeToString(thumbprint[:])
	default:
		return a.Chain // encoding/json encodes bytes in standard base64, as section 4.1.6 requires
	}
}

func (a Assertion) claims(now time.Time) map[string]any {
	issued := now.Add(-assertionBackdate)
	claims := map[string]any{
		"iss": a.Issuer,
		"sub": a.Subject,
		"aud": a.Audience,
		"iat": issued.Unix(),
		"exp": issued.Add(assertionLifetime).Unix(),
		"jti": uuid.NewString(),
	}
	for name, value := range a.Claims {
		if string(value) == `""` {
			delete(claims, name)
			continue
		}
		claims[name] = value
	}
	return claims
}
