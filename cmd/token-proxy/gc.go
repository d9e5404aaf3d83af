package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// By default, Go's collector runs whenever the heap has doubled since it ran last. A sidecar's heap is a dozen MiB, so
// that is often: a tenth of its processor time. Here the heap may grow to five times what is in use, but by maxGarbage at
// most; or by as much as is in use, as Go lets it, if that is more. It is a goal: what is in use is known only after a
// collection. Caddy's own limit, nine tenths of the container's memory, goes before.
const (
	defaultPercent = 100 // Go's, for GOGC
	relaxedPercent = 400
	maxGarbage     = 64 << 20
)

// relaxCollector sets the collector's pace, unless GOGC does.
func relaxCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(relaxedPercent)
	afterCollection(relaxedPercent)
}

// afterCollection waits for the collector to run, fits its pace to what is in use then, and waits again.
func afterCollection(percent int) {
	type sentinel struct{ _ *byte }
	runtime.AddCleanup(new(sentinel), func(percent int) {
		fitting := percentFor(inUse())
		if fitting != percent { // setting it stops the world
			debug.SetGCPercent(fitting)
		}
		afterCollection(fitting)
	}, percent)
}

// inUse is what the collector takes its percentage of.
func inUse() uint64 {
	parts := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(parts)
	var sum uint64
	for _, part := range parts {
		sum += part.Value.Uint64()
	}
	return sum
}

// percentFor returns how much garbage there may be, in percent of what is in use.
func percentFor(inUse uint64) int {
	return int(min(max(maxGarbage*100/max(inUse, 1), defaultPercent), relaxedPercent))
}
