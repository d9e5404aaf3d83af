package token

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Event is something that happened in a Source: a call of the token endpoint or, if Adopted or Rejected is set, a token
// that another replica has left, or the end of one that the API has rejected.
type Event struct {
	// Adopted is set if another replica obtained Token, and this one took it over. Such an event is not about a call.
	Adopted bool

	// Rejected is set if the API has rejected Token, which is to be replaced. Such an event is not about a call.
	Rejected bool

	// Demanded is set, too, if the API demands claims that the rejected token was issued without (a claims challenge).
	Demanded bool

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

	// Recovered is set on the first token after a failure.
	Recovered bool
}

// Config is what a Source works with; it can be replaced while requests run.
type Config struct {
	Fetcher Fetcher
	Policy  Policy

	// Sharing, if not nil, is how the source shares its token with other replicas. Made by NewSharing.
	Sharing *Sharing

	// Endpoint names the token endpoint. Background flights of all sources with the same endpoint take turns.
	Endpoint string

	// Observer, if not nil, gets every event while the configuration is in force. Configurations whose observers have the
	// same ID are one credential before and after a reload. Of those in force, only the latest gets events.
	Observer Observer
}

// Observer learns what happens in a Source.
type Observer interface {
	// ID identifies the credential.
	ID() string

	// Observe must be quick: it is called inside the flight.
	Observe(Event)
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
	rare    atomic.Pointer[rare]

	// What follows is touched by the flight only, and flights do not overlap.
	generation uint64
	notBefore  time.Time
	retries    *retries
	failing    bool
	unmet      bool        // a call for what the API demands has failed, and there was no token since
	denied     bool        // by an Admitter
	resting    bool        // guarded by mu; here, it takes no room
	refused    atomic.Bool // the token endpoint has refused the credential, and has issued no token since; read everywhere

	made           time.Time
	nextProofCheck atomic.Int64 // a time.Duration since made, which a stepped clock does not change

	mu            sync.Mutex // guards what follows
	started       []*Config  // the configurations in force
	timer         *time.Timer
	invalidations *invalidations // nil until the API rejects a token
}

// failure is the state of a source whose last call failed. It is immutable but for its mark.
type failure struct {
	err   *Error
	until time.Time
	proof string // its digest

	// awaited is set if a request or a probe has asked for a token while the failure held calls back.
	awaited atomic.Bool
}

// NewSource makes a source. It does nothing until it is asked for a token, or Start is called.
func NewSource(c Config) *Source {
	s := &Source{made: time.Now()}
	s.config.Store(c.withDefaults())
	return s
}

// rare is what few sources need, apart because a process may have many sources.
type rare struct {
	attached  any
	attaching sync.Once

	// demanded are the claims that the API demands of the next token; nil if there are none.
	demanded atomic.Pointer[demand]
}

// needed returns the source's rare, which it makes when it is first needed.
func (s *Source) needed() *rare {
	if s.rare.Load() == nil {
		s.rare.CompareAndSwap(nil, new(rare))
	}
	return s.rare.Load()
}

// Attached returns a value that lives as long as the source and that the engine does not touch. The first call makes it.
func (s *Source) Attached(make func() any) any {
	r := s.needed()
	r.attaching.Do(func() { r.attached = make() })
	return r.attached
}

// Fetcher returns the fetcher that the source works with at present.
func (s *Source) Fetcher() Fetcher { return s.config.Load().Fetcher }

// observe passes the event to every credential that shares the source or, if none is in force any more, to the one that
// made the call.
func (s *Source) observe(caller *Config, e Event) {
	s.mu.Lock()
	inForce := slices.Clone(s.started)
	s.mu.Unlock()
	if len(inForce) == 0 {
		inForce = []*Config{caller}
	}
	var told []string
	for _, c := range slices.Backward(inForce) {
		if c.Observer == nil || slices.Contains(told, c.Observer.ID()) {
			continue
		}
		told = append(told, c.Observer.ID())
		c.Observer.Observe(e)
	}
}

func (c Config) withDefaults() *Config {
	c.Policy = c.Policy.withDefaults()
	return &c
}
