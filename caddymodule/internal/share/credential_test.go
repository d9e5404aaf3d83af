package share

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

var _ token.Shared = (*Credential)(nil)

func TestReplicasShareOneToken(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		one, other := replica(t, ctx, store), replica(t, ctx, store)
		if _, ok := other.Load(ctx); ok {
			t.Fatal("a token was found before one was saved")
		}
		saved := found("T1")
		saved.Age = time.Second
		one.Save(ctx, saved)
		time.Sleep(10 * time.Minute)
		got, ok := other.Load(ctx)
		want := saved
		want.Age += 10 * time.Minute
		if !ok || !got.Issued.Token.Equal(want.Issued.Token) {
			t.Fatalf("token %q, %v", got.Issued.Token.Reveal(), ok)
		}
		got.Issued.Token = want.Issued.Token
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		time.Sleep(time.Hour)
		if _, ok := other.Load(ctx); ok {
			t.Error("an expired token was found")
		}
	})
}
