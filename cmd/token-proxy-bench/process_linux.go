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

// notTaken explains which figures are missing on this system.
const notTaken = ""

// childAttributes returns attributes by which a child ends with this process, even if this process is killed. The child
// does not get Ctrl-C from the terminal, because this process stops its children itself.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// cpuTime returns the CPU time that all threads of a process have used so far. It reads the clock of the process, which
// counts nanoseconds, because /proc counts hundredths of a second.
func cpuTime(pid int) (time.Duration, bool) {
	const perProcessSched = 2 // CPUCLOCK_SCHED in linux/posix-timers.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|perProcessSched), &t); err != nil {
		return 0, false
	}
	return time.Duration(t.Nano()), true
}

// residentMemory returns the resident memory of a process, in bytes.
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

// busyTime returns the CPU time that all processes of the machine have used since it started.
func busyTime() (time.Duration, bool) {
	const hertz = 100 // USER_HZ, in which /proc counts
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	var ticks int64
	for i, field := range bytes.Fields(line) {
		if idle, guest := i == 4 || i == 5, i > 8; i == 0 || idle || guest { // guests count as user time, too
			continue
		}
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / hertz, true
}

// ownTime returns the CPU time that this process and its children that have ended have used.
func ownTime() time.Duration {
	var sum time.Duration
	for _, of := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if syscall.Getrusage(of, &usage) == nil {
			sum += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		}
	}
	return sum
}

// sleepUntil sleeps in the kernel, because Go's timers are up to a millisecond late on an idle processor.
func sleepUntil(t time.Time) {
	if d := time.Until(t); d > 0 {
		ts := syscall.NsecToTimespec(int64(d))
		_ = syscall.Nanosleep(&ts, nil)
	}
}
