package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// requestTenant is the tenant of a request, or none for a credential without tenants.
type requestTenant struct{ *tenants.Tenant }

// tenantOf returns the tenant that the request names, or none for a credential without tenants. basic are the credentials that
// basicIn has found in the request. The error is a *tenants.Denial.
func (c *client) tenantOf(r *http.Request, basic string) (requestTenant, error) {
	switch {
	case c.template == nil:
		return requestTenant{}, nil
	case c.Tenant.basic():
		return c.basicTenantOf(r, basic)
	}
	name, ok := c.Tenant.nameOf(r)
	if !ok {
		name, ok = c.Tenant.namedBefore(r)
	}
	c.Tenant.removeFrom(r)
	if !ok {
		return requestTenant{}, tenants.ErrName
	}
	t, err := c.tenants.Get(name)
	if err == nil && c.Tenant.header != "" {
		caddyhttp.SetVar(r.Context(), c.Tenant.variable, &t.Name)
	}
	return requestTenant{t}, err
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
func (c *client) basicTenantOf(r *http.Request, basic string) (requestTenant, error) {
	before, ok := caddyhttp.GetVar(r.Context(), basicVariable).(**tenants.Tenant)
	if basic == "" && ok && (*before).In(c.tenants) {
		return requestTenant{(*before).Current()}, nil
	}
	t, err := c.tenants.GetBasic(basic)
	if err == nil {
		caddyhttp.SetVar(r.Context(), basicVariable, &t)
	}
	return requestTenant{t}, err
}

// nameOrNone returns the name, or "" for a credential without tenants.
func (t requestTenant) nameOrNone() string {
	if t.Tenant == nil {
		return ""
	}
	return t.Name
}

// sourceOr returns the tenant's source or, for a credential without tenants, that of the credential.
func (t requestTenant) sourceOr(s *token.Source) *token.Source {
	if t.Tenant == nil {
		return s
	}
	return t.Source
}

// expose sets the placeholder with the tenant's name, which upstreams can use.
func (t requestTenant) expose(r *http.Request) {
	if t.Tenant == nil {
		return
	}
	if _, _, basic := t.Client(); !basic {
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set(keptPlaceholder+"tenant", t.Name)
	}
}

// failed is Failed of the tenant.
func (t requestTenant) failed(err error) error {
	if t.Tenant == nil {
		return err
	}
	return t.Failed(err)
}
