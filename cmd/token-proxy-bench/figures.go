package main

import (
	"fmt"
	"slices"
	"time"
)

// figures are the values of one contender in one round, by the key of the metric. A metric that was not measured is
// missing.
type figures map[string]float64

// metric is a row of the report. The first plot and the first short table contain the headline metrics only, and the
// others those of the workloads.
type metric struct {
	Key      string `json:"key"`
	Title    string `json:"title"`
	Unit     string `json:"unit"`
	Headline bool   `json:"headline,omitempty"`
	Theme    string `json:"theme,omitempty"` // the metric of a workload, whose title is that of the metric
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
	keyClosedP99  = "closed_p99" // at full load; no row of its own
	keyLateFirst  = "late_first"
	keyPrefetched = "late_first_prefetch"

	keySharedCold    = "start_redis_empty"
	keySharedWarm    = "start_redis"
	keySharedRefresh = "refresh_ratio_redis"
)

// The metrics of each workload. Each is the theme of a plot.
const (
	metricCPU        = "cpu"
	metricMemory     = "memory"
	metricThroughput = "throughput"
	metricP99        = "p99"
)

var themes = []struct{ metric, title, unit string }{
	{metricCPU, "CPU per request", "µs"},
	{metricMemory, "memory", "MiB"},
	{metricP99, "latency p99 at full load", "µs"},
	{metricThroughput, "throughput", "req/s"},
}

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
		{Key: keyThroughput, Title: "throughput", Unit: "req/s", Headline: true},
		{Key: keyCPU, Title: "CPU per request", Unit: "µs", Headline: true},
	}
	for _, phase := range latencyPhases {
		for _, p := range percentiles {
			headline := phase.key == phaseSteady && (p.key == "p50" || p.key == "p99")
			all = append(all, metric{Key: latencyKey(phase.key, p.key), Title: phase.title + " " + p.key, Unit: "µs", Headline: headline})
		}
	}
	all = append(all,
		metric{Key: keyRefresh, Title: "p99 inside / outside refreshes", Headline: true},
		metric{Key: keySharedRefresh, Title: "the same with Redis", Headline: true},
		metric{Key: keyIdle, Title: "memory, idle", Unit: "MiB", Headline: true},
		metric{Key: keyLoad, Title: "memory, under load", Unit: "MiB", Headline: true},
		metric{Key: keyStart, Title: "start to first request", Unit: "ms", Headline: true},
		metric{Key: keySharedCold, Title: "the same, no token in Redis", Unit: "ms", Headline: true},
		metric{Key: keySharedWarm, Title: "the same, a token in Redis", Unit: "ms", Headline: true},
		metric{Key: keyLateFirst, Title: "first request, 50 ms after a start", Unit: "ms", Headline: true},
		metric{Key: keyPrefetched, Title: "the same with prefetch", Unit: "ms", Headline: true},
		metric{Key: keyCalls, Title: "token calls while refreshing"},
		metric{Key: keyFailed, Title: "failed requests", Headline: true},
	)
	for _, t := range themes {
		for _, w := range workloads {
			all = append(all, metric{Key: w.key(t.metric), Title: w.title, Unit: t.unit, Theme: t.metric})
		}
	}
	return all
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
