package token

import (
	"context"
	"time"
)

const (
	// callGrace is how long after its deadline a call may take to report why it failed. After that it is abandoned.
	callGrace = 200 * time.Millisecond

	// maxCalls bounds the abandoned calls of a source that have not returned: each holds a goroutine.
	maxCalls = 16
)

// attempt is one call, and what came of it.
type attempt struct {
	proof  Secret // that the call was made with
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
	a.rotated = a.err != nil && a.err.Kind == Refused && !f.Prepare().Proof.Equal(a.proof)
	return a
}
