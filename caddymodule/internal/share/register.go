package share

import (
	"bytes"
	"context"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// A replica that has written its claim waits for others that write theirs at the same time: for four times as long as
	// the store takes, within these bounds.
	minSettling = 20 * time.Millisecond
	maxSettling = 300 * time.Millisecond

	// claimAge is when a claim is too old to be one, by the clock of the replica that wrote it: it was left by replicas that
	// are gone. Clocks may be ten minutes apart, and a hold lasts five.
	claimAge = 15 * time.Minute
)

// register decides by values that are written and read again (Fischer's algorithm), in a store that only loads and saves. It is exact while no write takes longer than the writers wait. Otherwise two replicas may call the token endpoint.
type register struct {
	guard *Guard

	// The claim that was there when this replica looked last, and since when it has been in view. Only the reader's own
	// monotonic clock counts: two clocks are never compared.
	view  []byte
	since time.Time
}

func (r *register) take(ctx context.Context, b bid) (token.Claim, Unopened) {
	begun := time.Now()
	there, outcome := r.guard.load(ctx, OperationClaim, b.name)
	slowest := time.Since(begun)
	switch outcome {
	case OutcomeOK:
		if answer, unopened := r.judge(there, b); answer != token.ClaimWon {
			return answer, unopened
		}
	case OutcomeAbsent:
	default:
		return token.ClaimUnknown, opened
	}

	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 2*slowest+settling(slowest) {
		return token.ClaimUnknown, opened // the store is too slow for the requests that wait
	}
	begun = time.Now()
	if r.guard.save(ctx, OperationClaim, b.name, b.value, ClaimLife) != OutcomeOK {
		return token.ClaimUnknown, opened
	}
	slowest = max(slowest, time.Since(begun))
	time.Sleep(settling(slowest))

	there, outcome = r.guard.load(ctx, OperationClaim, b.name)
	switch {
	case outcome == OutcomeOK && bytes.Equal(there, b.value):
		return token.ClaimWon, opened
	case outcome == OutcomeAbsent: // another replica was later, and has finished
		return token.ClaimLost, opened
	case outcome != OutcomeOK:
		return token.ClaimUnknown, opened
	}
	r.look(there)
	if _, unopened := b.open(there); unopened != opened {
		return token.ClaimUnknown, unopened
	}
	return token.ClaimLost, opened
}

// settling is how long a replica waits for the claims of others, in a store that takes this long.
func settling(slowest time.Duration) time.Duration {
	return min(max(4*slowest, minSettling), maxSettling)
}

// judge returns what a claim in the store means for this replica. Won: it means nothing.
func (r *register) judge(value []byte, b bid) (token.Claim, Unopened) {
	inView := r.look(value)
	other, unopened := b.open(value)
	switch {
	case unopened != opened && inView < maxHold:
		return token.ClaimUnknown, unopened
	case unopened != opened: // its replica is gone, or it would have changed
		return token.ClaimWon, opened
	case other.Owner == b.left || milliseconds(b.now.UnixMilli()-max(other.Written, 0)) > claimAge:
		return token.ClaimWon, opened
	case other.Hold == 0 && inView < ClaimLife:
		return token.ClaimLost, opened
	case inView < other.hold() && other.binds(other.key, b.proof):
		return token.ClaimHeld, opened
	}
	return token.ClaimWon, opened
}

// look returns for how long this replica has seen this value.
func (r *register) look(value []byte) time.Duration {
	if !bytes.Equal(value, r.view) {
		r.view, r.since = bytes.Clone(value), time.Now()
	}
	return time.Since(r.since)
}

// give reads the claim before it changes it. Between the two, no other replica takes it over unless it is old.
func (r *register) give(ctx context.Context, name string, value, next []byte, life time.Duration) bool {
	there, outcome := r.guard.load(ctx, OperationRelease, name)
	switch {
	case outcome == OutcomeAbsent:
		return true
	case outcome != OutcomeOK:
		return false
	case !bytes.Equal(there, value):
		return true
	case next != nil:
		return r.guard.save(ctx, OperationRelease, name, next, life) == OutcomeOK
	}
	return r.guard.delete(ctx, OperationRelease, name) == OutcomeOK
}
