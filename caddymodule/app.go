package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
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

	events   *eventEmitter
	observed []*observation
	acquired []token.Key
	ends     []func()
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
	var err error
	if a.events, err = newEventEmitter(ctx); err != nil {
		return err
	}
	if err := metrics.register(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a.Credentials)) {
		c := a.Credentials[name]
		if c == nil {
			return fmt.Errorf("credential %q: it is null", name)
		}
		c.events = a.events
		if err := a.provisionCredential(ctx, name, c); err != nil {
			return fmt.Errorf("credential %q: %w", name, err)
		}
	}
	return nil
}

func (a *App) provisionCredential(ctx caddy.Context, name string, c *Credential) error {
	c.observation = observations.acquire(name)
	a.observed = append(a.observed, c.observation)
	if err := c.provision(ctx, name); err != nil {
		return err
	}
	key, err := c.key()
	if err != nil {
		return err
	}
	c.identityKey = key
	c.source, err = acquireSource(key, c.config())
	if err != nil {
		return err
	}
	a.acquired = append(a.acquired, key)
	c.inherit()
	return nil
}

// Start puts the configuration into force: sources that were there before go on with their tokens, under this
// configuration's policy. It never waits for a token endpoint.
func (a *App) Start() error {
	for _, name := range slices.Sorted(maps.Keys(a.Credentials)) { // of two that share a source, the last one counts
		c := a.Credentials[name]
		c.counted()
		c.observation.begin(c.identityKey)
		a.ends = append(a.ends, c.source.Start(c.config()))
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
	a.events.end()
	var errs []error
	for _, key := range a.acquired {
		errs = append(errs, releaseSource(key))
	}
	a.acquired = nil
	for _, o := range a.observed {
		observations.release(o)
	}
	a.observed = nil
	return errors.Join(errs...)
}

// credential returns the credential of that name.
func (a *App) credential(name string) (*Credential, error) {
	c, ok := a.Credentials[name]
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
