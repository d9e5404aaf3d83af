package token

import (
	"context"
	"time"
)

// Doubt says how sure it is that a 401 was about the token.
type Doubt bool

// How sure it is that a 401 was about the token.
const (
	// Certain: the API named the token as the cause (`error="invalid_token"`, RFC 6750 section 3.1).
	Certain Doubt = false

	// Doubtful: the 401 may just as well be about permissions.
	Doubtful Doubt = true
)

const (
	firstInvalidationInterval = time.Second
	maxCertainInterval        = 30 * time.Second
	maxDoubtfulInterval       = 5 * time.Minute

	// invalidationMemory is how long a source without rejections takes to forget the earlier ones.
	invalidationMemory = 2 * maxDoubtfulInterval
)

// invalidations bounds how often rejections may cost a token call. An API that always answers 401 must not turn
// each request into one.
type invalidations struct {
	last       time.Time
	interval   time.Duration
	generation uint64 // of the token that was invalidated last
}

// provenUntilNow reports whether the rejection is news of a token that was good: one that the API took, and now names
// as the cause, or has taken for so long that the cost of another does not matter.
func (t *Token) provenUntilNow(now time.Time, doubt Doubt) bool {
	const long = time.Minute
	return t.accepted.Load() && (doubt == Certain || now.Sub(t.issued) >= long)
}

// allow reports whether one more is allowed now, and counts it. The interval grows while fresh tokens keep being
// rejected; a token that was good begins anew.
func (i *invalidations) allow(now time.Time, doubt Doubt, proven bool) bool {
	if proven {
		i.interval = min(i.interval, firstInvalidationInterval)
	}
	limit := maxCertainInterval
	if doubt == Doubtful {
		limit = maxDoubtfulInterval
	}
	since := now.Sub(i.last)
	if i.interval > 0 && since < min(i.interval, limit) {
		return false
	}
	switch {
	case i.interval == 0 || proven || since >= invalidationMemory:
		i.interval = firstInvalidationInterval
	default:
		i.interval = min(2*i.interval, maxDoubtfulInterval)
	}
	i.last = now
	return true
}

// Reject reports that the API answered 401 to the lease's token. It returns a lease on another token if there is
// one or one can be had: one flight serves all who hold the rejected token, and the token is dropped only if it is
// still the current one.
func (s *Source) Reject(ctx context.Context, l Lease, doubt Doubt) (Lease, bool) {
	if !s.invalidate(l.token, doubt) {
		return Lease{}, false
	}
	other, err := s.AcquireWithin(ctx, l.maxWait)
	if err != nil || other.token.value.Equal(l.token.value) {
		return Lease{}, false
	}
	return other, true
}

// Discard reports the same where nobody can use another token at once: it gets one in the background.
func (s *Source) Discard(l Lease, doubt Doubt) {
	if s.invalidate(l.token, doubt) && !s.current.Load().fresh(time.Now()) && s.backingOff(time.Now()) == nil {
		s.refresh()
	}
}

// invalidate makes sure that the rejected token is not the current one, and reports whether another may be had.
func (s *Source) invalidate(rejected *Token, doubt Doubt) bool {
	invalidated, another := s.judge(rejected, doubt)
	if invalidated {
		s.config.Load().Observe(Event{Rejected: true, Token: rejected.value})
	}
	return another
}

// judge does the work of invalidate. It reports whether this very call took the token out of service.
func (s *Source) judge(rejected *Token, doubt Doubt) (invalidated, another bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.current.Load()
	if t != nil && (t.rejected || t.generation != rejected.generation) {
		return false, true // somebody was here before, or it has been replaced
	}
	if t == nil && s.invalidations.generation == rejected.generation {
		return false, true // somebody was here before with a token that was not kept
	}
	now := time.Now()
	if t != nil && !t.alive(now) {
		return false, true // whoever needs a token now fetches one anyway
	}
	// a call that is running already costs nothing, and may be why the old token is refused
	if !s.flying.Load() && !s.invalidations.allow(now, doubt, rejected.provenUntilNow(now, doubt)) {
		return false, false
	}
	s.invalidations.generation = rejected.generation
	if t != nil {
		s.current.CompareAndSwap(t, t.asRejected())
	}
	return true, true
}
