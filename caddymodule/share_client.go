package caddymodule

import (
	"crypto/tls"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// join lets replicas share the tokens of c, unless its configuration is against it. Without a share block, it does nothing.
func (s *Share) join(c *client) error {
	if s == nil {
		return nil
	}
	if c.ownKey && c.Credential.shares() {
		c.logger.Warn("replicas do not share the tokens of this credential, because each replica has generated a key of its own for DPoP; set dpop_key to one key for all replicas",
			zap.String("credential", c.name))
	}
	if c.template != nil {
		return s.joinTenants(c)
	}
	if c.shares() {
		c.shared = s.credential(c)
		c.sharing = token.NewSharing(c.shared)
	}
	c.status.Sharing = func() status.Sharing { return s.statusOf(c.shared) }
	return nil
}

// joinTenants is join for a credential with tenants.
func (s *Share) joinTenants(c *client) error {
	c.status.Sharing = func() status.Sharing { return s.statusOfTenants(c.sharedTenants) }
	if !c.shares() {
		return nil
	}
	if c.Tenant.basic() {
		// The names of records are digests that hold no secret, so they could not keep a wrong secret from the right one's.
		return errors.New("tenant: replicas cannot share the tokens of `tenant basic`; set `share off` for this credential")
	}
	if !s.expires() {
		return errors.New("tenant: the store of shared tokens keeps what it has for ever, and with tenants that would grow without end; use `store redis`, or set `share off` for this credential")
	}
	c.sharedTenants = tenants.NewSharing(s.replicas())
	return nil
}

// statusOf returns what operators see of the sharing of a credential, which shared is nil for if it is not shared.
func (s *Share) statusOf(shared *sharedToken) status.Sharing {
	if shared == nil {
		return status.Sharing{}
	}
	known := shared.status()
	known.Store = s.status()
	return known
}

// statusOfTenants is statusOf for a credential with tenants.
func (s *Share) statusOfTenants(shared *tenants.Sharing) status.Sharing {
	if shared == nil {
		return status.Sharing{}
	}
	total, unopened, at := shared.Stats()
	known := sharingOf(total)
	known.Store = s.status()
	if time.Since(at) < unopenedTime {
		known.Unopened = unopened
	}
	return known
}

// credential returns what the replicas know together of a credential.
func (s *Share) credential(c *client) *sharedToken {
	return &sharedToken{Credential: s.replicas().Credential(share.Spec{
		Provider:    c.status.Provider,
		Endpoint:    c.provider.Endpoint(),
		ClientID:    c.clientID,
		Identity:    c.identity,
		Certificate: func() *tls.Certificate { return c.certificate.Load() },
		Prover:      c.prover,
		Unopened:    c.warnUnopened,
		Skewed:      c.warnSkewed,
	})}
}

func (c *client) warnUnopened(why share.Unopened) {
	c.logger.Warn("this replica cannot open what another replica has left in the store, so it makes its own token calls",
		zap.String("credential", c.name), zap.String("reason", why.String()),
		zap.String("advice", status.AdviceUnopened(why.String())))
}

func (c *client) warnSkewed(ahead time.Duration) {
	c.logger.Warn("the clock of another replica is ahead of this clock; set the clocks by NTP, or this replica refreshes tokens too late",
		zap.String("credential", c.name), zap.Duration("ahead", ahead))
}
