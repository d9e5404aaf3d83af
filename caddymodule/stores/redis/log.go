package redis

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// libraryLog hands the lines of go-redis on to Caddy's log. During an outage, there is one for each attempt.
type libraryLog struct {
	limit   *rate.Limiter
	dropped atomic.Int64
	write   func(line string, dropped int64)
}

func newLibraryLog() *libraryLog {
	return &libraryLog{limit: rate.NewLimiter(rate.Every(time.Minute), 3), write: writeLine}
}

// Printf implements go-redis' interface of a logger.
func (l *libraryLog) Printf(_ context.Context, format string, args ...any) {
	if !l.limit.Allow() {
		l.dropped.Add(1)
		return
	}
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			args[i] = described(err)
		}
	}
	l.write(fmt.Sprintf(format, args...), l.dropped.Swap(0))
}

// writeLine asks for Caddy's log each time, because each configuration has its own.
func writeLine(line string, dropped int64) {
	caddy.Log().Named("token_proxy.stores.redis").Info(line, zap.Int64("dropped", dropped))
}
