package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// entrantOn returns an entrant whose requests go to a handler of the test.
func entrantOn(t *testing.T, name string, h http.HandlerFunc) *entrant {
	t.Helper()
	return &entrant{
		contender: contender{name: name},
		child:     &child{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}, ended: make(chan struct{})},
		load:      loadOn(t.Context(), t, 2, h),
		figures:   figures{},
	}
}

// TestFailuresAreCounted checks that each phase counts the requests that fail in it.
func TestFailuresAreCounted(t *testing.T) {
	b := runningBench(t.Context(), t)
	for name, phase := range map[string]func(*entrant) error{
		"throughput": func(e *entrant) error { return b.throughput([]*entrant{e}) },
		"latency":    func(e *entrant) error { return b.steady(t.Context(), []*entrant{e}, 500) },
		"refreshes":  func(e *entrant) error { return b.refreshing(t.Context(), e, 500) },
	} {
		e := entrantOn(t, name, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		if err := phase(e); err != nil || e.figures[keyFailed] == 0 {
			t.Errorf("%s: %v failed, %v", name, e.figures[keyFailed], err)
		}
	}
}

// TestTurns checks that the slices of each entrant add up to the phase.
func TestTurns(t *testing.T) {
	b := newBench(tinySettings(t), t.TempDir(), nil)
	all := []*entrant{entrantOn(t, "a", nil), entrantOn(t, "b", nil), entrantOn(t, "c", nil)}
	got := map[*entrant]time.Duration{}
	if err := b.inTurns(all, func(e *entrant, d time.Duration) { got[e] += d }); err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if got[e] != b.settings.duration {
			t.Errorf("%s had %s of %s", e.name, got[e], b.settings.duration)
		}
	}
}

// TestContenderThatEnds checks that the run ends when a contender ends, and that the error contains its last output.
func TestContenderThatEnds(t *testing.T) {
	b := newBench(tinySettings(t), t.TempDir(), nil)
	e := entrantOn(t, "a", nil)
	_, _ = e.output.Write([]byte("farewell"))
	turns := 0
	err := b.inTurns([]*entrant{e}, func(*entrant, time.Duration) {
		if turns++; turns == 2 {
			close(e.ended)
		}
	})
	if err == nil || turns != 2 || err.Error() != "a has ended:\nfarewell" {
		t.Errorf("after %d turns: %v", turns, err)
	}
}

// TestContendersRunWithTheirDefaults checks that contenders do not inherit the tuning of Go's runtime.
func TestContendersRunWithTheirDefaults(t *testing.T) {
	t.Setenv("GOGC", "17")
	t.Setenv("BENCH_TEST", "kept")
	seen := map[string]bool{}
	for _, variable := range environment() {
		seen[variable] = true
	}
	if seen["GOGC=17"] || !seen["BENCH_TEST=kept"] {
		t.Error("contenders inherit GOGC, or do not inherit other variables")
	}
}

// TestProfilesFail checks that the report survives a failure of the profiles.
func TestProfilesFail(t *testing.T) {
	t.Parallel()
	s := tinySettings(t)
	s.profile = true
	s.out = filepath.Join(s.out, "missing")
	r, err := measureAll(t.Context(), s, t.TempDir(), &progress{w: io.Discard})
	if r == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got a report: %t; error %v", r != nil, err)
	}
}
