package token

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

func newVault(t testing.TB, capacity int64) *Vault {
	t.Helper()
	v, err := NewVault(capacity)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func numbered(n int) Key { return keyOf([]field{{"n", []string{fmt.Sprint(n)}}}) }

func sleeping() *Source { return NewSource(Config{Fetcher: newEndpoint(grants(hour))}) }

// size counts the entries that are really there.
func (v *Vault) size() int {
	n := 0
	v.cache.IterValues(func(*vaultEntry) bool { n++; return false })
	return n
}

// TestVaultMakesOneSource says that however many ask at once for a new key, and whoever comes right after them, all get
// the same source.
func TestVaultMakesOneSource(t *testing.T) {
	const rounds = 100
	v := newVault(t, 1000)
	for round := range rounds {
		var made atomic.Int64
		create := func() *Source { made.Add(1); return sleeping() }
		key := numbered(round)
		got := herd(500, func() string { return fmt.Sprintf("%p", v.Source(key, create)) })
		if made.Load() != 1 || len(got) != 1 {
			t.Fatalf("round %d: %d sources were made, callers got %d different ones, want 1", round, made.Load(), len(got))
		}
		if got[fmt.Sprintf("%p", v.Source(key, create))] == 0 || made.Load() != 1 {
			t.Fatalf("round %d: the next caller got another source", round)
		}
	}
	if v.size() != rounds || v.Stats() != (VaultStats{Entries: int64(v.size())}) {
		t.Errorf("%d entries, %+v; want %d and nothing lost", v.size(), v.Stats(), rounds)
	}
}

// TestVaultKeepsSourcesApart says that keys get sources of their own, when many are asked for at once too.
func TestVaultKeepsSourcesApart(t *testing.T) {
	const keys = 200
	v := newVault(t, 1000)
	var seen sync.Map // *Source → Key
	var group sync.WaitGroup
	for n := range 5 * keys {
		group.Go(func() {
			key := numbered(n % keys)
			if other, ok := seen.LoadOrStore(v.Source(key, sleeping), key); ok && other != key {
				t.Errorf("two keys got the same source")
			}
		})
	}
	group.Wait()
	found := 0
	seen.Range(func(any, any) bool { found++; return true })
	if found != keys {
		t.Errorf("%d keys got %d sources", keys, found)
	}
}

// TestVaultRemembersTheToken says what the vault is for: a credential that comes back needs no new token.
func TestVaultRemembersTheToken(t *testing.T) {
	v := newVault(t, 10)
	e := newEndpoint(grants(hour))
	for range 3 {
		s := v.Source("key", func() *Source { return NewSource(e.config(Policy{})) })
		s.Start(e.config(Policy{}))
		if _, err := s.Acquire(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.Rest()
	}
	e.wantCalls(t, 1)
}

// TestVaultCollisions says that keys with the same hash never get each other's source. ristretto itself
// tells them apart by a second hash; with a bad one it returns the other's entry.
func TestVaultCollisions(t *testing.T) {
	for name, hash := range map[string]func(string) (uint64, uint64){
		"second hash differs": func(key string) (uint64, uint64) { return 1, uint64(key[0])<<8 | uint64(key[1]) },
		"second hash is zero": func(string) (uint64, uint64) { return 1, 0 },
		"both are the same":   func(string) (uint64, uint64) { return 1, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			v := &Vault{cache: newCache(t, hash)}
			owner := make(map[*Source]Key)
			for n := range 200 {
				key := numbered(n % 3)
				s := v.Source(key, sleeping)
				if s == nil {
					t.Fatal("no source")
				}
				if other, ok := owner[s]; ok && other != key {
					t.Fatal("a key got the source of another")
				}
				owner[s] = key
			}
		})
	}
}

// TestVaultLooksAgain says that whoever looked before another caller's source was there, and asks after it, gets that
// one: here the other comes, and is served, in the middle of the first look.
func TestVaultLooksAgain(t *testing.T) {
	var (
		v     = new(Vault)
		made  int
		looks int
		other *Source
	)
	create := func() *Source { made++; return sleeping() }
	v.cache = newCache(t, func(key string) (uint64, uint64) {
		looks++
		if looks == 1 {
			other = v.Source(Key(key), create)
			return 2, 2 // the first look finds nothing
		}
		return 1, 1
	})
	if s := v.Source("key", create); s != other || made != 1 {
		t.Errorf("%d sources were made, want that both callers get the same", made)
	}
}

// newCache makes a cache that finds keys by a hash of the test's.
func newCache(t *testing.T, hash func(string) (uint64, uint64)) *ristretto.Cache[string, *vaultEntry] {
	t.Helper()
	cache, err := ristretto.NewCache(&ristretto.Config[string, *vaultEntry]{
		NumCounters: 100, MaxCost: 10, BufferItems: 64, IgnoreInternalCost: true, KeyToHash: hash,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	return cache
}

// TestVaultIsBounded says that a vault holds what it should and not more, and counts what it has lost.
func TestVaultIsBounded(t *testing.T) {
	const capacity, keys = 1000, 20_000
	v := newVault(t, capacity)
	for n := range capacity {
		v.Source(numbered(n), sleeping)
	}
	if v.size() != capacity || v.Stats() != (VaultStats{Entries: int64(v.size())}) {
		t.Fatalf("%d entries, %+v; want that the first %d are kept", v.size(), v.Stats(), capacity)
	}
	for n := capacity; n < keys; n++ {
		if s := v.Source(numbered(n), sleeping); s == nil {
			t.Fatal("no source")
		}
		if n%1000 == 0 && v.size() > capacity {
			t.Fatalf("%d entries after %d keys, want at most %d", v.size(), n, capacity)
		}
	}
	stats := v.Stats()
	if size := uint64(v.size()); size > capacity || size < capacity/2 || size+stats.Evicted+stats.Rejected != keys {
		t.Errorf("%d entries and %+v, want together %d, and at most %d entries", size, stats, keys, capacity)
	}
}

// TestEvictionTakesNoTokenAway says that whoever holds a source goes on with it, in the vault or not.
func TestEvictionTakesNoTokenAway(t *testing.T) {
	v := newVault(t, 10)
	e := newEndpoint(grants(hour))
	s := v.Source("held", func() *Source { return NewSource(e.config(Policy{})) })
	held := mustAcquire(t, s)
	for n := range 1000 {
		v.Source(numbered(n), sleeping)
	}
	if got := describe(mustAcquire(t, s), nil, held); got != "fresh old" {
		t.Errorf("got %s, want fresh old", got)
	}
	e.wantCalls(t, 1)
	s.Rest()
}

// TestVaultThatCannotBe says that a vault without room is refused rather than made useless.
func TestVaultThatCannotBe(t *testing.T) {
	for _, capacity := range []int64{0, -1} {
		if v, err := NewVault(capacity); err == nil {
			t.Errorf("capacity %d: got %v, want an error", capacity, v)
		}
	}
}

// TestVaultCreatePanics says that a source that cannot be made spoils nothing for the next caller.
func TestVaultCreatePanics(t *testing.T) {
	v := newVault(t, 10)
	func() {
		defer func() { _ = recover() }()
		v.Source("key", func() *Source { panic("no") })
	}()
	done := make(chan *Source, 1)
	go func() { done <- v.Source("key", sleeping) }()
	select {
	case s := <-done:
		if s == nil {
			t.Error("no source")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the vault hangs")
	}
}
