package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestPercentFor(t *testing.T) {
	const mib = 1 << 20
	for inUse, want := range map[uint64]int{0: 400, 1: 400, 10 * mib: 400, 16 * mib: 400, 32 * mib: 200, 64 * mib: 100, 1 << 40: 100, 1 << 63: 100} {
		if got := percentFor(inUse); got != want {
			t.Errorf("%d bytes in use: %d %%, want %d %%", inUse, got, want)
		}
	}
}

// The collector's pace follows what is in use, up and down.
func TestCollectorFitsItsPace(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(100)
	relaxCollector()
	wantPercent(t, relaxedPercent)
	much := make([]byte, 2*maxGarbage)
	wantPercent(t, defaultPercent)
	runtime.KeepAlive(much)
	wantPercent(t, relaxedPercent)
}

func TestCollectorFollowsGOGC(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(70))
	t.Setenv("GOGC", "70")
	relaxCollector()
	wantPercent(t, 70)
}

// wantPercent lets the collector run until it goes at the pace.
func wantPercent(t *testing.T, want int) {
	t.Helper()
	got := 0
	for range 1000 {
		runtime.GC()
		if got = gcPercent(); got == want {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("the collector lets the heap grow by %d %%, want %d %%", got, want)
}

func gcPercent() int {
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(percent)
	return int(percent[0].Value.Uint64())
}
