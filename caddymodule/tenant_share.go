package caddymodule

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// sharedTenants is the sharing of the tokens of all tenants of a credential. It remembers what came of the calls of the store,
// for operators.
type sharedTenants struct {
	share *Share

	mu         sync.Mutex            // guards what follows
	total      share.CredentialStats // the skew is that of the record that was loaded last
	unopened   string
	unopenedAt time.Time
}

// note takes over what the tenant's sharing has counted in one call. opened reports whether the call has opened a value of
// another replica.
func (s *sharedTenants) note(before, after share.CredentialStats, opened bool) {
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

// status returns what operators see of the sharing. A credential that is not shared has none.
func (s *sharedTenants) status() status.Sharing {
	if s == nil {
		return status.Sharing{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := sharingOf(s.total)
	r.Store = s.share.status()
	if time.Since(s.unopenedAt) < unopenedTime {
		r.Unopened = s.unopened
	}
	return r
}

// tenantShared is what replicas know together of one tenant. It is made inside a flight, because that needs the tenant's
// files, and made again when the configuration has changed. It implements token.Shared.
type tenantShared struct {
	of *tenant

	// What follows is touched by the flight only.
	made       *share.Credential // nil if the tenant's files could not be read
	counts     *sharedTenants    // of the configuration that it was made for
	generation uint64
	claimed    bool
}

// credential returns what the replicas know, or nil. It stays the same while a claim is held.
func (s *tenantShared) credential() *share.Credential {
	if latest := s.of.of.generation.Load(); !s.claimed && (s.made == nil || s.generation != latest) {
		c := s.of.of.client()
		s.made, s.counts, s.generation = s.of.sharedIn(c), c.sharedTenants, latest
	}
	return s.made
}

// sharedIn returns what replicas know together of the tenant in a configuration, or nil.
func (t *tenant) sharedIn(c *client) *share.Credential {
	if c.sharedTenants == nil { // the latest configuration shares nothing any more
		return nil
	}
	known, err := c.identifyTenant(t)
	if err != nil {
		return nil
	}
	if t.certificate.Load() == nil && c.tenantsHaveCertificates() {
		t.readCertificate(c)
	}
	return c.sharedTenants.share.replicas().Credential(share.Spec{
		Provider:    c.status.Provider,
		Endpoint:    c.provider.Endpoint(),
		ClientID:    string(token.NewKeyBuilder().Field("tenant", t.name).Field("client_id", known.clientID).Identity().Reveal()),
		Identity:    known.identity,
		Certificate: func() *tls.Certificate { return t.certificate.Load() },

		// The client in force logs them. That of an earlier configuration would keep everything that Caddy made for that
		// configuration in memory.
		Unopened: func(why share.Unopened) { t.of.client().warnUnopened(why) },
		Skewed:   func(ahead time.Duration) { t.of.client().warnSkewed(ahead) },
	})
}

// purge forgets the tenant's token, here and in the store, or makes all replicas forget it. It reports whether the store did
// it. The store comes first: otherwise, a request could get the same token from there.
func (t *tenant) purge(ctx context.Context, fleet bool) bool {
	defer t.source.Purge()
	s := t.sharedIn(t.of.client())
	switch {
	case s == nil: // nothing is shared, or the tenant is gone and gets no token from the store either
		return true
	case fleet:
		return s.PurgeFleet(ctx)
	default:
		return s.Purge(ctx)
	}
}

// readCertificate reads the client certificate, which keeps the records of replicas with different certificates apart.
func (t *tenant) readCertificate(c *client) {
	of, end, err := c.forTenant(t)
	if err != nil {
		return
	}
	defer end()
	if s, err := of.readSecrets(); err == nil {
		if _, certificate, err := of.httpClient(s); err == nil {
			t.certificate.Store(certificate)
		}
	}
}

// Load implements token.Shared.
func (s *tenantShared) Load(ctx context.Context) (token.Found, bool) {
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
func (s *tenantShared) Save(ctx context.Context, f token.Found) {
	if c := s.credential(); c != nil {
		c.Save(ctx, f)
	}
}

// Claim implements token.Shared.
func (s *tenantShared) Claim(ctx context.Context, proof func() token.Secret) token.Claim {
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
func (s *tenantShared) Release(ctx context.Context, hold time.Duration, refused token.Secret) {
	s.claimed = false
	if s.made != nil {
		s.made.Release(ctx, hold, refused)
	}
}
