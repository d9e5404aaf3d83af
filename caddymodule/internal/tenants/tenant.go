package tenants

import (
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// Tenant is one tenant of a credential: its source, and little else, because a process may have many. It is the fetcher and
// the observer of its source.
type Tenant struct {
	Name   string
	Source *token.Source

	// Issued is the last token, and Certificate is the client certificate of the latest token request. A Caller sets them.
	Issued      atomic.Pointer[provider.Secret]
	Certificate atomic.Pointer[tls.Certificate]

	of     *Set
	basic  *basicClient  // nil unless the tenant is a client of `tenant basic`
	key    token.Key     // of the source in the vault; empty if the vault is not to remember it
	calls  *rate.Limiter // of calls without a token; nil until the second, which most tenants never make
	shared *shared       // nil until a configuration shares the tokens

	called      bool          // without a token; calls and called are touched by the flight only
	generation  atomic.Uint64 // of the configuration that the source works with
	reconfigure sync.Mutex
}

const (
	// callPause and callBurst limit the calls of one tenant that has no valid token, beside the pauses of the engine: a token
	// endpoint whose tokens live for seconds must not be called for each request.
	callPause = 10 * time.Second
	callBurst = 3
)

// newTenant makes a tenant. If the vault remembers it from an earlier configuration, its token is still there.
func newTenant(of *Set, name string, basic *basicClient) *Tenant {
	t := &Tenant{of: of, Name: name, basic: basic}
	key, _, _, err := of.Config().Caller.Identify(t)
	if err == nil { // otherwise the token call reports what is wrong
		t.key = key
		if v, err := Vault(); err == nil {
			t.Source, _ = v.Find(key)
		}
	}
	if t.Source == nil {
		t.Source = token.NewSource(token.Config{Fetcher: t}) // Current gives it the rest
	}
	return t
}

func (t *Tenant) config(c *Config) token.Config {
	config := token.Config{
		Fetcher:  t,
		Policy:   c.Policy,
		Endpoint: c.Status.Endpoint,
		Observer: t,
	}
	if c.Sharing == nil {
		return config
	}
	if t.shared == nil {
		t.shared = &shared{of: t}
	}
	config.Sharing = token.NewSharing(t.shared)
	return config
}

// Current returns the tenant after it has taken up the latest configuration.
func (t *Tenant) Current() *Tenant {
	if t.UpToDate() {
		return t
	}
	t.reconfigure.Lock()
	defer t.reconfigure.Unlock()
	if latest := t.of.generation.Load(); t.generation.Load() != latest {
		t.Source.Use(t.config(t.of.Config()))
		t.generation.Store(latest)
	}
	return t
}

// UpToDate reports whether the tenant has taken up the latest configuration.
func (t *Tenant) UpToDate() bool { return t.generation.Load() == t.of.generation.Load() }

// Prepare implements token.Fetcher.
func (t *Tenant) Prepare() token.Call { return t.of.Config().Caller.Prepare(t) }

// Admit implements token.Admitter with the limits for token calls of tenants without a token.
func (t *Tenant) Admit() error {
	now := time.Now()
	if t.called && t.calls == nil {
		t.calls = rate.NewLimiter(rate.Every(callPause), callBurst-1) // the first one is over
	}
	wait := untilCall(t.ownCalls(), now)
	if wait == 0 && t.of.Calls.AllowN(now, 1) {
		t.ownCalls().AllowN(now, 1)
		t.called = true
		return nil
	}
	t.of.Config().Status.LogTenantDenied(t.Name, status.TenantLimited)
	return &Denial{Why: status.TenantLimited, RetryAt: now.Add(max(wait, untilCall(t.of.Calls, now)))}
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
func (t *Tenant) ownCalls() *rate.Limiter {
	if t.calls == nil {
		return unlimited
	}
	return t.calls
}

var unlimited = rate.NewLimiter(rate.Inf, 0)

// ID implements token.Observer.
func (t *Tenant) ID() string { return t.of.Config().Credential }

// Observe implements token.Observer.
func (t *Tenant) Observe(e token.Event) {
	if e.Err == nil && !e.Rejected {
		t.prove()
	}
	t.of.Config().Status.ObserveTenant(t.Name, e)
}

// Failed returns the failure of a request of the tenant. A tenant whose files are gone loses its place, and so does a client
// of `tenant basic` that the token endpoint refuses.
func (t *Tenant) Failed(err error) error {
	e, ok := errors.AsType[*token.Error](err)
	if t.basic != nil {
		denied, _ := errors.AsType[*Denial](err)
		t.failedBasic(ok && RefusesClient(e), denied)
		return err
	}
	if ok && e.Cause == token.CauseTenant {
		t.of.Remove(t) // the next look-up finds out whether it is unknown, because the files may be back
		return ErrUnknown
	}
	return err
}

// prove notes that the token endpoint accepts the client's secret.
func (t *Tenant) prove() {
	if t.basic != nil && t.basic.proved.CompareAndSwap(false, true) {
		t.of.attempts.forgive(t.basic)
	}
}

// Client returns the id and the secret of a client of `tenant basic`.
func (t *Tenant) Client() (id, secret provider.Secret, ok bool) {
	if t.basic == nil {
		return provider.Secret{}, provider.Secret{}, false
	}
	return t.basic.id, t.basic.secret, true
}

// In reports whether the tenant is one of these.
func (t *Tenant) In(ts *Set) bool { return t.of == ts }

// failedBasic takes the place of a client that got no token, so that wrong secrets leave nothing but the memory of their
// refusal. A secret that the token endpoint refuses is not tried again for a while. Any other secret is, at once. After other
// failures, the client keeps its place, so that its source decides when the next call is due.
func (t *Tenant) failedBasic(refused bool, denied *Denial) {
	switch {
	case refused:
		t.of.forget(t, RefusedMemory)
	case denied != nil && !t.basic.proved.Load() && t.Source.Idle() && t.of.Remove(t):
		t.of.attempts.forgive(t.basic) // it was not tried
	}
}
