package token

import (
	"context"
	"time"
)

// Doubt is whether a 401 may have been about something other than the token.
type Doubt bool

// The two values of Doubt.
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

	// long is how long a token has to be good for the cost of another not to matter, and how long rejections that were not
	// about the token are held against those that follow.
	long = time.Minute
)

// interval is the longest time between two invalidations.
func (d Doubt) interval() time.Duration {
	if d == Doubtful {
		return maxDoubtfulInterval
	}
	return maxCertainInterval
}

// invalidations bounds how often rejections may cost a token call. An API that always answers 401 must not turn
// each request into one, and neither must one path of an API that accepts the token on all others.
type invalidations struct {
	last       time.Time
	interval   time.Duration
	generation uint64 // of the token that was invalidated last

	// contested is when the API was last seen to have accepted a token that it had rejected before.
	contested time.Time

	// overruled is when rejections last counted as a revocation in spite of that.
	overruled time.Time
}

// verdict is what a rejection means for the token.
type verdict int

const (
	// worthless: the API has not accepted the token, or not for long enough. The interval grows.
	worthless verdict = iota

	// news: a token that was good is rejected. It is replaced at once, and the interval begins anew.
	news

	// noNews: the API has accepted tokens that it had rejected: one path rejects what the others accept. The interval
	// grows.
	noNews

	// newsAfterAll: the same, but then the API has accepted the token no more. It is replaced at once; the interval grows.
	newsAfterAll
)

// judge returns what the rejection of t means, and remembers what matters for later rejections.
//
// A rejection is news if the token was good. It is not if the API has, within the last minute, accepted a token that it
// had rejected before: then rejections are about a path, and go on whatever the token. Only if the API has rejected the
// token for a second and accepted it not once, the token has been revoked all the same; but that may also be because
// nobody asks for the other paths, so that it counts once in the longest interval.
func (i *invalidations) judge(t *Token, now time.Time, doubt Doubt) verdict {
	accepted := t.accepted.Load()
	if accepted && t.rejectedLately(now) {
		i.contested = now
	}
	switch {
	case !accepted && !t.proven(), doubt == Doubtful && now.Sub(t.issued) < long:
		return worthless
	case now.Sub(i.contested) >= long:
		return news
	case t.rejectedThroughout(now) && now.Sub(i.overruled) >= doubt.interval():
		return newsAfterAll
	default:
		return noNews
	}
}

// proven reports whether the API had accepted the token before it rejected it.
func (t *Token) proven() bool { return t.rejections != nil && t.rejections.proven }

// rejectedLately reports whether the last rejections can be of the same kind as one that comes now.
func (t *Token) rejectedLately(now time.Time) bool {
	return t.rejections != nil && now.Sub(t.rejections.since) < long
}

// rejectedThroughout reports whether the API has rejected the token for a while without accepting it.
func (t *Token) rejectedThroughout(now time.Time) bool {
	return t.rejections != nil && !t.accepted.Load() && now.Sub(t.rejections.since) >= firstInvalidationInterval
}

// serves reports whether a rejected token goes on being served while another is fetched, so that the paths that accept
// it need not wait. So it must have been accepted, rejected, and accepted again before this rejection.
func (t *Token) serves(now time.Time) bool {
	return t.rejections != nil && t.rejections.contested && t.rejectedLately(now) && !t.rejectedThroughout(now)
}

// allow reports whether one more invalidation is allowed now, and counts it.
func (i *invalidations) allow(now time.Time, doubt Doubt, v verdict) bool {
	wait := min(i.interval, doubt.interval())
	if v == news || v == newsAfterAll {
		wait = min(wait, firstInvalidationInterval)
	}
	since := now.Sub(i.last)
	if i.interval > 0 && since < wait {
		return false
	}
	switch {
	case i.interval == 0 || v == news || since >= invalidationMemory:
		i.interval = firstInvalidationInterval
	default:
		i.interval = min(2*i.interval, maxDoubtfulInterval)
	}
	if v == newsAfterAll {
		i.overruled = now
	}
	i.last = now
	return true
}

// Reject reports that the API answered 401 to the lease's token. It returns a lease on another token if there is
// one or one can be had: one flight serves all who hold the rejected token, and the token is dropped only if it is
// still the current one.
func (l Lease) Reject(ctx context.Context, doubt Doubt) (Lease, bool) {
	s := l.source
	if !s.invalidate(l.token, doubt) {
		return Lease{}, false
	}
	other, err := s.another(ctx, l)
	if err != nil || other.token.value.Equal(l.token.value) {
		return Lease{}, false
	}
	return other, true
}

// another waits for the flight that replaces the token, even if the token is still served.
func (s *Source) another(ctx context.Context, l Lease) (Lease, error) {
	t := s.current.Load()
	if t != nil && t.generation == l.token.generation && !t.rejected && s.backingOff(time.Now()) == nil {
		return s.wait(ctx, l.maxWait)
	}
	return s.AcquireWithin(ctx, l.maxWait)
}

// Discard reports the same for a request that cannot be sent again. It fetches the next token in the background.
func (l Lease) Discard(doubt Doubt) {
	s := l.source
	if s.invalidate(l.token, doubt) && !s.current.Load().fresh(time.Now()) && s.backingOff(time.Now()) == nil {
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
		s.observe(s.config.Load(), Event{Rejected: true, Token: rejected.value})
	}
	return another
}

// judge does the work of invalidate. It reports whether this very call decided that the token is to be replaced.
func (s *Source) judge(rejected *Token, doubt Doubt) (invalidated, another bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.current.Load()
	if t != nil && (t.rejected || t.generation != rejected.generation) {
		return false, true // an earlier rejection decided, or the token has been replaced
	}
	if t == nil && s.invalidations != nil && s.invalidations.generation == rejected.generation {
		return false, true // an earlier rejection decided, about a token that was not kept
	}
	now := time.Now()
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
	replaced := t.asRejected()
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
