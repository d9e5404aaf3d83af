package caddymodule

import "net/http"

// tenants returns the tenants of a credential that has some.
func (c *client) tenants() *tenants { return c.tenancy.(*tenants) }

// tenantOf returns the tenant that the request names, or nil for a credential without tenants. The error is a *tenantDenial.
func (c *client) tenantOf(r *http.Request) (*tenant, error) {
	if c.template == nil {
		return nil, nil
	}
	name, ok := c.Tenant.nameOf(r)
	c.Tenant.removeFrom(r)
	if ok {
		return c.tenants().get(name)
	}
	// a handler in the handle_response of another one, which has removed the header field
	p, proxying := r.Context().Value(proxiedKey{}).(*proxied)
	if proxying && p.tenant != nil && p.tenant.of.client().Tenant.value == c.Tenant.value {
		return c.tenants().get(p.tenant.name)
	}
	return nil, errTenantName
}
