package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// measureAll runs all rounds, and then writes the profiles. The report is nil if no rounds were requested or a round
// failed. All children have ended when it returns.
func measureAll(ctx context.Context, s settings, scratch string, show *progress) (*report, error) {
	// Linux ends a child with the thread that started it (Pdeathsig), so this thread must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newBench(s, scratch, show)
	began := time.Now()
	services, err := b.startServices(ctx)
	if err != nil {
		return nil, err
	}
	defer services.stop()
	stopRedis, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer stopRedis()
	if s.rounds == 0 {
		return nil, b.profiles(ctx)
	}
	version, err := exec.CommandContext(ctx, s.binary, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.binary, err)
	}
	rate, err := b.calibrate(ctx)
	if err != nil {
		return nil, err
	}
	binary, _, _ := strings.Cut(string(version), " ")
	r := newReport(s, strings.TrimSpace(binary), rate, began)
	if r.Conditions.Direct, err = b.direct(ctx, rate); err != nil {
		return nil, err
	}
	others := watchOthers(services)
	if err := b.rounds(ctx, r); err != nil {
		return nil, err
	}
	r.Conditions.Others = others()
	r.summarize()
	return r, b.profiles(ctx)
}

func (b *bench) startServices(ctx context.Context) (*child, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	b.services = addr
	if b.secure, err = freeAddr(); err != nil {
		return nil, err
	}
	if b.certificate, err = newCertificate(b.scratch); err != nil {
		return nil, err
	}
	c, err := start(ctx, addr, func(ctx context.Context) (*exec.Cmd, error) {
		return self(ctx, roleServices, addr, latencyVariable+"="+b.settings.latency.String(),
			secureVariable+"="+b.secure, authorityVariable+"="+b.certificate.chain, keyVariable+"="+b.certificate.key)
	})
	if err != nil {
		return nil, err
	}
	if err := b.ready(ctx, c); err != nil {
		c.stop()
		return nil, fmt.Errorf("the API: %w", err)
	}
	return c, nil
}

// ready waits until the services answer. It does not use served, because the API answers 401 without a token.
func (b *bench) ready(ctx context.Context, c *child) error {
	for ctx.Err() == nil && time.Since(c.began) < startTimeout {
		if _, err := takeCalls(b.services); err == nil {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("it does not start:\n%s", c.output.String())
}

// rounds measures all contenders once in each round, in a new random order.
func (b *bench) rounds(ctx context.Context, r *report) error {
	b.show.expect(b.settings.rounds)
	for n := range b.settings.rounds {
		b.show.begin(fmt.Sprintf("round %d of %d", n+1, b.settings.rounds))
		done, err := b.round(ctx, r.Conditions.Rate)
		if err != nil {
			return err
		}
		b.show.end(done)
		r.Rounds = append(r.Rounds, done)
	}
	return nil
}

// round takes all figures once. Each contender starts twice. First, all run together with tokens that last. Then each
// runs alone with tokens that it must refresh, because an idle contender would let its token expire.
func (b *bench) round(ctx context.Context, rate float64) (round, error) {
	done := round{Figures: map[string]figures{}}
	err := b.together(ctx, lasting, func(all []*entrant) error {
		for _, e := range all {
			done.Order = append(done.Order, e.name)
			done.Figures[e.name] = e.figures
			b.idle(e)
		}
		if err := b.throughput(all); err != nil {
			return err
		}
		return b.steady(ctx, all, rate)
	})
	if err != nil {
		return done, err
	}
	for _, c := range b.draw() {
		err := b.with(ctx, c, brief, func(e *entrant) error {
			e.figures = done.Figures[c.name]
			return b.refreshing(ctx, e, rate)
		})
		if err != nil {
			return done, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if err := b.loads(ctx, done); err != nil {
		return done, err
	}
	if err := b.starts(ctx, done); err != nil {
		return done, err
	}
	return done, b.shared(ctx, rate, done)
}
