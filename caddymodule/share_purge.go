package caddymodule

import (
	"context"
	"fmt"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
)

// storePurge is what a purge has done in the store.
type storePurge struct {
	// Store is "deleted", "marked" (all replicas are told to forget their token) or "failed".
	Store string `json:"store"`

	// Text explains it, and what it means for the other replicas.
	Text string `json:"text"`
}

// The results of a purge. A purge reaches the memory of no other replica, because each of them looks into the store only when
// it needs a token.
var (
	purgeDeleted = storePurge{"deleted",
		"The record in the store is deleted. Other replicas keep their token until they need the next one."}
	purgeNotDeleted = storePurge{"failed",
		"The record in the store is not deleted, because the store does not work. This replica may get the same token from there again, and other replicas keep their token. Purge again when the store works."}
	purgeMarked = storePurge{"marked",
		"The record in the store tells all replicas to forget their token. Each replica does so when it looks into the store next, which is when its token is due for a refresh or the API rejects it."}
	purgeNotMarked = storePurge{"failed",
		"The other replicas are not told to forget their token, because the store does not work. Purge again when the store works."}
)

// purgedTenants returns the result for the tenants of a credential, which is nil if they are not shared.
func purgedTenants(done tenants.Purged, fleet bool) *storePurge {
	switch {
	case !done.Shared:
		return nil
	case done.Lost > 0:
		return &storePurge{"failed", fmt.Sprintf("The store does not work, so the tokens of %d of %d tenants are purged in this process only. Purge again when the store works.", done.Lost, done.All)}
	case fleet:
		return &storePurge{"marked", fmt.Sprintf("The records of %d tenants in the store tell all replicas to forget their tokens. Each replica does so when it looks into the store next. "+
			"This does not cover tenants that have no place in this replica.", done.All)}
	default:
		return &storePurge{"deleted", fmt.Sprintf("The records of %d tenants in the store are deleted. Other replicas keep their tokens until they need the next ones. "+
			"This does not cover tenants that have no place in this replica.", done.All)}
	}
}

// purge deletes what the replicas have saved or, for the fleet, tells all of them to forget their token.
func (s *sharedToken) purge(ctx context.Context, fleet bool) storePurge {
	if fleet {
		return purgedOne(s.PurgeFleet(ctx), true)
	}
	return purgedOne(s.Purge(ctx), false)
}

// purgedOne returns the result for one token. done reports whether the store did it.
func purgedOne(done, fleet bool) storePurge {
	switch {
	case fleet && done:
		return purgeMarked
	case fleet:
		return purgeNotMarked
	case done:
		return purgeDeleted
	default:
		return purgeNotDeleted
	}
}

// purge forgets the token, here and in the store. The result is nil if the credential is not shared. The store comes first:
// otherwise, a request could get the same token from there.
func (c *client) purge(ctx context.Context, fleet bool) (inStore *storePurge) {
	if c.tenants != nil {
		return purgedTenants(c.tenants.Purge(ctx, fleet), fleet)
	}
	if c.shared != nil {
		result := c.shared.purge(ctx, fleet)
		inStore = &result
	}
	c.source.Purge()
	return inStore
}

// isShared reports whether replicas share the token, or the tokens of the tenants.
func (c *client) isShared() bool { return c.shared != nil || c.sharedTenants != nil }

// notPurged returns an error if a purge did not reach the store.
func notPurged(results []storePurge) error {
	failed := 0
	for _, r := range results {
		if r.Store == "failed" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("the store does not work: %d of %d shared tokens are purged in this process only", failed, len(results))
	}
	return nil
}
