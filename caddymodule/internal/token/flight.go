package token

import (
	"context"
	"net/http"
	"time"
)

// flight fetches one token for all waiting requests, unless the token is fresh or the source backs off.
func (s *Source) flight() (any, error) { return s.fly(false) }

// forcedFlight fetches a token in any case.
func (s *Source) forcedFlight() (any, error) { return s.fly(true) }

// fly is a flight. Its context belongs to the source, so that a canceled request or an unloaded configuration does not
// end the flight for the others.
//
// It must not panic: singleflight would raise the panic again in a goroutine of its own, which ends the process.
func (s *Source) fly(forced bool) (result any, err error) {
	defer s.armNext() // last of all, so that nothing in this flight keeps the next from being flown
	s.denied = false
	s.flying.Store(true)
	defer s.flying.Store(false)
	defer func() {
		if p := recover(); p != nil || result == nil && err == nil { // neither: runtime.Goexit
			result, err = nil, s.remember(panicked(p), Secret{})
		}
	}()

	now := time.Now()
	if !forced {
		if t := s.current.Load(); t.fresh(now) { // fetched between this caller's look and this flight
			return t, nil
		}
		if f := s.backingOff(now); f != nil {
			if t := s.elsewhere(now); t != nil {
				return t, nil
			}
			return nil, f.err
		}
	}
	time.Sleep(time.Until(s.notBefore))

	config := s.config.Load()
	limit := config.Policy.FetchTimeout
	if config.Sharing != nil && !forced {
		begun := time.Now()
		if t := s.share(config); t != nil {
			return t, nil
		}
		limit = config.callLimit(time.Since(begun))
	}
	if err := s.admit(config, forced); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	t, failed := s.fetch(ctx, config)
	if failed == nil {
		return t, nil
	}
	if t := s.elsewhere(time.Now()); t != nil && !forced {
		return t, nil
	}
	return nil, failed
}

// admit returns the error because of which this flight makes no call, or nil. The refresh of a valid token needs no
// permission, and neither does an operator.
func (s *Source) admit(config *Config, forced bool) error {
	admitter, ok := config.Fetcher.(Admitter)
	if !ok || forced || s.current.Load().alive(time.Now()) {
		return nil
	}
	err := admitter.Admit()
	if err != nil {
		s.denied = true
		config.Sharing.giveUp()
	}
	return err
}

// fetch calls the endpoint, and calls it again at once where that can keep waiting requests from failing: once in an
// outage, because later flights follow each other soon enough.
//
// What the API demands can make a call fail in any way. So the last of them does not ask for it, and neither do
// later flights until there is a token. A demand never keeps the source from a token without it.
func (s *Source) fetch(ctx context.Context, config *Config) (*Token, *Error) {
	quick := s.retries.failedRounds(time.Now()) == 0
	mayDemand := !s.unmet
	for n := 1; ; n++ {
		a := s.tryDemanded(ctx, config, mayDemand && n < coldAttempts)
		if a.err == nil {
			return s.succeed(a.issued, a.sent, config), nil
		}
		s.failing = true
		if n == coldAttempts || !a.rotated && !(quick && s.cold() && mayPass(a.err) && sleep(ctx, coldPause(n))) {
			return nil, s.fail(a, config)
		}
		s.observe(config, Event{Err: a.err, Duration: time.Since(a.sent)})
	}
}

// cold reports whether requests have to wait for this flight.
func (s *Source) cold() bool {
	t := s.current.Load()
	return !t.alive(time.Now()) || t.rejected
}

// mayPass reports whether a failure may be over in a moment, such as a lost packet, a restart, or the error page of a
// gateway. An endpoint that answers 429, or sends Retry-After, is not called before that.
func mayPass(err *Error) bool {
	return !err.lasting() && err.Status != http.StatusTooManyRequests && err.RetryAfter == 0
}

// succeed makes the answer the current token, unless it has no life left.
func (s *Source) succeed(issued Issued, sent time.Time, config *Config) *Token {
	now := time.Now()
	previous := s.current.Load()
	unchanged := previous != nil && previous.value.Equal(issued.Token)
	if !unchanged {
		s.generation++
	}
	lifetime := config.Policy.lifetime(issued.Lifetime)
	t := newToken(issued, s.generation, sent, lifetime)
	s.observe(config, Event{
		Token: t.value, Lifetime: lifetime, Unchanged: unchanged, Note: issued.Note,
		Duration: now.Sub(sent), Recovered: s.failing,
	})
	if !t.alive(now) {
		s.failing, s.unmet = false, false
		s.refused.Store(false)
		s.failure.Store(nil)
		s.schedules().rounds = 0
		s.notBefore = now.Add(s.schedules().pause.NextBackOff())
	} else {
		s.schedule(t, previous, unchanged, config.Policy)
		if !unchanged {
			t.followAdvice(issued.RefreshIn)
		}
		s.publish(t, config)
	}
	config.Sharing.save(t, issued.Note)
	return t
}

// publish makes t the current token.
func (s *Source) publish(t *Token, config *Config) {
	s.failing, s.unmet = false, false
	s.refused.Store(false)
	s.failure.Store(nil)
	s.retries = nil
	if sharing := config.Sharing; sharing != nil {
		sharing.pause = 0
	}
	s.flying.Store(false) // so that a rejection of this very token finds no call that could replace it
	s.current.Store(t)
}

// schedule decides when t becomes stale. An endpoint that returns the token it returned before (a Doorkeeper
// server with token reuse, Marketo, ServiceNow) is asked once more halfway to expiry and then at expiry: scheduling
// by what remains would ask ever faster.
func (s *Source) schedule(t, previous *Token, unchanged bool, p Policy) {
	t.margin = p.margin(t.expires.Sub(t.issued))
	if unchanged {
		t.margin = previous.margin
		prolonged := t.expires.After(previous.expires.Add(t.margin))
		t.used.Store(previous.used.Load() && !prolonged)
	}
	t.refreshAt = t.expires.Add(-t.margin - jitter(t.margin/4))
	if !unchanged {
		return
	}
	if earliest := t.issued.Add(max(t.margin/2, minUnchangedWait)); t.refreshAt.Before(earliest) {
		t.refreshAt = earliest
	}
	if t.refreshAt.After(t.expires) {
		t.refreshAt = t.expires
	}
}

// followAdvice brings the refresh forward to when the endpoint advises it, jittered like every refresh. Advice to
// refresh in the first tenth of a life would be a call for every few requests.
func (t *Token) followAdvice(refreshIn time.Duration) {
	if refreshIn <= 0 {
		return
	}
	refreshIn = max(refreshIn, t.expires.Sub(t.issued)/10)
	advised := t.issued.Add(refreshIn - jitter(refreshIn/20))
	if advised.Before(t.refreshAt) {
		t.refreshAt = advised
	}
}

// fail remembers the failure and reports it.
func (s *Source) fail(a attempt, config *Config) *Error {
	remembered := s.remember(a.err, a.proof)
	s.observe(config, Event{Err: remembered, Duration: time.Since(a.sent)})
	config.Sharing.holdBack(remembered, a.proof)
	return remembered
}

// remember makes the failure the state of the source: until its time has come, no request causes a call.
func (s *Source) remember(err *Error, proof Secret) *Error {
	now := time.Now()
	digest := proof.digest()
	var wait time.Duration
	switch {
	case err.lasting():
		s.refused.Store(true)
		wait = s.schedules().coolDown(digest)
	case err.Status != http.StatusTooManyRequests && s.cold():
		wait = s.schedules().coldWait(now)
	default:
		wait = s.schedules().backoff.NextBackOff()
	}
	wait = s.beforeExpiry(wait, err, now)
	remembered := *err
	remembered.RetryAt = now.Add(max(wait, min(err.RetryAfter, maxRetryAfter)))
	s.failure.Store(&failure{err: &remembered, until: remembered.RetryAt, proof: digest})
	return &remembered
}

// beforeExpiry keeps a wait from outlasting a valid token. An endpoint that recovers before the token expires is called
// before then, and the first request after the expiry is not held back.
func (s *Source) beforeExpiry(wait time.Duration, err *Error, now time.Time) time.Duration {
	t := s.current.Load()
	if !t.alive(now) {
		return wait
	}
	remaining := t.expires.Sub(now)
	if err.lasting() {
		return min(wait, remaining)
	}
	return min(wait, max(remaining/2, minRetryWait), remaining)
}

func (s *Source) schedules() *retries {
	if s.retries == nil {
		s.retries = newRetries()
	}
	return s.retries
}

// sleep waits for d, and reports whether it could before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
