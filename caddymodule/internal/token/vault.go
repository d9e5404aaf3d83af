package token

import (
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
	"golang.org/x/sync/singleflight"
)

// Vault is the bounded store of sources by key. A source that leaves the configuration keeps its token here, and need
// not fetch again when it comes back. Credentials and requests hold their source themselves, so that eviction never
// takes a token from them.
//
// A vault is never closed: ristretto panics when a Set races with Close, and requests outlive configurations.
type Vault struct {
	cache    *ristretto.Cache[string, *vaultEntry]
	group    singleflight.Group
	evicted  atomic.Uint64
	rejected atomic.Uint64
}

// vaultEntry repeats the key, because ristretto finds entries by hash.
type vaultEntry struct {
	key    Key
	source *Source
}

// NewVault makes a vault for at most capacity sources.
func NewVault(capacity int64) (*Vault, error) {
	v := new(Vault)
	cache, err := ristretto.NewCache(&ristretto.Config[string, *vaultEntry]{
		NumCounters:        capacity, // ten times as many, as ristretto advises, would take 330 KiB more
		MaxCost:            capacity,
		BufferItems:        64,
		IgnoreInternalCost: true, // else each entry would cost 57 instead of 1
		OnEvict:            func(*ristretto.Item[*vaultEntry]) { v.evicted.Add(1) },
		OnReject:           func(*ristretto.Item[*vaultEntry]) { v.rejected.Add(1) },
	})
	if err != nil {
		return nil, err
	}
	v.cache = cache
	return v, nil
}

// Source returns the source for key. If the vault has none, it takes the one that create makes.
func (v *Vault) Source(key Key, create func() *Source) *Source {
	if s, ok := v.find(key); ok {
		return s
	}
	found, _, _ := v.group.Do(string(key), func() (any, error) {
		if s, ok := v.find(key); ok {
			return s, nil
		}
		s := create()
		v.cache.Set(string(key), &vaultEntry{key: key, source: s}, 1)
		// A new key is written asynchronously. Without this wait, a caller that comes right after the flight would
		// miss it and make a second source.
		v.cache.Wait()
		return s, nil
	})
	return found.(*Source)
}

// Keep remembers sources that no configuration names any more, as far as the vault has room.
func (v *Vault) Keep(sources map[Key]*Source) {
	for key, source := range sources {
		v.cache.Set(string(key), &vaultEntry{key: key, source: source}, 1)
	}
	v.cache.Wait() // as in Source
}

// Find returns the source for key, if the vault has it.
func (v *Vault) Find(key Key) (*Source, bool) { return v.find(key) }

func (v *Vault) find(key Key) (*Source, bool) {
	e, ok := v.cache.Get(string(key))
	if !ok || e.key != key {
		return nil, false
	}
	return e.source, true
}

// VaultStats counts what happened to a vault's entries.
type VaultStats struct {
	// Entries is how many sources the vault holds.
	Entries int64

	// Evicted and Rejected are how many were forgotten, or not taken in, for want of room.
	Evicted, Rejected uint64
}

// Stats returns the number of entries, and the counts since the vault was made.
func (v *Vault) Stats() VaultStats {
	return VaultStats{
		Entries:  v.cache.MaxCost() - v.cache.RemainingCost(), // each costs 1
		Evicted:  v.evicted.Load(),
		Rejected: v.rejected.Load(),
	}
}
