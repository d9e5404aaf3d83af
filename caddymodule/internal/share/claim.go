package share

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// ClaimLife is how long a claim lasts. It is not renewed: a longer call of the token endpoint costs one more call, and
	// a replica that dies in its call holds up the others for no longer.
	ClaimLife = 4 * time.Second

	// maxHold bounds how long a failure keeps replicas from calling, whatever a claim says.
	maxHold = 5 * time.Minute
)

// process names this process in records and claims. A configured name would be the same in containers from one volume.
var process = rand.Text()

// claimants counts the claims of this process.
var claimants atomic.Uint64

// claim is what a replica leaves in the store while it calls the token endpoint, and after a call that has failed.
type claim struct {
	Owner   string `json:"o"`
	Written int64  `json:"a"`           // by the writer's clock, in milliseconds since 1970
	Hold    int64  `json:"h,omitempty"` // in milliseconds: the call has failed, and no replica calls before
	Proof   []byte `json:"p,omitempty"` // digest of the proof that was refused: a replica with another proof may call
}

// newClaim makes a claim of an owner that no other claim has.
func newClaim(now time.Time) claim {
	return claim{Owner: fmt.Sprint(process, ".", claimants.Add(1)), Written: now.UnixMilli()}
}

func (c claim) text() []byte {
	text, _ := json.Marshal(c)
	return text
}

func (c claim) hold() time.Duration { return min(milliseconds(c.Hold), maxHold) }

// binds reports whether the failure that the claim is held for keeps a replica with this proof from calling.
func (c claim) binds(k *key, proof func() token.Secret) bool {
	return len(c.Proof) == 0 || hmac.Equal(c.Proof, k.proofDigest(proof()))
}

// seen is a claim as it is in the store.
type seen struct {
	claim
	key *key // that has sealed it
}

// claims is one way to decide which replica calls the token endpoint.
type claims interface {
	// take asks for the claim at a place. Value is what the store holds if it is won.
	take(ctx context.Context, at bid) (token.Claim, Unopened)

	// give ends a claim that was won: it replaces the value with next for life, or removes it if next is nil. A claim of
	// another replica stays.
	give(ctx context.Context, name string, value, next []byte, life time.Duration) bool
}

// bid is a claim that a replica makes.
type bid struct {
	name  string
	value []byte                              // ours, sealed
	open  func(value []byte) (seen, Unopened) // reads the claim of a replica
	proof func() token.Secret                 // called if it matters
	left  string                              // owner of an earlier claim of ours, which may be in the store still
	now   time.Time                           // by the clock that is written into claims
}

// exact leaves the decision to a store that can make it.
type exact struct{ guard *Guard }

func (e exact) take(ctx context.Context, b bid) (token.Claim, Unopened) {
	there, outcome := call(ctx, e.guard, OperationClaim, func(ctx context.Context, s Store) ([]byte, error) {
		return s.(Claimer).Claim(ctx, b.name, b.value, ClaimLife)
	})
	switch {
	case outcome != OutcomeOK:
		return token.ClaimUnknown, opened
	case bytes.Equal(there, b.value):
		return token.ClaimWon, opened
	}
	other, unopened := b.open(there)
	switch {
	case unopened != opened:
		return token.ClaimUnknown, unopened
	case other.Owner == b.left:
	case other.Hold == 0:
		return token.ClaimLost, opened
	case other.binds(other.key, b.proof):
		return token.ClaimHeld, opened
	}
	won, outcome := e.replace(ctx, OperationClaim, b.name, there, b.value, ClaimLife)
	switch {
	case outcome != OutcomeOK:
		return token.ClaimUnknown, opened
	case !won:
		return token.ClaimLost, opened
	}
	return token.ClaimWon, opened
}

func (e exact) give(ctx context.Context, name string, value, next []byte, life time.Duration) bool {
	_, outcome := e.replace(ctx, OperationRelease, name, value, next, life)
	return outcome == OutcomeOK
}

func (e exact) replace(ctx context.Context, op Operation, name string, value, next []byte, life time.Duration) (bool, Outcome) {
	return call(ctx, e.guard, op, func(ctx context.Context, s Store) (bool, error) {
		return s.(Claimer).Replace(ctx, name, value, next, life)
	})
}

// openClaim reads the claim of a replica.
func openClaim(at place, ring keys, value []byte) (seen, Unopened) {
	text, k, unopened := at.open(ring, value)
	if unopened != opened {
		return seen{}, unopened
	}
	s := seen{key: k}
	if json.Unmarshal(text, &s.claim) != nil {
		return seen{}, UnopenedVersion
	}
	return s, opened
}
