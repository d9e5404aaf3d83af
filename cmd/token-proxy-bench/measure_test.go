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

// entrantBefore is an entrant whose requests go to a handler of the test.
func entrantBefore(t *testing.T, name string, h http.HandlerFunc) *entrant {
	t.Helper()
	return &entrant{
		contender: contender{name: name},
		child:     &child{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}, ended: make(chan struct{})},
		load:      loadOn(t.Context(), t, 2, h),
		figures:   figures{},
	}
}

// No phase forgets the requests that fail in it.
func TestFailuresAreCounted(t *testing.T) {
	b := runningBench(t.Context(), t)
	for name, phase := range map[string]func(*entrant) error{
		"throughput": func(e *entrant) error { return b.throughput([]*entrant{e}) },
		"latency":    func(e *entrant) error { return b.steady(t.Context(), []*entrant{e}, 500) },
		"refreshes":  func(e *entrant) error { return b.refreshing(t.Context(), e, 500) },
	} {
		e := entrantBefore(t, name, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		if err := phase(e); err != nil || e.figures[keyFailed] == 0 {
			t.Errorf("%s: %v failed, %v", name, e.figures[keyFailed], err)
		}
	}
}

// Each entrant gets all of its slices, and they make up the phase.
func TestTurns(t *testing.T) {
	b := newBench(tinySettings(t), t.TempDir(), nil)
	all := []*entrant{entrantBefore(t, "a", nil), entrantBefore(t, "b", nil), entrantBefore(t, "c", nil)}
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

// Whoever ends in the middle ends the run, with its last words.
func TestContenderThatEnds(t *testing.T) {
	b := newBench(tinySettings(t), t.TempDir(), nil)
	e := entrantBefore(t, "a", nil)
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

func TestContendersRunAsTheyAreMade(t *testing.T) {
	t.Setenv("GOGC", "17")
	t.Setenv("BENCH_TEST", "kept")
	seen := map[string]bool{}
	for _, variable := range environment() {
		seen[variable] = true
	}
	if seen["GOGC=17"] || !seen["BENCH_TEST=kept"] {
		t.Error("they inherit GOGC, or nothing at all")
	}
}

// What is measured is there before the profiles fail.
func TestProfilesFail(t *testing.T) {
	s := tinySettings(t)
	s.profile = true
	s.out = filepath.Join(s.out, "missing")
	r, err := measureAll(t.Context(), s, t.TempDir(), &progress{w: io.Discard})
	if r == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the report is there: %t; %v", r != nil, err)
	}
}
