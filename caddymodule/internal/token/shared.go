package token

import (
	"context"
	"time"
)

// Shared is what the replicas that use one credential know together. A source asks it inside a flight only. Every method
// has a time limit of its own, and none of them fails: a store that cannot be used is a store that knows nothing.
type Shared interface {
	// Load returns what a replica has saved last, if it can be read and trusted.
	Load(ctx context.Context) (Found, bool)

	// Save leaves a token for the other replicas.
	Save(ctx context.Context, f Found)

	// Claim asks for the right to call the token endpoint for all replicas. Proof is called only if the answer depends on
	// it: the claim of a replica whose proof was refused does not bind a replica with another proof. If the answer would
	// come after the deadline of ctx, it is unknown.
	Claim(ctx context.Context, proof func() Secret) Claim

	// Release ends a claim that was won. With a hold, no replica that has a token calls before it is over. With a refused
	// proof, the hold binds only replicas that have the same proof.
	Release(ctx context.Context, hold time.Duration, refused Secret)
}

// Found is a token that a replica has saved, with its times as durations, so that clocks are compared in one place.
type Found struct {
	// Issued is the answer of the token endpoint. Its Lifetime and RefreshIn are not set.
	Issued Issued

	// Age is how long ago the token was asked for.
	Age time.Duration

	// Lifetime is how long the token is trusted, from when it was asked for.
	Lifetime time.Duration

	// RefreshIn is when the replicas refresh the token, counted like Lifetime.
	RefreshIn time.Duration

	// Purged is set if there is no token: an operator has told all replicas to forget those that are as old as Age, or
	// older.
	Purged bool
}

// Claim is what came of a claim.
type Claim int

// The outcomes of a claim.
const (
	// ClaimUnknown: the store cannot be used. The replica calls by itself, as it does without sharing.
	ClaimUnknown Claim = iota

	// ClaimWon: this replica calls for all, and releases the claim.
	ClaimWon

	// ClaimLost: another replica is calling.
	ClaimLost

	// ClaimHeld: another replica's call has failed, and the time to call again has not come.
	ClaimHeld
)
