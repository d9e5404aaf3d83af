package caddymodule

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// tenantShared is what replicas know together of one tenant. It is made inside a flight, because that needs the tenant's
// files, and made again when the configuration has changed. It implements token.Shared.
type tenantShared struct {
	of *tenant

	// What follows is touched by the flight only.
	made       *share.Credential // nil if the tenant's files could not be read
	generation uint64
	claimed    bool
}

// credential returns what the replicas know, or nil. It stays the same while a claim is held.
func (s *tenantShared) credential() *share.Credential {
	if latest := s.of.of.generation.Load(); !s.claimed && (s.made == nil || s.generation != latest) {
		s.made, s.generation = s.make(s.of.of.client()), latest
	}
	return s.made
}

// make makes it for a configuration.
func (s *tenantShared) make(c *client) *share.Credential {
	t := s.of
	if c.shareTenant == nil { // the latest configuration shares nothing any more
		return nil
	}
	_, identity, clientID, err := c.identifyTenant(t)
	if err != nil {
		return nil
	}
	if t.certificate.Load() == nil && c.tenantsHaveCertificates() {
		t.readCertificate(c)
	}
	return c.shareTenant(share.Spec{
		Provider:    c.status.Provider,
		Endpoint:    c.provider.Endpoint(),
		ClientID:    string(token.NewKeyBuilder().Field("tenant", t.name).Field("client_id", clientID).Identity().Reveal()),
		Identity:    identity,
		Certificate: func() *tls.Certificate { return t.certificate.Load() },
	}, t.of.client)
}

// readCertificate reads the client certificate, by which the records of replicas are told apart.
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
	return c.Load(ctx)
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
	claim := c.Claim(ctx, proof)
	s.claimed = claim == token.ClaimWon
	return claim
}

// Release implements token.Shared.
func (s *tenantShared) Release(ctx context.Context, hold time.Duration, refused token.Secret) {
	s.claimed = false
	if s.made != nil {
		s.made.Release(ctx, hold, refused)
	}
}
