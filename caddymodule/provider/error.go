package provider

import (
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Error is a failure to get a token. Its Kind decides what the application is told and when the app tries again. Its
// Reason is shown to operators, so it must not quote the token endpoint.
type Error = token.Error

// Kind is the kind of a failure.
type Kind = token.Kind

// The kinds of failure.
const (
	// Unavailable: the token endpoint cannot be reached, or asks the client to come back later. The app tries again, with
	// growing pauses. The application gets status 503.
	Unavailable = token.Unavailable

	// Refused: the token endpoint refused the credential, or the configuration is wrong. The app tries again after at
	// least 30 seconds, or as soon as a secret changes. The application gets status 502.
	Refused = token.Refused

	// Unreadable: the token endpoint answered, but without a token that can be used. The app tries again, with growing
	// pauses. The application gets status 502.
	Unreadable = token.Unreadable
)

// Misconfigured makes the failure of a provider that cannot build a request because of its own configuration. The text
// of err is shown to operators, so err must name the option and must not quote a secret.
func Misconfigured(err error) *Error {
	return &Error{Kind: Refused, Reason: err.Error()}
}
