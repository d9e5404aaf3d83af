package caddymodule

import (
	"maps"
	"sync"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

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
