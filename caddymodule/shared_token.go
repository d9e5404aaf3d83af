package caddymodule

import (
	"context"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// unopenedTime is how long a value that cannot be opened stays in the diagnosis, unless this replica opens one of another
// replica before. A replica looks for a value about once in the lifetime of a token.
const unopenedTime = time.Hour

// sharedToken is what replicas know together of a credential. It remembers what came of the latest calls, for operators.
type sharedToken struct {
	*share.Credential

	mu         sync.Mutex // guards what follows
	claim      string
	claimed    time.Time // when claim was seen
	heldUntil  time.Time // by this replica
	unopened   string
	unopenedAt time.Time
}

// Load implements token.Shared.
func (s *sharedToken) Load(ctx context.Context) (token.Found, bool) {
	before := s.Stats()
	found, ok := s.Credential.Load(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.noteUnopened(before) && ok && s.Stats().From != "here" {
		s.unopened = ""
	}
	return found, ok
}

// Claim implements token.Shared.
func (s *sharedToken) Claim(ctx context.Context, proof func() token.Secret) token.Claim {
	before := s.Stats()
	claim := s.Credential.Claim(ctx, proof)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claimed, s.heldUntil = time.Now(), time.Time{}
	s.noteUnopened(before)
	switch claim {
	case token.ClaimWon:
		s.claim = "ours"
	case token.ClaimLost:
		s.claim, s.unopened = "another replica's", ""
	case token.ClaimHeld:
		s.claim, s.unopened = "held", ""
	default:
		s.claim = "unknown"
	}
	return claim
}

// Release implements token.Shared.
func (s *sharedToken) Release(ctx context.Context, hold time.Duration, refused token.Secret) {
	s.Credential.Release(ctx, hold, refused)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claim = "free"
	if hold > 0 {
		s.claim, s.heldUntil = "held", time.Now().Add(hold)
	}
}

// noteUnopened remembers a value that could not be opened, and reports whether that has happened.
func (s *sharedToken) noteUnopened(before share.CredentialStats) bool {
	now := s.Stats()
	for reason := range now.Unopened {
		if now.Unopened[reason] > before.Unopened[reason] {
			s.unopened, s.unopenedAt = share.Unopened(reason).String(), time.Now()
			return true
		}
	}
	return false
}

// status returns what operators see of the sharing, except the store.
func (s *sharedToken) status() status.Sharing {
	r := sharingOf(s.Stats())
	r.Record = s.Folder()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Claim, r.ClaimUntil = s.claimAt(now), s.heldUntil
	if now.Sub(s.unopenedAt) < unopenedTime {
		r.Unopened = s.unopened
	}
	return r
}

// sharingOf returns counts as operators see them.
func sharingOf(stats share.CredentialStats) status.Sharing {
	r := status.Sharing{On: true, Skew: stats.Skew, Claims: make(map[string]uint64), UnopenedTotal: make(map[string]uint64)}
	for claim, n := range stats.Claims {
		r.Claims[share.ClaimLabel(token.Claim(claim))] = n
	}
	for reason, n := range stats.Unopened {
		r.UnopenedTotal[share.Unopened(reason).String()] = n
	}
	return r
}

// claimAt returns what is known of the claim now. When a claim that another replica holds back ends is not known here.
func (s *sharedToken) claimAt(now time.Time) string {
	switch {
	case s.claim == "":
		return "free"
	case s.claim == "another replica's" && now.Sub(s.claimed) >= share.ClaimLife:
		return "free"
	case s.claim == "held" && !s.heldUntil.IsZero() && !now.Before(s.heldUntil):
		return "free"
	}
	return s.claim
}
