package status

import (
	"time"

	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Credential is what is known of one credential of a configuration.
type Credential struct {
	// Name, Provider and Endpoint say which credential it is. Endpoint is the host of its token endpoint or issuer.
	Name, Provider, Endpoint string

	source   *token.Source
	record   *record
	failures failureLog
	events   *Events
	logger   *zap.Logger
}

// New returns what is known of the credential with this name. Each call must be matched by one of Release.
func New(name string, events *Events, logger *zap.Logger) *Credential {
	return &Credential{Name: name, record: records.acquire(name), events: events, logger: logger}
}

// Begin says that the credential is in force, with this identity and source.
func (c *Credential) Begin(identity token.Key, source *token.Source) {
	c.source = source
	c.record.begin(identity)
}

// Release says that the configuration is gone.
func (c *Credential) Release() { records.release(c.record) }

// ID implements token.Observer.
func (c *Credential) ID() string { return c.Name }

// Observe is told of every token call and of every token that is given up. It counts, keeps the history, logs, and emits
// Caddy's events.
func (c *Credential) Observe(e token.Event) {
	o := c.record.event(e)
	c.log(e)
	c.emit(o, e)
}

// Served counts a request by how it came by a token.
func (c *Credential) Served(how Served) { c.record.served[how].Add(1) }

// Waited counts how long a request has waited for a token.
func (c *Credential) Waited(d time.Duration) { c.record.waited(d) }

// Denied counts a request that was not sent on.
func (c *Credential) Denied(why Denied) { c.record.denied[why].Add(1) }

// DestinationInterval is how often, at most, a denied destination is added to the history.
const DestinationInterval = time.Minute

// DeniedDestination adds to the history that a token may not go to an upstream.
func (c *Credential) DeniedDestination(reason string) {
	c.record.occurred(Occurrence{At: time.Now(), Outcome: Destination, Reason: reason})
}

// Unauthorized counts an answer of the API with status 401.
func (c *Credential) Unauthorized() { c.record.unauthorized.Add(1) }

// Replayed counts a request that was sent again with another token.
func (c *Credential) Replayed() { c.record.replays.Add(1) }
