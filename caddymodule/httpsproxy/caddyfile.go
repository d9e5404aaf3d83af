package httpsproxy

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	https_proxy {
//	    tunnel  any|<hosts...>
//	    clients any|<loopback, private_ranges, IP addresses and CIDR ranges...>
//	}
func (w *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume wrapper name
	if err := option.NoValue(d); err != nil {
		return err
	}
	_, err := option.Block(d, w.unmarshalOption)
	return err
}

func (w *ListenerWrapper) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "tunnel":
		return w.unmarshalTunnel(d)
	case "clients":
		return w.unmarshalClients(d)
	default:
		return option.Unrecognized(d, option.OfHTTPSProxy)
	}
}

func (w *ListenerWrapper) unmarshalTunnel(d *caddyfile.Dispenser) error {
	var err error
	if w.Tunnel, err = option.Values(d); err != nil {
		return err
	}
	for i, host := range w.Tunnel {
		if strings.Contains(host, "{") {
			continue // known only when the configuration is loaded
		}
		if err := new(tunnelRules).add(host); err != nil {
			return d.Errf("tunnel: host %d: %v", i+1, err)
		}
	}
	if slices.Contains(w.Tunnel, anyHost) && len(w.Tunnel) > 1 {
		return d.Errf("tunnel: %v", errAnyAlone)
	}
	return nil
}

func (w *ListenerWrapper) unmarshalClients(d *caddyfile.Dispenser) error {
	var err error
	if w.Clients, err = option.Values(d); err != nil {
		return err
	}
	if _, err = peer.ParseClients(w.Clients); err != nil {
		return d.Errf("clients: %v", err)
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
