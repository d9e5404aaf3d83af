package caddymodule

import (
	"crypto/tls"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tenant is one tenant of a credential: its source, and little else, because a process may have many. It is the fetcher and
// the observer of its source.
type tenant struct {
	of     *tenants
	name   string
	basic  *basicClient // nil unless the tenant is a client of `tenant basic`
	key    token.Key    // of the source in the vault; empty if the vault is not to remember it
	source *token.Source
	calls  *rate.Limiter // of calls without a token; nil until the second, which most tenants never make
	shared *tenantShared // nil until a configuration shares the tokens

	called      bool          // without a token; calls and called are touched by the flight only
	generation  atomic.Uint64 // of the configuration that the source works with
	reconfigure sync.Mutex
	issued      atomic.Pointer[provider.Secret] // the last token
	certificate atomic.Pointer[tls.Certificate] // of the latest token request
}

const (
	// tenantCallPause and tenantCallBurst limit the calls of one tenant that has no valid token, beside the pauses of the
	// engine: a token endpoint whose tokens live for seconds must not be called for each request.
	tenantCallPause = 10 * time.Second
	tenantCallBurst = 3
)

// newTenant makes a tenant. If the vault remembers it from an earlier configuration, its token is still there.
func newTenant(of *tenants, c *client, name string, basic *basicClient) *tenant {
	t := &tenant{of: of, name: name, basic: basic}
	known, err := c.identifyTenant(t)
	if err == nil { // otherwise the token call reports what is wrong
		t.key = known.key
		if v, err := tenantVault(); err == nil {
			t.source, _ = v.Find(known.key)
		}
	}
	if t.source == nil {
		t.source = token.NewSource(token.Config{Fetcher: t}) // current gives it the rest
	}
	return t
}

func (t *tenant) config(c *client) token.Config {
	config := token.Config{
		Fetcher:  t,
		Policy:   c.policy(),
		Endpoint: c.status.Endpoint,
		Observer: t,
	}
	if t.of.fetcherOf != nil {
		config.Fetcher = t.of.fetcherOf(t)
	}
	if c.sharedTenants == nil {
		return config
	}
	if t.shared == nil {
		t.shared = &tenantShared{of: t}
	}
	config.Sharing = token.NewSharing(t.shared)
	return config
}

// current returns the tenant after it has taken up the latest configuration.
func (t *tenant) current() *tenant {
	if t.generation.Load() == t.of.generation.Load() {
		return t
	}
	t.reconfigure.Lock()
	defer t.reconfigure.Unlock()
	if latest := t.of.generation.Load(); t.generation.Load() != latest {
		t.source.Use(t.config(t.of.client()))
		t.generation.Store(latest)
	}
	return t
}

// Admit implements token.Admitter with the limits for token calls of tenants without a token.
func (t *tenant) Admit() error {
	now := time.Now()
	if t.called && t.calls == nil {
		t.calls = rate.NewLimiter(rate.Every(tenantCallPause), tenantCallBurst-1) // the first one is over
	}
	wait := untilCall(t.ownCalls(), now)
	if wait == 0 && t.of.calls.AllowN(now, 1) {
		t.ownCalls().AllowN(now, 1)
		t.called = true
		return nil
	}
	t.of.client().status.LogTenantDenied(t.name, status.TenantLimited)
	return &tenantDenial{why: status.TenantLimited, retryAt: now.Add(max(wait, untilCall(t.of.calls, now)))}
}

// untilCall returns how long a limiter allows no call. (A rate.Reservation has the time as well. But if it is canceled after a
// later one was made, it does not give back what it has taken.)
func untilCall(l *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing / float64(l.Limit()) * float64(time.Second))
}

// ownCalls returns the limiter of this tenant.
func (t *tenant) ownCalls() *rate.Limiter {
	if t.calls == nil {
		return unlimited
	}
	return t.calls
}

var unlimited = rate.NewLimiter(rate.Inf, 0)

// ID implements token.Observer.
func (t *tenant) ID() string { return t.of.client().name }

// Observe implements token.Observer.
func (t *tenant) Observe(e token.Event) {
	if e.Err == nil && !e.Rejected {
		t.prove()
	}
	t.of.client().status.ObserveTenant(t.name, e)
}

// failed returns the failure of a request of the tenant. A tenant whose files are gone loses its place, and so does a client
// of `tenant basic` that is refused.
func (t *tenant) failed(err error) error {
	if t == nil {
		return err
	}
	e, ok := errors.AsType[*token.Error](err)
	if t.basic != nil {
		denied, _ := errors.AsType[*tenantDenial](err)
		t.failedBasic(ok && e.Kind == token.Refused, denied)
		return err
	}
	if ok && e.Cause == token.CauseTenant {
		t.of.remove(t) // the next look-up finds out whether it is unknown, because the files may be back
		return errTenantUnknown
	}
	return err
}

// nameOrNone returns the name, or "" for a credential without tenants.
func (t *tenant) nameOrNone() string {
	if t == nil {
		return ""
	}
	return t.name
}

// sourceOr returns the tenant's source or, for a credential without tenants, that of the credential.
func (t *tenant) sourceOr(s *token.Source) *token.Source {
	if t == nil {
		return s
	}
	return t.source
}

// expose sets the placeholder with the tenant's name, which upstreams can use.
func (t *tenant) expose(r *http.Request) {
	if t != nil && t.basic == nil {
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set(keptPlaceholder+"tenant", t.name)
	}
}

// inheritFrom takes over what the provider of an earlier configuration has learned.
func (c *client) inheritFrom(earlier *client) {
	if learner, ok := c.provider.(provider.Learner); ok && earlier != c {
		learner.Inherit(earlier.provider)
	}
}
