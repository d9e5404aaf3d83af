package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// checkNoneDropped returns an error if a Caddyfile has the wrapper https_proxy. It is for configurations without a server that
// got the wrapper. Caddy compares the address of a `servers` option with those of the listeners as text, and drops an option
// that fits none without a warning, so the wrapper itself never learns of it.
func checkNoneDropped(blocks []caddyfile.ServerBlock, servers map[string]configServer) error {
	if len(blocks) == 0 || len(blocks[0].Keys) > 0 {
		return nil // no global options
	}
	for _, segment := range blocks[0].Segments {
		if segment.Directive() != "servers" {
			continue
		}
		d := caddyfile.NewDispenser(segment)
		d.Next()
		var address string
		d.Args(&address) // without one, the option is for all listeners that no other option names
		for d.NextBlock(0) {
			if inner := d.NextSegment(); inner.Directive() == "listener_wrappers" && hasLine(inner, "https_proxy") {
				return fmt.Errorf("%s:%d: https_proxy has no effect, because %w", segment[0].File, segment[0].Line, dropped(address, servers))
			}
		}
	}
	return nil
}

// hasLine reports whether a line in the block of a segment begins with a word.
func hasLine(segment caddyfile.Segment, word string) bool {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	for d.NextBlock(0) {
		if d.NextSegment().Directive() == word {
			return true
		}
	}
	return false
}

// dropped returns the reason why none of the servers got the `servers` option with this address.
func dropped(address string, servers map[string]configServer) error {
	var listeners []string
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		listeners = append(listeners, servers[name].Listen...)
	}
	alike := slices.IndexFunc(listeners, func(l string) bool { return portOfListener(l) == portOfListener(address) })
	switch {
	case len(listeners) == 0:
		return errors.New("the configuration has no site")
	case address == "" || slices.Contains(listeners, address):
		return errors.New("the listener has another `servers` option with a longer address, and Caddy uses only that; move the wrapper there")
	case alike >= 0:
		return fmt.Errorf("no site listens on exactly %s; write `servers %s`", address, listeners[alike])
	default:
		return fmt.Errorf("no site listens on exactly %s; write one of %s after `servers`", address, strings.Join(listeners, ", "))
	}
}

// portOfListener returns the port of an address. An address without one may be nothing but a port.
func portOfListener(address string) string {
	_, host, port, _ := caddy.SplitNetworkAddress(address)
	return cmp.Or(port, host)
}
