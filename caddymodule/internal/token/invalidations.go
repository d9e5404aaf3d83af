package token

import (
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
