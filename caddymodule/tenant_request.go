package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tenants returns the tenants of a credential that has some.
func (c *client) tenants() *tenants { return c.tenancy.(*tenants) }

// tenantOf returns the tenant that the request names, or nil for a credential without tenants. The error is a *tenantDenial.
func (c *client) tenantOf(r *http.Request) (*tenant, error) {
	if c.template == nil {
		return nil, nil
	}
	name, ok := c.Tenant.nameOf(r)
	if !ok {
		name, ok = c.Tenant.namedBefore(r)
	}
	c.Tenant.removeFrom(r)
	if !ok {
		return nil, errTenantName
	}
	t, err := c.tenants().get(name)
	if err == nil && c.Tenant.header != "" {
		caddyhttp.SetVar(r.Context(), c.Tenant.variable, &t.name)
	}
	return t, err
}

// namedBefore returns the name that another handler has found in the request's header field and has removed. This handler is
// in handle_response or handle_errors of that one.
func (t *Tenant) namedBefore(r *http.Request) (string, bool) {
	if t.header == "" || len(r.Header[t.header]) > 0 {
		return "", false
	}
	before, ok := caddyhttp.GetVar(r.Context(), t.variable).(*string)
	if !ok {
		return "", false
	}
	return *before, true
}
