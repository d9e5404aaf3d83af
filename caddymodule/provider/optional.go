package provider

import "time"

// Discoverer is a Provider that can be given an issuer in the place of a token endpoint.
type Discoverer interface {
	// ByIssuer reports whether Endpoint returns an issuer (RFC 8414). The provider then finds the token endpoint in the
	// issuer's metadata.
	ByIssuer() bool
}

// Learner is a Provider that remembers between token requests where the token endpoint is.
type Learner interface {
	// Doubt tells the provider that a token request failed, and how.
	Doubt(err error)

	// Inherit takes over what the provider of the same credential learned before a reload.
	Inherit(from Provider)
}

// Stubber is a Provider whose token endpoint can be imitated, for SDKs that insist on requesting a token themselves.
type Stubber interface {
	// Stub returns the JSON of an answer with this token, which is valid from now for the lifetime.
	Stub(token string, now time.Time, lifetime time.Duration) any
}
