package main

import (
	"context"
	"fmt"
	"net"
	"time"
)

// lateness is how long after the start of a contender the first request comes, because an application starts beside it.
const lateness = 50 * time.Millisecond

// starts measures the first request of each contender, and that of token_proxy with prefetch.
func (b *bench) starts(ctx context.Context, done round) error {
	if !b.settings.starts {
		return nil
	}
	for _, c := range b.draw() {
		took, err := b.firstLate(ctx, c, lasting)
		if err != nil {
			return err
		}
		done.Figures[c.name][keyLateFirst] = millis(took)
		if c.name != sidecarName {
			continue
		}
		early := lasting
		early.options = "prefetch on"
		if took, err = b.firstLate(ctx, c, early); err != nil {
			return err
		}
		done.Figures[c.name][keyPrefetched] = millis(took)
	}
	return nil
}

// firstLate returns how long the first request takes that comes after lateness.
func (b *bench) firstLate(ctx context.Context, c contender, s setup) (time.Duration, error) {
	p, err := b.launch(ctx, c, s)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	if err := p.listens(ctx); err != nil {
		return 0, err
	}
	time.Sleep(lateness)
	began := time.Now()
	if !servedOnce(ctx, p.addr) {
		return 0, fmt.Errorf("%s does not serve its first request:\n%s", c.name, p.output.String())
	}
	return time.Since(began), nil
}

// listens waits until the process accepts connections.
func (c *child) listens(ctx context.Context) error {
	for ctx.Err() == nil && time.Since(c.began) < startTimeout {
		if conn, err := net.Dial("tcp", c.addr); err == nil {
			return conn.Close()
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s does not listen:\n%s", c.cmd.Path, c.output.String())
}
