package caddymodule

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
)

// unmarshalTenant sets up the option tenant of a credential from Caddyfile tokens.
func (c *Credential) unmarshalTenant(d *caddyfile.Dispenser) error {
	c.Tenant = new(Tenant)
	if err := option.String(d, &c.Tenant.Name); err != nil {
		return err
	}
	if _, err := option.Block(d, c.Tenant.unmarshalOption); err != nil {
		return err
	}
	check := *c.Tenant
	if err := check.provision(); err != nil {
		return d.Errf("tenant: %v", err)
	}
	return nil
}

func (t *Tenant) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "max":
		return unmarshalNumber(d, &t.Max, mostTenants, errTenantMax)
	case "new_rate":
		return unmarshalNumber(d, &t.NewRate, mostTenantRate, errTenantRate)
	case "keep":
		t.KeepHeader = true
		return option.NoValue(d)
	default:
		return option.Unrecognized(d, option.OfTenant)
	}
}

func unmarshalNumber(d *caddyfile.Dispenser, into *int, most int, mistake error) error {
	var text string
	if err := option.String(d, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return d.WrapErr(mistake)
	}
	*into = n
	return nil
}

// tenantLines are the places of a credential's block that use {tenant}. They give an error the line of the option that it is
// about, which is known only when the whole block has been read.
type tenantLines []tenantLine

type tenantLine struct {
	option string
	at     caddyfile.Dispenser
}

// tenantLinesOf looks for {tenant} in the block that follows.
func tenantLinesOf(d *caddyfile.Dispenser) (lines tenantLines) {
	at := *d
	line, depth, option := 0, 0, ""
	for at.Next() {
		if at.Line() != line {
			line, option = at.Line(), at.Val()
		}
		switch {
		case at.Val() == "{":
			depth++
		case at.Val() == "}":
			depth--
		case strings.Contains(at.Val(), tenants.Placeholder):
			lines = append(lines, tenantLine{option, at})
		}
		if depth <= 0 {
			break
		}
	}
	return lines
}

// check returns an error for {tenant} where it is not possible, with the line of the option.
func (l tenantLines) check(d *caddyfile.Dispenser, c *Credential) error {
	err := c.checkTenant()
	mistake, ok := errors.AsType[*tenants.Mistake](err)
	if !ok {
		if err != nil {
			return d.WrapErr(err)
		}
		return nil
	}
	parts := strings.Split(mistake.Option, ".") // such as transport.server_name, or header.format for the option header
	for _, name := range slices.Backward(parts) {
		name = strings.TrimSuffix(name, "s") // params and headers
		if i := slices.IndexFunc(l, func(line tenantLine) bool { return strings.TrimSuffix(line.option, "s") == name }); i >= 0 {
			return l[i].at.WrapErr(err)
		}
	}
	return d.WrapErr(err)
}
