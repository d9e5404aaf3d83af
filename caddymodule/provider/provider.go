// Package provider lets other modules add providers to token_proxy. A provider supports one kind of token endpoint.
//
// A provider is a Caddy module in the namespace token_proxy.providers that implements [Provider]. It builds the request
// for a token and reads the answer. The app token_proxy does the rest. It caches tokens, refreshes them before they
// expire, retries, limits the size and the time of answers, and keeps secrets and tokens out of logs and errors.
//
// A provider can also implement these interfaces:
//
//   - [SecretHolder] for secrets of its own,
//   - [SecretChecker] to check the client secret when Caddy loads the configuration,
//   - [CertificateHolder] for a TLS client certificate,
//   - [DPoPHolder] for tokens that are bound to a key,
//   - [Discoverer] for a token endpoint that the metadata of an issuer names,
//   - [Learner] to remember something between token requests,
//   - [Stubber] for SDKs that insist on requesting a token themselves,
//   - Caddy's caddyfile.Unmarshaler for the Caddyfile.
//
// The folder examples/provider of the repository has a complete provider with a secret of its own.
package provider

import (
	"context"
	"net/http"
)

// Provider supports one kind of token endpoint.
//
// A Provider must be safe for concurrent use. It must not keep a Client or an Answer after a method returns.
//
// Credentials share tokens if they have the same client, the same transport and the same JSON configuration of the
// provider. Each field that makes a difference to the token must therefore be part of that JSON.
type Provider interface {
	// Endpoint returns the URL of the token endpoint or, for a Discoverer that has an issuer, the URL of the issuer. The
	// app calls it after Provision. Caddy does not load a configuration with an http URL beyond loopback, unless the
	// operator sets allow_plaintext.
	Endpoint() string

	// NeedsSecret reports whether the provider uses client_secret. If it does, client_secret is required. If it does not,
	// Caddy does not load a configuration with client_secret.
	NeedsSecret() bool

	// NewRequest builds the request for a token. Operators see the text of an error of type *Error. The app hides the text
	// of all other errors, because they may quote a secret.
	NewRequest(ctx context.Context, client Client) (*http.Request, error)

	// ReadAnswer returns the token in the answer of the token endpoint. Its errors are of type *Error.
	ReadAnswer(answer *Answer) (Issued, error)
}

// Client is the client that requests a token. The app reads it again for each token request, because secrets in files can
// change.
type Client struct {
	// ID is the client identifier (RFC 6749 section 2.2).
	ID string

	// Secret is the client secret. It is empty if NeedsSecret returns false.
	Secret Secret

	// Secrets are the provider's own secrets. It is nil unless the provider is a SecretHolder.
	Secrets Secrets

	// Claims are the claims that the API demands of the token (a claims challenge), as a JSON object, or "". A provider whose
	// token endpoint knows the parameter claims of OpenID Connect sends them in it.
	Claims string

	// Do sends a request that must precede the token request, such as a request for metadata. It uses the transport of the
	// credential and the limits of a token request. Its errors are of type *Error.
	Do func(req *http.Request) (*Answer, error)
}
