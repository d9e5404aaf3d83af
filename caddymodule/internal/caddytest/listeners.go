package caddytest

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// tracked is a listener wrapper that tells when a listener is closed. Caddy does not: after a reload it lets the old
// configuration's servers close their listeners while the reload is already over. Until they have, the kernel gives them
// some of the new connections, to be served by the old configuration, or to be reset.
type tracked struct{}

var (
	trackedMu   sync.Mutex
	trackedOpen = map[*trackedListener]bool{} // those that are open
)

func init() { caddy.RegisterModule(tracked{}) }

func (tracked) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.tracked", New: func() caddy.Module { return new(tracked) }}
}

func (tracked) WrapListener(l net.Listener) net.Listener {
	wrapped := &trackedListener{Listener: l, closed: make(chan struct{})}
	trackedMu.Lock()
	defer trackedMu.Unlock()
	trackedOpen[wrapped] = true
	return wrapped
}

type trackedListener struct {
	net.Listener
	closed chan struct{}
	once   sync.Once
}

// Close returns when the kernel no longer listens.
func (l *trackedListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		trackedMu.Lock()
		defer trackedMu.Unlock()
		delete(trackedOpen, l)
		close(l.closed)
	})
	return err
}

// trackListeners puts the wrapper around the listeners of all servers.
func trackListeners(root map[string]any) {
	apps, _ := root["apps"].(map[string]any)
	http, _ := apps["http"].(map[string]any)
	servers, _ := http["servers"].(map[string]any)
	for _, server := range servers {
		server := server.(map[string]any)
		wrappers, _ := server["listener_wrappers"].([]any)
		server["listener_wrappers"] = append(wrappers, map[string]any{"wrapper": "tracked"})
	}
}

func openListeners() []*trackedListener {
	trackedMu.Lock()
	defer trackedMu.Unlock()
	return slices.Collect(maps.Keys(trackedOpen))
}

func waitUntilClosed(listeners []*trackedListener) error {
	deadline := time.After(20 * time.Second)
	for _, l := range listeners {
		select {
		case <-l.closed:
		case <-deadline:
			return fmt.Errorf("the configuration before still listens on %s", l.Addr())
		}
	}
	return nil
}
