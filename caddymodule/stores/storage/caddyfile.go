package storage

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store storage [<module> [<args...>] {
//	    ...
//	}]
func (s *Store) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if !d.NextArg() {
		if d.NextBlock(0) {
			return d.Err("store storage: a block needs the name of a storage module before it")
		}
		return nil
	}
	name := d.Val()
	mod, err := option.Module(d, "caddy.storage", "store storage: unknown storage module: this binary has")
	if err != nil {
		return err
	}
	if _, ok := mod.(caddy.StorageConverter); !ok {
		return d.Errf("store storage: %s is not a storage module", name)
	}
	s.StorageRaw = caddyconfig.JSONModuleObject(mod, "module", name, nil)
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Store)(nil)
