package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// warmUp sends some load before a measurement, so that the contender has its connections to the API and its memory.
func (b *bench) warmUp(e *entrant) { e.load.closedLoop(b.settings.duration / slicesOfPhase) }

// idle measures the memory of a contender without load.
func (b *bench) idle(e *entrant) {
	b.show.phase("idle " + e.name)
	time.Sleep(b.settings.duration / slicesOfPhase)
	if n, ok := residentMemory(e.pid()); ok {
		e.figures[keyIdle] = mebibytes(n)
	}
}

// throughput measures all contenders at full load.
func (b *bench) throughput(all []*entrant) error {
	b.show.phase("throughput")
	type sum struct {
		served int64
		took   time.Duration
		cpu    time.Duration
		memory int64
		waits  []time.Duration
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
		s.waits = append(s.waits, e.load.latencies()...)
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
		if len(s.waits) > 0 {
			slices.Sort(s.waits)
			e.figures[keyClosedP99] = micros(percentile(s.waits, 0.99))
		}
	}
	return nil
}

// watchMemory samples the resident memory of a process. The function that it returns ends that, and returns the
// maximum.
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

// steady measures the latencies of all contenders at a fixed rate.
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

// refreshing measures the latencies of one contender at a fixed rate while its tokens expire.
func (b *bench) refreshing(ctx context.Context, e *entrant, rate float64) error {
	b.show.phase("refreshes of " + e.name)
	b.warmUp(e)
	if _, err := takeCalls(b.services); err != nil { // drops the calls of the start
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

// calibrate returns the rate of the open loop: the one in the settings, or a share of the lowest throughput.
func (b *bench) calibrate(ctx context.Context) (float64, error) {
	if b.settings.rate > 0 {
		return b.settings.rate, nil
	}
	b.show.status("calibrating")
	slowest := math.Inf(1)
	err := b.together(ctx, lasting, func(all []*entrant) error {
		if err := b.throughput(all); err != nil {
			return err
		}
		for _, e := range all {
			if e.figures[keyThroughput] == 0 {
				return fmt.Errorf("%s serves no request:\n%s", e.name, e.output.String())
			}
			slowest = min(slowest, e.figures[keyThroughput])
		}
		return ctx.Err()
	})
	return max(1, rateShare*slowest), err
}

// direct measures the API without a proxy: the limit of the load generator and the API, and their share of each
// latency.
func (b *bench) direct(ctx context.Context, rate float64) (figures, error) {
	b.show.status("calibrating: no proxy")
	d := b.settings.duration
	l := newLoad(ctx, b.services, b.settings.connections, requestFor(b.services, directPath, 0))
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
