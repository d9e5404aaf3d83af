package status

import (
	"sync"
	"time"
)

// demands limits how often a credential reports what its API demands.
type demands struct {
	mu     sync.Mutex
	latest map[string]time.Time // by what is reported
}

// maxDemands bounds how many demands are remembered.
const maxDemands = 16

// admit reports whether a text was not reported within the last minute.
func (d *demands) admit(text string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.latest[text]) < time.Minute {
		return false
	}
	if d.latest == nil || len(d.latest) >= maxDemands {
		d.latest = make(map[string]time.Time)
	}
	d.latest[text] = now
	return true
}
