package share

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Error is a failure that a Store can explain.
type Error struct {
	// Reason explains the failure in constant words, because it is logged and shown.
	Reason string

	// Err is what failed. Its text is not shown: it may hold addresses and passwords.
	Err error
}

// Error implements error. It returns the reason only.
func (e *Error) Error() string { return e.Reason }

// Unwrap returns what failed.
func (e *Error) Unwrap() error { return e.Err }

// Failure describes why a store failed, without any text of the error: that may hold addresses and passwords.
type Failure struct {
	// Class is "timeout", "refused" (the connection was) or "other".
	Class string

	// Type is the Go type of the error. Empty: the store did not answer in time.
	Type string

	// Reason is how the store explains the failure, in constant words. Empty: it does not.
	Reason string
}

// String returns all that is known of the failure.
func (f Failure) String() string {
	text := f.Class
	if f.Type != "" {
		text += " (" + f.Type + ")"
	}
	if f.Reason != "" {
		text += ": " + f.Reason
	}
	return text
}

// failureOf describes an error. Nil stands for the time that has run out.
func failureOf(err error) Failure {
	if err == nil {
		return Failure{Class: "timeout"}
	}
	f := Failure{Class: "other", Type: typeOf(err)}
	if explained, ok := errors.AsType[*Error](err); ok {
		f.Reason = explained.Reason
		f.Type = typeOf(explained.Err)
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout() {
		f.Class = "timeout"
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		f.Class = "refused"
	}
	return f
}

// typeOf returns the type of the first error in the chain that is more than a text around another.
func typeOf(err error) string {
	for err != nil {
		wrapped := errors.Unwrap(err)
		if name := fmt.Sprintf("%T", err); name != "*fmt.wrapError" || wrapped == nil {
			return name
		}
		err = wrapped
	}
	return ""
}
