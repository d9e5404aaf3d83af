package token

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// callGrace is how long after its deadline a call may take to report why it failed. After that it is abandoned.
	callGrace = 200 * time.Millisecond

	// maxCalls bounds the abandoned calls of a source that have not returned: each holds a goroutine.
	maxCalls = 16

	// proofPatience bounds how long a request waits to learn whether the proof has changed.
	proofPatience = 100 * time.Millisecond
)

// attempt is one call, and what came of it.
type attempt struct {
	proof  string // that the call was made with
	sent   time.Time
	issued Issued
	err    *Error

	// rotated is set if the proof has changed since the token endpoint refused it.
	rotated bool
}

// try makes a call and waits for it until the deadline at most. A Fetcher that blocks must not hold up waiting requests
// or the next flight. The late result of an abandoned call is dropped.
func (s *Source) try(ctx context.Context, f Fetcher) attempt {
	if s.calls.Load() >= maxCalls {
		return attempt{sent: time.Now(), err: &Error{Kind: Unavailable, Cause: CauseProvider, Reason: "too many earlier calls of the provider have not returned"}}
	}
	s.calls.Add(1)
	begun := time.Now()
	done := make(chan attempt, 1)
	go func() {
		a := attempt{sent: begun, err: panicked(nil)} // unless something else happens: runtime.Goexit
		defer func() {
			if p := recover(); p != nil {
				a.err = panicked(p)
			}
			s.calls.Add(-1)
			done <- a
		}()
		a = makeAttempt(ctx, f)
	}()

	select {
	case a := <-done:
		return a
	case <-ctx.Done():
	}
	grace := time.NewTimer(callGrace)
	defer grace.Stop()
	select {
	case a := <-done:
		return a
	case <-grace.C:
		return attempt{sent: begun, err: &Error{Kind: Unavailable, Cause: CauseProvider, Reason: "the provider did not return within fetch_timeout"}}
	}
}

func makeAttempt(ctx context.Context, f Fetcher) attempt {
	call := f.Prepare()
	a := attempt{proof: call.Proof, sent: time.Now()}
	a.issued, a.err = call.Make(ctx)
	a.rotated = a.err != nil && a.err.Kind == Refused && f.Prepare().Proof != a.proof
	return a
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

// proofChanged compares the proof with the one that the token endpoint refused, but not at every request. A request
// waits for the comparison only briefly. If the Fetcher blocks, the result counts when it arrives.
func (s *Source) proofChanged(f *failure, now time.Time) bool {
	since, next := now.Sub(s.made), s.nextProofCheck.Load()
	if since < time.Duration(next) || !s.nextProofCheck.CompareAndSwap(next, int64(since+proofCheckInterval)) {
		return false
	}
	if !s.proving.CompareAndSwap(false, true) { // one is enough
		return false
	}
	changed := make(chan bool, 1)
	go func() { changed <- s.compareProof(f) }()
	patience := time.NewTimer(proofPatience)
	defer patience.Stop()
	select {
	case yes := <-changed:
		return yes
	case <-patience.C:
		return false
	}
}

// compareProof ends the failure if the proof has changed since.
func (s *Source) compareProof(f *failure) (changed bool) {
	defer s.proving.Store(false)
	defer func() {
		if recover() != nil {
			changed = false
		}
	}()
	if s.config.Load().Fetcher.Prepare().Proof == f.proof {
		return false
	}
	s.failure.CompareAndSwap(f, nil)
	return true
}
