package token

import (
	"context"
	"time"
)

// Rejected reports that the API answered 401 to the lease's token, and returns whether another one may be had. The token is
// dropped only if it is still the current one.
func (l Lease) Rejected(doubt Doubt) (another bool) { return l.source.invalidate(l.token, doubt) }

// MustWait reports whether Another has to wait for a flight. A call that an operator has started may make it wait although the
// token is fresh.
func (l Lease) MustWait() bool {
	t, now := l.source.current.Load(), time.Now()
	replaced := t.fresh(now) && t.generation != l.token.generation
	return !replaced && l.source.mayFetch(now)
}

// Another returns a lease on another token than the rejected one, if one can be had. One flight serves all who hold the
// rejected token.
func (l Lease) Another(ctx context.Context) (Lease, bool) {
	other, err := l.source.another(ctx, l)
	if err != nil || other.token.value.Equal(l.token.value) {
		return Lease{}, false
	}
	return other, true
}

// another waits for the flight that replaces the token, even if the token is still served.
func (s *Source) another(ctx context.Context, l Lease) (Lease, error) {
	t := s.current.Load()
	if t != nil && t.generation == l.token.generation && !t.rejected && s.mayFetch(time.Now()) {
		return s.wait(ctx, l.maxWait)
	}
	return s.AcquireWithin(ctx, l.maxWait)
}

// Discard is Rejected for a request that cannot be sent again. It fetches the next token in the background.
func (l Lease) Discard(doubt Doubt) {
	s := l.source
	if s.invalidate(l.token, doubt) && !s.current.Load().fresh(time.Now()) && s.mayFetch(time.Now()) {
		s.refresh()
	}
}

// RejectedAgain reports that the API answered 401 to a replay too. It replaces nothing: the token is new, and the
// request has had its second chance. But if the API accepts the token from others, the next rejections are no news.
func (l Lease) RejectedAgain() {
	s := l.source
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.current.Load(); t != nil && t.generation == l.token.generation {
		s.keepRejection(t, time.Now())
	}
}

// invalidate makes sure that the rejected token is not the current one, and reports whether another may be had.
func (s *Source) invalidate(rejected *Token, doubt Doubt) bool {
	invalidated, another := s.judge(rejected, doubt)
	if invalidated {
		config := s.config.Load()
		if config.Sharing != nil {
			config.Sharing.rejected.Store(&rejected.value)
		}
		s.observe(config, Event{Rejected: true, Demanded: s.demandedInsteadOf(rejected), Token: rejected.value})
	}
	return another
}

// judge does the work of invalidate. It reports whether this very call decided that the token is to be replaced.
func (s *Source) judge(rejected *Token, doubt Doubt) (invalidated, another bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, now := s.current.Load(), time.Now()
	if t != nil && t.generation != rejected.generation {
		return false, true // the token has been replaced
	}
	if t != nil && t.rejected {
		s.keepRejection(t, now)
		return false, true // an earlier rejection decided
	}
	if t == nil && s.invalidations != nil && s.invalidations.generation == rejected.generation {
		return false, true // an earlier rejection decided, about a token that was not kept
	}
	if t != nil && !t.alive(now) {
		return false, true // the next request fetches a token anyway
	}
	if t == nil {
		t = rejected
	}
	if s.invalidations == nil {
		s.invalidations = new(invalidations)
	}
	v := s.invalidations.judge(t, now, doubt)
	serves := t.serves(now)
	underWay := t.due || s.flying.Load()
	switch {
	case underWay && serves: // and no other request waits for the call
		s.keepRejection(t, now)
		return false, true
	case underWay: // costs nothing, and a running call may be why the API rejects the old token
	case !s.invalidations.allow(now, doubt, v):
		s.keepRejection(t, now)
		return false, false
	}
	s.invalidations.generation = rejected.generation
	replaced := t.asRejected(now)
	if serves {
		replaced = t.asDue(now)
	}
	s.current.CompareAndSwap(t, replaced)
	return !t.due, true
}

// keepRejection remembers a rejection that replaces nothing. Only what changes the token is remembered, so that a storm
// of rejections makes no copies.
func (s *Source) keepRejection(t *Token, now time.Time) {
	if t.accepted.Load() || t.rejections == nil {
		s.current.CompareAndSwap(t, t.asRejectedOnce(now))
	}
}
