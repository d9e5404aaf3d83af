package tenants

import (
	"sync"
	"time"
)

const (
	// UnknownMemory is how long an unknown tenant is not looked up again.
	UnknownMemory = 10 * time.Second

	// mostUnknown is how many of them are remembered.
	mostUnknown = 10_000
)

// unknownTenants remembers the tenants that do not exist. No other name pushes one out, because random names would push out
// those that come again and again.
type unknownTenants struct {
	mu     sync.Mutex
	until  map[string]time.Time
	oldest []string // in the order of their times
}

func (u *unknownTenants) has(name string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	until, ok := u.until[name]
	return ok && now.Before(until)
}

// add remembers a tenant for a time, which must always be the same.
func (u *unknownTenants) add(name string, memory time.Duration, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.oldest) > 0 && !now.Before(u.until[u.oldest[0]]) {
		delete(u.until, u.oldest[0])
		u.oldest = u.oldest[1:]
	}
	if _, known := u.until[name]; known || len(u.until) >= mostUnknown {
		return
	}
	if u.until == nil {
		u.until = make(map[string]time.Time)
	}
	u.until[name] = now.Add(memory)
	u.oldest = append(u.oldest, name)
}
