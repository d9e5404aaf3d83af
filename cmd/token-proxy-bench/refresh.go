package main

import "time"

// refreshWindow is the time before and after a token call in which a request counts as inside of the refresh.
const refreshWindow = 50 * time.Millisecond

// split separates the latencies of requests around a token call from all others. It omits failed requests. Samples and
// calls must be in order of time.
func split(samples []sample, calls []tokenCall) (inside, outside []time.Duration) {
	for _, s := range samples {
		if s.latency == 0 {
			continue
		}
		at := s.intended.UnixNano()
		for len(calls) > 0 && calls[0].Ended+int64(refreshWindow) < at {
			calls = calls[1:]
		}
		if len(calls) > 0 && calls[0].Began-int64(refreshWindow) <= at {
			inside = append(inside, s.latency)
		} else {
			outside = append(outside, s.latency)
		}
	}
	return inside, outside
}
