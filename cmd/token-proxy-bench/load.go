package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// load is a load generator for one address.
type load struct {
	addr, path  string
	connections int
	duration    time.Duration
}

// drain is how long answers may take beyond the end of a phase.
const drain = 10 * time.Second

// closedLoop sends on each connection as fast as answers come, and counts them.
func (l load) closedLoop(ctx context.Context) (served, failed int64) {
	ctx, cancel := context.WithTimeout(ctx, l.duration+drain)
	defer cancel()
	var good, bad atomic.Int64
	end := time.Now().Add(l.duration)
	l.onEach(func() {
		w := worker{ctx: ctx, load: l}
		defer w.close()
		var n int64
		for time.Now().Before(end) && ctx.Err() == nil {
			if w.get() {
				n++
			}
		}
		good.Add(n)
		bad.Add(w.failed)
	})
	return good.Load(), bad.Load()
}

// sample is one request of the open loop: when it was to be sent, and how long after that its answer was there.
type sample struct {
	intended time.Time
	latency  time.Duration // 0 if it failed
}

// openLoop sends at a fixed rate, however slow the answers are. A request that finds no connection free waits for one,
// and the wait counts.
func (l load) openLoop(ctx context.Context, rate float64) (samples []sample, failed int64) {
	ctx, cancel := context.WithTimeout(ctx, l.duration+drain)
	defer cancel()
	samples = make([]sample, sampleCount(rate, l.duration))
	queue := make(chan int, len(samples))
	go pace(ctx, samples, rate, queue)
	var bad atomic.Int64
	l.onEach(func() {
		w := worker{ctx: ctx, load: l}
		defer w.close()
		for i := range queue {
			if w.get() {
				samples[i].latency = time.Since(samples[i].intended)
			}
		}
		bad.Add(w.failed)
	})
	return samples, bad.Load()
}

// sampleCount bounds the memory for samples: 100 s at 50 000 requests a second.
func sampleCount(rate float64, d time.Duration) int {
	return min(int(rate*d.Seconds())+1, 5_000_000)
}

// pace says when to send which sample. It has a thread to itself, since it sleeps in the kernel.
func pace(ctx context.Context, samples []sample, rate float64, queue chan<- int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(queue)
	began, gap := time.Now(), float64(time.Second)/rate
	for i := range samples {
		samples[i].intended = began.Add(time.Duration(float64(i) * gap))
		sleepUntil(samples[i].intended)
		if ctx.Err() != nil {
			return
		}
		queue <- i
	}
}

// onEach runs f once for each connection, all at once.
func (l load) onEach(f func()) {
	var wg sync.WaitGroup
	for range l.connections {
		wg.Go(f)
	}
	wg.Wait()
}

// worker has one connection, and another one after a failure.
type worker struct {
	ctx    context.Context
	load   load
	conn   *connection
	failed int64
}

func (w *worker) get() bool {
	err := w.connect()
	if err == nil {
		err = w.conn.get()
	}
	if err != nil {
		w.failed++
		w.close()
	}
	return err == nil
}

func (w *worker) connect() (err error) {
	if w.conn == nil {
		w.conn, err = dial(w.ctx, w.load.addr, w.load.path)
	}
	return err
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.close()
		w.conn = nil
	}
}
