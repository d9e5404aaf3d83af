package main

import (
	"context"
	"fmt"
	"time"
)

// loads measures all contenders with each workload of the settings. They start anew for each workload.
func (b *bench) loads(ctx context.Context, done round) error {
	for _, w := range b.settings.loads {
		s := lasting
		s.workload = w
		err := b.together(ctx, s, func(all []*entrant) error {
			if w.streams {
				return b.idleStreams(all, w, done)
			}
			return b.loaded(all, w, done)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", w.title, err)
		}
	}
	return ctx.Err()
}

// loaded measures all contenders at full load with a workload.
func (b *bench) loaded(all []*entrant, w workload, done round) error {
	if w.credentials > 0 {
		for _, e := range all {
			done.Figures[e.name][keyFailed] += float64(e.load.once())
		}
	}
	if err := b.throughput(all); err != nil {
		return err
	}
	for _, e := range all {
		done.Figures[e.name].add(w, e.figures)
	}
	return nil
}

// add adds the figures of a workload.
func (f figures) add(w workload, measured figures) {
	f[keyFailed] += measured[keyFailed]
	for key, metric := range map[string]string{keyThroughput: metricThroughput, keyCPU: metricCPU, keyLoad: metricMemory, keyClosedP99: metricP99} {
		if v, ok := measured[key]; ok {
			f[w.key(metric)] = v
		}
	}
}

// idleStreams measures the memory of all contenders while each has its idle event streams.
func (b *bench) idleStreams(all []*entrant, w workload, done round) error {
	for _, e := range all {
		b.show.phase("streams of " + e.name)
		done.Figures[e.name][keyFailed] += float64(e.load.openStreams())
		time.Sleep(b.settings.duration / slicesOfPhase)
		if n, ok := residentMemory(e.pid()); ok {
			done.Figures[e.name][w.key(metricMemory)] = mebibytes(n)
		}
		e.load.close()
		if err := e.gone(); err != nil {
			return err
		}
	}
	return nil
}

// openStreams sends a request on each connection, and leaves its answer open. It returns how many requests failed.
func (l *load) openStreams() (failed int64) {
	return l.onEach(0, func(w *worker) {
		err := w.connect()
		if err == nil {
			_, err = w.conn.open(w.requests[0])
		}
		if err != nil {
			w.failed++
		}
	})
}

// once sends each request once, so that each credential has its token. It returns how many requests failed.
func (l *load) once() int64 {
	return l.onEach(drain, func(w *worker) {
		if w != l.workers[0] {
			return
		}
		for range w.requests {
			w.send()
		}
	})
}
