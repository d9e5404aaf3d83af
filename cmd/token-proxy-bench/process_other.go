//go:build !linux

package main

import (
	"syscall"
	"time"
)

// notTaken explains which figures are missing on this system.
const notTaken = "The rows of CPU and memory are missing, because they can be measured on Linux only."

func childAttributes() *syscall.SysProcAttr { return nil }

func cpuTime(int) (time.Duration, bool) { return 0, false }

func residentMemory(int) (int64, bool) { return 0, false }

func sleepUntil(t time.Time) { time.Sleep(time.Until(t)) }

func busyTime() (time.Duration, bool) { return 0, false }

func ownTime() time.Duration { return 0 }
