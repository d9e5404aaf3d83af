package status

import (
	"slices"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// sharing returns what is known of the sharing. It is zero if the configuration has no store.
func (c *Credential) sharing() Sharing {
	if c.Sharing == nil {
		return Sharing{}
	}
	return c.Sharing()
}

// shared returns the sharing in the form of the admin API, or nil if the configuration has no store.
func (c *Credential) shared(s Sharing, status token.Status, seen history, now time.Time) *Shared {
	if c.Sharing == nil {
		return nil
	}
	if !s.On {
		return new(Shared)
	}
	r := &Shared{
		On: true, Up: s.Store.Up, LastError: s.Store.LastError, Record: s.Record, Claim: s.Claim, Unopened: s.Unopened,
		Skew: s.Skew.Seconds(), Adopted: c.record.adoptions.Load(), Claims: c.record.claims(),
	}
	if s.ClaimUntil.After(now) {
		r.ClaimUntil = &s.ClaimUntil
	}
	if status.State != token.StateNone {
		r.From = fromHere
		if seen.adopted {
			r.From = fromElsewhere
		}
	}
	return r
}

// shares counts what the configurations that share a credential have counted. Each configuration counts from zero, and a
// counter must not go back when one ends.
type shares struct {
	live                      []*Credential
	endedClaims, endedUnopens map[string]uint64
}

// share adds a credential that came into force.
func (r *record) share(c *Credential) {
	if !c.sharing().On {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shares.live = append(r.shares.live, c)
}

// unshare removes a credential whose configuration ends, and keeps its counts.
func (r *record) unshare(c *Credential) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.shares.live, c) {
		return
	}
	ended := shares{live: []*Credential{c}, endedClaims: r.shares.endedClaims, endedUnopens: r.shares.endedUnopens}
	r.shares.endedClaims, r.shares.endedUnopens = ended.counts()
	r.shares.live = slices.DeleteFunc(r.shares.live, func(other *Credential) bool { return other == c })
}

// claims returns the claims by outcome.
func (r *record) claims() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	claims, _ := r.shares.counts()
	return claims
}

// inUse reports whether a configuration in force shares the credential.
func (s *shares) inUse() bool { return len(s.live) > 0 }

// counts returns the claims by outcome, and the values that could not be opened by reason, of all configurations.
func (s *shares) counts() (claims, unopened map[string]uint64) {
	claims, unopened = sum(s.endedClaims), sum(s.endedUnopens)
	for _, c := range s.live {
		now := c.sharing()
		claims, unopened = sum(claims, now.Claims), sum(unopened, now.UnopenedTotal)
	}
	return claims, unopened
}

// sum adds counters by their labels.
func sum(all ...map[string]uint64) map[string]uint64 {
	total := make(map[string]uint64)
	for _, counters := range all {
		for label, n := range counters {
			total[label] += n
		}
	}
	return total
}
