package main

import (
	"fmt"
	"slices"
	"time"
)

// figures are the values of one contender in one round, by the key of the metric. A metric that was not measured is
// missing.
type figures map[string]float64

// metric is a row of the report. The plot and the short table contain the headline metrics only.
type metric struct {
	Key      string `json:"key"`
	Title    string `json:"title"`
	Unit     string `json:"unit"`
	Headline bool   `json:"headline,omitempty"`
}

// The keys of all metrics but the latencies.
const (
	keyStart      = "start"
	keyIdle       = "memory_idle"
	keyLoad       = "memory_load"
	keyThroughput = "throughput"
	keyCPU        = "cpu"
	keyCalls      = "token_calls"
	keyFailed     = "failed"
	keyRefresh    = "refresh_ratio"
)

var latencyPhases = []struct{ key, title string }{
	{phaseSteady, "latency"},
	{phaseOutside, "outside refreshes"},
	{phaseInside, "inside refreshes"},
}

const (
	phaseSteady  = "latency"
	phaseOutside = "outside_refresh"
	phaseInside  = "inside_refresh"
)

var percentiles = []struct {
	key   string
	share float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}}

// metrics returns the rows of the report, in its order.
func metrics() []metric {
	all := []metric{
		{keyThroughput, "throughput", "req/s", true},
		{keyCPU, "CPU per request", "µs", true},
	}
	for _, phase := range latencyPhases {
		for _, p := range percentiles {
			headline := phase.key == phaseSteady && (p.key == "p50" || p.key == "p99")
			all = append(all, metric{latencyKey(phase.key, p.key), phase.title + " " + p.key, "µs", headline})
		}
	}
	return append(all,
		metric{keyRefresh, "p99 inside / outside refreshes", "", true},
		metric{keyIdle, "memory, idle", "MiB", true},
		metric{keyLoad, "memory, under load", "MiB", true},
		metric{keyStart, "start to first request", "ms", true},
		metric{keyCalls, "token calls while refreshing", "", false},
		metric{keyFailed, "failed requests", "", true},
	)
}

func latencyKey(phase, percentile string) string { return phase + "_" + percentile }

// addLatencies adds the percentiles of a phase.
func (f figures) addLatencies(phase string, latencies []time.Duration) {
	if len(latencies) == 0 {
		return
	}
	slices.Sort(latencies)
	for _, p := range percentiles {
		f[latencyKey(phase, p.key)] = micros(percentile(latencies, p.share))
	}
}

// addRefreshes adds the latencies inside and outside of refreshes, and the ratio of their p99.
func (f figures) addRefreshes(inside, outside []time.Duration) {
	f.addLatencies(phaseInside, inside)
	f.addLatencies(phaseOutside, outside)
	if len(inside) > 0 && len(outside) > 0 {
		f[keyRefresh] = f[latencyKey(phaseInside, "p99")] / f[latencyKey(phaseOutside, "p99")]
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func mebibytes(n int64) float64      { return float64(n) / (1 << 20) }

// figure formats a number with three significant digits, and never rounds digits before the decimal point.
func figure(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
