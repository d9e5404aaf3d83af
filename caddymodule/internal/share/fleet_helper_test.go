package share

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// fleet is the replicas of one credential with all that surrounds them, in virtual time. It is a token endpoint and an API
// in one, as both know which tokens are valid.
type fleet struct {
	ctx      context.Context // ends before the bubble does
	replicas []*member
	store    Store // nil: the replicas share nothing
	memory   *sharetest.Store

	mu         sync.Mutex // guards what follows
	lifetime   time.Duration
	latency    func() time.Duration       // of the token endpoint
	refuses    func(*member) *token.Error // nil: the token endpoint answers each call with a token
	fatal      bool                       // the next replica that calls the token endpoint dies in its call
	revokes    bool                       // a new token revokes the previous one
	rejectsAll bool                       // the API accepts no token
	valid      map[string]time.Time       // until when each token is
	revoked    map[string]time.Time       // since when each token is
	latest     string
	made       int         // tokens
	calls      []time.Time // of the token endpoint
	requests   int         // of applications
	failed     int         // of them
	rejected   int         // answers of the API with status 401
	wait       time.Duration
	late       time.Duration // the longest time after which a replica used a token that was revoked
}

// member is one replica of a fleet. It can be restarted.
type member struct {
	fleet  *fleet
	number int
	ahead  atomic.Int64 // its clock, as a time.Duration
	secret string
	keys   []token.Secret // set before a start

	startAfter time.Duration // 0: at any time in that of all replicas

	mu     sync.Mutex // guards what follows
	source *token.Source
	stop   func() // nil: it does not run
}

func newFleet(ctx context.Context, replicas int, s Store, memory *sharetest.Store) *fleet {
	f := &fleet{
		ctx: ctx, store: s, memory: memory, lifetime: time.Hour, latency: within(200*time.Millisecond, 400*time.Millisecond),
		valid: make(map[string]time.Time), revoked: make(map[string]time.Time),
	}
	memory.Latency = func() time.Duration { return time.Millisecond }
	for n := range replicas {
		f.replicas = append(f.replicas, &member{fleet: f, number: n, secret: "new", keys: []token.Secret{keyA}})
	}
	return f
}

// within returns durations between the two.
func within(least, most time.Duration) func() time.Duration {
	return func() time.Duration { return least + rand.N(most-least) }
}

// change changes the fleet while it runs.
func (f *fleet) change(with func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	with()
}

// work starts the replicas within a time, and lets an application send requests through each until the end. Requests of one
// replica follow each other after every, half of it more or less.
func (f *fleet) work(within, every time.Duration, end time.Time) {
	var applications sync.WaitGroup
	for _, m := range f.replicas {
		applications.Go(func() {
			time.Sleep(cmp.Or(m.startAfter, rand.N(within)))
			m.start(false)
			for time.Now().Before(end) {
				m.request()
				time.Sleep(every/2 + rand.N(every))
			}
			m.end()
		})
	}
	applications.Wait()
}

// start starts the process of the replica. Nothing is left of an earlier one.
func (m *member) start(prefetch bool) {
	ctx, cancel := context.WithCancel(m.fleet.ctx)
	config := token.Config{Fetcher: memberProcess{m, ctx}, Endpoint: fmt.Sprint(m.number), Policy: token.Policy{Prefetch: prefetch}}
	if m.fleet.store != nil {
		config.Sharing = token.NewSharing(m.share(ctx))
	}
	source := token.NewSource(config)
	end := source.Start(config)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.source, m.stop = source, func() { cancel(); end() }
}

// share is what a process of the replica knows together with the others.
func (m *member) share(ctx context.Context) *Credential {
	ring, _ := NewRing(m.keys...)
	return Share{
		Ring: ring, Guard: guard(ctx, m.fleet.store), now: func() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) },
	}.Credential(spec())
}

// end ends the process at once, whatever it does: it uses the store no more.
func (m *member) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// running returns the source of the running process, or nil.
func (m *member) running() *token.Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop == nil {
		return nil
	}
	return m.source
}

// request is one request of an application. It fails if the API rejects the replay too.
func (m *member) request() {
	source := m.running()
	if source == nil {
		return
	}
	begun := time.Now()
	ok := m.fleet.serve(source)
	if m.running() != source { // its process has ended meanwhile
		return
	}
	m.fleet.change(func() {
		m.fleet.requests++
		m.fleet.wait = max(m.fleet.wait, time.Since(begun))
		if !ok {
			m.fleet.failed++
		}
	})
}

func (f *fleet) serve(s *token.Source) bool {
	lease, err := s.Acquire(f.ctx)
	if err != nil {
		return false
	}
	if f.accepts(lease) {
		lease.Accepted()
		return true
	}
	if !lease.Rejected(token.Certain) {
		return false
	}
	lease, again := lease.Another(f.ctx)
	if !again {
		return false
	}
	if f.accepts(lease) {
		lease.Accepted()
		return true
	}
	lease.RejectedAgain()
	return false
}

// accepts is the API.
func (f *fleet) accepts(l token.Lease) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	value := l.Value().Reveal()
	if until, known := f.valid[value]; known && time.Now().Before(until) && !f.rejectsAll {
		return true
	}
	f.rejected++
	if since, ok := f.revoked[value]; ok {
		f.late = max(f.late, time.Since(since))
	}
	return false
}

// revoke ends all tokens at the API.
func (f *fleet) revoke() { f.change(func() { clear(f.valid) }) }

// memberProcess is one process of a replica, until its context ends.
type memberProcess struct {
	*member
	ctx context.Context
}

// Prepare implements token.Fetcher.
func (p memberProcess) Prepare() token.Call {
	return token.Call{Proof: token.NewSecret(p.secret), Fetch: p.fetch}
}

// fetch calls the token endpoint, unless the process has ended: a flight of the simulation goes on after that.
func (p memberProcess) fetch(ctx context.Context) (token.Issued, error) {
	if p.ctx.Err() != nil {
		return token.Issued{}, errors.New("a process that has ended calls nothing")
	}
	return p.member.fetch(ctx)
}

// fetch is the token endpoint.
func (m *member) fetch(ctx context.Context) (issued token.Issued, err error) {
	f := m.fleet
	var latency time.Duration
	var dies bool
	f.change(func() {
		f.calls = append(f.calls, time.Now())
		latency = f.latency()
		dies, f.fatal = f.fatal, false
	})
	if dies {
		m.end()
		return issued, errors.New("the process has ended")
	}
	if sleep(ctx, latency/2) != nil {
		return issued, &token.Error{Kind: token.Unavailable, Reason: "timeout"}
	}
	f.change(func() { issued, err = f.issue(m) })
	if sleep(ctx, latency/2) != nil {
		return issued, &token.Error{Kind: token.Unavailable, Reason: "timeout"}
	}
	return issued, err
}

func (f *fleet) issue(m *member) (token.Issued, error) {
	if f.refuses != nil {
		if refusal := f.refuses(m); refusal != nil {
			return token.Issued{}, refusal
		}
	}
	if f.revokes && f.latest != "" {
		delete(f.valid, f.latest)
		f.revoked[f.latest] = time.Now()
	}
	f.made++
	f.latest = fmt.Sprint("token-", f.made)
	f.valid[f.latest] = time.Now().Add(f.lifetime)
	return token.Issued{Token: token.NewSecret(f.latest), Lifetime: f.lifetime}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// way is how the replicas of a fleet share.
type way string

// The ways: not at all, in a store that decides nothing, and in one that decides claims.
const (
	alone      way = "alone"
	byRegister way = "register"
	byClaimer  way = "claimer"
)

// inFleet runs f in a bubble, for a fleet that shares this way.
func inFleet(t *testing.T, w way, replicas int, f func(t *testing.T, fleet *fleet)) {
	t.Helper()
	t.Run(string(w), func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			claimer := new(sharetest.Claimer)
			s := map[way]Store{byRegister: &claimer.Store, byClaimer: claimer}[w]
			f(t, newFleet(ctx, replicas, s, &claimer.Store))
			time.Sleep(30 * time.Second) // background calls end
			cancel()
			time.Sleep(30 * time.Second) // and those of a store that hangs
		})
	})
}
