package status

import (
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Observe implements token.Observer. It counts the event, adds it to the history, logs it, and emits it to Caddy's event
// system.
func (c *Credential) Observe(e token.Event) {
	o := c.record.event("", e)
	c.log(e)
	c.emit(o, e)
}

// ObserveTenant is Observe for an event of one tenant. All tenants of the credential are counted together.
func (c *Credential) ObserveTenant(tenant string, e token.Event) {
	o := c.record.event(tenant, e)
	c.logTenant(o, e)
	c.emitFor(tenant, o, e)
}

// emit emits an event of the source to Caddy's event system.
func (c *Credential) emit(entry Occurrence, e token.Event) { c.emitFor("", entry, e) }

// emitFor is emit for the source of a tenant, which is empty for a credential without tenants.
func (c *Credential) emitFor(tenant string, entry Occurrence, e token.Event) {
	data := map[string]any{
		"credential": c.Name,
		"provider":   c.Provider,
		"endpoint":   c.Endpoint,
	}
	if tenant != "" {
		data["tenant"] = tenant
	}
	switch {
	case e.Rejected:
		data["fingerprint"] = entry.Fingerprint
		c.events.emit(eventRejected, data)
	case e.Adopted:
		data["fingerprint"], data["lifetime"] = entry.Fingerprint, e.Lifetime
		c.events.emit(eventAdopted, data)
	case e.Err != nil:
		data["kind"], data["status"], data["error_code"], data["reason"] = string(entry.Outcome), entry.Status, entry.Code, entry.Reason
		data["duration"] = e.Duration
		c.events.emit(eventFailed, data)
	default:
		data["fingerprint"], data["lifetime"], data["duration"] = entry.Fingerprint, e.Lifetime, e.Duration
		c.events.emit(eventObtained, data)
	}
}
