package caddymodule

import (
	"errors"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// tenantDenial is why a request gets no token although its tenant's source has no failure.
type tenantDenial struct {
	why     status.TenantDenied
	retryAt time.Time
	basic   bool // the request must have credentials
}

var (
	errTenantName    = &tenantDenial{why: status.TenantInvalid}
	errTenantBasic   = &tenantDenial{why: status.TenantInvalid, basic: true}
	errTenantUnknown = &tenantDenial{why: status.TenantUnknown}
)

// Error implements error.
func (d *tenantDenial) Error() string { return "the proxy denies the tenant: " + d.why.String() }

func (d *tenantDenial) problem() problem {
	switch {
	case d.basic:
		return problemTenantBasic
	case d.why == status.TenantInvalid:
		return problemTenantName
	case d.why == status.TenantUnknown:
		return problemTenant
	default:
		p := problemTenantLater
		p.retryAt = d.retryAt
		return p
	}
}

// logDenial logs why a tenant without a place gets none.
func (ts *tenants) logDenial(name string, err error) {
	if denial, ok := errors.AsType[*tenantDenial](err); ok {
		ts.client().status.LogTenantDenied(name, denial.why)
	}
}

// problemOf returns the answer for a request that got no token, and counts a denied tenant. A tenant whose credentials are
// refused gets the answer of an unknown one.
func (c *client) problemOf(err error) problem {
	if denial, ok := errors.AsType[*tenantDenial](err); ok {
		c.status.TenantDenied(denial.why)
		return denial.problem()
	}
	p := problemOf(err)
	if c.template != nil && p.slug == problemRefused.slug {
		return problemTenant
	}
	return p
}
