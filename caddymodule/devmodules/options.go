package devmodules

import (
	"encoding/json"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// unmarshalBlock parses the options of a module and then validates the module as a whole.
func unmarshalBlock(
	d *caddyfile.Dispenser, module caddy.Validator, parse func(*caddyfile.Dispenser) error, repeatable ...string,
) error {
	if _, err := option.Block(d, parse, repeatable...); err != nil {
		return err
	}
	if err := module.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalFlag parses an option that takes no value.
func unmarshalFlag(d *caddyfile.Dispenser, into *bool) error {
	*into = true
	return option.NoValue(d)
}

// unmarshalNumber parses a whole number above zero.
func unmarshalNumber(d *caddyfile.Dispenser, into *int) error {
	name := d.Val()
	var text string
	if err := option.String(d, &text); err != nil {
		return err
	}
	number, err := strconv.Atoi(text)
	if err != nil || number <= 0 {
		return d.Errf("%s: wrong value: it is a whole number above zero", name)
	}
	*into = number
	return nil
}

// unmarshalOptional parses an option whose empty value has a meaning.
func unmarshalOptional(d *caddyfile.Dispenser, into **string) error {
	var value string
	err := option.Value(d, &value)
	*into = &value
	return err
}

// unmarshalDPoP parses which proofs a server demands.
func unmarshalDPoP(d *caddyfile.Dispenser, into *devserver.DPoP) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 || len(args) == 2 && args[1] != "nonce" {
		return d.Err("dpop: wrong number of values: it takes off, optional or required, and nonce after optional or required")
	}
	into.Mode, into.Nonce = args[0], len(args) == 2
	return nil
}

// unmarshalDPoPAlgs parses the algorithms of proofs.
func unmarshalDPoPAlgs(d *caddyfile.Dispenser, into *devserver.DPoP) error {
	if into.Algs = d.RemainingArgs(); len(into.Algs) == 0 {
		return d.Err("dpop_algs takes one or more algorithms")
	}
	return nil
}

// unmarshalField appends a name with an optional value.
func unmarshalField(d *caddyfile.Dispenser, into *[]devserver.Field) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.Errf("%s: wrong number of values: it takes a name and at most one value", name)
	}
	field := devserver.Field{Name: args[0]}
	if len(args) == 2 {
		field.Value = &args[1]
	}
	*into = append(*into, field)
	return nil
}

// unmarshalJSONField appends a name and a JSON value.
func unmarshalJSONField(d *caddyfile.Dispenser, into *[]devserver.JSONField) error {
	option := d.Val()
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.Errf("%s: wrong number of values: it takes a name and a JSON value in backticks", option)
	}
	*into = append(*into, devserver.JSONField{Name: name, Value: json.RawMessage(value)})
	return nil
}
