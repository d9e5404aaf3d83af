package status

import (
	"sync"
	"time"
)

// forgetAfter is how long a record is kept after the last configuration that names its credential. An hour spans a mistaken
// reload and its correction, and many scrapes, so that the last failures of a removed credential are not lost. It also
// bounds the memory for names that come and go with each deployment.
const forgetAfter = time.Hour

// records are the records of this process.
var records = newRecordSet(forgetAfter, forgetDurations)

// recordSet holds records by name.
type recordSet struct {
	forget func(name string) // deletes what is kept under the name elsewhere

	mu     sync.Mutex // guards what follows
	after  time.Duration
	byName map[string]*record
}

func newRecordSet(after time.Duration, forget func(name string)) *recordSet {
	return &recordSet{forget: forget, after: after, byName: make(map[string]*record)}
}

// acquire returns the record with this name, and makes it if necessary. Each call must be matched by one call of release.
func (s *recordSet) acquire(name string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.byName[name]
	if !ok {
		r = newRecord(name)
		s.byName[name] = r
	}
	r.users++
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	return r
}

// release ends one use of a record. After the last use it keeps the record for a while, unless no configuration that used it
// was ever in force, because such a record is empty.
func (s *recordSet) release(r *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.users--
	if r.users > 0 {
		return
	}
	if !r.begun() {
		s.drop(r)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(s.after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.timer == timer { // otherwise, acquire was called at the last moment
			s.drop(r)
		}
	})
	r.timer = timer
}

// drop forgets a record. A request or a token call that ends later adds no series again.
func (s *recordSet) drop(r *record) {
	delete(s.byName, r.name)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgotten = true
	s.forget(r.name)
}

// all returns the records of credentials that are or were in force.
func (s *recordSet) all() []*record {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*record, 0, len(s.byName))
	for _, r := range s.byName {
		if r.begun() {
			all = append(all, r)
		}
	}
	return all
}
