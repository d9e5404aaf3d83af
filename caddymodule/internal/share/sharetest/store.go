// Package sharetest has stores for tests, which keep values in memory and can be told to misbehave. It imports no package of
// this repository, so that the tests of each can use it.
package sharetest

import (
	"bytes"
	"context"
	"maps"
	"strings"
	"sync"
	"time"
)

// Store is a store that cannot decide claims. Its zero value is ready. Set its fields before use, or with Change.
type Store struct {
	// Latency is how long a call takes; nil: no time. Half of it passes before the call takes effect.
	Latency func() time.Duration

	// Eternal is set if values do not expire.
	Eternal bool

	// Deaf is set if calls ignore their context.
	Deaf bool

	// Fail, if not nil, is called before the operation "load", "save", "delete", "claim" or "replace". It returns an error,
	// blocks, or panics.
	Fail func(operation, name string) error

	// Alter, if not nil, is applied to each value that is returned.
	Alter func(name string, value []byte) []byte

	mu     sync.Mutex
	values map[string]entry
	calls  map[string]int
}

type entry struct {
	value   []byte
	expires time.Time
}

// Change changes the store's fields while it is in use.
func (s *Store) Change(f func(*Store)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// Calls returns how often an operation was called. What package share saves to learn whether the store works counts as the
// operation "probe".
func (s *Store) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

// Values returns a copy of what is in the store, but for probes.
func (s *Store) Values() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string][]byte)
	for name := range maps.Keys(s.values) {
		if e, ok := s.get(name); ok && !isProbe(name) {
			all[name] = bytes.Clone(e)
		}
	}
	return all
}

// Life returns how long a value is kept from now on.
func (s *Store) Life(name string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.values[name].expires)
}

// Put sets a value for an hour, behind the backs of all.
func (s *Store) Put(name string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(name, value, time.Hour)
}

// Load returns a value, or nil.
func (s *Store) Load(ctx context.Context, name string) (value []byte, err error) {
	err = s.do(ctx, "load", name, func() {
		value = s.returned(name)
	})
	return value, err
}

// Save sets a value.
func (s *Store) Save(ctx context.Context, name string, value []byte, life time.Duration) error {
	return s.do(ctx, "save", name, func() { s.set(name, value, life) })
}

// Delete removes a value.
func (s *Store) Delete(ctx context.Context, name string) error {
	return s.do(ctx, "delete", name, func() { delete(s.values, name) })
}

// Claimer is a store that decides claims.
type Claimer struct{ Store }

// Claim sets a value unless there is one, and returns the one that is there.
func (s *Claimer) Claim(ctx context.Context, name string, claim []byte, life time.Duration) (there []byte, err error) {
	err = s.do(ctx, "claim", name, func() {
		if _, ok := s.get(name); !ok {
			s.set(name, claim, life)
		}
		there = s.returned(name)
	})
	return there, err
}

// Replace sets or removes a value if it is the given one.
func (s *Claimer) Replace(ctx context.Context, name string, claim, next []byte, life time.Duration) (done bool, err error) {
	err = s.do(ctx, "replace", name, func() {
		there, ok := s.get(name)
		switch done = ok && bytes.Equal(there, claim); {
		case done && next == nil:
			delete(s.values, name)
		case done:
			s.set(name, next, life)
		}
	})
	return done, err
}

// do lets time pass and misbehaves as it was told, around what takes effect.
func (s *Store) do(ctx context.Context, operation, name string, effect func()) error {
	s.mu.Lock()
	if s.calls == nil {
		s.calls = make(map[string]int)
	}
	if isProbe(name) {
		s.calls["probe"]++
	} else {
		s.calls[operation]++
	}
	var latency time.Duration
	if s.Latency != nil {
		latency = s.Latency()
	}
	fail, deaf := s.Fail, s.Deaf
	s.mu.Unlock()

	if deaf {
		ctx = context.WithoutCancel(ctx)
	}
	if err := sleep(ctx, latency/2); err != nil {
		return err
	}
	if fail != nil {
		if err := fail(operation, name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	effect()
	s.mu.Unlock()
	return sleep(ctx, latency-latency/2)
}

func isProbe(name string) bool { return strings.HasSuffix(name, "/probe") }

func (s *Store) get(name string) ([]byte, bool) {
	e, ok := s.values[name]
	if !ok || !s.Eternal && !time.Now().Before(e.expires) {
		return nil, false
	}
	return e.value, true
}

// returned is the value as the store returns it.
func (s *Store) returned(name string) []byte {
	value, ok := s.get(name)
	if !ok || s.Alter == nil {
		return bytes.Clone(value)
	}
	return s.Alter(name, bytes.Clone(value))
}

func (s *Store) set(name string, value []byte, life time.Duration) {
	if s.values == nil {
		s.values = make(map[string]entry)
	}
	s.values[name] = entry{bytes.Clone(value), time.Now().Add(life)}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
