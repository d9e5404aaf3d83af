package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bench is one run of the command.
type bench struct {
	settings settings
	scratch  string
	services string // where the API and the token endpoint are
	show     *progress
	order    *rand.Rand
}

func newBench(s settings, scratch string, show *progress) *bench {
	return &bench{settings: s, scratch: scratch, show: show, order: rand.New(rand.NewPCG(s.seed, 0))}
}

// round is what one round measured, and in which order.
type round struct {
	Order   []string           `json:"order"`
	Figures map[string]figures `json:"figures"`
}

// measureAll runs all rounds, and then what is to be profiled; the report is nil if there are no rounds, or one could not
// be finished. Children are gone when it returns.
func measureAll(ctx context.Context, s settings, scratch string, show *progress) (*report, error) {
	// The system ends children with the thread that started them: this one lasts.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := newBench(s, scratch, show)
	began := time.Now()
	services, err := b.startServices(ctx)
	if err != nil {
		return nil, err
	}
	defer services.stop()
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

// rounds measures all contenders once a round, in an order drawn anew for each.
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

// lasting is for the phases without refreshes, and brief for the one with them.
var (
	lasting = setup{lifetime: longLife, margin: "10s"}
	brief   = setup{lifetime: shortLife, margin: shortMargin.String()}
)

// round takes all figures once. Each contender starts twice: with tokens that last, beside the others, and with tokens
// that have to be refreshed, alone, since a token that nobody uses would expire.
func (b *bench) round(ctx context.Context, rate float64) (round, error) {
	done := round{Figures: map[string]figures{}}
	err := b.together(ctx, func(all []*entrant) error {
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
	return done, nil
}

// draw returns the contenders in a new order.
func (b *bench) draw() []contender {
	drawn := slices.Clone(contenders)
	b.order.Shuffle(len(drawn), func(i, j int) { drawn[i], drawn[j] = drawn[j], drawn[i] })
	return drawn
}

// entrant is a contender that runs.
type entrant struct {
	contender
	*child
	load    *load
	figures figures
}

// together runs f while all contenders run and have served one request.
func (b *bench) together(ctx context.Context, f func([]*entrant) error) error {
	var all []*entrant
	defer func() {
		for _, e := range all {
			e.leave()
		}
	}()
	for _, c := range b.draw() {
		e, err := b.enter(ctx, c, lasting)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		all = append(all, e)
	}
	return f(all)
}

// with runs f while one contender runs and has served one request.
func (b *bench) with(ctx context.Context, c contender, s setup, f func(*entrant) error) error {
	e, err := b.enter(ctx, c, s)
	if err != nil {
		return err
	}
	defer e.leave()
	return f(e)
}

// enter starts a contender, and waits until it has served one request.
func (b *bench) enter(ctx context.Context, c contender, s setup) (*entrant, error) {
	b.show.phase("starting " + c.name)
	var err error
	if s.listen, err = freeAddr(); err != nil {
		return nil, err
	}
	if s.admin, err = freeAddr(); err != nil {
		return nil, err
	}
	p, err := start(ctx, s.listen, func(ctx context.Context) (*exec.Cmd, error) { return c.command(ctx, b, s) })
	if err != nil {
		return nil, err
	}
	took, err := p.served(ctx)
	if err != nil {
		p.stop()
		return nil, err
	}
	p.admin = s.admin
	return &entrant{
		contender: c,
		child:     p,
		load:      newLoad(ctx, p.addr, apiPath, b.settings.connections),
		figures:   figures{keyStart: millis(took), keyFailed: 0},
	}, nil
}

func (e *entrant) leave() {
	e.load.close()
	e.stop()
}

// warmUp opens connections to the upstream, and lets the contender's memory and code get used to the work.
func (b *bench) warmUp(e *entrant) { e.load.closedLoop(b.settings.duration / slicesOfPhase) }

func (b *bench) idle(e *entrant) {
	b.show.phase("idle " + e.name)
	time.Sleep(b.settings.duration / slicesOfPhase)
	if n, ok := residentMemory(e.pid()); ok {
		e.figures[keyIdle] = mebibytes(n)
	}
}

// slicesOfPhase is into how many slices a phase is cut. The contenders take turns at each, in a new order, so that what
// the machine does besides hits all of them.
const slicesOfPhase = 10

// inTurns gives each entrant its slices of a phase.
func (b *bench) inTurns(all []*entrant, f func(*entrant, time.Duration)) error {
	for range slicesOfPhase {
		for _, i := range b.order.Perm(len(all)) {
			f(all[i], b.settings.duration/slicesOfPhase)
			if err := all[i].gone(); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone is an error if the contender has ended.
func (e *entrant) gone() error {
	select {
	case <-e.ended:
		return fmt.Errorf("%s has ended:\n%s", e.name, e.said.String())
	default:
		return nil
	}
}

func (b *bench) throughput(all []*entrant) error {
	b.show.phase("throughput")
	type sum struct {
		served int64
		took   time.Duration
		cpu    time.Duration
		memory int64
	}
	sums := map[*entrant]*sum{}
	for _, e := range all {
		b.warmUp(e)
		sums[e] = new(sum)
	}
	err := b.inTurns(all, func(e *entrant, d time.Duration) {
		s, peak := sums[e], watchMemory(e.pid())
		before, _ := cpuTime(e.pid())
		began := time.Now()
		served, failed := e.load.closedLoop(d)
		s.took += time.Since(began)
		after, _ := cpuTime(e.pid())
		s.cpu += after - before
		s.served += served
		s.memory = max(s.memory, peak())
		e.figures[keyFailed] += float64(failed)
	})
	if err != nil {
		return err
	}
	for e, s := range sums {
		e.figures[keyThroughput] = float64(s.served) / s.took.Seconds()
		if s.memory > 0 {
			e.figures[keyLoad] = mebibytes(s.memory)
		}
		if s.cpu > 0 && s.served > 0 {
			e.figures[keyCPU] = micros(s.cpu) / float64(s.served)
		}
	}
	return nil
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

func (b *bench) steady(ctx context.Context, all []*entrant, rate float64) error {
	b.show.phase("latency")
	taken := map[*entrant][]sample{}
	err := b.inTurns(all, func(e *entrant, d time.Duration) {
		samples, failed := e.load.openLoop(ctx, d, rate)
		taken[e] = append(taken[e], samples...)
		e.figures[keyFailed] += float64(failed)
	})
	if err != nil {
		return err
	}
	for e, samples := range taken {
		_, latencies := split(samples, nil)
		e.figures.addLatencies(phaseSteady, latencies)
	}
	return ctx.Err()
}

func (b *bench) refreshing(ctx context.Context, e *entrant, rate float64) error {
	b.show.phase("refreshes of " + e.name)
	b.warmUp(e)
	if _, err := takeCalls(b.services); err != nil { // those of the start
		return err
	}
	samples, failed := e.load.openLoop(ctx, b.settings.duration, rate)
	calls, err := takeCalls(b.services)
	if err != nil {
		return err
	}
	e.figures.addRefreshes(split(samples, calls))
	e.figures[keyCalls] = float64(len(calls))
	e.figures[keyFailed] += float64(failed)
	return cmp.Or(e.gone(), ctx.Err())
}

// calibrate finds the rate of the open loop.
func (b *bench) calibrate(ctx context.Context) (float64, error) {
	if b.settings.rate > 0 {
		return b.settings.rate, nil
	}
	b.show.say("calibrating")
	slowest := math.Inf(1)
	err := b.together(ctx, func(all []*entrant) error {
		if err := b.throughput(all); err != nil {
			return err
		}
		for _, e := range all {
			if e.figures[keyThroughput] == 0 {
				return fmt.Errorf("%s serves nothing:\n%s", e.name, e.said.String())
			}
			slowest = min(slowest, e.figures[keyThroughput])
		}
		return ctx.Err()
	})
	return max(1, rateShare*slowest), err
}

// direct measures without a proxy: what the load generator and the API alone can do, and what they add.
func (b *bench) direct(ctx context.Context, rate float64) (figures, error) {
	b.show.say("calibrating: no proxy")
	d := b.settings.duration
	l := newLoad(ctx, b.services, directPath, b.settings.connections)
	defer l.close()
	l.closedLoop(d / slicesOfPhase)
	began := time.Now()
	served, failed := l.closedLoop(d)
	f := figures{keyThroughput: float64(served) / time.Since(began).Seconds()}
	samples, failedOpen := l.openLoop(ctx, d, rate)
	_, latencies := split(samples, nil)
	f.addLatencies(phaseSteady, latencies)
	if failed+failedOpen > 0 {
		return nil, cmp.Or(ctx.Err(), fmt.Errorf("%d requests to the API failed without a proxy", failed+failedOpen))
	}
	return f, ctx.Err()
}
