package status

import (
	"slices"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Served says how a request was served, or why not. It is an index into servedLabels.
type Served int

// How requests come by a token.
const (
	ServedFresh Served = iota
	ServedStale
	ServedWaited
	ServedFailed
	ServedLeft // the application did not wait for a token
)

// servedLabels are the values of the metric label served.
var servedLabels = [...]string{string(token.ServedFresh), string(token.ServedStale), string(token.ServedWaited), "failed", "left"}

// String returns the value of the label.
func (s Served) String() string { return servedLabels[s] }

// ServedBy returns how a request was served that got a lease.
func ServedBy(l token.Lease) Served { return Served(slices.Index(servedLabels[:], string(l.Served()))) }

// Denied says why a request was not sent on. It is an index into deniedLabels.
type Denied int

// Why requests are denied.
const (
	DeniedClient Denied = iota
	DeniedCrossSite
	DeniedMethod
	DeniedAuthorization
	DeniedDestination
	DeniedLoop
)

// deniedLabels are the values of the metric label reason.
var deniedLabels = [...]string{"client", "cross_site", "method", "authorization", "destination", "loop"}

// String returns the value of the label.
func (d Denied) String() string { return deniedLabels[d] }

// labeledCodes are the error codes that have a value of the metric label code: those of RFC 6749, of RFC 8707 and RFC 8628
// as far as they can be answers to these requests, and Doorkeeper's. A token endpoint can invent any number of others.
var labeledCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"invalid_target", "slow_down", "access_denied", "server_error", "temporarily_unavailable", "invalid_token_reuse",
}

func codeLabel(code string) string {
	if code == "" || slices.Contains(labeledCodes, code) {
		return code
	}
	return "other"
}
