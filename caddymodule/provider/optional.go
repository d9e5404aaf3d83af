package provider

import "time"

// Discoverer is a Provider whose configuration can name an issuer instead of a token endpoint.
type Discoverer interface {
	// ByIssuer reports whether the configuration names an issuer. Endpoint then returns the URL of the issuer, and
	// NewRequest finds the token endpoint in the issuer's metadata (RFC 8414).
	ByIssuer() bool
}

// Learner is a Provider that remembers between token requests where the token endpoint is.
type Learner interface {
	// Doubt reports that a token request failed with err. The token endpoint may have moved.
	Doubt(err error)

	// Inherit copies what another provider has learned. The app calls it after a reload, with the provider that the
	// credential had before.
	Inherit(from Provider)
}

// Stubber is a Provider whose token endpoint the app can imitate, for SDKs that insist on requesting a token themselves.
type Stubber interface {
	// Stub returns the answer of the imitated token endpoint, which the app encodes as JSON. The token is valid from now
	// for the lifetime.
	Stub(token string, now time.Time, lifetime time.Duration) any
}
