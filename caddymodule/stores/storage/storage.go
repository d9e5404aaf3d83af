// Package storage keeps what replicas share in any Caddy storage module.
package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

func init() {
	caddy.RegisterModule(new(Store))
}

// Store keeps what replicas share in a Caddy storage module that all of them reach, such as a folder on a shared volume. It
// uses neither the module's locks, which differ too much from module to module, nor its listing. Unlike Caddy's own use of
// its storage, a server that is down does not keep Caddy from starting. A storage module does not expire what it stores,
// so one small record for each credential stays.
type Store struct {
	// Storage is the storage module. Default: that of the global option `storage`. Caddy's default, the local file system,
	// fails to load unless it is named, because other replicas do not see it.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=caddy.storage inline_key=module"`

	ctx    caddy.Context
	global certmagic.Storage // nil if a module is named
	id     string            // tells the stores of loaded configurations apart; empty if a module is named
	module string
}

// generations numbers the stores that use the storage of a configuration, which ends with it.
var generations atomic.Uint64

// CaddyModule returns the Caddy module information.
func (*Store) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_proxy.stores.storage",
		New: func() caddy.Module { return new(Store) },
	}
}

// Provision checks the configuration. It does not provision the storage module, which may need its server for that.
func (s *Store) Provision(ctx caddy.Context) error {
	s.ctx, _ = caddy.NewContext(ctx) // to end a context made from ctx itself would run the clean-up of the configuration
	if s.StorageRaw != nil {
		return s.checkModule()
	}
	s.global = ctx.Storage()
	if s.global == certmagic.Storage(caddy.DefaultStorage) {
		return errors.New("no storage that replicas have in common: name a storage module, or set the global option storage")
	}
	s.id = strconv.FormatUint(generations.Add(1), 10)
	return nil
}

// checkModule refuses an unknown module and options that it does not have.
func (s *Store) checkModule() error {
	var named struct {
		Module string `json:"module"`
	}
	if err := json.Unmarshal(s.StorageRaw, &named); err != nil || named.Module == "" {
		return errors.New("the storage names no module")
	}
	s.module = "caddy.storage." + named.Module
	info, err := caddy.GetModule(s.module)
	if err != nil {
		return fmt.Errorf("unknown storage module: %w", err)
	}
	mod := info.New()
	if _, ok := mod.(caddy.StorageConverter); !ok {
		return fmt.Errorf("module %s is not a storage module", s.module)
	}
	if err := caddy.StrictUnmarshalJSON(s.options(), &mod); err != nil {
		return fmt.Errorf("storage module %s: %w", s.module, err)
	}
	return nil
}

// options are the module's own, without its name.
func (s *Store) options() json.RawMessage {
	var options map[string]json.RawMessage
	_ = json.Unmarshal(s.StorageRaw, &options) // has been checked
	delete(options, "module")
	raw, _ := json.Marshal(options)
	return raw
}

// PoolKey implements share.Keyed. The storage of a configuration is closed with it, so that another configuration must not
// go on with it.
func (s *Store) PoolKey() string { return s.id }

// Open implements share.Opener. It provisions the storage module, which may need its server for that.
func (s *Store) Open(ctx context.Context) (share.Store, error) {
	if s.global != nil {
		return engine{s.global}, nil
	}
	// The module lives as long as the store, which a reload that leaves the store as it was does not end. Its context must
	// have a configuration. Without one, Caddy logs for developers, and a module that asks for the storage panics.
	lasting := s.ctx
	lasting.Context = context.WithoutCancel(s.ctx.Context)
	child, cancel := caddy.NewContext(lasting)
	storage, err := s.load(child)
	if err != nil {
		cancel()
		return nil, err
	}
	context.AfterFunc(ctx, cancel)
	return engine{storage}, nil
}

func (s *Store) load(ctx caddy.Context) (certmagic.Storage, error) {
	mod, err := ctx.LoadModuleByID(s.module, s.options())
	if err != nil {
		return nil, err
	}
	return mod.(caddy.StorageConverter).CertMagicStorage()
}

// engine is a storage as a share.Store.
type engine struct {
	storage certmagic.Storage
}

// Load implements share.Store.
func (e engine) Load(ctx context.Context, name string) ([]byte, error) {
	value, err := e.storage.Load(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return value, explained(err)
}

// Save implements share.Store. The value does not expire.
func (e engine) Save(ctx context.Context, name string, value []byte, _ time.Duration) error {
	return explained(e.storage.Store(ctx, name, value))
}

// Delete implements share.Store.
func (e engine) Delete(ctx context.Context, name string) error {
	err := e.storage.Delete(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return explained(err)
}

// explained adds the reason to the failures of a file system.
func explained(err error) error {
	for _, known := range []struct {
		err    error
		reason string
	}{
		{fs.ErrPermission, "the process may not write into the folder of the storage"},
		{syscall.ENOSPC, "the storage has no space left"},
		{syscall.EROFS, "the storage is read-only"},
		{syscall.ENOTDIR, "the root of the storage is not a folder"},
	} {
		if errors.Is(err, known.err) {
			return &share.Error{Reason: known.reason, Err: err}
		}
	}
	return err
}

// Interface guards
var (
	_ caddy.Provisioner = (*Store)(nil)
	_ share.Opener      = (*Store)(nil)
	_ share.Keyed       = (*Store)(nil)
)
