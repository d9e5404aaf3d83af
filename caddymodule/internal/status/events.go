package status

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// The events that Caddy's event system gets.
const (
	eventObtained = "token_obtained"
	eventFailed   = "token_failed"
	eventRejected = "token_rejected"
)

// Events emits Caddy's events, once the configuration has been started: until then, subscriptions are added, and
// tokens may be prefetched. Nil emits none.
type Events struct {
	system  atomic.Pointer[eventSystem] // nil when the configuration is gone
	started chan struct{}               // closed when it has been started
	once    sync.Once
}

// eventSystem is Caddy's event system, as one configuration made it.
type eventSystem struct {
	app *caddyevents.App
	ctx caddy.Context
}

func NewEvents(ctx caddy.Context) (*Events, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &Events{started: make(chan struct{})}
	system := &eventSystem{app.(*caddyevents.App), ctx}
	e.system.Store(system)
	return e, system.app.On("started", e)
}

// Handle implements caddyevents.Handler for the event that a configuration has been started.
func (e *Events) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.started) })
	return nil
}

// End lets go of the configuration. A source that the vault remembers still holds its credential, and so this emitter;
// it must not keep all that Caddy made of the same configuration.
func (e *Events) End() {
	if e != nil {
		e.system.Store(nil)
	}
}

// emit runs the handlers of whoever subscribed. They take their time, so it does not wait for them.
func (e *Events) emit(name string, data map[string]any) {
	if e == nil {
		return
	}
	system := e.system.Load()
	if system == nil {
		return
	}
	go func() {
		select {
		case <-e.started:
			system.app.Emit(system.ctx, name, data)
		case <-system.ctx.Done():
		}
	}()
}

// emit tells Caddy's event system.
func (c *Credential) emit(entry Occurrence, e token.Event) {
	data := map[string]any{
		"credential": c.Name,
		"provider":   c.Provider,
		"endpoint":   c.Endpoint,
	}
	switch {
	case e.Rejected:
		data["fingerprint"] = entry.Fingerprint
		c.events.emit(eventRejected, data)
	case e.Err != nil:
		data["kind"], data["status"], data["error_code"], data["reason"] = string(entry.Outcome), entry.Status, entry.Code, entry.Reason
		data["duration"] = e.Duration
		c.events.emit(eventFailed, data)
	default:
		data["fingerprint"], data["lifetime"], data["duration"] = entry.Fingerprint, e.Lifetime, e.Duration
		c.events.emit(eventObtained, data)
	}
}

// Interface guards
var _ caddyevents.Handler = (*Events)(nil)
