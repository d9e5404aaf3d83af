package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Share lets replicas keep one token for each credential between them, through a store that the operator runs. Without it,
// each replica makes its own token requests. Replicas share a credential if its settings, the store, a key and the group
// are the same. No request fails because of the store. A replica that cannot use it works as it does without sharing.
type Share struct {
	// Store is where the replicas keep what they share: `redis`, or `storage` for any Caddy storage module. Required.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=token_proxy.stores inline_key=name"`

	// Keys are the keys that the replicas have in common, each as one whole-value placeholder {file./path} or {env.NAME} of
	// at least 32 bytes. The first one seals, and all open what another replica has sealed. To replace a key, add the new
	// one as the second, make it the first when all replicas have it, and remove the old one when all replicas have that.
	// The app reads a file again when it meets a value that it cannot open. Required.
	Keys []option.Source `json:"keys,omitempty"`

	// Group separates replicas that have the store and a key in common but must not share tokens. It is no protection,
	// because a replica with the key can open the tokens of all groups. Default: none.
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
		}
		option.WarnOfSecret(logger, "key of share", reader, zap.Int("key", i+1))
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

// replicas returns where replicas meet.
func (s *Share) replicas() share.Share {
	return share.Share{Ring: s.ring, Guard: s.store.guard, Group: s.Group}
}

// expires reports whether the store removes a value when its life is over.
func (s *Share) expires() bool {
	store, ok := s.opener.(share.Expiring)
	return ok && store.Expires()
}

// start opens the store in the background.
func (s *Share) start() {
	if s != nil {
		s.store.start()
	}
}
