package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// refusedWith returns a source whose token the API has accepted before, and whose credential the token endpoint refuses from
// now on.
func refusedWith(t *testing.T) (*endpoint, *Source) {
	e := newEndpoint(grants(25 * time.Hour))
	s := e.source(t, Policy{})
	mustAcquire(t, s).Accepted()
	e.set(slow(latency, fails(errRefused)))
	return e, s
}

// visit sends one request, which the API accepts or rejects.
func visit(t *testing.T, s *Source, accepts bool) {
	t.Helper()
	l := mustAcquire(t, s)
	if accepts {
		l.Accepted()
		return
	}
	if _, ok := l.Reject(context.Background(), Certain); ok {
		t.Fatal("the refused credential got another token")
	}
}

// wantReady checks that the source is ready, and that its status agrees.
func wantReady(t *testing.T, s *Source, want bool, when string) {
	t.Helper()
	ready, why := s.Ready()
	if ready != want || ready == (why != nil) || s.Status().Dead == want {
		t.Errorf("%s: ready is %t because of %v, dead is %t; want %t", when, ready, why, s.Status().Dead, want)
	}
	if !want && why != nil && (why.Kind != Refused || why.Reason == "") {
		t.Errorf("%s: the reason is %+v", when, why)
	}
}

// TestDeadToken says when a token that has not expired makes a source not ready, and what makes it ready again.
func TestDeadToken(t *testing.T) {
	dead := func(t *testing.T) (*endpoint, *Source) {
		e, s := refusedWith(t)
		visit(t, s, false)
		advance(deadAfter)
		wantReady(t, s, false, "10 s after the rejection")
		return e, s
	}
	inBubble(t, "one rejection, no other request", func(t *testing.T) {
		_, s := refusedWith(t)
		wantReady(t, s, true, "before the rejection")
		begun := time.Now()
		visit(t, s, false)
		for time.Since(begun) < deadAfter {
			wantReady(t, s, true, "less than 10 s after the rejection")
			advance(time.Second / 4)
		}
		for range 100 {
			wantReady(t, s, false, "10 s after the rejection and later")
			advance(time.Minute)
		}
	})
	inBubble(t, "every request is rejected", func(t *testing.T) {
		_, s := refusedWith(t)
		for range 10 {
			visit(t, s, false)
			wantReady(t, s, true, "in the first 10 s")
			advance(time.Second * 9 / 10)
		}
		advance(time.Second)
		for range 1000 {
			visit(t, s, false)
			wantReady(t, s, false, "after 10 s")
			advance(time.Second)
		}
	})
	inBubble(t, "without a rejection", func(t *testing.T) {
		e, s := refusedWith(t)
		if err := s.Refresh(t.Context()); err == nil {
			t.Fatal("not refused")
		}
		advance(time.Hour)
		wantReady(t, s, true, "while the API accepts the token")
		if e.count() < 2 {
			t.Error("nothing was tried")
		}
	})
	for name, down := range outages() {
		inBubble(t, "not refused, "+name, func(t *testing.T) {
			e, s := refusedWith(t)
			e.set(down)
			visit(t, s, false)
			for range 100 {
				advance(time.Minute)
				wantReady(t, s, true, "while the endpoint is out of order")
			}
		})
		inBubble(t, "refused, then "+name, func(t *testing.T) {
			e, s := dead(t)
			e.set(down)
			for range 100 {
				advance(10 * time.Second)
				wantReady(t, s, false, "without another token")
			}
		})
	}
	inBubble(t, "a changed proof", func(t *testing.T) {
		e, s := dead(t)
		for n := range 20 {
			e.rotate(string(rune('a' + n)))
			advance(time.Second)
			for range 4 { // also while the call with the new proof runs
				wantReady(t, s, false, "the new proof is refused too")
				advance(latency / 2)
			}
		}
		e.set(slow(latency, grants(time.Hour)))
		e.rotate("the right one")
		advance(proofCheckInterval)
		s.Ready()
		advance(2 * latency)
		wantReady(t, s, true, "with another token")
		advance(30 * time.Minute)
		wantReady(t, s, true, "with another token")
	})
	inBubble(t, "the API accepts the token again", func(t *testing.T) {
		_, s := dead(t)
		visit(t, s, true)
		wantReady(t, s, true, "after a success")
		advance(time.Hour)
		wantReady(t, s, true, "with no request since")
	})
	inBubble(t, "another token, which is rejected in an outage", func(t *testing.T) {
		e, s := dead(t)
		e.set(grants(25 * time.Hour))
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.set(fails(errDown))
		mustAcquire(t, s).Accepted()
		visit(t, s, false)
		advance(time.Hour)
		wantReady(t, s, true, "because the credential is not refused any more")
	})
	inBubble(t, "a path rejects what the others accept", func(t *testing.T) {
		_, s := dead(t)
		for range 3 {
			visit(t, s, true)
			visit(t, s, false)
			if state := s.Status().State; state != StateRejected {
				t.Errorf("the token is %s, want that it stays rejected", state)
			}
		}
	})
	inBubble(t, "a late success of a request from before the rejection", func(t *testing.T) {
		_, s := refusedWith(t)
		late := mustAcquire(t, s)
		visit(t, s, false)
		late.Accepted()
		advance(deadAfter)
		wantReady(t, s, false, "the success tells nothing about the time since")
	})
	inBubble(t, "a late rejection of an old token", func(t *testing.T) {
		e, s := refusedWith(t)
		old := mustAcquire(t, s)
		e.set(grants(25 * time.Hour))
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.set(fails(errRefused))
		_ = s.Refresh(t.Context())
		old.Discard(Certain)
		advance(time.Hour)
		wantReady(t, s, true, "with a token that nobody has rejected")
	})
	inBubble(t, "purged", func(t *testing.T) {
		e, s := dead(t)
		e.set(grants(time.Hour))
		s.Purge()
		if s.Status().Dead {
			t.Error("no token is dead")
		}
		mustAcquire(t, s)
		wantReady(t, s, true, "with another token")
	})
	inBubble(t, "expired", func(t *testing.T) {
		_, s := dead(t)
		advance(25 * time.Hour)
		if ready, why := s.Ready(); ready || why == nil || s.Status().Dead {
			t.Errorf("ready is %t because of %v, dead is %t", ready, why, s.Status().Dead)
		}
	})
	inBubble(t, "a token without life", func(t *testing.T) {
		e, s := dead(t)
		e.set(grants(0))
		_ = s.Refresh(t.Context())
		wantReady(t, s, true, "because the credential is not refused any more")
	})
}

// TestDeadTokenDoesNotFlap says that a path that rejects every token makes a source not ready at most once, however the
// requests for it and for the other paths follow each other, unless the others are silent for 5 minutes.
func TestDeadTokenDoesNotFlap(t *testing.T) {
	for _, tc := range []struct {
		name      string
		bad, good time.Duration // between two requests for each of the paths
		changes   int           // of readiness, at most
	}{
		{"both in use", time.Second, time.Second, 0},
		{"good ones are rare", time.Second, 9 * time.Second, 0},
		{"good ones are rarer", time.Second, 30 * time.Second, 2},
		{"both are rare", 2 * time.Minute, 3 * time.Minute, 2},
		{"bad ones are rare", 7 * time.Minute, 50 * time.Second, 2},
		{"good ones once in 4 min", 10 * time.Second, 4 * time.Minute, 2},
	} {
		inBubble(t, tc.name, func(t *testing.T) {
			_, s := refusedWith(t)
			ready, changes := true, 0
			for now := time.Duration(0); now < 10*time.Hour; now += time.Second {
				if now%tc.bad == 0 {
					visit(t, s, false)
				}
				if now%tc.good == (tc.good / 2).Truncate(time.Second) {
					visit(t, s, true)
				}
				if is, _ := s.Ready(); is != ready {
					ready = is
					changes++
				}
				<-time.After(time.Second)
			}
			if changes > tc.changes || !ready {
				t.Errorf("readiness changed %d times and is %t in the end, want at most %d and true", changes, ready, tc.changes)
			}
		})
	}
	inBubble(t, "then the token is revoked", func(t *testing.T) {
		_, s := refusedWith(t)
		for range 10 {
			visit(t, s, false)
			visit(t, s, true)
			advance(time.Second)
		}
		visit(t, s, false)
		begun := time.Now()
		for time.Since(begun) < contestedDeadAfter {
			wantReady(t, s, true, "less than 5 min after the last success")
			visit(t, s, false)
			advance(time.Second)
		}
		wantReady(t, s, false, "5 min after the last success")
	})
}

// TestDeadTokenServes says that requests get a dead token all the same: there is no other, and the API decides.
func TestDeadTokenServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := refusedWith(t)
		visit(t, s, false)
		advance(deadAfter)
		wantReady(t, s, false, "10 s after the rejection")
		if l := mustAcquire(t, s); l.Served() != ServedStale {
			t.Errorf("served %q, want stale", l.Served())
		}
	})
}
