package token

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Defaults of a Policy.
const (
	DefaultFetchTimeout = 10 * time.Second
	DefaultMaxWait      = 15 * time.Second
	DefaultLifetime     = time.Hour
)

// Policy is how a Source treats time. The zero value of each field means its default.
type Policy struct {
	// RefreshMargin is how long before expiry a token becomes stale, at most half of its lifetime.
	// Default: the smaller of 5 minutes and 20 % of the lifetime.
	RefreshMargin time.Duration

	// FetchTimeout bounds one flight, from the first byte sent to the last byte read. Default: 10s.
	FetchTimeout time.Duration

	// MaxWait bounds how long one caller waits for a token. Default: 15s.
	MaxWait time.Duration

	// DefaultLifetime applies to answers that name none. Default: 1h.
	DefaultLifetime time.Duration

	// Prefetch fetches before the first caller asks, and keeps the token alive even if no caller asks.
	Prefetch bool
}

func (p Policy) withDefaults() Policy {
	if p.FetchTimeout <= 0 {
		p.FetchTimeout = DefaultFetchTimeout
	}
	if p.MaxWait <= 0 {
		p.MaxWait = DefaultMaxWait
	}
	if p.DefaultLifetime <= 0 {
		p.DefaultLifetime = DefaultLifetime
	}
	return p
}

// margin is how long before expiry a token of this lifetime becomes stale.
func (p Policy) margin(lifetime time.Duration) time.Duration {
	if p.RefreshMargin > 0 {
		return min(p.RefreshMargin, lifetime/2)
	}
	return min(5*time.Minute, lifetime/5)
}

// Trusted returns how long a token is trusted whose answer names this lifetime.
func (p Policy) Trusted(said time.Duration) time.Duration {
	return p.withDefaults().lifetime(said)
}

func (p Policy) lifetime(said time.Duration) time.Duration {
	if said == UnknownLifetime {
		said = p.DefaultLifetime
	}
	return max(0, min(said, maxLifetime))
}

const (
	// coldAttempts is how often the first flight of an outage calls before it gives up, if there is no valid token: one
	// lost packet is no reason to fail a request.
	coldAttempts = 3

	// maxColdWait is the longest pause while requests or probes wait for a token. So the first token comes at most that
	// long after the end of an outage.
	maxColdWait = 10 * time.Second

	// coldMemory is how long no flight may have failed for the next failure to count as the first of an outage.
	coldMemory = time.Minute

	// minUnchangedWait is the least time between two calls that could both return the same token.
	minUnchangedWait = time.Second

	// minRetryWait is how fast, at most, the retries follow each other as the expiry of a token draws near.
	minRetryWait = time.Second

	// longestEnd is the longest last part of a token's life. Requests can take that long to reach the API.
	longestEnd = 10 * time.Second

	// endPatience is how long a request waits, at most, for the next token while the present one is in the last part of its life.
	endPatience = 2 * time.Second

	// lastMoment is how long before its expiry, at most, a token counts as expired unless the token endpoint fails.
	lastMoment = 500 * time.Millisecond

	// minTimer is how soon the timer may fire: the flight that sets it has to be over by then.
	minTimer = 10 * time.Millisecond

	// expiryGrace is how long after a token's expiry the timer goes on trying to replace it. A Doorkeeper server that
	// reuses tokens has no other in the last half second.
	expiryGrace = 5 * time.Second

	// maxRetryAfter caps what a token endpoint may ask for: a mistyped Retry-After must not take a sidecar down.
	maxRetryAfter = 5 * time.Minute

	// proofCheckInterval bounds how often a refused source checks whether its proof has changed.
	proofCheckInterval = 100 * time.Millisecond
)

// newBackoff spreads the calls to a failing endpoint: full jitter, doubling from 1 s to 60 s. (A randomization of
// 1 around half of the step is the uniform distribution over the whole step.)
func newBackoff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     time.Second / 2,
		MaxInterval:         time.Minute / 2,
		Multiplier:          2,
		RandomizationFactor: 1,
	}
}

// newCooldown spaces the calls after the token endpoint refused the credential: 30 s doubling to 5 min.
func newCooldown() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 30 * time.Second,
		MaxInterval:     5 * time.Minute,
		Multiplier:      2,
	}
}

// newPause spaces the calls to an endpoint that answers with a lifetime of zero: 100 ms doubling to 2 s.
func newPause() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond,
		MaxInterval:     2 * time.Second,
		Multiplier:      2,
	}
}

// coldWait spaces the flights while no token serves: full jitter below 1, 2, 4 and 8 s, and then maxColdWait. The first
// steps have spread the replicas. Jitter below maxColdWait would cost a failing endpoint twice as many calls.
func coldWait(rounds int) time.Duration {
	if rounds > 3 {
		return maxColdWait
	}
	return jitter(time.Second << rounds)
}

// coldPause spaces the attempts of one flight: full jitter, doubling from 200 ms.
func coldPause(attempt int) time.Duration {
	return jitter(200 * time.Millisecond << (attempt - 1))
}

// jitter returns a random duration below limit.
func jitter(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	return rand.N(limit)
}
