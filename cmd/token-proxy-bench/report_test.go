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

// reportOf is the report of one round.
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
			t.Errorf("there is no %q in\n%s", want, table)
		}
	}
	if strings.Contains(table, "CPU per request") {
		t.Errorf("it has a row that nobody measured:\n%s", table)
	}
}

// Whoever asks for phases that are too short for refreshes is told why there are none.
func TestTableSaysThatThereWereNoRefreshes(t *testing.T) {
	const says = "No token was refreshed"
	if table := reportOf(map[string]figures{sidecarName: {keyThroughput: 1}}).table(); !strings.Contains(table, says) {
		t.Errorf("it does not say so:\n%s", table)
	}
	refreshed := figures{latencyKey(phaseInside, "p50"): 1}
	if table := reportOf(map[string]figures{sidecarName: refreshed}).table(); strings.Contains(table, says) {
		t.Errorf("it says so:\n%s", table)
	}
}

// The README beside the command shows the last run that is kept here, and the README of the repository shows rows of it.
// Nobody types them.
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
		t.Errorf("it has %d rounds, want %d or more", len(r.Rounds), least)
	}
	short := r.short()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), short) {
		t.Errorf("the README does not show this:\n%s", short)
	}
	rows := costRows(t)
	if least := 6; len(rows) < least {
		t.Errorf("the README of the repository shows %d lines of the table, want %d or more", len(rows), least)
	}
	for _, row := range rows {
		if !slices.Contains(strings.Split(short, "\n"), row) {
			t.Errorf("the README of the repository shows a line that is not in the report: %s", row)
		}
	}
	plot, err := os.ReadFile(filepath.Join("latest", plotName))
	if err != nil {
		t.Fatal(err)
	}
	if string(plot) != r.plot() {
		t.Error("the plot is of another report, or drawn by other code")
	}
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
			t.Errorf("requests to %s failed: %v", c.name, err)
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
		t.Errorf("nothing was inside, and it says %v", f)
	}
}

func TestBounds(t *testing.T) {
	if n := sampleCount(1e9, time.Hour); n > 5_000_000 {
		t.Errorf("%d samples", n)
	}
	var said tail
	for range 10 {
		_, _ = said.Write([]byte(strings.Repeat("x", tailSize-1) + "y"))
	}
	if text := said.String(); len(text) != tailSize || !strings.HasSuffix(text, "y") {
		t.Errorf("it keeps %d bytes", len(text))
	}
}
