package token

import (
	"context"
	"crypto/tls"
	"time"
)

// Served is how a lease came by its token.
type Served string

// The ways to come by a token.
const (
	ServedFresh  Served = "fresh"
	ServedStale  Served = "stale"
	ServedWaited Served = "waited"
)

// Lease is what one proxied request holds: the token, and enough to report it as rejected.
type Lease struct {
	source *Source
	token  *Token
	served Served

	// maxWait bounds how long the holder of the lease waits for another token.
	maxWait time.Duration
}

// Value returns the token.
func (l Lease) Value() Secret { return l.token.value }

// Kept returns the other values of the answer, by name. It must not be changed.
func (l Lease) Kept() map[string]string { return l.token.kept }

// Certificate returns the TLS client certificate that the token may be bound to, or nil.
func (l Lease) Certificate() *tls.Certificate {
	if l.token.bound == nil {
		return nil
	}
	return l.token.bound.certificate
}

// Prover returns what proves the possession of the key that the token is bound to, or nil if it is a bearer token.
func (l Lease) Prover() Prover {
	if !l.token.provable() {
		return nil
	}
	return l.token.bound.prover
}

// Served says how the lease came by its token.
func (l Lease) Served() Served { return l.served }

// Accepted reports that the API has accepted the token.
func (l Lease) Accepted() { mark(&l.token.accepted) }

// Renew returns a lease on a valid token of the same source.
func (l Lease) Renew(ctx context.Context) (Lease, error) {
	return l.source.AcquireWithin(ctx, l.maxWait)
}

// Expired reports whether the token has expired since it was leased.
func (l Lease) Expired() bool { return !l.token.alive(time.Now()) }

// Demand reports which claims the API demands of the token (a claims challenge). The next call asks for them, unless the token
// has been replaced already. Call it before Rejected or Discard.
func (l Lease) Demand(claims string) {
	s := l.source
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.current.Load(); t == nil || t.generation == l.token.generation {
		s.needed().demanded.Store(&demand{claims, l.token.generation})
	}
}
