// Package provider is what it takes to teach token_proxy another kind of token endpoint.
//
// A provider is a Caddy module in the namespace token_proxy.providers that implements [Provider]. It builds the request
// for one token and reads the answer. The app around it does the rest. It caches tokens, refreshes them before they
// expire, retries, bounds requests and answers, and keeps secrets and tokens out of logs and errors.
//
// A provider that needs more than that implements the optional interfaces [SecretHolder], [SecretChecker],
// [CertificateHolder], [Discoverer], [Learner] and [Stubber]. A provider that can be configured in a Caddyfile
// implements Caddy's caddyfile.Unmarshaler as well.
//
// The folder examples/provider has a complete provider with a secret of its own.
package provider

import (
	"context"
	"net/http"
)

// Provider knows one kind of token endpoint.
//
// It must be safe for concurrent use, and must not keep what it is given. The app identifies a token by the provider's
// JSON configuration, so each field that shapes a token must be part of that JSON.
type Provider interface {
	// Endpoint returns the URL of the token endpoint or, if the provider is a Discoverer, the URL of the issuer. The app
	// calls it after provisioning and refuses plaintext URLs beyond loopback, unless the operator sets allow_plaintext.
	Endpoint() string

	// NeedsSecret reports whether client_secret is required. If it is not, the app refuses a configuration that has one.
	NeedsSecret() bool

	// NewRequest builds the request for one token. The app shows the text of an error of type *Error. It hides the text
	// of any other error.
	NewRequest(ctx context.Context, client Client) (*http.Request, error)

	// ReadAnswer turns the answer of the token endpoint into a token. It reports failures as *Error.
	ReadAnswer(answer *Answer) (Issued, error)
}

// Client is the identity that the app requests a token for. The app reads it anew for each token request, because secrets
// in files can change.
type Client struct {
	// ID is the client identifier (RFC 6749 section 2.2).
	ID string

	// Secret is the client secret. It is empty if the provider needs none.
	Secret Secret

	// Secrets are the provider's own secrets, if it is a SecretHolder.
	Secrets Secrets

	// Do sends a request that must come before the token request, such as one for metadata. It uses the credential's
	// transport, with the same limits as a token request. Its error, if any, is an *Error.
	Do func(req *http.Request) (*Answer, error)
}
