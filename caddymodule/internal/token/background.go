package token

import (
	"slices"
	"time"
)

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

// Use puts a configuration into force in place of all others, until Rest. It suits a source that only one owner uses.
func (s *Source) Use(c Config) {
	config := c.withDefaults()
	s.mu.Lock()
	s.started = []*Config{config}
	s.config.Store(config)
	s.resting = false
	s.mu.Unlock()
	s.wake(config)
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

// armNext sets the timer for the next flight if the token is valid or was valid a moment ago, or if the policy is to
// prefetch.
func (s *Source) armNext() {
	if s.denied { // the next request asks again
		return
	}
	now := time.Now()
	t, next, config := s.current.Load(), s.notBefore, s.config.Load()
	switch f := s.failure.Load(); {
	case t.fresh(now): // even after a forced call that failed
		next = t.refreshAt
	case f != nil:
		next = f.until
	case t.alive(now):
		next = config.Sharing.after(t.refreshAt)
	}
	if config.Policy.Prefetch || t != nil && next.Before(t.expires.Add(expiryGrace)) {
		s.arm(next)
	}
}

// await sets the timer for the end of the pause, because a request or a probe waits for a token: the next of them can be
// long in coming. After a refusal, the next request calls, because a call without a new proof is most likely in vain.
func (s *Source) await(f *failure) {
	if f != nil && !f.err.lasting() && f.awaited.CompareAndSwap(false, true) {
		s.arm(f.until)
	}
}

// onTimer refreshes a token that is in use, or fetches one that is awaited. An unused source falls asleep after one
// lifetime.
func (s *Source) onTimer() {
	t, f := s.current.Load(), s.failure.Load()
	wanted := t != nil && t.used.Load() || f != nil && f.awaited.Load()
	if wanted || s.config.Load().Policy.Prefetch {
		s.refreshInTurn()
	}
}

// refreshInTurn starts a background flight when the token endpoint's lane has room, unless a flight is running.
func (s *Source) refreshInTurn() {
	if !s.flying.Load() && s.queued.CompareAndSwap(false, true) {
		background.add(s.config.Load().Endpoint, s)
	}
}

// takeTurn flies, unless no configuration uses the source any more. The flight does nothing if a request has fetched a
// token in the meantime.
func (s *Source) takeTurn() {
	s.queued.Store(false)
	s.mu.Lock()
	resting := s.resting
	s.mu.Unlock()
	if !resting {
		_, _, _ = s.group.Do("", s.flight)
	}
}
