package caddymodule

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

const (
	// lookupRate is how many unknown tenants are looked up in a second, and at once after a pause.
	lookupRate = 200

	// sweepInterval is the shortest time between two searches for tenants that can make room.
	sweepInterval = time.Second

	// fullPause is the Retry-After of a tenant that gets no place.
	fullPause = 10 * time.Second
)

// tenants are the tenants of one credential. They outlive a reload that leaves the credential's identity as it was. A
// request of a known tenant takes no lock.
//
// The tenants with a place are held here and not by ristretto. Each request of a tenant that ristretto's policy does not admit
// would make a new source and fetch a token.
type tenants struct {
	current atomic.Pointer[client] // the latest configuration

	// generation changes with the configuration. A tenant takes up the new one with its next request.
	generation atomic.Uint64

	all     sync.Map // of *tenant, by name
	places  atomic.Int64
	unknown unknownTenants

	// attempts has the clients of `tenant basic` whose secrets are tried.
	attempts attempts

	lookups *rate.Limiter
	calls   *rate.Limiter // of tenants without a token
	group   singleflight.Group

	fetcherOf func(*tenant) token.Fetcher // for tests; nil: a tenant is its own fetcher

	mu      sync.Mutex // guards what follows
	started []*client
	swept   time.Time
}

// tenantVault remembers the tenants of credentials that no configuration has any more. It is apart from the vault of other
// sources, because one removed credential can have more tenants than it has room for.
var tenantVault = sync.OnceValues(func() (*token.Vault, error) { return token.NewVault(vaultCapacity) })

// pooledTenants has the tenants of all loaded configurations.
var pooledTenants = caddy.NewUsagePool()

// acquireTenants finds the tenants that an earlier configuration of the credential has, or makes room for them.
func (c *client) acquireTenants() error {
	if c.template == nil {
		return nil
	}
	c.source = token.NewSource(token.Config{Fetcher: noTenant{}})
	pooled, _, err := pooledTenants.LoadOrNew(c.key, func() (caddy.Destructor, error) {
		ts := &tenants{lookups: rate.NewLimiter(lookupRate, lookupRate), calls: rate.NewLimiter(rate.Limit(c.Tenant.NewRate), c.Tenant.burst())}
		ts.use(c)
		return ts, nil
	})
	if err != nil {
		return err
	}
	ts := pooled.(*tenants)
	c.tenancy = ts
	c.status.Tenants = func() (count, most int) { return ts.count(), c.Tenant.Max }
	c.status.TenantSources = ts.statuses
	return nil
}

// endedContext is for the providers that requests of a configuration still need after Caddy has ended it. On a reload, Caddy
// does not wait for the requests that are under way.
var endedContext = provider.Quiet(caddy.Context{Context: context.Background()})

// release lets go of what acquireTenants has acquired.
func (ts *tenants) release(key token.Key) error {
	_, err := pooledTenants.Delete(key)
	return err
}

// Destruct implements caddy.Destructor. The tenants fall asleep. The vault remembers those that have a token, as far as it
// has room.
func (ts *tenants) Destruct() error {
	last := *ts.current.Load()
	last.ctx = endedContext // its own would keep everything that Caddy made for the configuration in memory
	ts.use(&last)
	kept := make(map[token.Key]*token.Source)
	ts.all.Range(func(_, value any) bool {
		t := value.(*tenant)
		t.source.Rest()
		if t.key != "" && !t.source.Idle() {
			kept[t.key] = t.source
		}
		return true
	})
	ts.all.Clear()
	v, err := tenantVault()
	if err == nil {
		v.Keep(kept)
	}
	return err
}

// start puts a configuration into force. The function that it returns takes it out of force, which brings back the one
// before it.
func (ts *tenants) start(c *client) (end func()) {
	c.inheritFrom(ts.current.Load())
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.started = append(ts.started, c)
	ts.use(c)
	return func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		ts.started = slices.DeleteFunc(ts.started, func(other *client) bool { return other == c })
		if n := len(ts.started); n > 0 && ts.client() == c {
			ts.use(ts.started[n-1])
		}
	}
}

// use makes a configuration the latest.
func (ts *tenants) use(c *client) {
	ts.current.Store(c)
	ts.generation.Add(1)
	ts.calls.SetLimit(rate.Limit(c.Tenant.NewRate))
	ts.calls.SetBurst(c.Tenant.burst())
}

func (ts *tenants) client() *client { return ts.current.Load() }

// count returns the number of tenants that have a place.
func (ts *tenants) count() int { return int(ts.places.Load()) }

// get returns the tenant with a name.
func (ts *tenants) get(name string) (*tenant, error) {
	if t, ok := ts.find(name); ok {
		return t.current(), nil
	}
	return ts.getNew(name, nil)
}

// getNew returns a tenant that has no place yet. The client is that of `tenant basic`, otherwise nil.
func (ts *tenants) getNew(name string, client *basicClient) (*tenant, error) {
	if ts.unknown.has(name, time.Now()) {
		return nil, errTenantUnknown
	}
	found, err, _ := ts.group.Do(name, func() (any, error) { return ts.lookUp(name, client) })
	if err != nil {
		ts.logDenial(name, err)
		return nil, err
	}
	return found.(*tenant).current(), nil
}

func (ts *tenants) find(name string) (*tenant, bool) {
	value, ok := ts.all.Load(name)
	if !ok {
		return nil, false
	}
	return value.(*tenant), true
}

// lookUp finds out whether a tenant exists, and gives it a place.
func (ts *tenants) lookUp(name string, client *basicClient) (*tenant, error) {
	if t, ok := ts.find(name); ok { // since the first look
		return t, nil
	}
	if !ts.lookups.Allow() {
		return nil, &tenantDenial{why: status.TenantLimited, retryAt: time.Now().Add(time.Second)}
	}
	c := ts.client()
	if c.Tenant.basic() {
		return ts.lookUpBasic(c, name, client)
	}
	if c.template.missing(name) {
		ts.unknown.add(name, unknownMemory, time.Now())
		return nil, errTenantUnknown
	}
	return ts.add(newTenant(ts, c, name, nil))
}

// missing reports whether a file of the tenant does not exist. If a file cannot be read for another reason, the tenant exists,
// and the token call reports the reason.
func (t *tenantTemplate) missing(tenant string) bool {
	for _, file := range t.files {
		if _, err := option.ReadFile(t.in(file, tenant)); option.IsMissing(err) {
			return true
		}
	}
	return false
}

// add gives a tenant a place, if there is one.
func (ts *tenants) add(t *tenant) (*tenant, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := time.Now()
	if most := int64(ts.client().Tenant.Max); ts.places.Load() >= most && !ts.makeRoom(most, now) {
		return nil, &tenantDenial{why: status.TenantFull, retryAt: now.Add(fullPause)}
	}
	ts.all.Store(t.name, t)
	ts.places.Add(1)
	return t, nil
}

// makeRoom removes the tenants that have no valid token: those whose token was not used for a lifetime, and those that got
// none. It reports whether there is room. Those that are served stay served.
func (ts *tenants) makeRoom(most int64, now time.Time) bool {
	if now.Sub(ts.swept) < sweepInterval {
		return false
	}
	ts.swept = now
	ts.all.Range(func(_, value any) bool {
		if t := value.(*tenant); t.source.Idle() {
			ts.remove(t)
			ts.client().status.TenantEvicted()
		}
		return true
	})
	return ts.places.Load() < most
}

// remove takes a tenant's place away, unless another tenant of this name has it. It reports whether it did.
func (ts *tenants) remove(t *tenant) bool {
	removed := ts.all.CompareAndDelete(t.name, t)
	if removed {
		ts.places.Add(-1)
		t.source.Rest()
	}
	return removed
}

// forget takes the place of a client of `tenant basic` that is refused, and remembers it for a time.
func (ts *tenants) forget(t *tenant, memory time.Duration) {
	ts.unknown.add(t.name, memory, time.Now()) // first, so that no request looks it up in between
	ts.remove(t)
}

// purgesAtOnce is how many tenants are purged at the same time. It leaves half of the calls that a store may have at a time to
// token calls.
const purgesAtOnce = 4

// purge forgets the tokens of all tenants that have a place, here and in the store.
func (ts *tenants) purge(ctx context.Context, fleet bool) *storePurge {
	var all, lost atomic.Int64
	var group errgroup.Group
	group.SetLimit(purgesAtOnce)
	ts.all.Range(func(_, value any) bool {
		group.Go(func() error {
			all.Add(1)
			if !value.(*tenant).purge(ctx, fleet) {
				lost.Add(1)
			}
			return nil
		})
		return true
	})
	_ = group.Wait()
	if ts.client().sharedTenants == nil {
		return nil
	}
	return purgedTenants(int(all.Load()), int(lost.Load()), fleet)
}

// after returns the tenants whose names come after a name, in the order of their names, and at most as many as most. It locks
// nothing, so tenants that come and go meanwhile may be missing.
func (ts *tenants) after(name string, most int) []*tenant {
	var found []*tenant
	ts.all.Range(func(_, value any) bool {
		if t := value.(*tenant); t.name > name {
			found = append(found, t)
		}
		return true
	})
	slices.SortFunc(found, func(a, b *tenant) int { return strings.Compare(a.name, b.name) })
	return found[:min(most, len(found))]
}

// statuses are the sources of all tenants as they are now. It locks nothing.
func (ts *tenants) statuses(yield func(token.Status) bool) {
	ts.all.Range(func(_, value any) bool { return yield(value.(*tenant).source.Status()) })
}

const (
	// unknownMemory is how long an unknown tenant is not looked up again.
	unknownMemory = 10 * time.Second

	// mostUnknown is how many of them are remembered.
	mostUnknown = 10_000
)

// unknownTenants remembers the tenants that do not exist. No other name pushes one out, because random names would push out
// those that come again and again.
type unknownTenants struct {
	mu     sync.Mutex
	until  map[string]time.Time
	oldest []string // in the order of their times
}

func (u *unknownTenants) has(name string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.until[name]
	return ok && now.Before(until)
}

// add remembers a tenant for a time, which must always be the same.
func (u *unknownTenants) add(name string, memory time.Duration, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.oldest) > 0 && !now.Before(u.until[u.oldest[0]]) {
		delete(u.until, u.oldest[0])
		u.oldest = u.oldest[1:]
	}
	if _, known := u.until[name]; known || len(u.until) >= mostUnknown {
		return
	}
	if u.until == nil {
		u.until = make(map[string]time.Time)
	}
	u.until[name] = now.Add(memory)
	u.oldest = append(u.oldest, name)
}
