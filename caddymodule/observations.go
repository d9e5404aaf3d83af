package caddymodule

import (
	"sync"
	"time"
)

// forgetAfter is how long the metrics and the history of a credential are kept once no configuration names it. It spans
// a mistaken reload and its correction, and many scrapes: the last failures of what was removed are not lost. For names
// that come and go with each deployment it bounds what is kept.
const forgetAfter = time.Hour

// observations holds what has been seen of each credential.
var observations = newObservationSet(forgetAfter, metrics.forget)

// observationSet holds the observation of each credential by name, for as long as a configuration names it and a while
// longer.
type observationSet struct {
	forget func(name string) // what else is kept under the name

	mu     sync.Mutex // guards what follows
	after  time.Duration
	byName map[string]*observation
}

func newObservationSet(after time.Duration, forget func(name string)) *observationSet {
	return &observationSet{forget: forget, after: after, byName: make(map[string]*observation)}
}

// acquire returns the observation of that name. Each call must be matched by one of release.
func (s *observationSet) acquire(name string) *observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.byName[name]
	if !ok {
		o = &observation{name: name, calls: make(map[outcome]uint64)}
		s.byName[name] = o
	}
	o.users++
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	return o
}

// release lets go of an observation. After the last one it is kept for a while, unless none of the configurations was
// ever in force: then there is nothing to keep.
func (s *observationSet) release(o *observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.users--
	if o.users > 0 {
		return
	}
	if !o.begun() {
		s.drop(o)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(s.after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if o.timer == timer { // else it was acquired at the last moment
			s.drop(o)
		}
	})
	o.timer = timer
}

// drop forgets an observation. Nothing is added to the metrics meanwhile, nor afterwards.
func (s *observationSet) drop(o *observation) {
	delete(s.byName, o.name)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgotten = true
	s.forget(o.name)
}

// begun reports whether a configuration that names the credential has been in force.
func (o *observation) begun() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.identity != ""
}
