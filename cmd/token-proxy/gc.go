package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// By default, Go's collector runs whenever the heap has doubled since it ran last. A sidecar's heap is a dozen MiB, so
// that is often: a tenth of its processor time. Here the heap may grow to five times what is in use, but by maxGarbage at
// most; above that, by as much as Go lets it. Caddy's own limit, nine tenths of the container's memory, goes before.
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
		inUse := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(inUse)
		fitting := percentFor(inUse[0].Value.Uint64())
		if fitting != percent { // setting it stops the world
			debug.SetGCPercent(fitting)
		}
		afterCollection(fitting)
	}, percent)
}

// percentFor returns how much garbage there may be, in percent of what is in use.
func percentFor(inUse uint64) int {
	return int(min(max(maxGarbage*100/max(inUse, 1), defaultPercent), relaxedPercent))
}
