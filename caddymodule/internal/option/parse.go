package option

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// unset is why an option may have no value although the operator has written one. Caddy replaces {$NAME} before it parses.
const unset = "if it is {$NAME}, this variable is empty or not set"

// Values parses an option that takes one or more values.
func Values(d *caddyfile.Dispenser) ([]string, error) {
	option := d.Val()
	values := d.RemainingArgs()
	if len(values) == 0 {
		return nil, d.Errf("%s has no value; %s", option, unset)
	}
	return values, nil
}

// Named parses an option that takes a name, which must not be empty, and a value. Its errors do not quote the value.
func Named(d *caddyfile.Dispenser) (name, value string, err error) {
	option := d.Val()
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && args[0] != "":
		return "", "", d.Errf("%s has a name and no value; %s", option, unset)
	case len(args) != 2 || args[0] == "":
		return "", "", d.Errf("%s takes a name and a value; quote a value with spaces", option)
	}
	return args[0], args[1], nil
}

// Value parses an option that takes exactly one value, which may be empty. Its errors do not quote the value, which may be a
// secret. (Those of d.ArgErr do.)
func Value(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	values, err := Values(d)
	if err != nil {
		return err
	}
	if len(values) > 1 {
		return d.Errf("%s takes exactly one value; quote a value with spaces", option)
	}
	*into = values[0]
	return nil
}

// String parses an option that takes exactly one value, which must not be empty. Its errors do not quote the value.
func String(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	if err := Value(d, into); err != nil {
		return err
	}
	if *into == "" {
		return d.Errf("%s is empty", option)
	}
	return nil
}

// Secret parses an option whose value is a placeholder that NewReader accepts, or the secret itself. Its errors do not
// quote the value.
func Secret(d *caddyfile.Dispenser, into *string) error {
	option := d.Val()
	if err := String(d, into); err != nil {
		return err
	}
	if strings.Contains(*into, "{tenant}") { // which the credential checks, because it has the option tenant
		return nil
	}
	if _, err := NewReader(*into); err != nil {
		return d.Errf("%s: %v", option, err)
	}
	return nil
}

// Choice parses an option that takes one of the words.
func Choice(d *caddyfile.Dispenser, into *string, words ...string) error {
	option := d.Val()
	if err := String(d, into); err != nil {
		return err
	}
	if !slices.Contains(words, *into) {
		return d.Errf("%s: unknown value, must be one of %s", option, strings.Join(words, ", "))
	}
	return nil
}

// Duration parses an option that takes a duration above zero.
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

// Checked parses an option and checks its value. It does not check a value with placeholders, because they are replaced
// only when Caddy loads the configuration.
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

// NoValue parses an option that takes no value.
func NoValue(d *caddyfile.Dispenser) error {
	option := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no value", option)
	}
	return nil
}

// Size parses an option that takes a number of bytes, with or without a unit, of at most most bytes.
func Size(d *caddyfile.Dispenser, into **int64, most uint64) error {
	option := d.Val()
	var text string
	if err := String(d, &text); err != nil {
		return err
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size > most {
		return d.Errf("%s: this is not a size such as 64KiB, of at most %s", option, humanize.IBytes(most))
	}
	bytes := int64(size)
	*into = &bytes
	return nil
}
