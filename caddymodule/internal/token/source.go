package token

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Fetcher asks a token endpoint for tokens.
type Fetcher interface {
	// Prepare reads whatever proves the client's identity (a secret file, a key), once for one call. It may be called at
	// any time, and calls that are never made cost nothing.
	Prepare() Call
}

// Call is one call of a token endpoint that can be made. A call that has not returned when its context ended is
// abandoned, and may still run when the next one is made.
type Call struct {
	// Proof identifies what the client proves its identity with in this call. When it changes, a refusal of the old one
	// no longer counts.
	Proof string

	// Fetch asks for one token. Failures are of type *Error; any other error counts as Unreadable.
	Fetch func(ctx context.Context) (Issued, error)
}

// Event is something that happened in a Source: a call of the token endpoint or, if Rejected is set, the end of a token
// that the API has rejected. Observers must be quick: they are called inside the flight.
type Event struct {
	// Rejected is set if the API has rejected Token, which is to be replaced. Such an event is not about a call.
	Rejected bool

	// Err is why a call failed; nil if a token was obtained.
	Err *Error

	// Token is the token obtained, or rejected.
	Token Secret

	// Lifetime is how long the token is trusted, from when it was asked for.
	Lifetime time.Duration

	// Unchanged is set when the endpoint returned the token that it had returned before.
	Unchanged bool

	// Note is what the provider noticed about an answer that it could use all the same.
	Note string

	// Duration is how long the call took.
	Duration time.Duration

	// Recovered is set on the first success after a failure.
	Recovered bool
}

// Config is what a Source works with; it can be replaced while requests run.
type Config struct {
	Fetcher Fetcher
	Policy  Policy

	// Endpoint names the token endpoint. Background flights of all sources with the same endpoint take turns.
	Endpoint string

	// Observer identifies Observe. Configurations with the same Observer are one credential before and after a reload.
	// Of those in force, only the latest gets events.
	Observer string

	// Observe, if not nil, is called for every event while the configuration is in force.
	Observe func(Event)
}

// Source is the truth for one credential. It is safe for concurrent use. Make it with NewSource.
type Source struct {
	config  atomic.Pointer[Config] // the latest configuration wins
	current atomic.Pointer[Token]
	failure atomic.Pointer[failure]
	group   singleflight.Group
	flying  atomic.Bool
	calls   atomic.Int32 // calls that have not returned: the flight's, and abandoned ones
	proving atomic.Bool  // a comparison of the proof with the refused one is running
	queued  atomic.Bool  // waits for its turn

	// What follows is touched by the flight only, and flights do not overlap.
	generation uint64
	notBefore  time.Time
	retries    *retries
	failing    bool

	made           time.Time
	nextProofCheck atomic.Int64 // a time.Duration since made, which a stepped clock does not change

	mu            sync.Mutex // guards what follows
	started       []*Config  // the configurations in force
	resting       bool
	timer         *time.Timer
	invalidations *invalidations // nil until the API rejects a token
}

// failure is the state of a source whose last call failed. It is immutable.
type failure struct {
	err   *Error
	until time.Time
	proof string
}

// NewSource makes a source. It does nothing until it is asked for a token, or Start is called.
func NewSource(c Config) *Source {
	s := &Source{made: time.Now()}
	s.config.Store(c.withDefaults())
	return s
}

// Fetcher returns the fetcher that the source works with at present.
func (s *Source) Fetcher() Fetcher { return s.config.Load().Fetcher }

// Start puts a configuration into force, until the function that it returns is called. The configuration that was
// started last counts. While none is in force, the source serves requests that still hold it, and does nothing by
// itself.
//
// With Policy.Prefetch it fetches in the background, as soon as the token endpoint's lane has room.
func (s *Source) Start(c Config) (end func()) {
	config := c.withDefaults()
	s.mu.Lock()
	s.started = append(s.started, config)
	s.config.Store(config)
	s.resting = false
	s.mu.Unlock()
	s.wake(config)
	return func() { s.end(config) }
}

// end takes a configuration out of force, which brings back the one before it: it may have been started by a
// configuration of Caddy's that could not be started as a whole.
func (s *Source) end(config *Config) {
	s.mu.Lock()
	s.started = slices.DeleteFunc(s.started, func(c *Config) bool { return c == config })
	if len(s.started) == 0 {
		s.rest()
		s.mu.Unlock()
		return
	}
	latest := s.started[len(s.started)-1]
	s.config.Store(latest)
	s.mu.Unlock()
	s.wake(latest)
}

// Rest ends all background work, because no configuration has this credential any more. Requests that still hold the
// source are served as before.
func (s *Source) Rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest()
}

func (s *Source) rest() {
	s.resting = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// wake sets the timer for what is due, or fetches as soon as the token endpoint's lane has room.
func (s *Source) wake(config *Config) {
	now := time.Now()
	t, f := s.current.Load(), s.backingOff(now)
	switch {
	case f != nil && (t.alive(now) || config.Policy.Prefetch):
		s.arm(f.until)
	case t.alive(now):
		s.arm(t.refreshAt)
	case config.Policy.Prefetch:
		s.refreshInTurn()
	}
}

// observe passes the event to every credential that shares the source or, if none is in force any more, to the one that
// made the call.
func (s *Source) observe(caller *Config, e Event) {
	s.mu.Lock()
	inForce := slices.Clone(s.started)
	s.mu.Unlock()
	if len(inForce) == 0 {
		caller.Observe(e)
		return
	}
	var told []string
	for _, c := range slices.Backward(inForce) {
		if slices.Contains(told, c.Observer) {
			continue
		}
		told = append(told, c.Observer)
		c.Observe(e)
	}
}

func (c Config) withDefaults() *Config {
	c.Policy = c.Policy.withDefaults()
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	return &c
}

// Acquire returns a lease on a valid token. The error is of type *Error, or the context's own if that ended first.
func (s *Source) Acquire(ctx context.Context) (Lease, error) {
	return s.AcquireWithin(ctx, 0)
}

// AcquireWithin is Acquire for a caller that has a MaxWait of its own; 0 means the policy's.
func (s *Source) AcquireWithin(ctx context.Context, maxWait time.Duration) (Lease, error) {
	now := time.Now()
	if t := s.current.Load(); t.fresh(now) {
		t.touch()
		return Lease{s, t, ServedFresh, maxWait}, nil
	}
	return s.acquireSlow(ctx, maxWait, now)
}

func (s *Source) acquireSlow(ctx context.Context, maxWait time.Duration, now time.Time) (Lease, error) {
	t := s.current.Load()
	failed := s.backingOff(now)
	switch {
	case t.alive(now) && !t.rejected: // stale
		t.touch()
		if failed == nil {
			s.refresh()
		}
		return Lease{s, t, ServedStale, maxWait}, nil
	case failed == nil:
		return s.wait(ctx, maxWait)
	case t.alive(now): // rejected, but there is no other, and it may be good for other requests
		return Lease{s, t, ServedStale, maxWait}, nil
	default:
		return Lease{}, failed.err
	}
}

// wait joins the flight or starts it. The flight goes on if the caller leaves.
func (s *Source) wait(ctx context.Context, maxWait time.Duration) (Lease, error) {
	if maxWait <= 0 {
		maxWait = s.config.Load().Policy.MaxWait
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()

	var err error
	select {
	case result := <-s.group.DoChan("", s.flight):
		if result.Err == nil {
			t := result.Val.(*Token)
			t.touch()
			return Lease{s, t, ServedWaited, maxWait}, nil
		}
		err = result.Err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = &Error{Kind: WaitedTooLong, Reason: "no token within max_wait (" + maxWait.String() + ")"}
	}
	// A rejected token that has not expired is better than none: the rejection may have been about one resource.
	if t := s.current.Load(); t.alive(time.Now()) {
		return Lease{s, t, ServedStale, maxWait}, nil
	}
	return Lease{}, err
}

// refresh starts a flight for callers who would soon have to wait for one, unless one is running.
func (s *Source) refresh() {
	if !s.flying.Load() {
		s.group.DoChan("", s.flight)
	}
}

// backingOff returns the failure that forbids a call now, or nil. A changed proof ends the failure.
func (s *Source) backingOff(now time.Time) *failure {
	f := s.failure.Load()
	if f == nil || !now.Before(f.until) {
		return nil
	}
	if f.err.Kind == Refused && s.proofChanged(f, now) {
		return nil
	}
	return f
}

// arm sets the timer that starts the next background flight.
func (s *Source) arm(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resting {
		return
	}
	wait := max(time.Until(at), minTimer)
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.onTimer)
		return
	}
	s.timer.Reset(wait)
}

// onTimer refreshes a token that is in use. An unused source falls asleep after one lifetime.
func (s *Source) onTimer() {
	t := s.current.Load()
	wanted := t != nil && t.used.Load()
	if wanted || s.config.Load().Policy.Prefetch {
		s.refreshInTurn()
	}
}
