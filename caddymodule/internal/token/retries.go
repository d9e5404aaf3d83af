package token

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

// retries are the schedules of a source that gets no usable token. They exist only while they are needed.
type retries struct {
	backoff  *backoff.ExponentialBackOff
	cooldown *backoff.ExponentialBackOff
	pause    *backoff.ExponentialBackOff

	// refused is the digest of the proof that the cooldown is about. A different proof starts a new cooldown.
	refused string

	// rounds counts the flights in a row that failed while no token served, and lastRound is when the last of them ended.
	rounds    int
	lastRound time.Time
}

func newRetries() *retries {
	return &retries{backoff: newBackoff(), cooldown: newCooldown(), pause: newPause()}
}

// failedRounds returns how many flights in a row have failed while no token served. It is 0 in a new outage, and again if no
// request or probe has waited for a while.
func (r *retries) failedRounds(now time.Time) int {
	if r == nil || now.Sub(r.lastRound) > coldMemory {
		return 0
	}
	return r.rounds
}

// coldWait returns the pause after a flight that failed while no token served.
func (r *retries) coldWait(now time.Time) time.Duration {
	rounds := r.failedRounds(now)
	r.rounds, r.lastRound = rounds+1, now
	return coldWait(rounds)
}

// coolDown returns how long a refused proof is not sent again.
func (r *retries) coolDown(proof string) time.Duration {
	if r.refused != proof {
		r.refused = proof
		r.cooldown.Reset()
	}
	return r.cooldown.NextBackOff()
}
