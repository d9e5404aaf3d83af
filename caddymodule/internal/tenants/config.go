package tenants

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// Config is what the tenants of a credential have in common in one configuration.
type Config struct {
	Credential string // its name
	Basic      bool   // the tenants are the clients of `tenant basic`
	Max        int    // tenants that have a place at a time
	NewRate    int    // token calls a second of tenants without a token
	Burst      int    // of these calls
	Policy     token.Policy
	Status     *status.Credential
	Template   *Template
	Provider   provider.Provider // stands for those of all tenants
	Sharing    *Sharing          // nil: each replica has tokens of tenants of its own
	Caller     Caller

	// Unopened and Skewed log what a replica notices of another, as in share.Spec.
	Unopened func(share.Unopened)
	Skewed   func(ahead time.Duration)
}

// Caller makes the token calls of tenants. The tenants know nothing else of the client of their credential.
type Caller interface {
	// Prepare is that of token.Fetcher, for a tenant.
	Prepare(*Tenant) token.Call

	// Identify returns what tells the tenant's token from all others, and its client id.
	Identify(*Tenant) (key token.Key, identity token.Secret, clientID string, err error)

	// ReadCertificate sets the tenant's client certificate as it is now, if it has one.
	ReadCertificate(*Tenant)

	// Prover returns the prover of the key that the tenant's tokens are bound to at present, or nil.
	Prover(*Tenant) token.Prover

	// Ended returns a Caller for the requests that outlive the configuration. It keeps nothing of what Caddy made for it.
	Ended() Caller
}

// inherit takes over what the provider of an earlier configuration has learned.
func (c *Config) inherit(earlier *Config) {
	if learner, ok := c.Provider.(provider.Learner); ok && earlier != c {
		learner.Inherit(earlier.Provider)
	}
}
