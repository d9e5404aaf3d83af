package provider

import (
	"crypto/tls"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Secret is text that prints as "[redacted]" in every format. Its Reveal method returns the text.
type Secret = token.Secret

// NewSecret makes a Secret of a text.
func NewSecret(text string) Secret { return token.NewSecret(text) }

// Secrets are a provider's own secrets by the option that each one comes from.
type Secrets map[string]Secret

// SecretHolder is a Provider with secrets beside the client secret, such as a signing key.
type SecretHolder interface {
	// Secrets reads the secrets as they are now. An error names the option.
	//
	// The app calls it once for each token request and passes the result on in Client.Secrets, so that one request cannot
	// mix the old and the new content of files. The app never shows any of the secrets. If one has changed since the token
	// endpoint refused a request, the app sends the next request without a pause.
	Secrets() (Secrets, error)
}

// SecretChecker is a Provider that cannot use every client secret.
type SecretChecker interface {
	// CheckSecret reports what is wrong with a client secret when the configuration is loaded. Its error must not show
	// the secret.
	CheckSecret(secret Secret) error
}

// CertificateHolder is a Provider whose client has a TLS certificate (RFC 8705). The app presents it to the token
// endpoint, and to APIs that request one, because tokens may be bound to it.
type CertificateHolder interface {
	// Certificate makes the certificate from the secrets that the app has read for a token request. It returns nil if the
	// client has no certificate. An error names the option.
	Certificate(secrets Secrets) (*tls.Certificate, error)
}
