package status

import (
	"slices"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Served is how a request came by a token, or why it has none. It is an index into servedLabels.
type Served int

// The ways in which a request comes by a token.
const (
	ServedFresh  Served = iota // at once, a token that is not due for a refresh
	ServedStale                // at once, a token that is due for a refresh
	ServedWaited               // after a wait for a token call
	ServedFailed               // no token could be had
	ServedLeft                 // the application did not wait for a token
)

// servedLabels are the values of the metric label served.
var servedLabels = [...]string{string(token.ServedFresh), string(token.ServedStale), string(token.ServedWaited), "failed", "left"}

// String returns the value of the label.
func (s Served) String() string { return servedLabels[s] }

// ServedBy returns how the request that holds the lease came by its token.
func ServedBy(l token.Lease) Served { return Served(slices.Index(servedLabels[:], string(l.Served()))) }

// Denied is the reason why the proxy denied a request. It is an index into deniedLabels.
type Denied int

// The reasons to deny a request.
const (
	DeniedClient        Denied = iota // the client is not one of clients
	DeniedCrossSite                   // a browser sent it for a page of another site
	DeniedMethod                      // its method would show the token
	DeniedAuthorization               // it has credentials of its own
	DeniedDestination                 // the token may not go to its upstream
	DeniedLoop                        // it has been through this proxy too often
)

// deniedLabels are the values of the metric label reason.
var deniedLabels = [...]string{"client", "cross_site", "method", "authorization", "destination", "loop"}

// String returns the value of the label.
func (d Denied) String() string { return deniedLabels[d] }

// TenantDenied is the reason why the proxy denied the tenant of a request. It is an index into tenantDeniedLabels.
type TenantDenied int

// The reasons to deny a tenant.
const (
	TenantInvalid TenantDenied = iota // the request does not name a tenant exactly once, or by no valid name
	TenantUnknown                     // the tenant has no files
	TenantLimited                     // too many new tenants at once
	TenantFull                        // no place for another tenant
)

// tenantDeniedLabels are the values of the metric label reason.
var tenantDeniedLabels = [...]string{"invalid", "unknown", "limited", "full"}

// tenantDeniedReasons are the reasons in words.
var tenantDeniedReasons = [...]string{
	"the request does not name it exactly once by a valid name",
	"it has no files",
	"too many tenants without a token came at once (new_rate of the option tenant, or 200 unknown names a second)",
	"all places for tenants are taken (max of the option tenant)",
}

// String returns the value of the label.
func (d TenantDenied) String() string { return tenantDeniedLabels[d] }

// labeledCodes are the error codes that the metric label code shows: those of RFC 6749, those of RFC 8707 and RFC 8628
// that can answer these requests, and that of Doorkeeper. A token endpoint can invent any number of other codes, and each
// would be a new series.
var labeledCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"invalid_target", "slow_down", "access_denied", "server_error", "temporarily_unavailable", "invalid_token_reuse",
}

// codeLabel returns the value of the metric label code for an error code.
func codeLabel(code string) string {
	if code == "" || slices.Contains(labeledCodes, code) {
		return code
	}
	return "other"
}
