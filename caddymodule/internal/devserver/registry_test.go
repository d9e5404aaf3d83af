package devserver

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRegistryStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		check := func(value string, want State) {
			t.Helper()
			if _, got := r.Lookup(value); got != want {
				t.Errorf("got state %d, want %d", got, want)
			}
		}
		a, b, c := r.Issue("a", time.Minute), r.Issue("a", time.Hour), r.Issue("c", time.Hour)
		check("", Unknown)
		check(a.Value, Live)
		advance(time.Minute)
		check(a.Value, Live)
		advance(1)
		check(a.Value, Expired)
		if r.Revoke(a.Value) {
			t.Error("an expired token was revoked")
		}
		check(a.Value, Expired)
		if n := r.RevokeAll("a"); n != 1 {
			t.Errorf("revoked %d tokens, want 1", n)
		}
		check(b.Value, Revoked)
		advance(2 * time.Hour)
		check(b.Value, Revoked) // not Expired
		check(c.Value, Expired)
		if d := r.Issue("d", time.Hour); !r.Revoke(d.Value) {
			t.Error("a live token was not revoked")
		}
		if got, _ := r.Lookup(c.Value); got != c {
			t.Error("Lookup and Issue returned different tokens")
		}
	})
}

func TestRegistryIsBounded(t *testing.T) {
	r := NewRegistry()
	dead := r.Issue("dead", time.Hour)
	first := r.Issue("live", time.Hour)
	r.Revoke(dead.Value)
	for len(r.order) < maxTokens {
		r.Issue("live", time.Hour)
	}
	state := func(value string) State {
		_, s := r.Lookup(value)
		return s
	}
	if state(dead.Value) != Revoked {
		t.Error("a dead token was dropped too early")
	}
	r.Issue("live", time.Hour)
	if state(dead.Value) != Unknown || state(first.Value) != Live || len(r.order) != maxTokens {
		t.Error("the registry must drop dead tokens only")
	}
	last := r.Issue("live", time.Hour)
	if state(first.Value) != Unknown || state(last.Value) != Live {
		t.Error("the registry must drop the oldest token, not the newest")
	}
	if len(r.tokens) != len(r.order) || len(r.order) > maxTokens {
		t.Errorf("got %d tokens by value and %d in order", len(r.tokens), len(r.order))
	}
}
