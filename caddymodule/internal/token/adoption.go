package token

import (
	"context"
	"time"
)

// mayRefresh reports whether a flight may start while the token serves: calls are not held back and, if other replicas
// share the token, the store was not looked into a moment ago.
func (s *Source) mayRefresh(now time.Time) bool {
	if sharing := s.config.Load().Sharing; sharing != nil {
		return sharing.due(now)
	}
	return s.backingOff(now) == nil
}

// mayFetch reports whether a flight may start while no token serves.
func (s *Source) mayFetch(now time.Time) bool { return s.backingOff(now) == nil || s.mayLook(now) }

// mayLook reports whether, while calls are held back, a flight may look for a token that another replica has obtained.
func (s *Source) mayLook(now time.Time) bool {
	sharing := s.config.Load().Sharing
	return sharing != nil && sharing.due(now)
}

// elsewhere looks for a token of another replica while calls are held back, and as soon as one has failed.
func (s *Source) elsewhere(now time.Time) *Token {
	if !s.mayLook(now) {
		return nil
	}
	config := s.config.Load()
	config.Sharing.lookAgain(now.Add(failedLook))
	return s.look(config)
}

// share returns a token that serves, or nil if this replica has to call the token endpoint.
func (s *Source) share(config *Config) *Token {
	sharing := config.Sharing
	sharing.claimed, sharing.lost = false, false
	ctx, cancel := context.WithTimeout(context.Background(), s.patience(config))
	defer cancel()
	for {
		if t := s.look(config); t != nil {
			return t
		}
		if ctx.Err() != nil { // requests have waited long enough
			return nil
		}
		switch sharing.shared.Claim(ctx, func() Secret { return config.Fetcher.Prepare().Proof }) {
		case ClaimUnknown:
			return nil
		case ClaimWon:
			sharing.claimed = true
			if ctx.Err() != nil {
				return nil
			}
			t := s.look(config) // another replica may have saved one since the last look
			if t != nil {
				sharing.release(0, Secret{})
			}
			return t
		case ClaimHeld:
			return s.serveOn(sharing) // without a token, this replica calls by its own backoff
		case ClaimLost:
			if t := s.serveOn(sharing); t != nil {
				return t
			}
			sharing.lost = true
			if ctx.Err() != nil {
				return nil
			}
			time.Sleep(minPoll + jitter(maxPoll-minPoll))
		}
	}
}

// patience is how long a flight is busy with the other replicas before this replica calls too. Requests wait for a part of
// their time only: the shortest max_wait of the credentials in force that share the source counts.
func (s *Source) patience(config *Config) time.Duration {
	if s.serving(time.Now()) != nil {
		return maxPatience
	}
	shortest := config.Policy.MaxWait
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.started {
		shortest = min(shortest, c.Policy.MaxWait)
	}
	return patience(shortest)
}

func patience(maxWait time.Duration) time.Duration { return min(maxPatience, maxWait/2) }

// callLimit returns how long a call may take after the flight has waited. After a long wait for another replica's call, the
// call ends before requests give up, so that the flight can look once more: the other replica may have been faster. A slow
// store alone leaves the call its time, because no other replica can be faster.
func (c *Config) callLimit(waited time.Duration) time.Duration {
	left := (c.Policy.MaxWait - waited) * 9 / 10
	if !c.Sharing.lost || waited < patience(c.Policy.MaxWait)/2 || left <= 0 {
		return c.Policy.FetchTimeout
	}
	return min(c.Policy.FetchTimeout, left)
}

// serving returns the present token if it serves and nothing but its age is a reason to replace it.
func (s *Source) serving(now time.Time) *Token {
	t := s.current.Load()
	if !t.alive(now) || t.rejected || t.due {
		return nil
	}
	return t
}

// serveOn returns the present token if it still serves, and lets the next look wait.
func (s *Source) serveOn(sharing *Sharing) *Token {
	now := time.Now()
	t := s.serving(now)
	if t == nil {
		return nil
	}
	sharing.pause = min(max(2*sharing.pause, minLook), maxLook)
	sharing.lookAgain(now.Add(min(sharing.pause, t.expires.Sub(now)/8)))
	return t
}

// look adopts the token that another replica has saved, if there is one that is better than the present one.
func (s *Source) look(config *Config) *Token {
	found, ok := config.Sharing.shared.Load(context.Background())
	if !ok {
		return nil
	}
	asked := time.Now().Add(-found.Age)
	if found.Purged {
		s.forget(asked)
		return nil
	}
	return s.adopt(found, asked, config)
}

// forget drops the token if it was asked for before the operator purged the tokens of all replicas.
func (s *Source) forget(purged time.Time) {
	if t := s.current.Load(); t != nil && !t.issued.After(purged) {
		s.current.CompareAndSwap(t, nil)
	}
}

func (s *Source) adopt(found Found, asked time.Time, config *Config) *Token {
	now := time.Now()
	previous := s.current.Load()
	lifetime := config.Policy.lifetime(found.Lifetime)
	t := newToken(found.Issued, s.generation, asked, lifetime)
	t.margin = config.Policy.margin(lifetime)
	t.refreshAt = asked.Add(found.RefreshIn)
	if !config.Sharing.improves(t, previous, now) {
		return nil
	}
	t.refreshAt = t.refreshAt.Add(lead + jitter(min(spread, t.margin/4)))
	if t.refreshAt.After(t.expires) {
		t.refreshAt = t.expires
	}
	unchanged := previous != nil && previous.value.Equal(t.value)
	if !unchanged {
		s.generation++
		t.generation = s.generation
	}
	s.observe(config, Event{
		Adopted: true, Token: t.value, Lifetime: lifetime, Unchanged: unchanged, Note: found.Issued.Note,
		Recovered: s.failing,
	})
	s.publish(t, config)
	return t
}
