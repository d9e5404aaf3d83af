package token

import "time"

// proofPatience bounds how long a request waits to learn whether the proof has changed.
const proofPatience = 100 * time.Millisecond

// backingOff returns the failure that forbids a call now, or nil. A changed proof ends the failure.
func (s *Source) backingOff(now time.Time) *failure {
	f := s.failure.Load()
	if f == nil || !now.Before(f.until) {
		return nil
	}
	if f.err.Kind == Refused && s.proofChanged(f, now) {
		return nil
	}
	return f
}

// proofChanged compares the proof with the one that the token endpoint refused, but not at every request. A request
// waits for the comparison only briefly. If the Fetcher blocks, the result counts when it arrives.
func (s *Source) proofChanged(f *failure, now time.Time) bool {
	since, next := now.Sub(s.made), s.nextProofCheck.Load()
	if since < time.Duration(next) || !s.nextProofCheck.CompareAndSwap(next, int64(since+proofCheckInterval)) {
		return false
	}
	if !s.proving.CompareAndSwap(false, true) { // one is enough
		return false
	}
	changed := make(chan bool, 1)
	go func() { changed <- s.compareProof(f) }()
	patience := time.NewTimer(proofPatience)
	defer patience.Stop()
	select {
	case yes := <-changed:
		return yes
	case <-patience.C:
		return false
	}
}

// compareProof ends the failure if the proof has changed since.
func (s *Source) compareProof(f *failure) (changed bool) {
	defer s.proving.Store(false)
	defer func() {
		if recover() != nil {
			changed = false
		}
	}()
	if s.config.Load().Fetcher.Prepare().Proof.digest() == f.proof {
		return false
	}
	s.failure.CompareAndSwap(f, nil)
	return true
}
