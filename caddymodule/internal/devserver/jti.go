package devserver

import (
	"maps"
	"sync"
	"time"
)

// usedJTIs are the jti claims of accepted JWTs. Each is kept until its JWT expires.
type usedJTIs struct {
	mu    sync.Mutex
	until map[string]time.Time
	swept time.Time
}

// firstUse remembers a jti until its JWT has expired, and reports whether it was new (RFC 7523, section 3, item 7).
func (u *usedJTIs) firstUse(jti string, exp time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if now.Sub(u.swept) >= time.Second { // not for each of the many requests to an API
		maps.DeleteFunc(u.until, func(_ string, exp time.Time) bool { return !exp.After(now) })
		u.swept = now
	}
	if u.until[jti].After(now) {
		return false
	}
	if u.until == nil {
		u.until = make(map[string]time.Time)
	}
	u.until[jti] = exp
	return true
}
