package share

import (
	"context"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
)

// A record goes under the names of all keys, so that no token that the API has rejected comes back.
func TestPurge(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		replica(t, ctx, store, keyA).Save(ctx, found("T1"))
		replica(t, ctx, store, keyB).Save(ctx, found("T2"))
		if !replica(t, ctx, store, keyA, keyB).Purge(ctx) || len(store.Values()) != 0 {
			t.Errorf("left in the store: %v", store.Values())
		}
		if !replica(t, ctx, store).Purge(ctx) {
			t.Error("a purge of nothing has failed")
		}
	})
}

func TestPurgeFleet(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		one, other := replica(t, ctx, store, keyA, keyB), replica(t, ctx, store, keyB)
		one.Save(ctx, found("T1"))
		other.Save(ctx, found("T2"))
		time.Sleep(time.Minute)
		if !one.PurgeFleet(ctx) {
			t.Fatal("the purge has failed")
		}
		for name := range store.Values() {
			if life := store.Life(name); life != 30*24*time.Hour {
				t.Errorf("the tombstone lives for %v", life)
			}
		}
		time.Sleep(time.Minute)
		for _, c := range []*Credential{one, other} {
			if f, ok := c.Load(ctx); !ok || !f.Purged || f.Age != time.Minute || !f.Issued.Token.Empty() {
				t.Errorf("found %+v, %v", f, ok)
			}
		}
		other.Save(ctx, found("T3"))
		if a, b := loads(ctx, one), loads(ctx, other); a != "T3" || b != "T3" {
			t.Errorf("after a new token: %q and %q", a, b)
		}
		time.Sleep(30 * 24 * time.Hour)
		if _, ok := one.Load(ctx); ok {
			t.Error("the tombstone is found after its life")
		}
	})
}

// An operator purges while a replica calls the token endpoint. The token that it asked for before does not come back.
func TestPurgeFleetWhileAReplicaCalls(t *testing.T) {
	for name, tc := range map[string]struct {
		age, ahead time.Duration // of the token, and of the clock of the replica that purges
		saved      bool
	}{
		"asked for before the purge":              {age: 2 * time.Second},
		"asked for after it":                      {age: time.Second / 2, saved: true},
		"the clock of the other is ahead of ours": {age: 2 * time.Second, ahead: time.Hour, saved: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context) {
				store := new(sharetest.Claimer)
				caller, purger := replica(t, ctx, store), replica(t, ctx, store)
				purger.share.now = func() time.Time { return time.Now().Add(tc.ahead) }
				if !purger.PurgeFleet(ctx) {
					t.Fatal("the purge has failed")
				}
				time.Sleep(time.Second)
				late := found("late")
				late.Age = tc.age
				caller.Save(ctx, late)
				if f, ok := caller.Load(ctx); !ok || f.Purged == tc.saved {
					t.Errorf("found %+v, %t", f, ok)
				}
			})
		})
	}
}
