package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

func init() {
	caddy.RegisterModule(new(App))
}

// appName is the name of the app and of the global option.
const appName = "token_proxy"

// App holds the credentials that token_proxy handlers use, by name. It gets their tokens, keeps them fresh, and
// keeps them across configuration reloads.
type App struct {
	// Credentials are the OAuth 2.0 client registrations by name. A name is made of letters, digits, '_', '-', '.'.
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

// CaddyModule returns the Caddy module information. Caddy's events ask for it at any time, so it must not copy the app.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks the credentials. It makes no network connection and starts nothing: it runs for `caddy validate`
// too, and for configurations that are then refused.
func (a *App) Provision(ctx caddy.Context) error {
	guardStandardLog()
	if n := a.replayMemory(); n < 0 || n > maxReplayMemory {
		return fmt.Errorf("replay_memory: it must be between 0 and %d bytes", int64(maxReplayMemory))
	}
	var err error
	if a.events, err = status.NewEvents(ctx); err != nil {
		return err
	}
	if err := status.Register(ctx.GetMetricsRegistry(), a.statusInForce, madeVault.Load, replayMemory); err != nil {
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
		if a.clients[name], err = newClient(ctx, name, config, a.Share, a.events); err != nil {
			delete(a.clients, name)
			return fmt.Errorf("credential %q: %w", name, err)
		}
	}
	return nil
}

// Start puts the configuration into force: sources that were there before go on with their tokens, under this
// configuration's policy. It never waits for a token endpoint.
func (a *App) Start() error {
	a.Share.start()
	for _, name := range slices.Sorted(maps.Keys(a.clients)) { // of two that share a source, the policy of the last one counts
		a.ends = append(a.ends, a.clients[name].start())
	}
	a.enterForce()
	return nil
}

// Stop implements caddy.App. Requests in flight still need the sources; Cleanup lets go of them.
func (a *App) Stop() error { return nil }

// Cleanup takes the configuration out of force, which was never in it if another app failed to start, and releases
// what Provision acquired, which is not everything if Provision failed.
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

// replayMemory is the value of the option.
func (a *App) replayMemory() int64 {
	if a.ReplayMemory == nil {
		return defaultReplayMemory
	}
	return *a.ReplayMemory
}

// statusInForce returns what is known of the credentials, once they have been started.
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

// client returns the credential of that name.
func (a *App) client(name string) (*client, error) {
	c, ok := a.clients[name]
	if !ok {
		return nil, unknownCredential(name, slices.Collect(maps.Keys(a.Credentials)))
	}
	return c, nil
}

func unknownCredential(name string, known []string) error {
	if len(known) == 0 {
		return fmt.Errorf("unknown credential %q: none is defined", name)
	}
	slices.Sort(known)
	return fmt.Errorf("unknown credential %q: defined are %q", name, known)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
