package token

import (
	"context"
	"time"
)

// demand is what the API demands instead of the token of this generation. Requests with that token repeat it while the call for
// the next one is under way.
type demand struct {
	claims     string
	generation uint64
}

type demandedKey struct{}

// Demanded returns the claims that the API demands of the token, or "". The context is that of Call.Fetch.
func Demanded(ctx context.Context) string {
	claims, _ := ctx.Value(demandedKey{}).(string)
	return claims
}

// demandedInsteadOf reports whether the API demands claims that this token was issued without.
func (s *Source) demandedInsteadOf(t *Token) bool {
	rare := s.rare.Load()
	if rare == nil {
		return false
	}
	demanded := rare.demanded.Load()
	return demanded != nil && demanded.generation == t.generation
}

// tryDemanded makes a call that may ask for what the API demands. The demand ends with the token that comes of it. It also ends
// with a call that may not ask for it, because the API repeats a demand that still stands. If the token endpoint refuses, which
// may be because of the demand, another call asks for a token without it, which other paths of the API may accept.
func (s *Source) tryDemanded(ctx context.Context, config *Config, may bool) attempt {
	f := config.Fetcher
	rare := s.rare.Load()
	if rare == nil {
		return s.try(ctx, f)
	}
	demanded := rare.demanded.Load()
	if demanded == nil {
		return s.try(ctx, f)
	}
	if demanded.generation != s.generation || !may {
		rare.demanded.CompareAndSwap(demanded, nil)
		return s.try(ctx, f)
	}
	a := s.try(context.WithValue(ctx, demandedKey{}, demanded.claims), f)
	if a.err == nil {
		rare.demanded.CompareAndSwap(demanded, nil)
		return a
	}
	if a.rotated { // refused because of the old proof
		return a
	}
	s.unmet = true
	if a.err.Kind != Refused {
		return a
	}
	rare.demanded.CompareAndSwap(demanded, nil)
	if a.err.Code == "invalid_client" {
		return a
	}
	s.failing = true
	s.observe(config, Event{Err: a.err, Duration: time.Since(a.sent)})
	return s.try(ctx, f)
}
