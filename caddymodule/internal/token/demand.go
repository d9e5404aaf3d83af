package token

import "context"

// Demand reports which claims the API demands of the token (a claims challenge). The next call asks for them, unless the token
// has been replaced already. Call it before Reject or Discard.
func (l Lease) Demand(claims string) {
	s := l.source
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.current.Load(); t == nil || t.generation == l.token.generation {
		s.needed().demanded.Store(&claims)
	}
}

type demandedKey struct{}

// Demanded returns the claims that the API demands of the token, or "". The context is that of Call.Fetch.
func Demanded(ctx context.Context) string {
	claims, _ := ctx.Value(demandedKey{}).(string)
	return claims
}

// tryDemanded makes a call that asks for what the API demands. The demand ends with the token that comes of it. It also ends
// if the token endpoint refuses, so that no later call fails because of it: the API repeats a demand that still stands.
func (s *Source) tryDemanded(ctx context.Context, f Fetcher) attempt {
	rare := s.rare.Load()
	if rare == nil {
		return s.try(ctx, f)
	}
	demanded := rare.demanded.Load()
	if demanded == nil {
		return s.try(ctx, f)
	}
	a := s.try(context.WithValue(ctx, demandedKey{}, *demanded), f)
	if a.err == nil || a.err.Kind == Refused {
		rare.demanded.CompareAndSwap(demanded, nil)
	}
	return a
}
