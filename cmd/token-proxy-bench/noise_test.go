package main

import (
	"runtime"
	"testing"
)

// TestClocks checks that the machine's clock of CPU time includes this process.
func TestClocks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux has these clocks")
	}
	own := ownTime()
	busy, ok := busyTime()
	if !ok || own <= 0 || own > busy {
		t.Errorf("this process and its children used %s of %s (%t)", own, busy, ok)
	}
}
