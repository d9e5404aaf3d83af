package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds the credentials that token_proxy handlers use, by name. It gets their tokens, refreshes them before they
// expire, and keeps them across reloads of the configuration.
type App struct {
	// Credentials are the OAuth 2.0 client registrations by name. A name consists of letters, digits, '_', '-' and '.'.
	// Default: none.
	Credentials map[string]*Credential `json:"credentials,omitempty"`

	// ReplayMemory is the limit, in bytes, for the memory of all request bodies that the process keeps for replays. If a body
	// exceeds the rest of it, the handler sends the body on without keeping it, and cannot replay the request.
	// Default: 8388608 (8 MiB).
	ReplayMemory *int64 `json:"replay_memory,omitempty"`

	// Share lets replicas keep one token for each credential between them. Default: none, each replica has tokens of its own.
	Share *Share `json:"share,omitempty"`

	clients map[string]*client
	events  *status.Events
	ends    []func()
}

// CaddyModule returns the Caddy module information. Its receiver is a pointer, because Caddy's event system calls it at any
// time, and a copy of the app would be a data race.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks the credentials. It makes no network connection and starts nothing, because it also runs for
// `caddy validate`, and for configurations that then fail to load.
func (a *App) Provision(ctx caddy.Context) error {
	guardStandardLog()
	if n := a.replayMemory(); n < 0 || n > maxReplayMemory {
		return fmt.Errorf("replay_memory: it must be between 0 and %d bytes", int64(maxReplayMemory))
	}
	var err error
	if a.events, err = status.NewEvents(ctx); err != nil {
		return err
	}
	if err := a.registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	if a.Share != nil {
		if err := a.Share.provision(ctx); err != nil {
			return fmt.Errorf("share: %w", err)
		}
	}
	a.clients = make(map[string]*client, len(a.Credentials))
	for _, name := range slices.Sorted(maps.Keys(a.Credentials)) {
		config := a.Credentials[name]
		if config == nil {
			return fmt.Errorf("credential %q: it is null", name)
		}
		if a.clients[name], err = newClient(ctx, name, config, a.Share.join, a.events); err != nil {
			delete(a.clients, name)
			return fmt.Errorf("credential %q: %w", name, err)
		}
		if err := a.clients[name].acquireTenants(ctx); err != nil {
			return fmt.Errorf("credential %q: %w", name, err)
		}
	}
	return nil
}

// registerMetrics adds all metrics to the registry of the configuration.
func (a *App) registerMetrics(registry *prometheus.Registry) error {
	return status.Register(registry, a.statusInForce, madeVault.Load, replayMemory, storeCollector{a})
}

// Start puts the configuration into force. Sources that an earlier configuration has used keep their tokens and follow the
// policy of this one. Start never waits for a token endpoint.
func (a *App) Start() error {
	a.Share.start()
	for _, name := range slices.Sorted(maps.Keys(a.clients)) { // sorted, because the last credential sets the policy of a shared source
		a.ends = append(a.ends, a.clients[name].start())
	}
	a.enterForce()
	return nil
}

// Stop implements caddy.App. It does nothing, because requests in flight still need the sources. Cleanup releases them.
func (a *App) Stop() error { return nil }

// Cleanup takes the configuration out of force and releases what Provision acquired. It also works if another app failed to
// start, so that the configuration never came into force, and if Provision failed halfway.
func (a *App) Cleanup() error {
	a.leaveForce()
	for _, end := range a.ends {
		end()
	}
	a.ends = nil
	a.events.End()
	var errs []error
	for _, c := range a.clients {
		errs = append(errs, c.release())
	}
	a.clients = nil
	errs = append(errs, a.Share.release())
	return errors.Join(errs...)
}

// replayMemory returns the value of the option, or its default.
func (a *App) replayMemory() int64 {
	if a.ReplayMemory == nil {
		return defaultReplayMemory
	}
	return *a.ReplayMemory
}

// statusInForce returns the status of the credentials while this configuration is in force.
func (a *App) statusInForce() []*status.Credential {
	if runningApp() != a {
		return nil
	}
	var all []*status.Credential
	for _, c := range a.clients {
		all = append(all, c.status)
	}
	return all
}

// client returns the credential with this name, or an error that lists the names.
func (a *App) client(name string) (*client, error) {
	c, ok := a.clients[name]
	if !ok {
		return nil, unknownCredential(name, slices.Collect(maps.Keys(a.Credentials)))
	}
	return c, nil
}

func unknownCredential(name string, known []string) error {
	if len(known) == 0 {
		return fmt.Errorf("unknown credential %q: no credential is defined", name)
	}
	slices.Sort(known)
	return fmt.Errorf("unknown credential %q: the credentials are %q", name, known)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
