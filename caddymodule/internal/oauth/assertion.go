package oauth

import (
	"crypto/sha256"
	"crypto/x509"
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

	// Certificate is the client certificate whose thumbprint the header contains as x5t#S256. Default: none.
	Certificate *x509.Certificate

	// Issuer and Subject are the claims iss and sub. For client authentication, both are the client id.
	Issuer, Subject string

	// Audience is the claim aud, the only recipient.
	Audience string

	// Claims are further claims. They take precedence over the standard claims. An empty value removes the claim.
	Claims map[string]string
}

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
	if a.Certificate != nil {
		thumbprint := sha256.Sum256(a.Certificate.Raw)
		options.WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(thumbprint[:]))
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
		return "", errors.New("the secret is too short for " + string(k.alg))
	}
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
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
		if value == "" {
			delete(claims, name)
			continue
		}
		claims[name] = value
	}
	return claims
}
