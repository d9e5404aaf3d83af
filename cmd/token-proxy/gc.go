package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// By default, Go's collector runs whenever the heap has doubled. The heap of a sidecar is a dozen MiB, so the collector
// runs often, and takes a tenth of the CPU time. This binary lets the heap grow to five times the memory in use, with
// at most maxGarbage of garbage. If more than maxGarbage is in use, it permits as much garbage as memory in use, as Go
// does. The binary measures the memory in use after each collection only, so a sudden change has its effect one or two
// collections later. Caddy's own limit, nine tenths of the memory of the container, takes precedence: near the limit, Go
// collects as often as the limit needs.
const (
	defaultPercent = 100 // Go's default of GOGC
	relaxedPercent = 400
	maxGarbage     = 32 << 20
)

// relaxCollector sets the pace of the collector, unless GOGC sets it.
func relaxCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(relaxedPercent)
	afterCollection(relaxedPercent)
}

// afterCollection fits the pace to the memory in use after each collection. percent is the present pace.
func afterCollection(percent int) {
	type sentinel struct{ _ *byte }
	runtime.AddCleanup(new(sentinel), func(percent int) {
		fitting := percentFor(inUse())
		if fitting != percent { // SetGCPercent stops all goroutines for a moment
			debug.SetGCPercent(fitting)
		}
		afterCollection(fitting)
	}, percent)
}

// inUse returns the memory in use, in bytes. It adds what the collector multiplies by GOGC: the live heap, stacks and
// globals.
func inUse() uint64 {
	parts := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(parts)
	var sum uint64
	for _, part := range parts {
		sum += part.Value.Uint64()
	}
	return sum
}

// percentFor returns the GOGC for an amount of memory in use.
func percentFor(inUse uint64) int {
	return int(min(max(maxGarbage*100/max(inUse, 1), defaultPercent), relaxedPercent))
}
