package status

import (
	"sync"
	"time"
)

// tenantLogInterval is the shortest time between two warnings of one kind about tenants of one credential. Without it, the
// failures of thousands of tenants would fill the log.
const tenantLogInterval = 10 * time.Second

// tenantLog limits the warnings about tenants. Each kind has a limit of its own, so that a flood of one kind hides no other.
type tenantLog struct {
	mu    sync.Mutex
	kinds map[string]silence
}

// silence is the time between two warnings of one kind.
type silence struct {
	since    time.Time
	silenced uint64
}

// admit reports whether a warning may be logged now, and how many of its kind were not since the last one. The kind is the
// outcome of a token call, or the reason to deny a tenant.
func (l *tenantLog) admit(kind string, now time.Time) (silenced uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, again := l.kinds[kind]
	if again && now.Sub(last.since) < tenantLogInterval {
		last.silenced++
		l.kinds[kind] = last
		return 0, false
	}
	if l.kinds == nil {
		l.kinds = make(map[string]silence)
	}
	l.kinds[kind] = silence{since: now}
	return last.silenced, true
}
