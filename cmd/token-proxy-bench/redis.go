package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// startRedis starts the Redis of the run, if it is needed.
func (b *bench) startRedis(ctx context.Context) (stop func(), err error) {
	if !b.settings.redis {
		return func() {}, nil
	}
	b.shareKey = filepath.Join(b.scratch, "share.key")
	if err := os.WriteFile(b.shareKey, []byte(strings.Repeat("bench key ", 4)), 0o600); err != nil {
		return nil, err
	}
	if b.redis, err = freeAddr(); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(b.redis)
	p, err := start(ctx, b.redis, func(ctx context.Context) (*exec.Cmd, error) {
		return exec.CommandContext(ctx, "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", b.scratch), nil
	})
	if err != nil {
		return nil, err
	}
	if err := p.listens(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p.stop, nil
}

// shared measures token_proxy with Redis: a start without a token in the store, a start with one, and refreshes.
func (b *bench) shared(ctx context.Context, rate float64, done round) error {
	if !b.settings.redis {
		return nil
	}
	f := done.Figures[sidecarName]
	sidecar, s := contenders[0], lasting
	s.group = fmt.Sprint("round-", b.show.done)
	for _, key := range []string{keySharedCold, keySharedWarm} {
		err := b.with(ctx, sidecar, s, func(e *entrant) error {
			f[key] = e.figures[keyStart]
			return nil
		})
		if err != nil {
			return err
		}
	}
	s = brief
	s.group = fmt.Sprint("refreshes-", b.show.done)
	return b.with(ctx, sidecar, s, func(e *entrant) error {
		err := b.refreshing(ctx, e, rate)
		f[keyFailed] += e.figures[keyFailed]
		if v, ok := e.figures[keyRefresh]; ok {
			f[keySharedRefresh] = v
		}
		return err
	})
}
