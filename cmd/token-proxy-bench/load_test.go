package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

const phase = 50 * time.Millisecond

func loadOn(ctx context.Context, t *testing.T, connections int, handler http.HandlerFunc) *load {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	addr := s.Listener.Addr().String()
	l := newLoad(ctx, addr, connections, requestFor(addr, apiPath, 0))
	t.Cleanup(l.close)
	return l
}

// TestLoadCounts compares the counts of the load generator with those of the server.
func TestLoadCounts(t *testing.T) {
	var came atomic.Int64
	l := loadOn(t.Context(), t, 3, func(http.ResponseWriter, *http.Request) { came.Add(1) })
	served, failed := l.closedLoop(phase)
	if served == 0 || served != came.Load() || failed != 0 {
		t.Errorf("the server got %d requests; the load generator counts %d served and %d failed", came.Load(), served, failed)
	}
	came.Store(0)
	samples, failed := l.openLoop(t.Context(), phase, 1000)
	if n := int64(len(samples)); n != 51 || n != came.Load() || failed != 0 {
		t.Errorf("the server got %d requests, for %d samples; %d failed", came.Load(), n, failed)
	}
}

// TestLoadCountsFailures checks that a failed request counts as failed, and has no latency.
func TestLoadCountsFailures(t *testing.T) {
	l := loadOn(t.Context(), t, 3, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if served, failed := l.closedLoop(phase); served != 0 || failed == 0 {
		t.Errorf("%d were served, %d failed", served, failed)
	}
	samples, failed := l.openLoop(t.Context(), phase, 200)
	if inside, outside := split(samples, nil); len(inside)+len(outside) != 0 || failed != int64(len(samples)) {
		t.Errorf("%d of %d failed", failed, len(samples))
	}
}

// TestOpenLoopCountsWaits checks that the latency includes the wait for a connection. One slow answer delays all
// requests whose time comes meanwhile.
func TestOpenLoopCountsWaits(t *testing.T) {
	var first atomic.Bool
	const pause = 100 * time.Millisecond
	l := loadOn(t.Context(), t, 1, func(http.ResponseWriter, *http.Request) {
		if first.CompareAndSwap(false, true) {
			time.Sleep(pause)
		}
	})
	samples, _ := l.openLoop(t.Context(), phase, 200)
	for i, s := range samples {
		if least := pause - s.intended.Sub(samples[0].intended); s.latency < least {
			t.Errorf("sample %d took %s, want at least %s", i, s.latency, least)
		}
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	l := loadOn(ctx, t, 3, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if served, failed := l.closedLoop(phase); served != 0 || failed == 0 {
		t.Errorf("%d were served, %d failed", served, failed)
	}
}
