package main

import (
	"runtime"
	"time"
)

// watchOthers measures how much of the processors processes use that do not belong to the run. The function that it returns
// ends that, and returns the share in per cent, or 0 if it is not known. The services must run until then, and all other
// children must have ended.
func watchOthers(services *child) func() float64 {
	took := func() (others time.Duration, ok bool) {
		busy, ok := busyTime()
		own, _ := cpuTime(services.pid())
		return busy - ownTime() - own, ok
	}
	began := time.Now()
	before, _ := took()
	return func() float64 {
		after, ok := took()
		if !ok {
			return 0
		}
		all := time.Since(began) * time.Duration(runtime.NumCPU())
		return max(0, 100*float64(after-before)/float64(all))
	}
}
