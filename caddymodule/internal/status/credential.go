package status

import (
	"iter"
	"time"

	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Service is what gives a credential its tokens.
type Service struct {
	Provider string // the name of the provider
	Endpoint string // the host of the token endpoint or issuer, with the port if the URL has one
}

// Credential records what happens to one credential of a configuration, and reports it.
type Credential struct {
	Name string // the credential's name in the configuration
	Service

	// Sharing, if not nil, returns what this replica knows of the sharing of the token. Set it before Begin.
	Sharing func() Sharing

	// Tenants, if not nil, returns how many tenants have a place, and how many can have one. Set it before Begin. Default: the
	// credential has no tenants.
	Tenants func() (count, most int)

	// TenantSources are the sources of the tenants that have a place, as they are now. Set it together with Tenants.
	TenantSources iter.Seq[token.Status]

	source     *token.Source
	record     *record
	endSharing func() // nil before Begin
	failures   failureLog
	tenantLog  tenantLog
	demands    demands
	noted      string // the note on the latest token
	events     *Events
	logger     *zap.Logger
}

// New returns the Credential with this name. Credentials of the same name share their counters and their history, also
// across configurations. Each call must be matched by one call of Release. If events is nil, none are emitted.
func New(name string, events *Events, logger *zap.Logger) *Credential {
	return &Credential{Name: name, record: records.acquire(name), events: events, logger: logger}
}

// Begin puts the credential into force with this identity and source.
func (c *Credential) Begin(identity token.Key, source *token.Source) {
	c.source = source
	c.record.begin(identity)
	c.endSharing = c.record.share(c.sharing)
	if c.Tenants != nil {
		c.record.tenants.used.Store(true)
	}
}

// sharing returns what is known of the sharing. It is zero if the configuration has no store.
func (c *Credential) sharing() Sharing {
	if c.Sharing == nil {
		return Sharing{}
	}
	return c.Sharing()
}

// Release ends the credential's use by its configuration.
func (c *Credential) Release() {
	if c.endSharing != nil {
		c.endSharing()
	}
	records.release(c.record)
}

// ID implements token.Observer.
func (c *Credential) ID() string { return c.Name }

// Served counts a request by the way in which it came by a token.
func (c *Credential) Served(how Served) { c.record.served[how].Add(1) }

// Waited counts the time that a request waited for a token.
func (c *Credential) Waited(d time.Duration) { c.record.waited(d) }

// Denied counts a request that the proxy denied, by the reason.
func (c *Credential) Denied(why Denied) { c.record.denied[why].Add(1) }

// DeniedDestination adds to the history that the token may not go to an upstream. The reason names the upstream.
func (c *Credential) DeniedDestination(reason string) {
	c.record.occurred(Occurrence{At: time.Now(), Outcome: Destination, Reason: reason})
}

// Unauthorized counts an answer of the API with a status that rejects the token, which is 401 by default.
func (c *Credential) Unauthorized() { c.record.unauthorized.Add(1) }

// Replayed counts a request that was sent again with another token.
func (c *Credential) Replayed() { c.record.replays.Add(1) }

// TenantDenied counts a request whose tenant the proxy denied, by the reason.
func (c *Credential) TenantDenied(why TenantDenied) { c.record.tenants.denied[why].Add(1) }

// TenantEvicted counts a tenant that has made room for another.
func (c *Credential) TenantEvicted() { c.record.tenants.evicted.Add(1) }
