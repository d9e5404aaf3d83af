package option

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Module parses the module of a namespace that the current word names, with its arguments and its block. If the binary does
// not have the module, the error is the given text and the names of those that it has.
func Module(d *caddyfile.Dispenser, namespace, unknown string) (caddyfile.Unmarshaler, error) {
	id := namespace + "." + d.Val()
	if _, err := caddy.GetModule(id); err != nil {
		return nil, d.Errf("%s %s", unknown, strings.Join(moduleNames(namespace), ", "))
	}
	return caddyfile.UnmarshalModule(d, id)
}

func moduleNames(namespace string) []string {
	var names []string
	for _, info := range caddy.GetModules(namespace) {
		names = append(names, info.ID.Name())
	}
	slices.Sort(names)
	return names
}
