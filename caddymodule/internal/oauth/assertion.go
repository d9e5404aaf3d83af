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

// The registered names around assertions.
const (
	// AssertionJWTBearer is the type of a client assertion that is a JWT (RFC 7523 section 2.2).
	AssertionJWTBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

	// GrantJWTBearer is the grant whose proof is a JWT (RFC 7523 section 2.1).
	GrantJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

	// TypeClientAuthentication is the JWT type of a client assertion (RFC 10070). Servers that know RFC 7523 only
	// ignore it, or have to be told JWT.
	TypeClientAuthentication = "client-authentication+jwt"

	// TypeJWT is the JWT type of everything that has no type of its own.
	TypeJWT = "JWT"
)

// Assertion is a JWT that proves who asks (RFC 7523 section 3).
type Assertion struct {
	// Type is the header's typ; empty for none.
	Type string

	// Certificate, if there is one, is named in the header by its thumbprint (x5t#S256).
	Certificate *x509.Certificate

	// Issuer and Subject: for client authentication, both are the client id.
	Issuer, Subject string

	// Audience is the one recipient.
	Audience string

	// Claims are further claims, or others in the place of those above. An empty one leaves the claim out.
	Claims map[string]string
}

const (
	// assertionLifetime is how long an assertion can be used: servers refuse much more (Keycloak, by default).
	assertionLifetime = time.Minute

	// assertionBackdate makes up for a clock that is slightly ahead of the server's.
	assertionBackdate = 5 * time.Second
)

// Sign makes the JWT. Its jti is new each time, because servers accept each only once.
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
