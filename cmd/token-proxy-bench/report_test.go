package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// reportOf returns the report of one round.
func reportOf(f map[string]figures) *report {
	r := newReport(settings{rounds: 1}, "v1", 100, time.Unix(0, 0))
	r.Rounds = []round{{Figures: f}}
	r.summarize()
	return r
}

func TestTable(t *testing.T) {
	inside := latencyKey(phaseInside, "p50")
	table := reportOf(map[string]figures{
		sidecarName: {keyThroughput: 18000, inside: 100},
		staticName:  {keyThroughput: 20000},
		fortyName:   {keyThroughput: 24000, inside: 400},
	}).table()
	for _, want := range []string{
		"throughput req/s 18000 20000 24000 0.90 0.75",
		"inside refreshes p50 µs 100 – 400 – 0.25",
	} {
		if !strings.Contains(strings.Join(strings.Fields(table), " "), want) {
			t.Errorf("the table does not contain %q:\n%s", want, table)
		}
	}
	if strings.Contains(table, "CPU per request") {
		t.Errorf("the table has a row without figures:\n%s", table)
	}
}

// TestTableWithoutRefreshes checks that the table explains why it has no refreshes.
func TestTableWithoutRefreshes(t *testing.T) {
	const explanation = "No token was refreshed"
	if table := reportOf(map[string]figures{sidecarName: {keyThroughput: 1}}).table(); !strings.Contains(table, explanation) {
		t.Errorf("the table does not explain it:\n%s", table)
	}
	refreshed := figures{latencyKey(phaseInside, "p50"): 1}
	if table := reportOf(map[string]figures{sidecarName: refreshed}).table(); strings.Contains(table, explanation) {
		t.Errorf("the table explains it although a token was refreshed:\n%s", table)
	}
}

// TestREADMEShowsTheReport compares the README of the command with the report in the folder latest, and the README of
// the repository with rows of it.
func TestREADMEShowsTheReport(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("latest", jsonName))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	const least = 7
	if len(r.Rounds) < least {
		t.Errorf("the report has %d rounds, want at least %d", len(r.Rounds), least)
	}
	short := r.short()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), short) {
		t.Errorf("the README does not contain this:\n%s", short)
	}
	if got, want := costRows(t), comparedRows(short); !slices.Equal(got, want) {
		t.Errorf("the README of the repository has these rows:\n%s\nwant those of the report that have forty_lines:\n%s",
			strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range r.plots() {
		plot, err := os.ReadFile(filepath.Join("latest", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(plot) != want {
			t.Errorf("%s differs from the plot that this code draws of the report", name)
		}
		if n := strings.Count(string(readme), "(latest/"+name+")"); n != 1 {
			t.Errorf("the README shows %s %d times, want once", name, n)
		}
	}
}

// comparedRows returns the rows of the first table that compare the sidecar with forty_lines. The README of the repository has
// all of them, so that it leaves out no row that looks bad.
func comparedRows(short string) (rows []string) {
	table, _, _ := strings.Cut(short, "\n\n")
	const forty = 5 // its column
	for row := range strings.SplitSeq(table, "\n") {
		if strings.TrimSpace(strings.Split(row, "|")[forty]) != "–" {
			rows = append(rows, row)
		}
	}
	return rows
}

// costRows returns the lines of the table in the section "What it costs" of the repository's README.
func costRows(t *testing.T) (rows []string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## What it costs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "|") {
			rows = append(rows, strings.TrimSuffix(line, "\n"))
		}
	}
	return rows
}

func TestVerdict(t *testing.T) {
	if err := reportOf(map[string]figures{sidecarName: {keyFailed: 0}}).verdict(); err != nil {
		t.Error(err)
	}
	for _, c := range contenders {
		if err := reportOf(map[string]figures{c.name: {keyFailed: 2}}).verdict(); err == nil || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: want an error that names the contender, got %v", c.name, err)
		}
	}
}

func TestRefreshesAreCompared(t *testing.T) {
	f := figures{}
	f.addRefreshes([]time.Duration{40 * time.Millisecond}, []time.Duration{20 * time.Millisecond})
	if f[keyRefresh] != 2 || f[latencyKey(phaseInside, "p99")] != 40_000 || f[latencyKey(phaseOutside, "max")] != 20_000 {
		t.Errorf("got %v", f)
	}
	f = figures{}
	if f.addRefreshes(nil, []time.Duration{1}); len(f) != len(percentiles) {
		t.Errorf("got %v, although no request was inside of a refresh", f)
	}
}

func TestBounds(t *testing.T) {
	if n := sampleCount(1e9, time.Hour); n > 5_000_000 {
		t.Errorf("got %d samples", n)
	}
	var output tail
	for range 10 {
		_, _ = output.Write([]byte(strings.Repeat("x", tailSize-1) + "y"))
	}
	if text := output.String(); len(text) != tailSize || !strings.HasSuffix(text, "y") {
		t.Errorf("the tail has %d bytes", len(text))
	}
}
