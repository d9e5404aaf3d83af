// Package option parses the options of a Caddyfile and reads values from the environment and from files.
package option

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Block calls parse for each option of a block. An option that is not repeatable may occur only once. Block returns the
// options that occur.
func Block(d *caddyfile.Dispenser, parse func(*caddyfile.Dispenser) error, repeatable ...string) (Set, error) {
	seen := make(Set)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if !slices.Contains(repeatable, d.Val()) {
			if err := seen.Add(d); err != nil {
				return seen, err
			}
		}
		if err := parse(d); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// Set holds the options that occur in a block.
type Set map[string]bool

// Add adds the current option. It returns an error if the set has the option, because Caddy would ignore one of the two.
func (s Set) Add(d *caddyfile.Dispenser) error {
	if s[d.Val()] {
		return d.Errf("%s is already specified", d.Val())
	}
	s[d.Val()] = true
	return nil
}
