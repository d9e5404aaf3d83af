package caddymodule

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// What operators see of claims, and of values that cannot be opened, is what this replica has seen last, and ends in time.
func TestSharingIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		store := new(sharetest.Claimer)
		guard := share.NewGuard(share.OpenerFunc(func(context.Context) (share.Store, error) { return store, nil }), share.Hooks{})
		guard.Start(ctx)
		replica := func(key string) *share.Credential {
			return share.Share{Ring: ringOf(t, strings.Repeat(key, 32)), Guard: guard}.Credential(share.Spec{Identity: token.NewSecret("i")})
		}
		here, other, stranger := &sharedToken{Credential: replica("a")}, replica("a"), replica("b")
		want := func(claim, unopened string) {
			t.Helper()
			if s := here.status(); s.Claim != claim || s.Unopened != unopened {
				t.Errorf("the claim is %q, and unopened %q; want %q, %q", s.Claim, s.Unopened, claim, unopened)
			}
		}
		claim := func() { here.Claim(ctx, noProof) }

		want("free", "")
		claim()
		want("ours", "")
		here.Release(ctx, 0, token.Secret{})
		want("free", "")
		claim()
		here.Release(ctx, time.Minute, token.Secret{})
		want("held", "")
		if until := here.status().ClaimUntil; time.Until(until) != time.Minute {
			t.Errorf("held until %s", until)
		}
		time.Sleep(time.Minute)
		want("free", "")

		other.Claim(ctx, noProof)
		claim()
		want("another replica's", "")
		time.Sleep(share.ClaimLife)
		want("free", "")
		other.Claim(ctx, noProof)
		other.Release(ctx, time.Minute, token.Secret{})
		claim()
		want("held", "")
		time.Sleep(time.Minute)

		meet := func() { // with a replica that has another key
			stranger.Claim(ctx, noProof)
			claim()
			stranger.Release(ctx, 0, token.Secret{})
			want("unknown", "key")
			time.Sleep(time.Minute) // until this replica claims again
		}
		meet()
		other.Claim(ctx, noProof)
		claim() // which opens the other's
		want("another replica's", "")
		other.Release(ctx, 0, token.Secret{})
		meet()
		time.Sleep(unopenedTime)
		want("unknown", "")

		guard2 := share.NewGuard(share.OpenerFunc(func(context.Context) (share.Store, error) { return store, nil }), share.Hooks{})
		down := &sharedToken{Credential: share.Share{Ring: ringOf(t, strings.Repeat("a", 32)), Guard: guard2}.Credential(share.Spec{})}
		down.Claim(ctx, noProof) // never started
		if s := down.status(); s.Claim != "unknown" || s.Claims["unknown"] != 1 {
			t.Errorf("without a store: %+v", s)
		}
	})
}
