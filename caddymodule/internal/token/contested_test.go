package token

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// contested is an API that accepts tokens on all its paths but one.
type contested struct {
	e       *endpoint
	s       *Source
	doubt   Doubt
	replays bool // requests can be sent again

	mu      sync.Mutex
	revoked int // tokens up to this one are rejected everywhere

	good, failed, waited int // requests for the other paths
	slowest              time.Duration
}

// accepts reports whether the other paths accept the token.
func (c *contested) accepts(token Secret) bool {
	var n int
	if _, err := fmt.Sscanf(token.Reveal(), "token-%d", &n); err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return n > c.revoked
}

func (c *contested) revoke() {
	n, _ := c.e.tokens()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked = n
}

// ask sends one request, and again if it can be. It reports whether it was served in the end.
func (c *contested) ask(path bool) bool {
	l, err := c.s.Acquire(context.Background())
	if err != nil {
		return false
	}
	if path && c.accepts(l.Value()) {
		l.Accepted()
		return true
	}
	if !c.replays {
		l.Discard(c.doubt)
		return false
	}
	l, ok := l.Reject(context.Background(), c.doubt)
	if !ok {
		return false
	}
	if path && c.accepts(l.Value()) {
		l.Accepted()
		return true
	}
	l.RejectedAgain()
	return false
}

// askGood sends a request for one of the other paths, and keeps count.
func (c *contested) askGood() {
	var ok bool
	d := took(func() { ok = c.ask(true) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good++
	if !ok {
		c.failed++
	}
	if d > 0 {
		c.waited++
	}
	c.slowest = max(c.slowest, d)
}

// run sends requests for both kinds of paths, each in its own time, or not at all. Two never come at the same moment:
// their order would be left to chance, and the pattern would show the sooner or the later.
func (c *contested) run(d, good, bad time.Duration) {
	var group sync.WaitGroup
	each := func(interval time.Duration, ask func()) {
		for end := time.Now().Add(d); interval > 0 && time.Now().Before(end); <-time.After(interval) {
			group.Go(ask)
		}
	}
	defer group.Wait()
	group.Go(func() { each(good, c.askGood) })
	group.Go(func() {
		advance(7 * time.Millisecond)
		each(bad, func() { c.ask(false) })
	})
}

// newContested begins in peace: one token has been accepted for a while.
func newContested(t *testing.T, doubt Doubt, replays bool) *contested {
	t.Helper()
	e := newEndpoint(slow(latency, grants(hour)))
	c := &contested{e: e, s: e.source(t, Policy{}), doubt: doubt, replays: replays}
	for range 10 {
		c.askGood()
		advance(10 * time.Second)
	}
	c.good, c.failed, c.waited, c.slowest = 0, 0, 0, 0
	return c
}

// TestOnePathRejects says what it costs that one path rejects the tokens that all others accept: at most 5 calls in the
// first ten seconds, ever fewer after that, and no wait for the others once the pattern shows.
func TestOnePathRejects(t *testing.T) {
	for doubtName, doubt := range doubts {
		for _, replays := range []bool{true, false} {
			for _, bad := range []time.Duration{20 * time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond} {
				for _, good := range []time.Duration{50 * time.Millisecond, 300 * time.Millisecond} {
					inBubble(t, fmt.Sprintf("%s/replays %t/good each %v/bad each %v", doubtName, replays, good, bad), func(t *testing.T) {
						c := newContested(t, doubt, replays)
						c.run(10*time.Second, good, bad)
						if n := c.e.count(); n > 5 {
							t.Errorf("%d calls in ten seconds, want 5 at most", n)
						}
						if most := 1 + int(latency/good); c.waited > most+1 {
							t.Errorf("%d of %d requests for other paths waited, want only those of the first call", c.waited, c.good)
						}
						before := c.e.count()
						c.waited = 0
						c.run(5*time.Minute, good, bad)
						most := 10 + 2 // one each 30 s, after the first ones
						if doubt == Doubtful {
							most = 5
						}
						if n := c.e.count() - before; n > most {
							t.Errorf("%d calls in 5 minutes, want %d at most", n, most)
						}
						if c.waited > 0 || c.failed > 0 {
							t.Errorf("of %d requests for other paths, %d waited and %d failed", c.good, c.waited, c.failed)
						}
					})
				}
			}
		}
	}
}

// TestOnePathRejectsSeldom says that the interval grows too where a request for that path comes only now and then.
func TestOnePathRejectsSeldom(t *testing.T) {
	for _, bad := range []time.Duration{time.Second, 2500 * time.Millisecond, 5 * time.Second} {
		for _, good := range []time.Duration{50 * time.Millisecond, time.Second, 4 * time.Second} {
			inBubble(t, fmt.Sprintf("good each %v/bad each %v", good, bad), func(t *testing.T) {
				c := newContested(t, Certain, true)
				c.run(10*time.Minute, good, bad)
				if n := c.e.count(); n > 2*20+10 { // one each 30 s, as many because nobody asked for other paths, the first ones
					t.Errorf("%d calls in 10 minutes", n)
				}
				if c.failed > 0 {
					t.Errorf("%d of %d requests for other paths failed", c.failed, c.good)
				}
			})
		}
	}
}

// TestOnePathRejectsWhileTheEndpointFails says that the others are served from the token that they can use, and wait
// for nothing.
func TestOnePathRejectsWhileTheEndpointFails(t *testing.T) {
	for name, down := range outages() {
		inBubble(t, name, func(t *testing.T) {
			c := newContested(t, Certain, true)
			c.run(10*time.Second, 50*time.Millisecond, 50*time.Millisecond)
			c.waited = 0
			c.e.set(down)
			c.run(3*time.Minute, 50*time.Millisecond, 50*time.Millisecond)
			if c.waited > 0 || c.failed > 0 {
				t.Errorf("of %d requests for other paths, %d waited and %d failed", c.good, c.waited, c.failed)
			}
		})
	}
}

// TestRevocationBesideOnePath says that a revocation is seen in spite of a path that rejects everything: a second after
// the API has accepted the token for the last time at the latest.
func TestRevocationBesideOnePath(t *testing.T) {
	for _, replays := range []bool{true, false} {
		for _, after := range []time.Duration{5 * time.Second, 20 * time.Second, 3 * time.Minute} {
			inBubble(t, fmt.Sprintf("replays %t/after %v", replays, after), func(t *testing.T) {
				c := newContested(t, Certain, replays)
				c.run(after+3*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond)
				for n := range 3 { // once each time that one may be taken for the other
					c.revoke()
					c.run(1500*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond)
					if most := 22 + 2; c.failed > most {
						t.Errorf("revocation %d: %d requests failed, want those of a second", n+1, c.failed)
					}
					c.failed = 0
					c.run(maxCertainInterval, 50*time.Millisecond, 50*time.Millisecond)
					if c.failed > 0 {
						t.Errorf("revocation %d: %d requests failed later", n+1, c.failed)
					}
				}
			})
		}
	}
}

// TestRevocationsAreHealed says that what is no pattern is news, again and again, however soon: a token that the API has
// accepted and then rejects is replaced before the next request, and nobody is given it meanwhile.
func TestRevocationsAreHealed(t *testing.T) {
	for _, each := range []time.Duration{1500 * time.Millisecond, 3 * time.Second, 20 * time.Second, 2 * time.Minute} {
		inBubble(t, each.String(), func(t *testing.T) {
			c := newContested(t, Certain, true)
			before := c.e.count()
			for range 20 {
				c.revoke()
				c.run(each-100*time.Millisecond, 50*time.Millisecond, 0)
				advance(100 * time.Millisecond)
			}
			if c.failed > 0 {
				t.Errorf("%d of %d requests failed", c.failed, c.good)
			}
			if n := c.e.count() - before; n != 20 {
				t.Errorf("%d calls for 20 revocations", n)
			}
		})
	}
}

// TestRevocationWhileAnswersAreUnderWay says that answers to requests which were sent before a rejection do not speak
// for the token.
func TestRevocationWhileAnswersAreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContested(t, Certain, true)
		for range 20 {
			early := mustAcquire(t, c.s)
			c.ask(true)
			c.revoke()
			rejected := mustAcquire(t, c.s)
			rejected.RejectedAgain() // a replay that the endpoint's answer came too late for
			early.Accepted()
			if c.s.current.Load().accepted.Load() {
				t.Fatal("an answer to an earlier request counts")
			}
			if !c.ask(true) {
				t.Fatal("the revocation was not healed")
			}
			advance(1100 * time.Millisecond)
		}
	})
}

// TestTokensThatAreNotKnownAtOnce says that an API which needs a moment to learn of a new token does not pass for one
// that rejects it on one path: when the token is revoked later, nobody is given it any more.
func TestTokensThatAreNotKnownAtOnce(t *testing.T) {
	for _, later := range []time.Duration{3 * time.Second, 10 * time.Minute} {
		inBubble(t, later.String(), func(t *testing.T) {
			c := newContested(t, Certain, false)
			mustAcquire(t, c.s).Discard(Certain) // revoked
			l := mustAcquire(t, c.s)
			l.RejectedAgain() // not known yet
			c.run(later, 50*time.Millisecond, 0)
			for range 3 {
				c.revoke()
				mustAcquire(t, c.s).Discard(Certain)
				if got := mustAcquire(t, c.s); !c.accepts(got.Value()) {
					t.Error("a revoked token was handed out while another could be had")
				}
				c.run(1500*time.Millisecond, 50*time.Millisecond, 0)
				if later < long {
					break // the next one may be taken for that path's
				}
			}
		})
	}
}

// TestOnePathRejectsAlone says that the others wait for the next token once the API has only rejected the one that there
// is, for a second: it may have been revoked since.
func TestOnePathRejectsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContested(t, Certain, false)
		c.run(20*time.Second, 50*time.Millisecond, 50*time.Millisecond)
		c.revoke()
		for before := c.e.count(); c.e.count() == before; <-time.After(10 * time.Millisecond) {
			c.ask(false)
		}
		if got := mustAcquire(t, c.s); !c.accepts(got.Value()) {
			t.Error("a revoked token was handed out while another was fetched")
		}
	})
}

// TestRevocationWhileATokenIsReplacedForOnePath says that a request whose token is revoked while it is served during a
// call waits for that call, and is sent again.
func TestRevocationWhileATokenIsReplacedForOnePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newContested(t, Certain, true)
		c.run(10*time.Second, 50*time.Millisecond, 50*time.Millisecond)
		for before := c.e.count(); c.e.count() == before; <-time.After(10 * time.Millisecond) {
			go c.ask(false)
			c.askGood()
		}
		n, _ := c.e.tokens()
		c.revoked = n - 1 // all but the one that is under way
		if !c.ask(true) {
			t.Error("the request was not served, though another token was under way")
		}
	})
}
