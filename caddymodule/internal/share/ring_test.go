package share

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func TestKeysThatAreRefused(t *testing.T) {
	short := token.NewSecret(strings.Repeat("h", 31) + " \n")
	padded := token.NewSecret("\n " + keyA.Reveal() + "\r\n")
	for name, c := range map[string]struct {
		keys []token.Secret
		want string
	}{
		"none":      {nil, "no key"},
		"empty":     {[]token.Secret{keyA, {}}, "key 2 is shorter than 32 bytes"},
		"short":     {[]token.Secret{short, keyA}, "key 1 is shorter than 32 bytes"},
		"the same":  {[]token.Secret{keyA, keyB, keyB}, "key 3 is the same as key 2"},
		"but space": {[]token.Secret{keyA, padded}, "key 2 is the same as key 1"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewRing(c.keys...)
			if r != nil || err == nil || err.Error() != c.want {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if _, err := ReadRing(func() ([]token.Secret, error) { return nil, errors.New("no file") }); err == nil || err.Error() != "no file" {
		t.Errorf("error %v", err)
	}
}

func TestFirstKeySealsAndAllOpen(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		replica(t, ctx, store, keyA, keyB).Save(ctx, found("TA"))
		if got := loads(ctx, replica(t, ctx, store, keyC, keyB, keyA)); got != "TA" {
			t.Errorf("with the key as the third: %q", got)
		}
		if got := loads(ctx, replica(t, ctx, store, keyB)); got != "" {
			t.Errorf("with the key that did not seal: %q", got)
		}
		before := store.Calls("load")
		if loads(ctx, replica(t, ctx, store, keyA, keyB, keyC)); store.Calls("load") != before+3 {
			t.Errorf("%d loads for three keys, want one for each", store.Calls("load")-before)
		}
		time.Sleep(time.Second)
		replica(t, ctx, store, keyB, keyA).Save(ctx, found("TB"))
		if got := loads(ctx, replica(t, ctx, store, keyA, keyB)); got != "TB" {
			t.Errorf("beside a newer record of the second key, it is %q", got) // the endpoint may have revoked the older token
		}
	})
}

// Replicas with different keys do not overwrite each other's records.
func TestReplicasWithOtherKeysDoNotFight(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		one, stranger := replica(t, ctx, store), replica(t, ctx, store, keyB)
		one.Save(ctx, found("T1"))
		stranger.Save(ctx, found("T2"))
		if a, b := loads(ctx, one), loads(ctx, stranger); a != "T1" || b != "T2" {
			t.Errorf("found %q and %q", a, b)
		}
		if one.distrusts() || stranger.distrusts() {
			t.Error("a record of another key is distrusted")
		}
	})
}

// Each replica goes through a, then a b, then b a, then b. Any two replicas that are one step apart share.
func TestKeyRotation(t *testing.T) {
	steps := [][]token.Secret{{keyA}, {keyA, keyB}, {keyB, keyA}, {keyB}}
	for i := range len(steps) - 1 {
		for _, pair := range [][2]int{{i, i + 1}, {i + 1, i}} {
			stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
				bubble(t, func(t *testing.T, ctx context.Context) {
					writer, reader := replica(t, ctx, s, steps[pair[0]]...), replica(t, ctx, s, steps[pair[1]]...)
					writer.Save(ctx, found("T1"))
					if got := loads(ctx, reader); got != "T1" {
						t.Errorf("%d saved, %d found %q", pair[0], pair[1], got)
					}
					wantClaim(t, ctx, writer, token.ClaimWon, "s")
					wantClaim(t, ctx, reader, token.ClaimLost, "s")
				})
			})
		}
	}
}

// An older token under another key does not come back, whatever is left in the store.
func TestNewestRecordIsFound(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		replica(t, ctx, store, keyB).Save(ctx, found("old"))
		time.Sleep(time.Second)
		replica(t, ctx, store, keyC).Save(ctx, found("new"))
		time.Sleep(time.Second)
		stale := found("stale, under the first key")
		stale.Age, stale.RefreshIn = time.Hour/2, time.Minute
		replica(t, ctx, store, keyA).Save(ctx, stale)
		for _, keys := range [][]token.Secret{{keyA, keyC, keyB}, {keyA, keyC}} {
			if got := loads(ctx, replica(t, ctx, store, keys...)); got != "new" {
				t.Errorf("found %q", got)
			}
		}
		time.Sleep(51 * time.Minute) // none is fresh
		if got := loads(ctx, replica(t, ctx, store, keyA, keyB, keyC)); got != "new" {
			t.Errorf("found %q", got)
		}
	})
}

// A file with a key is replaced while replicas run.
func TestKeysAreReadAgain(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			var keys atomic.Pointer[[]token.Secret]
			var reads atomic.Int32
			keys.Store(&[]token.Secret{keyA})
			r, err := ReadRing(func() ([]token.Secret, error) {
				reads.Add(1)
				if now := keys.Load(); now != nil {
					return *now, nil
				}
				return nil, errors.New("no file")
			})
			if err != nil {
				t.Fatal(err)
			}
			c := Share{Ring: r, Guard: guard(ctx, s)}.Credential(spec())
			other := replica(t, ctx, s, keyB)
			other.Save(ctx, found("T1"))
			wantClaim(t, ctx, other, token.ClaimWon, "s")

			for range 100 {
				c.Load(ctx)
			}
			if n := reads.Load(); n != 2 {
				t.Errorf("the keys were read %d times in one second, want 2", n)
			}
			time.Sleep(rereadInterval)
			keys.Store(nil)
			c.Load(ctx)
			if r.Err() == nil {
				t.Error("keys that cannot be read are no error")
			}
			time.Sleep(rereadInterval)
			keys.Store(&[]token.Secret{keyB, keyA})
			wantClaim(t, ctx, c, token.ClaimLost, "s")
			if got := loads(ctx, c); got != "T1" || r.Err() != nil || c.distrusts() {
				t.Errorf("with the new key: %q, %v", got, r.Err())
			}
			time.Sleep(rereadInterval)
			keys.Store(&[]token.Secret{keyA})
			other.Purge(ctx)
			c.Load(ctx)
			c.Save(ctx, found("T2"))
			if got := loads(ctx, replica(t, ctx, s, keyA)); got != "T2" {
				t.Errorf("the first key does not seal: %q", got)
			}
		})
	})
}

// Files can hang, on a mount whose server is gone, and what reads them can fail in other ways.
func TestKeysThatCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		release := make(chan struct{})
		var reads atomic.Int32
		r, err := ReadRing(func() ([]token.Secret, error) {
			switch reads.Add(1) {
			case 2:
				<-release
			case 3:
				panic("hunter2")
			}
			return []token.Secret{keyA}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c := Share{Ring: r, Guard: guard(ctx, new(sharetest.Store))}.Credential(spec())
		begun := time.Now()
		for range 10 {
			c.Load(ctx)
		}
		if took := time.Since(begun); took != rereadPatience {
			t.Errorf("held up for %v", took)
		}
		close(release)
		synctest.Wait()
		time.Sleep(rereadInterval)
		c.Load(ctx)
		if err := r.Err(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error %v", err)
		}
	})
}
