package tenants

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// LookupRate is how many unknown tenants are looked up in a second, and at once after a pause.
	LookupRate = 200

	// sweepInterval is the shortest time between two searches for tenants that can make room.
	sweepInterval = time.Second

	// fullPause is the Retry-After of a tenant that gets no place.
	fullPause = 10 * time.Second
)

// Set has the tenants of one credential. It outlives a reload that leaves the credential's identity as it was. A request of a
// known tenant takes no lock.
//
// The tenants with a place are held here and not by ristretto. Each request of a tenant that ristretto's policy does not admit
// would make a new source and fetch a token.
type Set struct {
	current atomic.Pointer[Config] // the latest

	// generation changes with the configuration. A tenant takes up the new one with its next request.
	generation atomic.Uint64

	all     sync.Map // of *Tenant, by name
	places  atomic.Int64
	unknown unknownTenants

	// attempts has the clients of `tenant basic` whose secrets are tried.
	attempts attempts

	// Lookups limits the look-ups of unknown tenants, and Calls the token calls of tenants without a token.
	Lookups, Calls *rate.Limiter

	group singleflight.Group

	mu      sync.Mutex // guards what follows
	started []*Config
	swept   time.Time
}

// pooled has the tenants of all loaded configurations.
var pooled = caddy.NewUsagePool()

// Acquire finds the tenants that an earlier configuration of the credential has, or makes room for them. The key is that of
// the credential. Each call must be matched by a call of Release.
func Acquire(key token.Key, c *Config) (*Set, error) {
	set, _, err := pooled.LoadOrNew(key, func() (caddy.Destructor, error) { return New(c), nil })
	if err != nil {
		return nil, err
	}
	return set.(*Set), nil
}

// Release lets go of what Acquire has acquired.
func Release(key token.Key) error {
	_, err := pooled.Delete(key)
	return err
}

// New returns a set without tenants.
func New(c *Config) *Set {
	ts := &Set{Lookups: rate.NewLimiter(LookupRate, LookupRate), Calls: rate.NewLimiter(rate.Limit(c.NewRate), c.Burst)}
	ts.use(c)
	return ts
}

// Destruct implements caddy.Destructor. The tenants fall asleep. The vault remembers those that have a token, as far as it
// has room.
func (ts *Set) Destruct() error {
	last := *ts.Config()
	last.Caller = last.Caller.Ended()
	ts.use(&last)
	kept := make(map[token.Key]*token.Source)
	for t := range ts.All {
		t.Source.Rest()
		if t.key != "" && !t.Source.Idle() {
			kept[t.key] = t.Source
		}
	}
	ts.all.Clear()
	v, err := Vault()
	if err == nil {
		v.Keep(kept)
	}
	return err
}

// Start puts a configuration into force. The function that it returns takes it out of force, which brings back the one
// before it.
func (ts *Set) Start(c *Config) (end func()) {
	c.inherit(ts.Config())
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.started = append(ts.started, c)
	ts.use(c)
	return func() {
		ts.mu.Lock()
		defer ts.mu.Unlock()
		ts.started = slices.DeleteFunc(ts.started, func(other *Config) bool { return other == c })
		if n := len(ts.started); n > 0 && ts.Config() == c {
			ts.use(ts.started[n-1])
		}
	}
}

// use makes a configuration the latest.
func (ts *Set) use(c *Config) {
	ts.current.Store(c)
	ts.generation.Add(1)
	ts.Calls.SetLimit(rate.Limit(c.NewRate))
	ts.Calls.SetBurst(c.Burst)
}

// Config returns the latest configuration.
func (ts *Set) Config() *Config { return ts.current.Load() }

// Count returns the number of tenants that have a place.
func (ts *Set) Count() int { return int(ts.places.Load()) }

// Get returns the tenant with a name, which must be valid. The error is a *Denial.
func (ts *Set) Get(name string) (*Tenant, error) {
	if t, ok := ts.Find(name); ok {
		return t.Current(), nil
	}
	return ts.getNew(name, nil)
}

// getNew returns a tenant that has no place yet. The client is that of `tenant basic`, otherwise nil.
func (ts *Set) getNew(name string, client *basicClient) (*Tenant, error) {
	if ts.unknown.has(name, time.Now()) {
		return nil, ErrUnknown
	}
	found, err, _ := ts.group.Do(name, func() (any, error) { return ts.lookUp(name, client) })
	if err != nil {
		if denial, ok := errors.AsType[*Denial](err); ok {
			ts.Config().Status.LogTenantDenied(name, denial.Why)
		}
		return nil, err
	}
	return found.(*Tenant).Current(), nil
}

// GetBasic returns the tenant of `tenant basic` with these credentials of the scheme Basic. The error is a *Denial.
func (ts *Set) GetBasic(encoded string) (*Tenant, error) {
	if encoded == "" {
		return nil, ErrBasic
	}
	name := BasicName(encoded)
	if t, ok := ts.Find(name); ok {
		return t.Current(), nil
	}
	client, ok := parseBasic(encoded)
	if !ok {
		return nil, ErrBasic
	}
	return ts.getNew(name, client)
}

// Find returns the tenant that has a place under this name.
func (ts *Set) Find(name string) (*Tenant, bool) {
	value, ok := ts.all.Load(name)
	if !ok {
		return nil, false
	}
	return value.(*Tenant), true
}

// lookUp finds out whether a tenant exists, and gives it a place.
func (ts *Set) lookUp(name string, client *basicClient) (*Tenant, error) {
	if t, ok := ts.Find(name); ok { // since the first look
		return t, nil
	}
	if !ts.Lookups.Allow() {
		return nil, &Denial{Why: status.TenantLimited, RetryAt: time.Now().Add(time.Second)}
	}
	c := ts.Config()
	if c.Basic {
		return ts.lookUpBasic(name, client)
	}
	if c.Template.Missing(name) {
		ts.unknown.add(name, UnknownMemory, time.Now())
		return nil, ErrUnknown
	}
	return ts.Place(name)
}

// lookUpBasic gives a client a place, unless too many secrets were tried for it. The token call shows whether it exists.
func (ts *Set) lookUpBasic(name string, client *basicClient) (*Tenant, error) {
	if client == nil { // a name without the secret
		return nil, ErrUnknown
	}
	if at, ok := ts.attempts.begin(client, time.Now()); !ok {
		return nil, &Denial{Why: status.TenantLimited, RetryAt: at}
	}
	t, err := ts.add(newTenant(ts, name, client))
	if err != nil {
		ts.attempts.forgive(client)
	}
	return t, err
}

// Place gives a tenant a place without a look-up.
func (ts *Set) Place(name string) (*Tenant, error) { return ts.add(newTenant(ts, name, nil)) }

// Unplaced returns a tenant without a place, for single token calls.
func (ts *Set) Unplaced(name string) *Tenant { return &Tenant{of: ts, Name: name} }

// add gives a tenant a place, if there is one.
func (ts *Set) add(t *Tenant) (*Tenant, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := time.Now()
	if most := int64(ts.Config().Max); ts.places.Load() >= most && !ts.makeRoom(most, now) {
		return nil, &Denial{Why: status.TenantFull, RetryAt: now.Add(fullPause)}
	}
	ts.all.Store(t.Name, t)
	ts.places.Add(1)
	return t, nil
}

// makeRoom removes the tenants that have no valid token: those whose token was not used for a lifetime, and those that got
// none. It reports whether there is room. Those that are served stay served.
func (ts *Set) makeRoom(most int64, now time.Time) bool {
	if now.Sub(ts.swept) < sweepInterval {
		return false
	}
	ts.swept = now
	for t := range ts.All {
		if t.Source.Idle() {
			ts.Remove(t)
			ts.Config().Status.TenantEvicted()
		}
	}
	return ts.places.Load() < most
}

// Remove takes a tenant's place away, unless another tenant of this name has it. It reports whether it did.
func (ts *Set) Remove(t *Tenant) bool {
	removed := ts.all.CompareAndDelete(t.Name, t)
	if removed {
		ts.places.Add(-1)
		t.Source.Rest()
	}
	return removed
}

// forget takes the place of a client of `tenant basic` that is refused, and remembers it for a time.
func (ts *Set) forget(t *Tenant, memory time.Duration) {
	ts.unknown.add(t.Name, memory, time.Now()) // first, so that no request looks it up in between
	ts.Remove(t)
}

// purgesAtOnce is how many tenants are purged at the same time. It leaves half of the calls that a store may have at a time to
// token calls.
const purgesAtOnce = 4

// Purged is what a purge of all tenants has done.
type Purged struct {
	All, Lost int  // tenants: those that had a place, and those that the store has failed for
	Shared    bool // without it, no tenant is lost
}

// Purge forgets the tokens of all tenants that have a place, here and in the store, or makes all replicas forget them.
func (ts *Set) Purge(ctx context.Context, fleet bool) Purged {
	var all, lost atomic.Int64
	var group errgroup.Group
	group.SetLimit(purgesAtOnce)
	for t := range ts.All {
		group.Go(func() error {
			all.Add(1)
			if !t.Purge(ctx, fleet) {
				lost.Add(1)
			}
			return nil
		})
	}
	_ = group.Wait()
	return Purged{int(all.Load()), int(lost.Load()), ts.Config().Sharing != nil}
}

// All are the tenants that have a place, in no order. It locks nothing.
func (ts *Set) All(yield func(*Tenant) bool) {
	ts.all.Range(func(_, value any) bool { return yield(value.(*Tenant)) })
}

// After returns the tenants whose names come after a name, in the order of their names, and at most as many as most. It locks
// nothing, so tenants that come and go meanwhile may be missing.
func (ts *Set) After(name string, most int) []*Tenant {
	var found []*Tenant
	for t := range ts.All {
		if t.Name > name {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, func(a, b *Tenant) int { return strings.Compare(a.Name, b.Name) })
	return found[:min(most, len(found))]
}

// Statuses are the sources of all tenants as they are now. It locks nothing.
func (ts *Set) Statuses(yield func(token.Status) bool) {
	ts.all.Range(func(_, value any) bool { return yield(value.(*Tenant).Source.Status()) })
}
