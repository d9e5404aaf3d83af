package caddymodule

import (
	"context"
	"sync"

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

// eventEmitter emits Caddy's events, once the configuration has been started: until then, subscriptions are added, and
// tokens may be prefetched. Nil emits none.
type eventEmitter struct {
	app     *caddyevents.App
	ctx     caddy.Context
	started chan struct{} // closed when the configuration has been started
	once    sync.Once
}

func newEventEmitter(ctx caddy.Context) (*eventEmitter, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &eventEmitter{app: app.(*caddyevents.App), ctx: ctx, started: make(chan struct{})}
	return e, e.app.On("started", e)
}

// Handle implements caddyevents.Handler for the event that a configuration has been started.
func (e *eventEmitter) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.started) })
	return nil
}

// emit runs the handlers of whoever subscribed. They take their time, so it does not wait for them.
func (e *eventEmitter) emit(name string, data map[string]any) {
	if e == nil {
		return
	}
	go func() {
		select {
		case <-e.started:
			e.app.Emit(e.ctx, name, data)
		case <-e.ctx.Done():
		}
	}()
}

// emit tells Caddy's event system.
func (c *Credential) emit(entry occurrence, e token.Event) {
	data := map[string]any{
		"credential": c.name,
		"provider":   c.providerName,
		"endpoint":   c.endpointHost,
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
var _ caddyevents.Handler = (*eventEmitter)(nil)
