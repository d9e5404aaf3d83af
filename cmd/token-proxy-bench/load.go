package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// load is a load generator for one address. Its connections stay open between loops.
type load struct {
	workers []*worker
}

// newLoad returns a load generator whose connections send the requests in turn.
func newLoad(ctx context.Context, addr string, connections int, requests ...[]byte) *load {
	l := new(load)
	for range connections {
		l.workers = append(l.workers, &worker{ctx: ctx, addr: addr, requests: requests})
	}
	return l
}

func (l *load) close() {
	for _, w := range l.workers {
		w.close()
	}
}

// drain is the time that answers may take beyond the end of a loop.
const drain = 10 * time.Second

// closedLoop sends the next request on each connection when the last one is answered, and counts the answers. Each connection
// sends one request at least, however late the system lets it begin.
func (l *load) closedLoop(d time.Duration) (served, failed int64) {
	end := time.Now().Add(d)
	failed = l.onEach(d, func(w *worker) {
		for now := time.Now(); ; {
			began := now
			ok := w.send()
			now = time.Now()
			if ok {
				w.took = append(w.took, now.Sub(began))
			}
			if !now.Before(end) || w.ctx.Err() != nil {
				return
			}
		}
	})
	for _, w := range l.workers {
		served += int64(len(w.took))
	}
	return served, failed
}

// latencies returns what each request of the last closed loop took.
func (l *load) latencies() (all []time.Duration) {
	for _, w := range l.workers {
		all = append(all, w.took...)
	}
	return all
}

// sample is one request of the open loop. Its latency runs from the intended time, not from the time of sending.
type sample struct {
	intended time.Time
	latency  time.Duration // 0 if it failed
}

// openLoop sends at a fixed rate, however slow the answers are. A request waits if no connection is free, and its
// latency includes the wait.
func (l *load) openLoop(ctx context.Context, d time.Duration, rate float64) (samples []sample, failed int64) {
	samples = make([]sample, sampleCount(rate, d))
	queue := make(chan int, len(samples))
	go pace(ctx, samples, rate, queue)
	failed = l.onEach(d, func(w *worker) {
		for i := range queue {
			if w.send() {
				samples[i].latency = time.Since(samples[i].intended)
			}
		}
	})
	return samples, failed
}

// sampleCount returns the number of samples of a loop. It bounds their memory at 100 s of 50,000 requests a second.
func sampleCount(rate float64, d time.Duration) int {
	return min(int(rate*d.Seconds())+1, 5_000_000)
}

// pace sets the intended time of each sample, and queues the sample at that time. It locks its thread, because it
// sleeps in the kernel.
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

// onEach runs f for all connections concurrently, and returns the number of requests that failed.
func (l *load) onEach(d time.Duration, f func(*worker)) int64 {
	var failed atomic.Int64
	var wg sync.WaitGroup
	for _, w := range l.workers {
		w.begin(time.Now().Add(d + drain))
		wg.Go(func() {
			f(w)
			failed.Add(w.failed)
		})
	}
	wg.Wait()
	return failed.Load()
}

// worker sends requests on one connection at a time. It opens a new connection after a failure.
type worker struct {
	ctx      context.Context
	addr     string
	requests [][]byte
	next     int // of the requests
	conn     *connection
	deadline time.Time
	failed   int64
	took     []time.Duration // by each request of the closed loop that was answered
}

func (w *worker) begin(deadline time.Time) {
	w.deadline, w.failed, w.took = deadline, 0, w.took[:0]
	if w.conn != nil {
		_ = w.conn.SetDeadline(deadline)
	}
}

func (w *worker) send() bool {
	request := w.requests[w.next]
	w.next = (w.next + 1) % len(w.requests)
	err := w.connect()
	if err == nil {
		err = w.conn.send(request)
	}
	if err != nil {
		w.failed++
		w.close()
	}
	return err == nil
}

func (w *worker) connect() (err error) {
	if w.conn != nil {
		return nil
	}
	if w.conn, err = dial(w.ctx, w.addr); err != nil {
		return err
	}
	return w.conn.SetDeadline(w.deadline)
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.close()
		w.conn = nil
	}
}
