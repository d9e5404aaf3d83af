package provider

import (
	"errors"
	"io/fs"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Error is a failure to get a token. Set these fields:
//
//   - Kind (Kind) decides the status that the application gets and when the app tries again. Required.
//   - Reason (string) describes the failure to operators. It must not quote the token endpoint or a secret. Required.
//   - Status (int) is the HTTP status of the token endpoint. Zero means that it did not answer.
//   - Code (string) is the error code of the token endpoint (RFC 6749 section 5.2), if any. Operators see it, so it must not
//     be free text.
//   - Passing (bool) makes the app try again as after an outage, although Kind is Refused: the answer shows no judgement of the
//     client. Answer.Read sets it for the answers of gateways. Default: false.
//   - RetryAfter (time.Duration) is how long the token endpoint asked the client to wait. Zero means that it did not ask.
//
// The errors of Client.Do and Answer.Read also have a Cause (Cause) and a Peer (Peer), on which the advice to operators
// depends. Return these errors unchanged to keep the advice. The app sets RetryAt.
type Error = token.Error

// Cause is where a failure of Client.Do or Answer.Read comes from, in one word, such as "proxy_login". Empty means that Kind,
// Status and Code suffice.
type Cause = token.Cause

// Peer is the party that a Cause is about: "" is the token endpoint, "issuer" the issuer with the metadata, and "proxy" the
// network proxy.
type Peer = token.Peer

// Kind is the kind of a failure.
type Kind = token.Kind

// The kinds of failure.
const (
	// Unavailable is the kind if the token endpoint cannot be reached or asks the client to come back later. The app tries
	// again after growing pauses. The application gets status 503.
	Unavailable = token.Unavailable

	// Refused is the kind if the token endpoint refused the credential or the configuration is wrong. The app tries again
	// after at least 30 seconds, or as soon as a secret changes. With Passing, it tries again as for Unavailable. The
	// application gets status 502.
	Refused = token.Refused

	// Unreadable is the kind if the token endpoint answered without a usable token. The app tries again after growing
	// pauses. The application gets status 502.
	Unreadable = token.Unreadable
)

// Misconfigured returns the failure of a provider that cannot build a request because of its configuration. Its kind is
// Refused. Operators see the text of err, so err must name the option and must not quote a secret.
func Misconfigured(err error) *Error {
	failed := &Error{Kind: Refused, Reason: err.Error()}
	if errors.Is(err, fs.ErrNotExist) {
		failed.Cause = token.CauseFile
	}
	return failed
}
