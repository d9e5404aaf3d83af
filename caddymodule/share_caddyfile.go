package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// unmarshalCaddyfile sets up the share block of the global option from Caddyfile tokens.
func (s *Share) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if err := option.NoValue(d); err != nil {
		return err
	}
	seen, err := option.Block(d, s.unmarshalOption)
	if err != nil {
		return err
	}
	for _, required := range []string{"store", "key"} {
		if !seen[required] {
			return d.Errf("share: %s is missing", required)
		}
	}
	return nil
}

func (s *Share) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "store":
		return s.unmarshalStore(d)
	case "key":
		return s.unmarshalKeys(d)
	case "group":
		return option.String(d, &s.Group)
	default:
		return option.Unrecognized(d, option.OfShare)
	}
}

func (s *Share) unmarshalStore(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("store needs the name of a store")
	}
	name := d.Val()
	mod, err := option.Module(d, "token_proxy.stores", "unknown store: the stores are")
	if err != nil {
		return err
	}
	s.StoreRaw = caddyconfig.JSONModuleObject(mod, "name", name, nil)
	return nil
}

func (s *Share) unmarshalKeys(d *caddyfile.Dispenser) error {
	keys, err := option.Values(d)
	if err != nil {
		return err
	}
	for i, key := range keys {
		if key == "" {
			return d.Errf("key %d is empty", i+1)
		}
		if _, err := option.NewReader(key); err != nil {
			return d.Errf("key %d: %v", i+1, err)
		}
		s.Keys = append(s.Keys, option.Source(key))
	}
	return nil
}
