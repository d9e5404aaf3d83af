package token

import (
	"fmt"
	"strings"
	"time"
)

// Kind says what a failure means for those who wait and for the next call.
type Kind string

// The kinds of failure.
const (
	// Unavailable: the token endpoint cannot be reached, or asks to come back later (408, 425, 429, 5xx).
	// Tried again with backoff.
	Unavailable Kind = "unavailable"

	// Refused: the token endpoint, or our own configuration, says no, and will say so again until something
	// changes. Tried again after a cooldown, or as soon as the proof of identity changes.
	Refused Kind = "refused"

	// Unreadable: the token endpoint answered, but not with a usable token. Tried again with backoff.
	Unreadable Kind = "unreadable"

	// WaitedTooLong: the caller's deadline or Policy.MaxWait passed. The flight goes on for the others.
	WaitedTooLong Kind = "waited_too_long"
)

// Error is a failure to have a token. Its text is safe to log: it is made of constants and of the endpoint's
// error code, never of anything else that the endpoint sent.
type Error struct {
	// Kind decides who is told what.
	Kind Kind

	// Status is the HTTP status of the token endpoint's answer; 0 if there was none.
	Status int

	// Code is the token endpoint's `error` code (RFC 6749 section 5.2), if it sent a plausible one.
	Code string

	// Reason says in constant words what happened.
	Reason string

	// Cause says what to look at; empty if Kind, Status and Code say enough.
	Cause Cause

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
