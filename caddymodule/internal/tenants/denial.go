package tenants

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// Denial is why a request gets no token although its tenant's source has no failure.
type Denial struct {
	Why     status.TenantDenied
	RetryAt time.Time
	Basic   bool // the request must have credentials
}

// The denials of requests that name no tenant, no client of `tenant basic`, or a tenant that does not exist.
var (
	ErrName    = &Denial{Why: status.TenantInvalid}
	ErrBasic   = &Denial{Why: status.TenantInvalid, Basic: true}
	ErrUnknown = &Denial{Why: status.TenantUnknown}
)

// Error implements error.
func (d *Denial) Error() string { return "the proxy denies the tenant: " + d.Why.String() }
