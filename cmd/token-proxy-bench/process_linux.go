package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notTaken names the figures that cannot be taken on this system.
const notTaken = ""

// childAttributes end a child with this process, even one that is killed, and keep Ctrl-C from it: this process stops
// its children itself.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// cpuTime is what a process has used so far, of all of its threads. Its clock counts nanoseconds; /proc counts
// hundredths of a second.
func cpuTime(pid int) (time.Duration, bool) {
	const perProcessSched = 2 // CPUCLOCK_SCHED in linux/posix-timers.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|perProcessSched), &t); err != nil {
		return 0, false
	}
	return time.Duration(t.Nano()), true
}

// residentMemory is what a process occupies now, in bytes.
func residentMemory(pid int) (int64, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	_, rest, _ := bytes.Cut(status, []byte("\nVmRSS:"))
	kib, _, found := bytes.Cut(rest, []byte(" kB"))
	n, err := strconv.ParseInt(string(bytes.TrimSpace(kib)), 10, 64)
	return n << 10, found && err == nil
}

// sleepUntil sleeps in the kernel: Go's timers are up to a millisecond late on an idle processor.
func sleepUntil(t time.Time) {
	if d := time.Until(t); d > 0 {
		ts := syscall.NsecToTimespec(int64(d))
		_ = syscall.Nanosleep(&ts, nil)
	}
}
