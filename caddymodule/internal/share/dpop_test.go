package share

import (
	"context"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// prover is a key with this thumbprint.
type prover string

func (p *prover) Thumbprint() string { return string(*p) }

// A token that is bound to a key is of no use to a replica with another. It stays bound in the store, and so does the token of
// `dpop optional` that is not bound.
func TestKeyBoundTokens(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			share := Share{Ring: ring(t, keyA), Guard: guard(ctx, s)}
			with := func(p token.Prover) *Credential {
				return share.Credential(spec(func(s *Spec) { s.Prover = func() token.Prover { return p } }))
			}
			present := new(prover("present"))
			same := new(prover("present")) // another replica's
			one, another, other, none := with(present), with(same), with(new(prover("other"))), with(nil)

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
	p := new(prover("one"))
	seen := make(map[string]bool)
	for _, b := range []binding{{}, {certificate("one")(), nil}, {certificate("two")(), nil}, {nil, p}, {certificate("one")(), p}, {nil, new(prover("two"))}} {
		seen[b.thumbprint()] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d thumbprints for 6 bindings", len(seen))
	}
}
