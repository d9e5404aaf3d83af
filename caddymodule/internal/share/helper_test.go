package share

import (
	"context"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// TestMain fails the package if a test leaves a goroutine behind. The garbage collector runs seldom, because fleets make much
// garbage and no test measures memory.
func TestMain(m *testing.M) {
	debug.SetGCPercent(800)
	goleak.VerifyTestMain(m)
}

var (
	keyA = token.NewSecret(strings.Repeat("a", 32))
	keyB = token.NewSecret(strings.Repeat("b", 32))
	keyC = token.NewSecret(strings.Repeat("c", 32))
)

// bubble runs f in virtual time, with a context that ends before the bubble does.
func bubble(t *testing.T, f func(t *testing.T, ctx context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f(t, ctx)
		cancel()
		synctest.Wait()
	})
}

// ring makes a ring that must be valid.
func ring(t testing.TB, keys ...token.Secret) *Ring {
	t.Helper()
	r, err := NewRing(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// guard starts a guard of a store that is open at once.
func guard(ctx context.Context, s Store, hooks ...Hooks) *Guard {
	g := NewGuard(OpenerFunc(func(context.Context) (Store, error) { return s, nil }), append(hooks, Hooks{})[0])
	g.Start(ctx)
	return g
}

func spec(change ...func(*Spec)) Spec {
	s := Spec{
		Provider: "oauth2", Endpoint: "https://login.example.com/token", ClientID: "client",
		Identity: token.NewKeyBuilder().Field("client_id", "client").Secret("client_secret", token.NewSecret("{file./secret}")).Identity(),
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

// replica makes what a replica of its own would have.
func replica(t testing.TB, ctx context.Context, s Store, keys ...token.Secret) *Credential {
	t.Helper()
	if keys == nil {
		keys = []token.Secret{keyA}
	}
	return Share{Ring: ring(t, keys...), Guard: guard(ctx, s)}.Credential(spec())
}

func found(text string) token.Found {
	return token.Found{
		Issued:   token.Issued{Token: token.NewSecret(text), Kept: map[string]string{"region": "eu"}, Note: "odd"},
		Lifetime: time.Hour, RefreshIn: 50 * time.Minute,
	}
}

// loads returns the token that a replica finds, or "".
func loads(ctx context.Context, c *Credential) string {
	f, _ := c.Load(ctx)
	return f.Issued.Token.Reveal()
}

func proof(text string) func() token.Secret {
	return func() token.Secret { return token.NewSecret(text) }
}

// stores are the two kinds of stores: Caddy's storage modules, in which nothing expires, and engines that decide claims.
func stores(t *testing.T, f func(t *testing.T, s Store, memory *sharetest.Store)) {
	t.Run("register", func(t *testing.T) {
		s := &sharetest.Store{Eternal: true}
		f(t, s, s)
	})
	t.Run("claimer", func(t *testing.T) {
		s := new(sharetest.Claimer)
		f(t, s, &s.Store)
	})
}
