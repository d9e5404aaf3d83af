package main

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is measured of a process is what it used.
func TestProcessFigures(t *testing.T) {
	const busy, held, tolerance = 50 * time.Millisecond, 64 << 20, 8 << 20
	pid := os.Getpid()
	before, ok := residentMemory(pid)
	if !ok {
		t.Fatal("its memory cannot be taken")
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
		t.Errorf("%d bytes more, for %d", more, held)
	}
	began, _ := cpuTime(pid)
	for at := time.Now(); time.Since(at) < busy; {
	}
	ended, ok := cpuTime(pid)
	if used := ended - began; !ok || used <= 0 || used > time.Minute {
		t.Errorf("it has used %s in %s", used, busy)
	}
	if _, ok := cpuTime(1 << 22); ok {
		t.Error("a process that is not there has used something")
	}
}
