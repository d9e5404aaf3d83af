package status

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// summaryInterval is the shortest time between the log lines of two identical failures.
const summaryInterval = time.Minute

// failureLog keeps identical failures from filling the log. Only one flight at a time uses it.
type failureLog struct {
	logged   token.Error // the failure that was logged last, without its times
	at       time.Time   // when it was logged
	silenced uint64      // the failures since then that were not logged
	failures uint64      // the failures since the last success
}

// admit reports whether to log a failure, and how many failures it has silenced since the last one that it admitted. Of the
// quick attempts of one flight, it admits only the last, which is the one with a time for the next call.
func (l *failureLog) admit(err *token.Error, now time.Time) (silenced uint64, ok bool) {
	l.failures++
	failure := *err
	failure.RetryAt, failure.RetryAfter = time.Time{}, 0
	moreAttempts := err.RetryAt.IsZero()
	if moreAttempts || failure == l.logged && now.Sub(l.at) < summaryInterval {
		l.silenced++
		return 0, false
	}
	silenced = l.silenced
	l.logged, l.at, l.silenced = failure, now, 0
	return silenced, true
}

// recover ends a series of failures and returns their number.
func (l *failureLog) recover() uint64 {
	failures := l.failures
	*l = failureLog{}
	return failures
}
