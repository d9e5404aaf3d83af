package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestClocks says that a token ends as soon as either clock says so. A suspended machine stops the
// monotonic clock, a stepped clock moves the wall: a reading in which the two have parted is made here by moving the
// token's wall expiry the other way.
func TestClocks(t *testing.T) {
	for name, tc := range map[string]struct {
		elapsed time.Duration // on the monotonic clock
		stepped time.Duration // how much more has passed on the wall
		fresh   bool
		alive   bool
	}{
		"new":                                  {0, 0, true, true},
		"just before it is stale":              {50*time.Minute - 1, 0, true, true},
		"stale":                                {50 * time.Minute, 0, false, true},
		"just before its end":                  {hour - 1, 0, false, true},
		"its end":                              {hour, 0, false, false},
		"long after its end":                   {100 * hour, 0, false, false},
		"suspended beyond its end":             {time.Minute, 2 * hour, false, false},
		"suspended to its end":                 {time.Minute, 59 * time.Minute, false, false},
		"suspended to just before its end":     {time.Minute, 59*time.Minute - 1, true, true},
		"wall stepped back":                    {time.Minute, -2 * hour, true, true},
		"wall stepped back, stale":             {55 * time.Minute, -2 * hour, false, true},
		"wall stepped back, ended":             {hour, -2 * hour, false, false},
		"wall stepped back far, ended":         {hour, -1000 * hour, false, false},
		"wall stepped forward while it lasted": {50 * time.Minute, 10 * time.Minute, false, false},
		"before it was issued":                 {-hour, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			issued := time.Now()
			token := newToken(Issued{Token: NewSecret("t")}, 1, issued, hour)
			token.refreshAt = issued.Add(50 * time.Minute)
			token.expiresByWall = token.expiresByWall.Add(-tc.stepped)
			now := issued.Add(tc.elapsed)
			if got := token.fresh(now); got != tc.fresh {
				t.Errorf("fresh is %t", got)
			}
			if got := token.alive(now); got != tc.alive {
				t.Errorf("alive is %t", got)
			}
		})
	}
}

// TestWallExpiryHasNoMonotonicReading says that the two expiries are of different clocks: with a monotonic reading,
// the second would be the first once more.
func TestWallExpiryHasNoMonotonicReading(t *testing.T) {
	token := newToken(Issued{Token: NewSecret("t")}, 1, time.Now(), hour)
	for name, token := range map[string]*Token{"new": token, "rejected": token.asRejected(time.Now())} {
		if token.expires == token.expires.Round(0) {
			t.Errorf("%s: the expiry has no monotonic reading", name)
		}
		if token.expiresByWall != token.expiresByWall.Round(0) {
			t.Errorf("%s: the wall expiry has a monotonic reading", name)
		}
		if !token.expires.Equal(token.expiresByWall) {
			t.Errorf("%s: the expiries differ: %v, %v", name, token.expires, token.expiresByWall)
		}
	}
	// a time that has lost its monotonic reading is compared by the wall
	if token.alive(time.Now().Round(0).Add(hour + time.Second)) {
		t.Error("alive after its end by the wall")
	}
}

// TestNoToken says that no token is neither fresh nor alive.
func TestNoToken(t *testing.T) {
	var none *Token
	if none.fresh(time.Time{}) || none.alive(time.Time{}) {
		t.Error("no token is alive")
	}
}

// TestRejectedCopy says that the mark of rejection changes nothing else, and not the token that requests hold.
func TestRejectedCopy(t *testing.T) {
	token := newToken(Issued{Token: NewSecret("t")}, 7, time.Now(), hour)
	token.margin = 5 * time.Minute
	token.refreshAt = token.expires.Add(-token.margin)
	token.touch()
	c := token.asRejected(time.Now())
	if !c.rejected || c.fresh(time.Now()) {
		t.Error("the copy is not due for replacement")
	}
	if !c.alive(time.Now()) {
		t.Error("the copy is not alive")
	}
	if c.generation != 7 || !c.value.Equal(token.value) || !c.expires.Equal(token.expires) || c.margin != token.margin || !c.used.Load() {
		t.Errorf("the copy differs: %+v", c)
	}
	if token.rejected || !token.fresh(time.Now()) {
		t.Error("the token itself has changed")
	}
}

// TestSuspend says what a source does after the machine has slept: it does not serve the token that ended meanwhile.
func TestSuspend(t *testing.T) {
	for _, state := range []string{"fresh", "stale", "rejected", "backing off, stale"} {
		inBubble(t, state, func(t *testing.T) {
			w := newWorld(t, state, grants(hour))
			current := w.s.current.Load()
			asleep := newToken(Issued{Token: current.value}, current.generation, current.issued, hour)
			asleep.margin, asleep.refreshAt, asleep.rejected = current.margin, current.refreshAt, current.rejected
			asleep.expiresByWall = asleep.expiresByWall.Add(-hour)
			w.s.current.Store(asleep)
			l, err := w.s.Acquire(context.Background())
			switch got := describe(l, err, w.held); {
			case state == "backing off, stale" && got != "unavailable":
				t.Errorf("got %q, want unavailable", got)
			case state != "backing off, stale" && got != "waited new":
				t.Errorf("got %q, want waited new", got)
			}
			if err == nil && l.Expired() {
				t.Error("the lease is expired")
			}
		})
	}
}

// TestGenerations says that generations count tokens, not calls.
func TestGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(script(
			grants(time.Second), repeats(time.Second), fails(errGarbage), repeats(time.Second), grants(time.Second), grants(time.Second),
		))
		s := e.source(t, Policy{})
		var last string
		var generation uint64
		for range 7 {
			l := mustAcquire(t, s)
			s.Rest()
			if same := l.Value().Reveal() == last; same != (l.token.generation == generation) || l.token.generation < generation {
				t.Errorf("%s is of generation %d, the one before, %s, of %d", l.Value().Reveal(), l.token.generation, last, generation)
			}
			last, generation = l.Value().Reveal(), l.token.generation
			advance(time.Second)
		}
	})
}
