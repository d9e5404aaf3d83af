package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the result of the run, and the content of report.json.
type report struct {
	Conditions conditions         `json:"conditions"`
	Metrics    []metric           `json:"metrics"`
	Summary    map[string]summary `json:"summary"` // by the key of the metric
	Rounds     []round            `json:"rounds"`
}

// summary is one metric over all rounds, by the name of the contender. The ratios are those of token_proxy to the other
// contenders.
type summary struct {
	Contenders map[string]spread `json:"contenders"`
	Ratios     map[string]spread `json:"ratios"`
}

// conditions are the circumstances that the figures depend on.
type conditions struct {
	Began        time.Time `json:"began"`
	System       string    `json:"system"`
	Go           string    `json:"go"`
	Binary       string    `json:"binary"` // its version
	Processors   int       `json:"processors"`
	Rounds       int       `json:"rounds"`
	Duration     string    `json:"duration"`
	Connections  int       `json:"connections"`
	Rate         float64   `json:"rate"`       // of the open loop, in requests a second
	Direct       figures   `json:"direct"`     // without a proxy
	TokenLatency string    `json:"token_call"` // the duration of a token call
	Lifetime     string    `json:"lifetime"`   // of tokens in the phase with refreshes
	Seed         uint64    `json:"seed"`
	Others       float64   `json:"others,omitempty"` // the share of the processors that other processes used, in per cent
	NotTaken     string    `json:"not_taken,omitempty"`
}

const (
	jsonName  = "report.json"
	shortName = "report.md"
	plotName  = "report.svg" // and one for each theme
)

func newReport(s settings, binary string, rate float64, began time.Time) *report {
	return &report{
		Conditions: conditions{
			Began:        began.UTC().Truncate(time.Second),
			System:       runtime.GOOS + "/" + runtime.GOARCH,
			Go:           runtime.Version(),
			Binary:       binary,
			Processors:   runtime.NumCPU(),
			Rounds:       s.rounds,
			Duration:     s.duration.String(),
			Connections:  s.connections,
			Rate:         rate,
			TokenLatency: s.latency.String(),
			Lifetime:     (shortLife * time.Second).String(),
			Seed:         s.seed,
			NotTaken:     strings.TrimSpace(notTaken + " " + s.notTaken),
		},
		Metrics: metrics(),
	}
}

func (r *report) summarize() {
	r.Summary = map[string]summary{}
	for _, m := range r.Metrics {
		s := summary{Contenders: map[string]spread{}, Ratios: map[string]spread{}}
		for _, c := range contenders {
			if v := spreadOf(valuesOf(r.Rounds, c.name, m.Key)); v.Rounds > 0 {
				s.Contenders[c.name] = v
			}
			if v := spreadOf(ratiosOf(r.Rounds, sidecarName, c.name, m.Key)); v.Rounds > 0 && c.name != sidecarName {
				s.Ratios[c.name] = v
			}
		}
		if len(s.Contenders) > 0 {
			r.Summary[m.Key] = s
		}
	}
}

// describe returns the conditions as text.
func (c conditions) describe() string {
	return fmt.Sprintf("%s, %d processors, %s, token-proxy version %s, %s. %d rounds, seed %d. Phases of %s on %d connections; latencies at %s req/s; "+
		"without a proxy %s req/s, p50 %s µs, p99 %s µs. Refreshes: tokens of %s, token calls of %s, requests within %s of one are inside.",
		c.System, c.Processors, c.Go, c.Binary, c.Began.Format(time.DateTime), c.Rounds, c.Seed, c.Duration, c.Connections,
		figure(c.Rate), figure(c.Direct[keyThroughput]), figure(c.Direct[latencyKey(phaseSteady, "p50")]),
		figure(c.Direct[latencyKey(phaseSteady, "p99")]), c.Lifetime, c.TokenLatency, refreshWindow)
}

// describeNoise returns how much the figures are worth, if that is known.
func (c conditions) describeNoise() string {
	if c.Others == 0 {
		return ""
	}
	return fmt.Sprintf(" Other processes used %s %% of the processors.", figure(c.Others))
}

// table returns the report as a table for a terminal.
func (r *report) table() string {
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s%s\n", r.Conditions.describe(), r.Conditions.describeNoise())
	if r.Conditions.NotTaken != "" {
		fmt.Fprintln(&text, r.Conditions.NotTaken)
	}
	if _, ok := r.Summary[latencyKey(phaseInside, "p50")]; !ok {
		fmt.Fprintf(&text, "No token was refreshed, because -duration is not longer than the lifetime of a token, %s.\n", r.Conditions.Lifetime)
	}
	fmt.Fprintf(&text, "Medians of the rounds (least–most). The ratios are those of %s to the other contender, each within one round.\n\n", sidecarName)
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t\t%s\t%s\t%s\tratio to %s\tratio to %s\n", sidecarName, staticName, fortyName, staticName, fortyName)
	for _, m := range r.Metrics {
		if s, ok := r.Summary[m.Key]; ok {
			fmt.Fprintf(w, "%s\t%s\t%s\n", m.fullTitle(), m.Unit, strings.Join(s.cells(), "\t"))
		}
	}
	w.Flush()
	return text.String()
}

// short returns a Markdown table of the headline metrics.
func (r *report) short() string {
	var text strings.Builder
	fmt.Fprintf(&text, "| median (least–most) | | %s | %s | %s | ratio to %s | ratio to %s |\n", sidecarName, staticName, fortyName, staticName, fortyName)
	text.WriteString("| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, m := range r.Metrics {
		if s, ok := r.Summary[m.Key]; ok && m.Headline {
			fmt.Fprintf(&text, "| %s | %s | %s |\n", m.Title, m.Unit, strings.Join(s.cells(), " | "))
		}
	}
	r.shortLoads(&text)
	fmt.Fprintf(&text, "\n%s%s\n", r.Conditions.describe(), r.Conditions.describeNoise())
	return text.String()
}

// shortLoads writes a table of the workloads that were measured: of the CPU time, only the ratios.
func (r *report) shortLoads(text *strings.Builder) {
	var rows strings.Builder
	for _, w := range workloads {
		cpu, memory, p99 := r.Summary[w.key(metricCPU)], r.Summary[w.key(metricMemory)], r.Summary[w.key(metricP99)]
		if len(memory.Contenders)+len(cpu.Contenders) == 0 {
			continue
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s, %s, %s | %s |\n", w.title, cpu.Ratios[staticName].cell(), cpu.Ratios[fortyName].cell(),
			memory.Contenders[sidecarName].middle(), memory.Contenders[staticName].middle(), memory.Contenders[fortyName].middle(),
			p99.Ratios[staticName].cell())
	}
	if rows.Len() == 0 {
		return
	}
	fmt.Fprintf(text, "\n| load | CPU: ratio to %s | CPU: ratio to %s | memory in MiB: %s, %s, %s | p99: ratio to %s |\n",
		staticName, fortyName, sidecarName, staticName, fortyName, staticName)
	fmt.Fprintf(text, "| --- | --- | --- | --- | --- |\n%s", rows.String())
}

// fullTitle returns the title of a metric with its theme.
func (m metric) fullTitle() string {
	for _, t := range themes {
		if t.metric == m.Theme {
			return m.Title + ": " + t.title
		}
	}
	return m.Title
}

// middle returns the median, or "–".
func (s spread) middle() string {
	if s.Rounds == 0 {
		return "–"
	}
	return figure(s.Median)
}

func (s summary) cells() []string {
	return []string{
		s.Contenders[sidecarName].cell(), s.Contenders[staticName].cell(), s.Contenders[fortyName].cell(),
		s.Ratios[staticName].cell(), s.Ratios[fortyName].cell(),
	}
}

func (s spread) cell() string {
	switch {
	case s.Rounds == 0:
		return "–"
	case s.Min == s.Max:
		return figure(s.Median)
	default:
		return fmt.Sprintf("%s (%s–%s)", figure(s.Median), figure(s.Min), figure(s.Max))
	}
}

// write writes report.json, report.md and report.svg.
func (r *report) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	files := r.plots()
	files[jsonName], files[shortName] = string(text)+"\n", r.short()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// verdict returns an error if requests failed, because the figures are worthless then.
func (r *report) verdict() error {
	var errs []error
	for _, c := range contenders {
		if n := r.Summary[keyFailed].Contenders[c.name].Max; n > 0 {
			errs = append(errs, fmt.Errorf("%.0f requests to %s failed in one round; do not trust the figures", n, c.name))
		}
	}
	return errors.Join(errs...)
}
