package token

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errNotAdmitted = errors.New("not now")

// gate is an Admitter that counts.
type gate struct {
	*endpoint
	closed atomic.Bool
	asked  atomic.Int64
}

func (g *gate) Admit() error {
	g.asked.Add(1)
	if g.closed.Load() {
		return errNotAdmitted
	}
	return nil
}

func (e *endpoint) gatedSource(t testing.TB, g *gate) *Source {
	c := e.config(Policy{})
	g.endpoint = e
	c.Fetcher = g
	s := NewSource(c)
	t.Cleanup(func() {
		s.Rest()
		advance(settled)
	})
	return s
}

// A flight that is not admitted makes no call, is no failure, and does not try again by itself.
func TestAdmission(t *testing.T) {
	inBubble(t, "one flight asks once", func(t *testing.T) {
		e, g := newEndpoint(slow(latency, grants(hour))), new(gate)
		s := e.gatedSource(t, g)
		herd(100, func() string {
			return func() string { l, err := s.Acquire(context.Background()); return describe(l, err, Lease{}) }()
		})
		if n := g.asked.Load(); n != 1 {
			t.Errorf("100 requests asked %d times, want once", n)
		}
		e.wantCalls(t, 1)
	})
	inBubble(t, "no call, and no failure", func(t *testing.T) {
		e, g := newEndpoint(grants(hour)), new(gate)
		s := e.gatedSource(t, g)
		g.closed.Store(true)
		for range 3 {
			if _, err := s.Acquire(context.Background()); !errors.Is(err, errNotAdmitted) {
				t.Errorf("got %v", err)
			}
		}
		advance(hour)
		e.wantCalls(t, 0)
		if s.Status().Failure != nil || len(e.told()) != 0 {
			t.Errorf("failure %v, events %v", s.Status().Failure, e.told())
		}
		g.closed.Store(false)
		mustAcquire(t, s)
		e.wantCalls(t, 1)
	})
	inBubble(t, "not for the refresh of a valid token", func(t *testing.T) {
		e, g := newEndpoint(grants(hour)), new(gate)
		s := e.gatedSource(t, g)
		mustAcquire(t, s)
		g.closed.Store(true)
		advance(hour - time.Second)
		e.wantCalls(t, 2)
		if n := g.asked.Load(); n != 1 {
			t.Errorf("asked %d times, want once, for the first call", n)
		}
		s.Purge()
		if err := s.Refresh(context.Background()); err != nil {
			t.Errorf("a call that the operator asks for: %v", err)
		}
	})
	inBubble(t, "a token that expires in use causes no flights in a loop", func(t *testing.T) {
		e, g := newEndpoint(script(grants(hour), fails(errDown))), new(gate)
		s := e.gatedSource(t, g)
		mustAcquire(t, s)
		g.closed.Store(true)
		advance(2 * hour)
		if n := g.asked.Load(); n > 3 {
			t.Errorf("the source asked %d times by itself", n)
		}
	})
}

// A claim that was won for a call that is not admitted is let go.
func TestAdmissionReleasesTheClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, g, r := newEndpoint(grants(hour)), new(gate), new(replicas)
		c := e.config(Policy{})
		g.endpoint = e
		c.Fetcher, c.Sharing = g, NewSharing(r)
		s := NewSource(c)
		g.closed.Store(true)
		if _, err := s.Acquire(context.Background()); !errors.Is(err, errNotAdmitted) {
			t.Errorf("got %v", err)
		}
		if fmt.Sprint(r.released) != fmt.Sprint([]released{{}}) {
			t.Errorf("released %v, want once without a hold", r.released)
		}
		s.Rest()
		advance(settled)
	})
}

// Use replaces the configuration of a source, and wakes a resting one.
func TestUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := newEndpoint(grants(hour)), newEndpoint(grants(hour))
		s := before.source(t, Policy{})
		s.Use(before.config(Policy{}))
		mustAcquire(t, s)
		s.Rest()
		s.Use(after.config(Policy{}))
		mustAcquire(t, s)
		advance(hour - time.Second)
		before.wantCalls(t, 1)
		after.wantCalls(t, 1)
		if len(s.started) != 1 {
			t.Errorf("the source keeps %d configurations, want one", len(s.started))
		}
		if len(before.told()) != 1 || len(after.told()) != 1 {
			t.Errorf("the observers got %d and %d events, want one each", len(before.told()), len(after.told()))
		}
	})
}

// A lease is renewed by its own source.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(grants(hour))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		advance(2 * hour)
		renewed, err := l.Renew(context.Background())
		if err != nil || renewed.source != s || renewed.Value().Equal(l.Value()) {
			t.Errorf("got %v, %v", renewed, err)
		}
	})
}

func TestVaultKeeps(t *testing.T) {
	v := newVault(t, 10)
	s := sleeping()
	if _, ok := v.Find(numbered(1)); ok {
		t.Error("found what nobody kept")
	}
	v.Keep(map[Key]*Source{numbered(1): s, numbered(3): sleeping()})
	if found, ok := v.Find(numbered(1)); !ok || found != s {
		t.Errorf("got %p, %t", found, ok)
	}
	if _, ok := v.Find(numbered(2)); ok {
		t.Error("found the source of another key")
	}
}
