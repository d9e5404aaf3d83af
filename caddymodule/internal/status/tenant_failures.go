package status

import (
	"slices"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// mostTenantFailures is the number of tenants whose latest failure the history of a credential keeps.
const mostTenantFailures = 20

// TenantFailure is the latest failed token call of one tenant.
type TenantFailure struct {
	Occurrence

	// Over reports whether the tenant got a token since.
	Over bool `json:"over,omitempty"`
}

// tenantFailures are the latest failures of different tenants, oldest first.
type tenantFailures []TenantFailure

// add adds a failed token call of a tenant, and marks its failure as over when the tenant gets a token. A tenant whose files
// are gone is unknown from then on, which is no failure.
func (f *tenantFailures) add(o Occurrence) {
	if o.Tenant == "" || o.Cause == token.CauseTenant {
		return
	}
	i := slices.IndexFunc(*f, func(known TenantFailure) bool { return known.Tenant == o.Tenant })
	switch {
	case o.Outcome.isToken() && i >= 0:
		(*f)[i].Over = true
		return
	case o.Outcome.isToken() || !o.Outcome.isCall():
		return
	case i >= 0:
		*f = slices.Delete(*f, i, i+1)
	case len(*f) == mostTenantFailures:
		*f = slices.Delete(*f, 0, 1)
	}
	*f = append(*f, TenantFailure{Occurrence: o})
}

// newestFirst returns the failures for a report.
func (f tenantFailures) newestFirst() []TenantFailure {
	failures := append([]TenantFailure{}, f...) // an empty list, not null
	slices.Reverse(failures)
	return failures
}
