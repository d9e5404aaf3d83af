package provider

import (
	"crypto/tls"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Secret is text that prints and marshals as "[redacted]". Its method Reveal returns the text, and Empty reports whether it
// is empty.
//
// A field of a provider's configuration cannot be a Secret, because the JSON of the configuration would lose the text. Use a
// field that names where the secret is, such as the path of a file.
type Secret = token.Secret

// NewSecret returns a Secret with this text.
func NewSecret(text string) Secret { return token.NewSecret(text) }

// Secrets are a provider's own secrets, by the name of their option.
type Secrets map[string]Secret

// SecretHolder is a Provider with secrets of its own, such as a signing key, in addition to the client secret.
type SecretHolder interface {
	// Secrets reads the current secrets. An error names the option.
	//
	// The app calls Secrets once for each token request, and NewRequest gets the result in Client.Secrets. A request
	// therefore never mixes the old and the new content of a file. The app keeps all of these secrets out of logs and
	// errors. If a secret has changed since the token endpoint refused a request, the next request goes out without a
	// pause.
	Secrets() (Secrets, error)
}

// SecretChecker is a Provider that cannot use every client secret.
type SecretChecker interface {
	// CheckSecret returns an error if the provider cannot use the client secret. The app calls it when Caddy loads the
	// configuration. The error must not quote the secret.
	CheckSecret(secret Secret) error
}

// CertificateHolder is a SecretHolder whose client has a TLS certificate (RFC 8705). The app presents the certificate to the
// token endpoint. The token may be bound to the certificate, so the app also presents it to each API that requests one.
type CertificateHolder interface {
	// Certificate returns the certificate, made from the secrets that SecretHolder.Secrets has read for this token request.
	// It returns nil if the client has no certificate. An error names the option.
	Certificate(secrets Secrets) (*tls.Certificate, error)
}
