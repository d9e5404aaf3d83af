package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

// stores holds the stores of all loaded configurations by their own configuration, so that a reload that leaves a store as
// it was keeps its connections, and what is known of its troubles.
var stores = caddy.NewUsagePool()

// pooledStore is a store that loaded configurations have in common.
type pooledStore struct {
	key   string // a digest, because the pool prints a store that it panics about, and a configuration can hold a password
	guard *share.Guard
	start func()
	end   context.CancelFunc
}

// Destruct implements caddy.Destructor.
func (p *pooledStore) Destruct() error {
	p.end()
	storeTotals.end(p.guard)
	return nil
}

// acquireStore returns the store with this configuration. Each call must be matched by a stores.Delete.
func acquireStore(configuration string, opener share.Opener) (*pooledStore, error) {
	if more, ok := opener.(share.Keyed); ok {
		configuration += more.PoolKey()
	}
	digest := sha256.Sum256([]byte(configuration))
	key := hex.EncodeToString(digest[:])
	pooled, _, err := stores.LoadOrNew(key, func() (caddy.Destructor, error) {
		ctx, cancel := context.WithCancel(context.Background())
		guard := share.NewGuard(opener, storeHooks())
		storeTotals.begin(guard)
		return &pooledStore{
			key: key, guard: guard, end: cancel, start: sync.OnceFunc(func() { guard.Start(ctx) }),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return pooled.(*pooledStore), nil
}

// storeHooks log the state of a store once for each change. They outlive the configuration that made the store, so they use
// the logger of the process.
func storeHooks() share.Hooks {
	return share.Hooks{
		Down: func(f share.Failure) {
			caddy.Log().Named(appName).Warn("the store of shared tokens does not work, so this replica makes its own token calls",
				zap.Stringer("failure", f), zap.String("advice", "run `token-proxy tokens check` to test the store"))
		},
		Up: func() {
			caddy.Log().Named(appName).Info("the store of shared tokens works again")
		},
	}
}
