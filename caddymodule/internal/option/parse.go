package option

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// String parses an option that takes exactly one argument. Its errors do not repeat it, as those of
// d.ArgErr do.
func String(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	if !d.AllArgs(into) {
		return d.Errf("%s takes exactly one value: quote it if it has spaces in it", option)
	}
	if *into == "" {
		return d.Errf("%s is empty", option)
	}
	return nil
}

// Secret parses a value that may be secret; its errors do not repeat it.
func Secret(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	if err := String(d, into); err != nil {
		return err
	}
	if _, err := NewReader(*into); err != nil {
		return d.Errf("%s: %v", option, err)
	}
	return nil
}

// Choice parses an option that takes one of a few words.
func Choice(d *caddyfile.Dispenser, into *string, words ...string) error {
	option := d.Val()
	if err := String(d, into); err != nil {
		return err
	}
	if !slices.Contains(words, *into) {
		return d.Errf("%s: unknown value: it is one of %s", option, strings.Join(words, ", "))
	}
	return nil
}

// Duration parses a duration above zero.
func Duration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	option := d.Val()
	var text string
	if err := String(d, &text); err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration <= 0 {
		return d.Errf("%s: this is not a duration above zero, such as 30s or 5m", option)
	}
	*into = caddy.Duration(duration)
	return nil
}

// Checked parses a value that may have placeholders in it; what can be checked without an environment is
// checked here.
func Checked(d *caddyfile.Dispenser, into *string, check func(string) error) error {
	option := d.Val()
	if err := String(d, into); err != nil {
		return err
	}
	if strings.Contains(*into, "{") {
		return nil
	}
	if err := check(*into); err != nil {
		return d.Errf("%s: %v", option, err)
	}
	return nil
}

func NoValue(d *caddyfile.Dispenser) error {
	option := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no value", option)
	}
	return nil
}

// Size parses a number of bytes, with a unit or without.
func Size(d *caddyfile.Dispenser, into **int64, most uint64) error {
	option := d.Val()
	var text string
	if err := String(d, &text); err != nil {
		return err
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size > most {
		return d.Errf("%s: this is not a size of at most %s", option, humanize.IBytes(most))
	}
	bytes := int64(size)
	*into = &bytes
	return nil
}
