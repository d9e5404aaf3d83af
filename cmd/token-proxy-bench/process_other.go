//go:build !linux

package main

import (
	"syscall"
	"time"
)

// notTaken names the figures that cannot be taken on this system.
const notTaken = "CPU and memory are read from Linux only: those rows are missing."

func childAttributes() *syscall.SysProcAttr { return nil }

func cpuTime(int) (time.Duration, bool) { return 0, false }

func residentMemory(int) (int64, bool) { return 0, false }

func sleepUntil(t time.Time) { time.Sleep(time.Until(t)) }
