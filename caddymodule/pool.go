package caddymodule

import (
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// vaultCapacity bounds the sources that are kept while no configuration names them.
const vaultCapacity = 10_000

var (
	// sources holds the sources of all loaded configurations by identity key, so that a reload that leaves a
	// credential as it was fetches nothing.
	sources = caddy.NewUsagePool()

	// vault remembers the sources that no configuration names any more. It lives as long as the process. It is made at
	// first use, so that commands without a credential start no goroutine.
	vault = sync.OnceValues(func() (*token.Vault, error) {
		v, err := token.NewVault(vaultCapacity)
		madeVault.Store(v)
		return v, err
	})

	// madeVault is the vault, or nil before its first use. Metrics read it.
	madeVault atomic.Pointer[token.Vault]
)

// pooledSource puts a source to rest when no configuration uses it any more. Requests that outlive their configuration still
// hold the source.
type pooledSource struct {
	*token.Source
}

// Destruct implements caddy.Destructor.
func (p pooledSource) Destruct() error {
	p.Rest()
	return nil
}

// acquireSource returns the source for key, and makes it with config if it does not exist. Each call must be matched by one
// call of releaseSource.
func acquireSource(key token.Key, config token.Config) (*token.Source, error) {
	pooled, _, err := sources.LoadOrNew(key, func() (caddy.Destructor, error) {
		v, err := vault()
		if err != nil {
			return nil, err
		}
		return pooledSource{v.Source(key, func() *token.Source { return token.NewSource(config) })}, nil
	})
	if err != nil {
		return nil, err
	}
	return pooled.(pooledSource).Source, nil
}

func releaseSource(key token.Key) error {
	_, err := sources.Delete(key)
	return err
}
