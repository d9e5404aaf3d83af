package token

import (
	"context"
	"time"
)

// Acquire returns a lease on a valid token. The error is of type *Error, the context's own if that ended first, or that of an
// Admitter.
func (s *Source) Acquire(ctx context.Context) (Lease, error) {
	return s.AcquireWithin(ctx, 0)
}

// AcquireWithin is Acquire for a caller that has a MaxWait of its own; 0 means the policy's.
func (s *Source) AcquireWithin(ctx context.Context, maxWait time.Duration) (Lease, error) {
	now := time.Now()
	if t := s.current.Load(); t.fresh(now) {
		t.touch()
		return Lease{s, t, ServedFresh, maxWait}, nil
	}
	return s.acquireSlow(ctx, maxWait, now)
}

func (s *Source) acquireSlow(ctx context.Context, maxWait time.Duration, now time.Time) (Lease, error) {
	t := s.current.Load()
	if t.alive(now) && !t.rejected {
		return s.serveStale(ctx, maxWait, t, now)
	}
	failed := s.backingOff(now)
	s.await(failed)
	switch {
	case failed == nil, s.mayLook(now):
		return s.wait(ctx, maxWait)
	case t.alive(now): // rejected, but there is no other, and it may be good for other requests
		return Lease{s, t, ServedStale, maxWait}, nil
	default:
		return Lease{}, failed.err
	}
}

// serveStale serves the token while a flight replaces it. A token near its end may expire on the way to the API, so the request
// that starts the flight waits for it then, and in its last moment every request does. A token gets there if no request has used
// it, or if the flights before have failed.
func (s *Source) serveStale(ctx context.Context, maxWait time.Duration, t *Token, now time.Time) (Lease, error) {
	t.touch()
	stale := Lease{s, t, ServedStale, maxWait}
	if !s.mayRefresh(now) {
		return stale, nil
	}
	left, end, flying := t.left(now), t.end(), s.flying.Load()
	if s.current.Load() != t { // the flight has ended since the caller's look, and its token may serve at once
		return s.acquireSlow(ctx, maxWait, now)
	}
	last := min(end, lastMoment)
	if flying { // it may have begun in time, and bring the token any moment
		last /= 10
	}
	switch {
	case left <= last: // as good as expired
		return s.wait(ctx, maxWait)
	case left < end && !flying:
		short, cancel := context.WithTimeout(ctx, min(left-last, endPatience)) // then the token serves after all
		defer cancel()
		l, err := s.wait(short, maxWait)
		if err == nil || short.Err() == nil || ctx.Err() != nil {
			return l, err
		}
		return s.wait(ctx, maxWait) // it was purged meanwhile
	}
	s.refresh()
	return stale, nil
}

// wait joins the flight or starts it. The flight goes on if the caller leaves.
func (s *Source) wait(ctx context.Context, maxWait time.Duration) (Lease, error) {
	if maxWait <= 0 {
		maxWait = s.config.Load().Policy.MaxWait
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()

	var err error
	select {
	case result := <-s.group.DoChan("", s.flight):
		if result.Err == nil {
			t := result.Val.(*Token)
			t.touch()
			return Lease{s, t, ServedWaited, maxWait}, nil
		}
		err = result.Err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = &Error{Kind: WaitedTooLong, Reason: "no token within max_wait (" + maxWait.String() + ")"}
	}
	// A token near its end is better than none, and so is a rejected one: the rejection may have been about one resource.
	if t := s.current.Load(); t.alive(time.Now()) {
		return Lease{s, t, ServedStale, maxWait}, nil
	}
	return Lease{}, err
}

// refresh starts a flight for callers who would soon have to wait for one, unless one is running.
func (s *Source) refresh() {
	if !s.flying.Load() {
		s.group.DoChan("", s.flight)
	}
}
