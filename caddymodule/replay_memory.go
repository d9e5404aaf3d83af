package caddymodule

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// defaultReplayMemory has room for 2,000 small bodies or 128 bodies of 64 KiB at a time. In the 128 MiB of examples/kubernetes,
// it leaves enough for everything else.
const defaultReplayMemory = 8 << 20

const maxReplayMemory = 1 << 40

// replayMemory bounds the memory of all request bodies that are kept for a replay. All configurations share it, because the
// requests of the earlier configuration continue during a reload.
var replayMemory = newMemoryBudget(defaultReplayMemory)

// memoryBudget bounds memory, in bytes.
type memoryBudget struct {
	limit, used atomic.Int64
	denials     atomic.Uint64 // since the process began
}

func newMemoryBudget(limit int64) *memoryBudget {
	b := new(memoryBudget)
	b.limit.Store(limit)
	return b
}

// take takes n bytes, and reports whether so many were left.
func (b *memoryBudget) take(n int64) bool {
	if b.used.Add(n) <= b.limit.Load() {
		return true
	}
	b.used.Add(-n)
	b.denials.Add(1)
	return false
}

// hasRoom reports whether any bytes are left.
func (b *memoryBudget) hasRoom() bool { return b.used.Load() < b.limit.Load() }

// overdraw takes n bytes in any case.
func (b *memoryBudget) overdraw(n int64) { b.used.Add(n) }

// give gives n bytes back.
func (b *memoryBudget) give(n int64) { b.used.Add(-n) }

// chunkSize is the unit in which bodies are kept. Most bodies fit into one chunk. Bytes take memory when they arrive, not when
// a client announces them.
const chunkSize = 4 << 10

type chunk [chunkSize]byte

// chunks is the pool of chunks, and lists is the pool of their slices, so that a request allocates neither. A chunk still has
// the bytes of an earlier request, because clearing it would cost as much as filling it. Only the bytes from keptBytes.start
// to keptBytes.end are ever read, and write has written all of them.
var (
	chunks = sync.Pool{New: func() any { return new(chunk) }}
	lists  = sync.Pool{New: func() any { return new([]*chunk) }}
)

// keptBytes are the latest bytes of a stream up to now, or none. No reader holds a chunk, because copyFrom copies, so that
// free is possible at any time.
type keptBytes struct {
	start, end int // in the stream
	chunks     []*chunk
	list       *[]*chunk // where chunks goes back to; nil if nothing is kept
}

// tryAppend adds bytes, if replayMemory has room for them.
func (k *keptBytes) tryAppend(p []byte) bool {
	missing := k.missing(len(p))
	if missing > 0 && !replayMemory.take(missing*chunkSize) {
		return false
	}
	k.write(p, missing)
	return true
}

// append adds bytes, even if replayMemory has no room for them.
func (k *keptBytes) append(p []byte) {
	missing := k.missing(len(p))
	replayMemory.overdraw(missing * chunkSize)
	k.write(p, missing)
}

// missing returns how many chunks must be added for n more bytes.
func (k *keptBytes) missing(n int) int64 {
	return int64((k.end-k.start+n+chunkSize-1)/chunkSize - len(k.chunks))
}

func (k *keptBytes) write(p []byte, missing int64) {
	if missing > 0 && k.list == nil {
		k.list = lists.Get().(*[]*chunk)
		k.chunks = *k.list
	}
	for range missing {
		k.chunks = append(k.chunks, chunks.Get().(*chunk))
	}
	for len(p) > 0 {
		n := copy(k.at(k.end), p)
		k.end += n
		p = p[n:]
	}
}

// at returns the rest of the chunk, from the byte at pos on.
func (k *keptBytes) at(pos int) []byte {
	i := pos - k.start
	return k.chunks[i/chunkSize][i%chunkSize:]
}

// copyFrom copies the kept bytes from pos on into p, and returns how many fit.
func (k *keptBytes) copyFrom(pos int, p []byte) int {
	copied := 0
	for copied < len(p) && pos < k.end {
		from := k.at(pos)
		n := copy(p[copied:], from[:min(len(from), k.end-pos)])
		copied += n
		pos += n
	}
	return copied
}

// skip passes over bytes of the stream that are not kept. All bytes before them must have been freed.
func (k *keptBytes) skip(p []byte) {
	k.end += len(p)
	k.start = k.end
}

// free frees the kept bytes and gives their memory back.
func (k *keptBytes) free() {
	k.start = k.end
	if k.list == nil {
		return
	}
	for _, c := range k.chunks {
		chunks.Put(c)
	}
	replayMemory.give(int64(len(k.chunks)) * chunkSize)
	clear(k.chunks)
	*k.list = k.chunks[:0]
	lists.Put(k.list)
	k.chunks, k.list = nil, nil
}

var (
	descReplayMemory = prometheus.NewDesc(status.MetricsPrefix+"replay_memory_bytes", "Memory, in bytes, of the request bodies that are kept for a replay.", nil, nil)
	descUnkept       = prometheus.NewDesc(status.MetricsPrefix+"replay_memory_denials_total", "Request bodies that were not kept because replay_memory was used up.", nil, nil)
)

// Describe implements prometheus.Collector.
func (b *memoryBudget) Describe(ch chan<- *prometheus.Desc) {
	ch <- descReplayMemory
	ch <- descUnkept
}

// Collect implements prometheus.Collector.
func (b *memoryBudget) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(descReplayMemory, prometheus.GaugeValue, float64(b.used.Load()))
	ch <- prometheus.MustNewConstMetric(descUnkept, prometheus.CounterValue, float64(b.denials.Load()))
}
