package token

import (
	"context"
	"errors"
	"fmt"
)

// Fetcher asks a token endpoint for tokens.
type Fetcher interface {
	// Prepare reads whatever proves the client's identity (a secret file, a key), once for one call. It may be called at
	// any time, and calls that are never made cost nothing.
	Prepare() Call
}

// Admitter is a Fetcher that decides whether a call may be made while no valid token is there.
type Admitter interface {
	// Admit is asked once in each flight that would make such a call. If it returns an error, the flight makes no call and ends
	// with that error, which is no failure of the source. It must be quick.
	Admit() error
}

// Call is one call of a token endpoint that can be made. A call that has not returned when its context ended is
// abandoned, and may still run when the next one is made.
type Call struct {
	// Proof is what the client proves its identity with in this call. When it changes, a refusal of the old one no longer
	// counts. The source keeps only a digest of it.
	Proof Secret

	// Fetch asks for one token. Failures are of type *Error; any other error counts as Unreadable.
	Fetch func(ctx context.Context) (Issued, error)
}

// Make makes the call, and turns whatever a Fetcher does into an answer or an *Error.
func (c Call) Make(ctx context.Context) (issued Issued, failed *Error) {
	defer func() {
		if p := recover(); p != nil {
			failed = panicked(p)
		}
	}()
	issued, err := c.Fetch(ctx)
	if err == nil {
		if issued.Token.Empty() {
			return Issued{}, &Error{Kind: Unreadable, Reason: "the answer holds no token"}
		}
		return issued, nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return Issued{}, e
	}
	return Issued{}, &Error{Kind: Unreadable, Cause: CauseProvider, Reason: "the provider failed without saying why"}
}

// panicked describes a panic only by its type, because its value may hold a secret.
func panicked(p any) *Error {
	return &Error{Kind: Unreadable, Cause: CauseProvider, Reason: fmt.Sprintf("the provider panicked with a %T", p)}
}
