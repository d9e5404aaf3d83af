package main

import (
	"os"
	"testing"
	"time"
)

// What is measured of a process is what it used.
func TestProcessFigures(t *testing.T) {
	const busy, held = 50 * time.Millisecond, 64 << 20
	cpu, ok := cpuTime(os.Getpid())
	memory, okMemory := residentMemory(os.Getpid())
	if !ok || !okMemory {
		t.Fatal("they cannot be taken")
	}
	much := make([]byte, held)
	for i := range much {
		much[i] = byte(i)
	}
	for used := time.Duration(0); used < busy; {
		now, _ := cpuTime(os.Getpid())
		used = now - cpu
	}
	if after, _ := residentMemory(os.Getpid()); after-memory < held*9/10 || after-memory > held*3 {
		t.Errorf("%d bytes more, for %d", after-memory, held)
	}
	if much[held-1] == 0 {
		t.Error("it is not held")
	}
	if idle, _ := cpuTime(1 << 22); idle != 0 {
		t.Errorf("a process that is not there has used %s", idle)
	}
}
