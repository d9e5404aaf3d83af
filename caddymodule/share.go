package caddymodule

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// storeNamespace is the namespace of the modules that keep what replicas share.
const storeNamespace = "token_proxy.stores"

// Share lets replicas keep one token for each credential between them, through a store that the operator runs. Without it,
// each replica makes its own token requests. Replicas share a credential if its settings, the store, a key and the group
// are the same. Trouble with the store costs no request: a replica that cannot use it works as it does without sharing.
type Share struct {
	// Store is where the replicas keep what they share: `redis`, or `storage` for any Caddy storage module. Required.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=token_proxy.stores inline_key=name"`

	// Keys are the keys that the replicas have in common, each as one whole-value placeholder {file./path} or {env.NAME} of
	// at least 32 bytes. The first one seals, and all open what another replica has sealed. To replace a key, add the new
	// one as the second, make it the first when all replicas have it, and remove the old one when all replicas have that.
	// The app reads a file again when it meets a value that it cannot open. Required.
	Keys []option.Source `json:"keys,omitempty"`

	// Group keeps apart replicas that have store and key in common and are not to share. It is no protection: a replica
	// with the key can open the tokens of all groups. Default: none.
	Group string `json:"group,omitempty"`

	name   string // of the store
	opener share.Opener
	ring   *share.Ring
	store  *pooledStore
}

// provision checks everything that can be checked without a network. What it acquires is released by release.
func (s *Share) provision(ctx caddy.Context) error {
	if err := s.loadKeys(ctx.Logger()); err != nil {
		return err
	}
	if s.StoreRaw == nil {
		return errors.New("store is missing")
	}
	configuration := string(s.StoreRaw)
	mod, err := ctx.LoadModule(s, "StoreRaw")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	opener, ok := mod.(share.Opener)
	if !ok {
		return fmt.Errorf("store: %T is not a store", mod)
	}
	s.opener = opener
	s.name = mod.(caddy.Module).CaddyModule().ID.Name()
	s.store, err = acquireStore(configuration, opener)
	return err
}

func (s *Share) loadKeys(logger *zap.Logger) error {
	if len(s.Keys) == 0 {
		return errors.New("key is missing: replicas need a key in common, such as the output of `openssl rand -base64 32` in a file")
	}
	var readers []option.Reader
	for i, key := range s.Keys {
		reader, err := option.NewReader(string(key))
		if err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
		if reader.IsLiteral() {
			s.Keys[i] = "" // so that nothing that prints or marshals the app shows it
			logger.Warn("a key for sharing is in the configuration itself, which the admin API and autosave.json show; use {file./path} or {env.NAME}",
				zap.Int("key", i+1))
		}
		readers = append(readers, reader)
	}
	var err error
	s.ring, err = share.ReadRing(func() ([]token.Secret, error) {
		var keys []token.Secret
		for i, reader := range readers {
			key, err := reader.Read()
			if err != nil {
				return nil, fmt.Errorf("key %d: %w", i+1, err)
			}
			keys = append(keys, key)
		}
		return keys, nil
	})
	return err
}

// release lets go of what provision has acquired.
func (s *Share) release() error {
	if s == nil || s.store == nil {
		return nil
	}
	_, err := stores.Delete(s.store.key)
	return err
}

// start opens the store in the background.
func (s *Share) start() {
	if s != nil {
		s.store.start()
	}
}

// credential returns what the replicas know together of a credential.
func (s *Share) credential(c *client) *sharedToken {
	shared := share.Share{Ring: s.ring, Guard: s.store.guard, Group: s.Group}
	return &sharedToken{Credential: shared.Credential(share.Spec{
		Provider:    c.status.Provider,
		Endpoint:    c.provider.Endpoint(),
		ClientID:    c.clientID,
		Identity:    c.identity,
		Certificate: func() *tls.Certificate { return c.certificate.Load() },
		Unopened:    c.warnUnopened,
		Skewed:      c.warnSkewed,
	})}
}

func (c *client) warnUnopened(why share.Unopened) {
	c.logger.Warn("this replica cannot open what another replica has left in the store, so it makes its own token calls",
		zap.String("credential", c.name), zap.String("reason", why.String()),
		zap.String("advice", status.AdviceUnopened(why.String())))
}

func (c *client) warnSkewed(ahead time.Duration) {
	c.logger.Warn("the clock of another replica is ahead of this clock; set the clocks by NTP, or this replica refreshes tokens too late",
		zap.String("credential", c.name), zap.Duration("ahead", ahead))
}

// stores holds the stores of all loaded configurations by their own configuration, so that a reload that leaves a store as
// it was keeps its connections, and what is known of its troubles.
var stores = caddy.NewUsagePool()

// pooledStore is a store that loaded configurations have in common.
type pooledStore struct {
	key   string
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
func acquireStore(key string, opener share.Opener) (*pooledStore, error) {
	if more, ok := opener.(share.Keyed); ok {
		key += more.PoolKey()
	}
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
