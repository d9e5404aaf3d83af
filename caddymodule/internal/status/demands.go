package status

import (
	"sync"
	"time"
)

// demands limits how often a credential reports what its API demands. The API chooses the texts of a demand, so that the limit is
// one for each error code. Otherwise a text that names each object would fill the log, and push all else out of the history.
type demands struct {
	mu     sync.Mutex
	latest map[string]time.Time // by error code, of which Demand.explain knows few
}

// admit reports whether no demand with this code was reported within the last minute.
func (d *demands) admit(code string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.latest[code]) < time.Minute {
		return false
	}
	if d.latest == nil {
		d.latest = make(map[string]time.Time)
	}
	d.latest[code] = now
	return true
}
