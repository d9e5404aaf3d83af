package storage

import (
	"context"
	"errors"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

func init() { caddy.RegisterModule(new(fragile)) }

// fragile is a storage module that may fail to be provisioned, and knows whether it was closed.
type fragile struct {
	Broken bool `json:"broken,omitempty"`

	certmagic.FileStorage `json:"-"`
}

var closed = make(chan struct{}, 2)

func (*fragile) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.fragile", New: func() caddy.Module { return new(fragile) }}
}

func (f *fragile) Provision(caddy.Context) error {
	if f.Broken {
		return errors.New("connection refused")
	}
	return nil
}

func (f *fragile) CertMagicStorage() (certmagic.Storage, error) { return &f.FileStorage, nil }

func (*fragile) Cleanup() error {
	closed <- struct{}{}
	return nil
}

// What ends a context of Caddy's runs the clean-up of the context that it was made from. That one belongs to the
// configuration, which goes on.
func TestStoreLeavesItsConfigurationAlone(t *testing.T) {
	for name, storage := range map[string]string{
		"closed":        `{"module": "fragile"}`,
		"fails to open": `{"module": "fragile", "broken": true}`,
	} {
		t.Run(name, func(t *testing.T) {
			configuration, end := caddy.NewContext(caddy.Context{Context: t.Context()})
			t.Cleanup(end)
			cleaned := false
			configuration.OnCancel(func() { cleaned = true })
			module, err := configuration.LoadModuleByID("token_proxy.stores.storage", []byte(`{"storage": `+storage+`}`))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			_, err = module.(*Store).Open(ctx)
			if failed := err != nil; failed != (name == "fails to open") {
				t.Fatal(err)
			}
			cancel()
			caddytest.Eventually(t, "the storage module is closed", func() bool { return len(closed) == 1 })
			<-closed
			if cleaned {
				t.Error("the store has run the clean-up of the configuration")
			}
		})
	}
}
