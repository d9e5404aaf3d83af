package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tenants returns the tenants of a credential that has some.
func (c *client) tenants() *tenants { return c.tenancy.(*tenants) }

// tenantOf returns the tenant that the request names, or nil for a credential without tenants. basic are the credentials that
// basicIn has found in the request. The error is a *tenantDenial.
func (c *client) tenantOf(r *http.Request, basic string) (*tenant, error) {
	switch {
	case c.template == nil:
		return nil, nil
	case c.Tenant.basic():
		return c.basicTenantOf(r, basic)
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

// basicVariable is the variable of a request for its tenant by `tenant basic`. Its value is a pointer to a pointer, which shows
// nothing as a placeholder.
const basicVariable = "token_proxy.tenant basic"

// basicTenantOf is tenantOf for `tenant basic`. In handle_response or handle_errors of another handler, the credentials are
// removed already. A client's secret goes to no other token endpoint than that of the credential it was sent to.
func (c *client) basicTenantOf(r *http.Request, basic string) (*tenant, error) {
	before, ok := caddyhttp.GetVar(r.Context(), basicVariable).(**tenant)
	if basic == "" && ok && (*before).of == c.tenants() {
		return (*before).current(), nil
	}
	t, err := c.tenants().getBasic(basic)
	if err == nil {
		caddyhttp.SetVar(r.Context(), basicVariable, &t)
	}
	return t, err
}
