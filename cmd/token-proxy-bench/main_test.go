package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule"
)

// TestMain also runs the children of the tests: the binary of the sidecar, and the roles of this program.
func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); {
	case role != "":
		fail(playRole(role))
	case len(os.Args) > 1 && (os.Args[1] == "run" || os.Args[1] == "version"):
		caddycmd.Main()
	default:
		os.Exit(m.Run())
	}
}

func tinySettings(t *testing.T) settings {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return settings{rounds: 1, duration: 50 * time.Millisecond, connections: 2, rate: 200, seed: 1, out: t.TempDir(), binary: binary}
}

func measureTiny(t *testing.T, s settings) *report {
	t.Helper()
	r, err := measureAll(t.Context(), s, t.TempDir(), &progress{w: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRound runs one round, from the first child to the files.
func TestRound(t *testing.T) {
	t.Parallel()
	s := tinySettings(t)
	r := measureTiny(t, s)
	wantFigures(t, r)
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	if err := r.write(s.out); err != nil {
		t.Fatal(err)
	}
	wantJSON(t, filepath.Join(s.out, jsonName), r)
	wantXML(t, filepath.Join(s.out, plotName))
	for _, want := range []string{sidecarName, staticName, fortyName, "throughput", "seed 1"} {
		if table := r.table(); !strings.Contains(table, want) {
			t.Errorf("the table does not contain %s:\n%s", want, table)
		}
	}
}

func wantFigures(t *testing.T, r *report) {
	t.Helper()
	want := []string{keyThroughput, keyStart, latencyKey(phaseSteady, "p50"), latencyKey(phaseSteady, "max")}
	if runtime.GOOS == "linux" {
		want = append(want, keyCPU, keyIdle, keyLoad)
	}
	for _, c := range contenders {
		if !slices.Contains(r.Rounds[0].Order, c.name) {
			t.Errorf("%s had no turn: %v", c.name, r.Rounds[0].Order)
		}
		for _, key := range want {
			if v := r.Summary[key].Contenders[c.name]; v.Rounds != 1 || v.Median <= 0 {
				t.Errorf("%s: %s is %+v", c.name, key, v)
			}
			if v := r.Summary[key].Ratios[c.name]; v.Rounds != 1 && c.name != sidecarName {
				t.Errorf("%s: the ratio of %s is %+v", c.name, key, v)
			}
		}
	}
}

func wantJSON(t *testing.T, path string, r *report) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var read report
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if got, want := read.Summary[keyThroughput], r.Summary[keyThroughput]; got.Contenders[sidecarName] != want.Contenders[sidecarName] {
		t.Errorf("the file has %+v, the report %+v", got, want)
	}
}

func wantXML(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLoads measures each load once, the first requests after a start, and token_proxy with Redis if it is installed.
func TestLoads(t *testing.T) {
	t.Parallel()
	s := tinySettings(t)
	if err := s.choose("all"); err != nil {
		t.Fatal(err)
	}
	if s.notTaken != "" {
		t.Log(s.notTaken)
	}
	for i := range s.loads { // fewer than in earnest
		s.loads[i].connections = min(s.loads[i].connections, 20)
		s.loads[i].credentials = min(s.loads[i].credentials, 5)
	}
	r := measureTiny(t, s)
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	for _, w := range s.loads {
		want := []string{metricCPU, metricMemory, metricThroughput, metricP99}
		if w.streams {
			want = []string{metricMemory}
		}
		if runtime.GOOS != "linux" {
			want = slices.DeleteFunc(want, func(m string) bool { return m == metricCPU || m == metricMemory })
		}
		for _, metric := range want {
			for _, c := range contenders {
				if v := r.Summary[w.key(metric)].Contenders[c.name]; v.Median <= 0 {
					t.Errorf("%s: the %s of %s is %+v", w.title, metric, c.name, v)
				}
			}
		}
		if !strings.Contains(r.short(), "| "+w.title+" |") && runtime.GOOS == "linux" {
			t.Errorf("the short report lacks %s:\n%s", w.title, r.short())
		}
	}
	once := []string{keyLateFirst, keyPrefetched}
	if s.redis {
		once = append(once, keySharedCold, keySharedWarm)
	}
	for _, key := range once {
		if v := r.Summary[key].Contenders[sidecarName]; v.Median <= 0 {
			t.Errorf("%s is %+v", key, v)
		}
	}
	if err := r.write(s.out); err != nil {
		t.Fatal(err)
	}
	for name := range r.plots() {
		wantXML(t, filepath.Join(s.out, name))
	}
}

// TestRefreshing checks that tokens with a short lifetime are refreshed, by each contender that has tokens.
func TestRefreshing(t *testing.T) {
	t.Parallel()
	b := runningBench(t.Context(), t)
	b.settings.duration = shortLife * time.Second
	for _, c := range contenders {
		var refreshed bool
		err := b.with(t.Context(), c, brief, func(e *entrant) error {
			// On a busy machine, it can take a few runs until a request falls into a token call.
			for run := 0; run < 5 && !refreshed; run++ {
				if err := b.refreshing(t.Context(), e, b.settings.rate); err != nil {
					return err
				}
				_, inside := e.figures[latencyKey(phaseInside, "p50")]
				refreshed = inside && e.figures[keyCalls] > 0
				if c.name == staticName {
					break
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if refreshed != (c.name != staticName) {
			t.Errorf("%s: refreshed: %t", c.name, refreshed)
		}
	}
}

// TestProfiles checks that each contender with an admin API has a profile.
func TestProfiles(t *testing.T) {
	t.Parallel()
	s := tinySettings(t)
	s.rounds, s.profile = 0, true
	if r := measureTiny(t, s); r != nil {
		t.Errorf("got a report without rounds: %+v", r)
	}
	for _, c := range contenders {
		text, err := os.ReadFile(filepath.Join(s.out, c.name+".pprof"))
		if c.hasAdmin != (err == nil) || c.hasAdmin && !bytes.HasPrefix(text, []byte{0x1f, 0x8b}) {
			t.Errorf("%s: %v, %d bytes", c.name, err, len(text))
		}
	}
}

// runningBench returns a bench whose services run until the test, or ctx, ends.
func runningBench(ctx context.Context, t *testing.T) *bench {
	t.Helper()
	b := newBench(tinySettings(t), t.TempDir(), &progress{w: io.Discard})
	services, err := b.startServices(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(services.stop)
	return b
}

// TestNoChildIsLeft checks that a contender ends with its turn, even if the turn fails.
func TestNoChildIsLeft(t *testing.T) {
	b := runningBench(t.Context(), t)
	for _, c := range contenders {
		var left *child
		err := b.with(t.Context(), c, lasting, func(e *entrant) error {
			left = e.child
			return errOnPurpose
		})
		if !errors.Is(err, errOnPurpose) {
			t.Errorf("%s: %v", c.name, err)
		}
		if left == nil || left.cmd.ProcessState == nil {
			t.Errorf("%s is still running", c.name)
		}
	}
}

var errOnPurpose = errors.New("on purpose")

// TestInterrupted checks that an interrupt ends the children, and then the run.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := runningBench(ctx, t)
	err := b.with(ctx, contenders[0], lasting, func(e *entrant) error {
		cancel()
		<-e.ended
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := measureAll(ctx, b.settings, b.scratch, b.show); err == nil {
		t.Error("an interrupted run returned no error")
	}
}

func TestContenderThatDoesNotStart(t *testing.T) {
	s := tinySettings(t)
	s.binary = filepath.Join(t.TempDir(), "missing")
	if _, err := measureAll(t.Context(), s, t.TempDir(), &progress{w: io.Discard}); err == nil {
		t.Error("got no error")
	}
}

func TestFlags(t *testing.T) {
	s, err := parseFlags([]string{"-rounds", "3", "-duration", "1s"})
	if err != nil || s.rounds != 3 || s.duration != time.Second || s.connections != 32 || s.seed == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, args := range [][]string{{"-rounds", "0"}, {"-rounds", "-1", "-profile"}, {"-duration", "0s"}, {"-connections", "0"}, {"-rate", "-1"}, {"-token-latency", "-1s"}, {"-loads", "unknown"}, {"surplus"}} {
		if _, err := parseFlags(args); err == nil {
			t.Errorf("%v: got no error", args)
		}
	}
}
