package caddymodule

import (
	"errors"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// problemOfDenial returns the answer for a request whose tenant is denied.
func problemOfDenial(d *tenants.Denial) problem {
	switch {
	case d.Basic:
		return problemTenantBasic
	case d.Why == status.TenantInvalid:
		return problemTenantName
	case d.Why == status.TenantUnknown:
		return problemTenant
	default:
		p := problemTenantLater
		p.retryAt = d.RetryAt
		return p
	}
}

// problemOf returns the answer for a request that got no token, and counts a denied tenant. A tenant whose credentials are
// refused gets the answer of an unknown one. With `tenant basic`, a failure that is not about the client has nothing to hide.
func (c *client) problemOf(err error) problem {
	if denial, ok := errors.AsType[*tenants.Denial](err); ok {
		c.status.TenantDenied(denial.Why)
		return problemOfDenial(denial)
	}
	p := problemOf(err)
	if c.template == nil || p.slug != problemRefused.slug {
		return p
	}
	if e, ok := errors.AsType[*token.Error](err); ok && c.Tenant.basic() && !tenants.RefusesClient(e) {
		return p
	}
	return problemTenant
}
