package caddymodule

import (
	"context"
	"crypto/tls"
	"net/http"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Provider knows one kind of token endpoint: how it is asked, and how its answer is read. Providers are Caddy
// modules in the namespace token_proxy.providers; anybody can write one. A provider that can be configured in a
// Caddyfile implements caddyfile.Unmarshaler as well.
//
// A provider must be safe for concurrent use, must not keep what it is given, and need not care about caching,
// timeouts, limits, retries or redaction: all that happens around it. Its JSON configuration is a part of what its
// tokens are known by: whatever shapes a token must be in it.
//
// What else there is to know of a provider, it says by implementing SecretHolder, SecretChecker, CertificateHolder,
// Discoverer, Learner and Stubber.
type Provider interface {
	// Endpoint is the URL that tokens are asked from, or that says where. It is known after provisioning, and is
	// checked then: https, or loopback, or allow_plaintext.
	Endpoint() string

	// NeedsSecret reports whether client_secret is required. If not, it is an error to give one.
	NeedsSecret() bool

	// NewRequest builds the request for one token. The text of an error of type *TokenError is shown, and that of any
	// other is not.
	NewRequest(ctx context.Context, client Client) (*http.Request, error)

	// ReadAnswer turns the endpoint's answer into a token. Failures are of type *TokenError.
	ReadAnswer(answer *Answer) (Issued, error)
}

// Secrets are the secrets that a provider holds itself, by the option that each comes from.
type Secrets map[string]Secret

// SecretHolder is a Provider with secrets of its own beside the client secret, such as a signing key.
type SecretHolder interface {
	// Secrets reads the secrets as they are now. It is called once for each token request, which gets what it returns in
	// Client.Secrets: a file that is replaced meanwhile cannot give one request two halves. None of the secrets is ever
	// shown, and if one has changed after the token endpoint has refused a request, the next request does not wait. An
	// error names the option.
	Secrets() (Secrets, error)
}

// SecretChecker is a Provider that cannot use just any client secret.
type SecretChecker interface {
	// CheckSecret says what is wrong with a client secret, when the configuration is loaded. The error must not show it.
	CheckSecret(secret Secret) error
}

// CertificateHolder is a Provider whose client has a TLS certificate (RFC 8705). The token endpoint sees it, and so do
// the APIs that ask for one, because tokens may be bound to it.
type CertificateHolder interface {
	// Certificate makes the certificate of the secrets that were read for a token request; nil if there is none. An error
	// names the option.
	Certificate(secrets Secrets) (*tls.Certificate, error)
}

// Discoverer is a Provider that may be told an issuer in the place of a token endpoint.
type Discoverer interface {
	// ByIssuer reports whether Endpoint is an issuer (RFC 8414), so that the token endpoint is known from its metadata
	// alone.
	ByIssuer() bool
}

// Learner is a Provider that learns, while it is asked, where the token endpoint is.
type Learner interface {
	// Doubt tells it of a failed token request.
	Doubt(err error)

	// Inherit takes over what the same provider has learned before a reload.
	Inherit(from Provider)
}

// Client is the identity that a token is asked for, as it is at this moment: secrets in files are read again for
// each request.
type Client struct {
	// ID is the client identifier (RFC 6749 section 2.2).
	ID string

	// Secret is the client secret; empty if the provider needs none.
	Secret Secret

	// Secrets are those that the provider holds itself, if it is a SecretHolder.
	Secrets Secrets

	// Do sends a request that has to come before the token request, such as for metadata, the way that token requests go.
	// The error, if any, is a *TokenError.
	Do func(req *http.Request) (*Answer, error)
}

// What a Provider gets and returns.
type (
	// Secret is text that shows as "[redacted]" however it is printed.
	Secret = token.Secret

	// Issued is a token as the endpoint issued it.
	Issued = token.Issued

	// TokenError is a failure to get a token. It says what to tell the application, and when to try again.
	TokenError = token.Error

	// Answer is what a token endpoint answered, within strict limits. Its Read method reads what follows RFC 6749
	// section 5.
	Answer = oauth.Answer

	// Layout tells Answer.Read where to find what.
	Layout = oauth.Layout
)
