package status

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// The names of the events that are emitted to Caddy's event system.
const (
	eventObtained = "token_obtained"
	eventAdopted  = "token_adopted"
	eventFailed   = "token_failed"
	eventRejected = "token_rejected"
)

// Events emits events to Caddy's event system for one configuration. It holds them back until Caddy has started the
// configuration, because other apps subscribe until then, and tokens may be prefetched earlier. A nil Events emits none.
type Events struct {
	system  atomic.Pointer[eventSystem] // nil after End
	started chan struct{}               // closed when Caddy has started the configuration
	once    sync.Once
}

// eventSystem is Caddy's event system of one configuration.
type eventSystem struct {
	app *caddyevents.App
	ctx caddy.Context
}

// NewEvents returns the Events of the configuration that ctx belongs to. It fails if Caddy cannot load the app events, or if
// that app has already started.
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

// Handle implements caddyevents.Handler. Caddy calls it when it has started the configuration.
func (e *Events) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.started) })
	return nil
}

// End releases the configuration, and ends the emission of events. A source in the vault still refers to its credential and,
// through it, to this Events. Without End, it would keep everything that Caddy made for that configuration in memory.
func (e *Events) End() {
	if e != nil {
		e.system.Store(nil)
	}
}

// emit runs the subscribed handlers. It does not wait for them, because they may be slow and the caller is a flight.
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

// Interface guards
var _ caddyevents.Handler = (*Events)(nil)
