package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"time"
)

// bench is one run of the command.
type bench struct {
	settings settings
	scratch  string
	services string // where the API and the token endpoint are
	show     *progress
}

// round is what one round measured, and in which order.
type round struct {
	Order   []string           `json:"order"`
	Figures map[string]figures `json:"figures"`
}

// measureAll runs all rounds. Children are gone when it returns.
func measureAll(ctx context.Context, s settings, scratch string, show *progress) (*report, error) {
	// The system ends children with the thread that started them: this one lasts.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := &bench{settings: s, scratch: scratch, show: show}
	began := time.Now()
	services, err := b.startServices(ctx)
	if err != nil {
		return nil, err
	}
	defer services.stop()
	rate, err := b.calibrate(ctx)
	if err != nil {
		return nil, err
	}
	r := newReport(s, rate, began)
	if r.Conditions.Direct, err = b.direct(ctx, rate); err != nil {
		return nil, err
	}
	if err := b.rounds(ctx, r); err != nil {
		return nil, err
	}
	r.summarize()
	return r, b.profiles(ctx)
}

func (b *bench) startServices(ctx context.Context) (*child, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	b.services = addr
	c, err := start(ctx, addr, func(ctx context.Context) (*exec.Cmd, error) {
		return b.self(ctx, roleServices, addr, latencyVariable+"="+b.settings.latency.String())
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

// ready waits for the services, which answer requests without a token with 401.
func (b *bench) ready(ctx context.Context, c *child) error {
	for ctx.Err() == nil && time.Since(c.began) < startTimeout {
		if _, err := takeCalls(b.services); err == nil {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("it does not start:\n%s", c.said.String())
}

// rounds measures each contender once a round, in an order drawn anew for each.
func (b *bench) rounds(ctx context.Context, r *report) error {
	order := rand.New(rand.NewPCG(b.settings.seed, 0))
	b.show.expect(b.settings.rounds * len(contenders))
	for n := range b.settings.rounds {
		done := round{Figures: map[string]figures{}}
		for _, i := range order.Perm(len(contenders)) {
			c := contenders[i]
			b.show.begin(fmt.Sprintf("round %d of %d, %s", n+1, b.settings.rounds, c.name))
			f, err := b.measure(ctx, c, r.Conditions.Rate)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			b.show.end(f)
			done.Order = append(done.Order, c.name)
			done.Figures[c.name] = f
		}
		r.Rounds = append(r.Rounds, done)
	}
	return nil
}

// measure takes all figures of a contender once. It starts it twice: with tokens that last, and with tokens that have
// to be refreshed.
func (b *bench) measure(ctx context.Context, c contender, rate float64) (figures, error) {
	f := figures{keyFailed: 0}
	lasting := setup{lifetime: longLife, margin: "10s"}
	err := b.with(ctx, c, lasting, func(p *child, took time.Duration) error {
		f[keyStart] = millis(took)
		b.idle(f, p)
		b.throughput(ctx, f, p)
		b.steady(ctx, f, p, rate)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	brief := setup{lifetime: shortLife, margin: shortMargin.String()}
	err = b.with(ctx, c, brief, func(p *child, _ time.Duration) error {
		return b.refreshing(ctx, f, p, rate)
	})
	return f, err
}

// with runs f while a contender runs and has served one request.
func (b *bench) with(ctx context.Context, c contender, s setup, f func(*child, time.Duration) error) error {
	var err error
	if s.listen, err = freeAddr(); err != nil {
		return err
	}
	if s.admin, err = freeAddr(); err != nil {
		return err
	}
	p, err := start(ctx, s.listen, func(ctx context.Context) (*exec.Cmd, error) { return c.command(ctx, b, s) })
	if err != nil {
		return err
	}
	defer p.stop()
	took, err := p.served(ctx)
	if err != nil {
		return err
	}
	p.admin = s.admin
	return f(p, took)
}

func (b *bench) load(p *child) load {
	return load{addr: p.addr, path: apiPath, connections: b.settings.connections, duration: b.settings.duration}
}

// warmUp opens connections to the upstream, and lets the contender's memory and code get used to the work.
func (b *bench) warmUp(ctx context.Context, p *child) {
	l := b.load(p)
	l.duration /= 10
	l.closedLoop(ctx)
}

func (b *bench) idle(f figures, p *child) {
	b.show.phase("idle")
	time.Sleep(b.settings.duration / 10)
	if n, ok := residentMemory(p.pid()); ok {
		f[keyIdle] = mebibytes(n)
	}
}

func (b *bench) throughput(ctx context.Context, f figures, p *child) {
	b.show.phase("throughput")
	b.warmUp(ctx, p)
	peak := watchMemory(p.pid())
	before, _ := cpuTime(p.pid())
	began := time.Now()
	served, failed := b.load(p).closedLoop(ctx)
	took := time.Since(began)
	used, ok := cpuTime(p.pid())
	f[keyThroughput] = float64(served) / took.Seconds()
	f[keyFailed] += float64(failed)
	if n := peak(); n > 0 {
		f[keyLoad] = mebibytes(n)
	}
	if ok && served > 0 {
		f[keyCPU] = micros(used-before) / float64(served)
	}
}

// watchMemory looks at a process's memory until the function that it returns is called, which tells the most.
func watchMemory(pid int) func() int64 {
	const interval = 20 * time.Millisecond
	stop, result := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		for {
			n, _ := residentMemory(pid)
			peak = max(peak, n)
			select {
			case <-stop:
				result <- peak
				return
			case <-time.After(interval):
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-result
	}
}

func (b *bench) steady(ctx context.Context, f figures, p *child, rate float64) {
	b.show.phase("latency")
	samples, failed := b.load(p).openLoop(ctx, rate)
	_, latencies := split(samples, nil)
	f.addLatencies(phaseSteady, latencies)
	f[keyFailed] += float64(failed)
}

func (b *bench) refreshing(ctx context.Context, f figures, p *child, rate float64) error {
	b.show.phase("refreshes")
	b.warmUp(ctx, p)
	if _, err := takeCalls(b.services); err != nil { // those of the start
		return err
	}
	samples, failed := b.load(p).openLoop(ctx, rate)
	calls, err := takeCalls(b.services)
	if err != nil {
		return err
	}
	inside, outside := split(samples, calls)
	f.addLatencies(phaseInside, inside)
	f.addLatencies(phaseOutside, outside)
	f[keyCalls] = float64(len(calls))
	f[keyFailed] += float64(failed)
	return ctx.Err()
}

// calibrate finds the rate of the open loop.
func (b *bench) calibrate(ctx context.Context) (float64, error) {
	if b.settings.rate > 0 {
		return b.settings.rate, nil
	}
	slowest := 0.0
	for _, c := range contenders {
		b.show.say("calibrating: " + c.name)
		err := b.with(ctx, c, setup{lifetime: longLife, margin: "10s"}, func(p *child, _ time.Duration) error {
			f := figures{}
			b.throughput(ctx, f, p)
			if slowest == 0 || f[keyThroughput] < slowest {
				slowest = f[keyThroughput]
			}
			return ctx.Err()
		})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return max(1, rateShare*slowest), nil
}

// direct measures without a proxy: what the load generator and the API alone can do, and what they add.
func (b *bench) direct(ctx context.Context, rate float64) (figures, error) {
	b.show.say("calibrating: no proxy")
	l := load{addr: b.services, path: directPath, connections: b.settings.connections, duration: b.settings.duration}
	served, _ := l.closedLoop(ctx)
	f := figures{keyThroughput: float64(served) / b.settings.duration.Seconds()}
	samples, _ := l.openLoop(ctx, rate)
	_, latencies := split(samples, nil)
	f.addLatencies(phaseSteady, latencies)
	return f, ctx.Err()
}
