package caddymodule

import (
	"maps"
	"sync"

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

// storeTotals counts for all stores that this process has used.
var storeTotals storeTotal

// storeTotal adds what stores have counted.
type storeTotal struct {
	mu    sync.Mutex // guards what follows
	live  map[*share.Guard]bool
	ended share.StoreStats
}

// begin adds a store.
func (t *storeTotal) begin(g *share.Guard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live == nil {
		t.live = make(map[*share.Guard]bool)
	}
	t.live[g] = true
}

// end keeps what a store has counted, when no configuration uses it any more.
func (t *storeTotal) end(g *share.Guard) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, g)
	t.ended = addStats(t.ended, g.Stats())
}

func (t *storeTotal) snapshot() share.StoreStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	total := t.ended
	for g := range t.live {
		total = addStats(total, g.Stats())
	}
	return total
}

// addStats adds counters. It changes neither of its arguments.
func addStats(a, b share.StoreStats) share.StoreStats {
	for i := range a.Calls {
		for j := range a.Calls[i] {
			a.Calls[i][j] += b.Calls[i][j]
		}
		h := &a.Durations[i]
		h.Count += b.Durations[i].Count
		h.Sum += b.Durations[i].Sum
		if h.Buckets = maps.Clone(h.Buckets); h.Buckets == nil {
			h.Buckets = make(map[float64]uint64)
		}
		for bound, n := range b.Durations[i].Buckets {
			h.Buckets[bound] += n
		}
	}
	return a
}

// Interface guard
var _ prometheus.Collector = storeCollector{}
