// Package option parses options: those of a Caddyfile, and the values that come from the environment or from files.
package option

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Block parses the options of a block, of which only the repeatable ones may stand more than once. It returns which
// were there.
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

// Set remembers which options of a block were there.
type Set map[string]bool

// Add refuses an option that stands twice: one of the two would be ignored.
func (s Set) Add(d *caddyfile.Dispenser) error {
	if s[d.Val()] {
		return d.Errf("%s is already specified", d.Val())
	}
	s[d.Val()] = true
	return nil
}
