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
}

func newRetries() *retries {
	return &retries{backoff: newBackoff(), cooldown: newCooldown(), pause: newPause()}
}

// coolDown returns how long a refused proof is not sent again.
func (r *retries) coolDown(proof string) time.Duration {
	if r.refused != proof {
		r.refused = proof
		r.cooldown.Reset()
	}
	return r.cooldown.NextBackOff()
}
