package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

var (
	descShareOperations = prometheus.NewDesc(status.MetricsPrefix+"share_operations_total", "Calls of the store of shared tokens by operation and outcome.", []string{"operation", "outcome"}, nil)
	descShareUp         = prometheus.NewDesc(status.MetricsPrefix+"share_up", "Whether the store of shared tokens works, as far as is known: 1 or 0.", nil, nil)
	descShareDurations  = prometheus.NewDesc(status.MetricsPrefix+"share_operation_seconds", "How long calls of the store of shared tokens took.", []string{"operation"}, nil)
)

// storeCollector collects what the app in force knows of its store. The counters belong to the process, so that they
// continue if a configuration changes the store. Without a store, no series exists.
type storeCollector struct{ app *App }

// Describe implements prometheus.Collector.
func (storeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descShareOperations
	ch <- descShareUp
	ch <- descShareDurations
}

// Collect implements prometheus.Collector.
func (c storeCollector) Collect(ch chan<- prometheus.Metric) {
	if c.app.Share == nil || runningApp() != c.app {
		return
	}
	up := 0.0
	if c.app.Share.store.guard.Stats().Up {
		up = 1
	}
	ch <- prometheus.MustNewConstMetric(descShareUp, prometheus.GaugeValue, up)
	stats := storeTotals.snapshot()
	for i := range stats.Calls {
		operation := share.Operation(i).String()
		for j, n := range stats.Calls[i] {
			ch <- prometheus.MustNewConstMetric(descShareOperations, prometheus.CounterValue, float64(n), operation, share.Outcome(j).String())
		}
		h := stats.Durations[i]
		ch <- prometheus.MustNewConstHistogram(descShareDurations, h.Count, h.Sum, h.Buckets, operation)
	}
}

// Interface guard
var _ prometheus.Collector = storeCollector{}
