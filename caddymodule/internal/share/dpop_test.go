package share

import (
	"context"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// prover returns the prover of a new key.
func prover(t *testing.T) *dpop.Prover {
	t.Helper()
	key, err := dpop.Generate(dpop.DefaultAlg)
	if err != nil {
		t.Fatal(err)
	}
	return new(dpop.Client).ForAPI(key)
}

// A token that is bound to a key is of no use to a replica with another. It stays bound in the store, and so does the token of
// `dpop optional` that is not bound.
func TestKeyBoundTokens(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			share := Share{Ring: ring(t, keyA), Guard: guard(ctx, s)}
			with := func(p *dpop.Prover) *Credential {
				return share.Credential(spec(func(s *Spec) { s.Prover = func() *dpop.Prover { return p } }))
			}
			present := prover(t)
			same := new(dpop.Client).ForAPI(present.Key()) // another replica's
			one, another, other, none := with(present), with(same), with(prover(t)), with(nil)

			for _, bound := range []bool{true, false} {
				f := found("T1")
				f.Issued.Prover, f.Issued.DPoP = present, bound
				one.Save(ctx, f)
				got, ok := another.Load(ctx)
				if !ok || got.Issued.Prover != same || got.Issued.DPoP != bound {
					t.Errorf("with the same key: %v, prover %p, DPoP %v", ok, got.Issued.Prover, got.Issued.DPoP)
				}
				if loads(ctx, other) != "" || loads(ctx, none) != "" {
					t.Error("a replica with another key, or with none, finds the token")
				}
			}
			wantClaim(t, ctx, one, token.ClaimWon, "s")
			wantClaim(t, ctx, another, token.ClaimLost, "s")
			wantClaim(t, ctx, other, token.ClaimWon, "s")
		})
	})
}

// A certificate and a key of the same client are no other's certificate alone.
func TestBindingsDiffer(t *testing.T) {
	p := prover(t)
	seen := make(map[string]bool)
	for _, b := range []binding{{}, {certificate("one")(), nil}, {certificate("two")(), nil}, {nil, p}, {certificate("one")(), p}, {nil, prover(t)}} {
		seen[b.thumbprint()] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d thumbprints for 6 bindings", len(seen))
	}
}
