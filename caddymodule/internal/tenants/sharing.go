package tenants

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Sharing is the sharing of the tokens of all tenants of a credential. It remembers what came of the calls of the store,
// for operators.
type Sharing struct {
	replicas share.Share

	mu         sync.Mutex            // guards what follows
	total      share.CredentialStats // the skew is that of the record that was loaded last
	unopened   string
	unopenedAt time.Time
}

// NewSharing returns the sharing of tenants among replicas.
func NewSharing(replicas share.Share) *Sharing { return &Sharing{replicas: replicas} }

// Stats returns what the tenants' sharing has counted and, if the latest value of another replica could not be opened, the
// reason and the time.
func (s *Sharing) Stats() (total share.CredentialStats, unopened string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, s.unopened, s.unopenedAt
}

// note takes over what the tenant's sharing has counted in one call. opened reports whether the call has opened a value of
// another replica.
func (s *Sharing) note(before, after share.CredentialStats, opened bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if opened {
		s.unopened, s.total.Skew = "", after.Skew
	}
	for claim := range after.Claims {
		s.total.Claims[claim] += after.Claims[claim] - before.Claims[claim]
	}
	for reason := range after.Unopened {
		if n := after.Unopened[reason] - before.Unopened[reason]; n > 0 {
			s.unopened, s.unopenedAt = share.Unopened(reason).String(), time.Now()
			s.total.Unopened[reason] += n
		}
	}
}

// shared is what replicas know together of one tenant. It is made inside a flight, because that needs the tenant's
// files, and made again when the configuration has changed. It implements token.Shared.
type shared struct {
	of *Tenant

	// What follows is touched by the flight only.
	made       *share.Credential // nil if the tenant's files could not be read
	counts     *Sharing          // of the configuration that it was made for
	generation uint64
	claimed    bool
}

// credential returns what the replicas know, or nil. It stays the same while a claim is held.
func (s *shared) credential() *share.Credential {
	if latest := s.of.of.generation.Load(); !s.claimed && (s.made == nil || s.generation != latest) {
		c := s.of.of.Config()
		s.made, s.counts, s.generation = s.of.sharedIn(c), c.Sharing, latest
	}
	return s.made
}

// sharedIn returns what replicas know together of the tenant in a configuration, or nil.
func (t *Tenant) sharedIn(c *Config) *share.Credential {
	if c.Sharing == nil { // the latest configuration shares nothing any more
		return nil
	}
	_, identity, clientID, err := c.Caller.Identify(t)
	if err != nil {
		return nil
	}
	if t.Certificate.Load() == nil && c.Template.HasCertificates(c.Provider) { // it keeps the records of replicas with other certificates apart
		c.Caller.ReadCertificate(t)
	}
	return c.Sharing.replicas.Credential(share.Spec{
		Provider:    c.Status.Provider,
		Endpoint:    c.Provider.Endpoint(),
		ClientID:    string(token.NewKeyBuilder().Field("tenant", t.Name).Field("client_id", clientID).Identity().Reveal()),
		Identity:    identity,
		Certificate: func() *tls.Certificate { return t.Certificate.Load() },
		Prover:      func() token.Prover { return t.of.Config().Caller.Prover(t) }, // not c, as below

		// The configuration in force logs them. An earlier one would keep everything that Caddy made for that
		// configuration in memory.
		Unopened: func(why share.Unopened) { t.of.Config().Unopened(why) },
		Skewed:   func(ahead time.Duration) { t.of.Config().Skewed(ahead) },
	})
}

// Purge forgets the tenant's token, here and in the store, or makes all replicas forget it. It reports whether the store did
// it. The store comes first: otherwise, a request could get the same token from there.
func (t *Tenant) Purge(ctx context.Context, fleet bool) bool {
	defer t.Source.Purge()
	s := t.sharedIn(t.of.Config())
	switch {
	case s == nil: // nothing is shared, or the tenant is gone and gets no token from the store either
		return true
	case fleet:
		return s.PurgeFleet(ctx)
	default:
		return s.Purge(ctx)
	}
}

// Load implements token.Shared.
func (s *shared) Load(ctx context.Context) (token.Found, bool) {
	c := s.credential()
	if c == nil {
		return token.Found{}, false
	}
	before := c.Stats()
	found, ok := c.Load(ctx)
	after := c.Stats()
	s.counts.note(before, after, ok && after.From != "here")
	return found, ok
}

// Save implements token.Shared.
func (s *shared) Save(ctx context.Context, f token.Found) {
	if c := s.credential(); c != nil {
		c.Save(ctx, f)
	}
}

// Claim implements token.Shared.
func (s *shared) Claim(ctx context.Context, proof func() token.Secret) token.Claim {
	c := s.credential()
	if c == nil {
		return token.ClaimUnknown
	}
	before := c.Stats()
	claim := c.Claim(ctx, proof)
	s.claimed = claim == token.ClaimWon
	s.counts.note(before, c.Stats(), claim == token.ClaimLost || claim == token.ClaimHeld)
	return claim
}

// Release implements token.Shared.
func (s *shared) Release(ctx context.Context, hold time.Duration, refused token.Secret) {
	s.claimed = false
	if s.made != nil {
		s.made.Release(ctx, hold, refused)
	}
}
