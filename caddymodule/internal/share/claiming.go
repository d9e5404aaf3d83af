package share

import (
	"context"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// holding is a claim that this replica has won.
type holding struct {
	claims
	place
	value []byte
}

// Claim implements token.Shared.
func (c *Credential) Claim(ctx context.Context, proof func() token.Secret) token.Claim {
	answer := c.claim(ctx, proof)
	c.countClaim(answer)
	return answer
}

func (c *Credential) claim(ctx context.Context, proof func() token.Secret) token.Claim {
	ways := c.ways(ctx)
	if ways == nil {
		c.share.Guard.count(OperationClaim, OutcomeSkipped, 0)
		return token.ClaimUnknown
	}
	if c.distrusts() {
		return token.ClaimUnknown
	}
	ring := c.share.Ring.current()
	answer, unopened := c.bid(ctx, ways, *ring, proof)
	if unopened == UnopenedKey {
		if ring = c.share.Ring.newer(ring); ring != nil {
			answer, unopened = c.bid(ctx, ways, *ring, proof)
		}
	}
	if unopened != opened {
		c.distrust(unopened)
	}
	return answer
}

// ways returns how claims are decided in the store. Nil: the store cannot be used.
func (c *Credential) ways(ctx context.Context) claims {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callBudget)
	defer cancel()
	switch c.share.Guard.usable(ctx).(type) {
	case nil:
		return nil
	case Claimer:
		return exact{c.share.Guard}
	}
	return c.register
}

// bid claims once, and remembers a claim that it wins.
func (c *Credential) bid(ctx context.Context, ways claims, ring keys, proof func() token.Secret) (token.Claim, Unopened) {
	at := place{c.names.claimName(c.binding().thumbprint()), c.spec.Identity}
	now := c.share.now()
	ours := newClaim(now)
	b := bid{
		name:  at.name,
		value: at.seal(ring.sealing(), ours.text()),
		open:  func(value []byte) (seen, Unopened) { return openClaim(at, ring, value) },
		proof: proof,
		left:  c.left,
		now:   now,
	}
	if b.value == nil {
		return token.ClaimUnknown, opened
	}
	answer, unopened := ways.take(ctx, b)
	if answer == token.ClaimWon || answer == token.ClaimUnknown { // what is unknown may be in the store
		c.left = ours.Owner
	}
	if answer == token.ClaimWon {
		c.held = &holding{ways, at, b.value}
	}
	return answer, unopened
}

// Release implements token.Shared.
func (c *Credential) Release(ctx context.Context, hold time.Duration, refused token.Secret) {
	h := c.held
	if h == nil {
		return
	}
	c.held = nil
	hold = min(hold, maxHold)
	if hold <= 0 {
		h.give(ctx, h.name, h.value, nil, 0)
		return
	}
	k := c.share.Ring.current().sealing()
	next := newClaim(c.share.now())
	next.Hold = hold.Milliseconds()
	if !refused.Empty() {
		next.Proof = k.proofDigest(refused)
	}
	h.give(ctx, h.name, h.value, h.seal(k, next.text()), hold)
}
