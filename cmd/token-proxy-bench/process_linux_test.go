package main

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestProcessFigures compares the figures of this process with the memory and CPU time that it uses.
func TestProcessFigures(t *testing.T) {
	const busy, held, tolerance = 50 * time.Millisecond, 64 << 20, 8 << 20
	pid := os.Getpid()
	before, ok := residentMemory(pid)
	if !ok {
		t.Fatal("cannot read the resident memory")
	}
	pages, err := unix.Mmap(-1, 0, held, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	after, _ := residentMemory(pid)
	if err := unix.Munmap(pages); err != nil {
		t.Error(err)
	}
	if more := after - before; more < held-tolerance || more > held+tolerance {
		t.Errorf("the resident memory grew by %d bytes, want %d", more, held)
	}
	began, _ := cpuTime(pid)
	for at := time.Now(); time.Since(at) < busy; {
	}
	ended, ok := cpuTime(pid)
	if used := ended - began; !ok || used <= 0 || used > time.Minute {
		t.Errorf("got a CPU time of %s after %s of work", used, busy)
	}
	if _, ok := cpuTime(1 << 22); ok {
		t.Error("got the CPU time of a process that does not exist")
	}
}
