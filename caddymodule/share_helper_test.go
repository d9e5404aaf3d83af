package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func init() { caddy.RegisterModule(new(memoryStore)) }

// memoryStore is a store in memory, which a test keeps in its hands.
type memoryStore struct {
	ID string `json:"id"`
}

// memories are the stores by their ID, each a *sharetest.Claimer.
var memories sync.Map

func (*memoryStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_proxy.stores.memory_of_test", New: func() caddy.Module { return new(memoryStore) }}
}

func (m *memoryStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&m.ID) {
		return d.ArgErr()
	}
	return nil
}

func (*memoryStore) Expires() bool { return true }

func (m *memoryStore) Open(context.Context) (share.Store, error) {
	memory, ok := memories.Load(m.ID)
	if !ok {
		return nil, errors.New("no such memory")
	}
	return memory.(*sharetest.Claimer), nil
}

// memory is a store of one test.
type memory struct {
	*sharetest.Claimer
	id string
}

func newMemory(t *testing.T) memory {
	t.Helper()
	m := memory{new(sharetest.Claimer), newClientID()}
	memories.Store(m.id, m.Claimer)
	t.Cleanup(func() { memories.Delete(m.id) })
	return m
}

// fail makes all operations of the store fail, until the test ends that with nil.
func (m memory) fail(err error) {
	m.Change(func(s *sharetest.Store) {
		s.Fail = nil
		if err != nil {
			s.Fail = func(string, string) error { return err }
		}
	})
}

func (m memory) store() string { return "memory_of_test " + m.id }

// testKey is a key for sharing.
var testKey = strings.Repeat("k", 20) + strings.Repeat("e", 20)

// shareBlock is a share block with this store and these keys. Without a key, it is testKey in a file.
func shareBlock(t *testing.T, store string, keys ...string) string {
	t.Helper()
	if len(keys) == 0 {
		keys = []string{testKey}
	}
	var files []string
	for _, key := range keys {
		files = append(files, "{file."+writeConfig(t, "share.key", key)+"}")
	}
	return fmt.Sprintf("share {\n store %s\n key %s\n}\n", store, strings.Join(files, " "))
}

func sharedThrough(t *testing.T, m memory) string { return shareBlock(t, m.store()) }

// otherReplica returns what another replica of the running configuration has of a credential.
func otherReplica(t *testing.T, credential string, change ...func(*share.Spec, *share.Share)) *share.Credential {
	t.Helper()
	app := runningApp()
	c, err := app.client(credential)
	if err != nil {
		t.Fatal(err)
	}
	with := share.Share{Ring: app.Share.ring, Guard: app.Share.store.guard, Group: app.Share.Group}
	spec := share.Spec{Provider: c.status.Provider, Endpoint: c.provider.Endpoint(), ClientID: c.clientID, Identity: c.identity}
	for _, f := range change {
		f(&spec, &with)
	}
	return with.Credential(spec)
}

// storeWorks waits until the store of the running configuration has saved its first probe. Requests do not wait for that.
func storeWorks(t *testing.T) {
	t.Helper()
	eventually(t, "the store works", func() bool { return runningApp().Share.store.guard.Stats().Up })
}

// leaveToken saves a token for an hour as another replica does.
func leaveToken(t *testing.T, replica *share.Credential, value string) {
	t.Helper()
	replica.Save(t.Context(), token.Found{
		Issued: token.Issued{Token: token.NewSecret(value)}, Lifetime: time.Hour, RefreshIn: 50 * time.Minute,
	})
}

// ringOf is a ring with one key.
func ringOf(t *testing.T, key string) *share.Ring {
	t.Helper()
	ring, err := share.NewRing(token.NewSecret(key))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}
