package token

import (
	"fmt"
	"strings"
	"time"
)

// Kind is what a failure means for waiting requests and for the next call.
type Kind string

// The kinds of failure.
const (
	// Unavailable: the token endpoint cannot be reached, or asks to come back later (408, 425, 429, 5xx).
	// Tried again with backoff.
	Unavailable Kind = "unavailable"

	// Refused: the token endpoint refuses the credential, or the configuration is wrong, and a retry would fail in the
	// same way. Tried again after a cooldown, or as soon as the proof changes; with Error.Passing, like Unavailable.
	Refused Kind = "refused"

	// Unreadable: the token endpoint answered, but not with a usable token. Tried again with backoff.
	Unreadable Kind = "unreadable"

	// WaitedTooLong: the caller's deadline or Policy.MaxWait passed. The flight goes on for the others.
	WaitedTooLong Kind = "waited_too_long"
)

// Error is why a source has no token. Its text is safe to log: it consists of constants and the endpoint's error code,
// and of nothing else that the endpoint sent.
type Error struct {
	// Kind decides the answer to waiting requests, and when the next call is due.
	Kind Kind

	// Status is the HTTP status of the token endpoint's answer; 0 if there was none.
	Status int

	// Code is the token endpoint's `error` code (RFC 6749 section 5.2), if it sent a plausible one.
	Code string

	// Reason describes in constant words what happened.
	Reason string

	// Cause is what the operator should look at; empty if Kind, Status and Code suffice.
	Cause Cause

	// Peer is the party that the Cause is about.
	Peer Peer

	// Passing is set if the Kind is Refused, but the answer does not show that the token endpoint has judged the client: it may
	// come from a gateway that has no route for a moment. The next call is due as after an outage. Default: false.
	Passing bool

	// RetryAfter is how long the token endpoint asked to be left alone; 0 if it did not ask.
	RetryAfter time.Duration

	// RetryAt is when the next call is due. Set by the Source.
	RetryAt time.Time
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Reason)
	if e.Status != 0 {
		fmt.Fprintf(&b, " (status %d)", e.Status)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, " (error code %s)", e.Code)
	}
	return b.String()
}

// lasting reports whether a retry would fail in the same way.
func (e *Error) lasting() bool { return e.Kind == Refused && !e.Passing }
