package status

import (
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// newRecords returns a set of records for one test, and a function that returns the names that the set has forgotten.
func newRecords() (s *recordSet, forgotten func() []string) {
	var names []string
	s = newRecordSet(time.Hour, func(name string) { names = append(names, name) })
	return s, func() []string {
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Clone(names)
	}
}

func TestRecordsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, forgotten := newRecords()
		first := s.acquire("a")
		first.begin("identity")
		if s.acquire("a") != first {
			t.Error("two configurations do not share the record")
		}
		s.release(first)
		<-time.After(2 * time.Hour)
		if len(forgotten()) > 0 {
			t.Fatal("forgotten while a configuration names it")
		}
		s.release(first)
		<-time.After(time.Hour - 1)
		if len(forgotten()) > 0 {
			t.Fatal("forgotten before the hour was over")
		}
		<-time.After(2)
		if !slices.Equal(forgotten(), []string{"a"}) || len(s.byName) > 0 {
			t.Errorf("after an hour, the set has forgotten %q and keeps %v", forgotten(), s.byName)
		}
		if !first.forgotten {
			t.Error("the record does not know that it is forgotten")
		}
		if again := s.acquire("a"); again == first {
			t.Error("a forgotten record is back")
		}
	})
}

func TestRecordThatComesBackInTimeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, forgotten := newRecords()
		o := s.acquire("a")
		o.begin("identity")
		for range 5 { // the hour begins anew each time
			s.release(o)
			<-time.After(50 * time.Minute)
			if s.acquire("a") != o {
				t.Fatal("forgotten too early")
			}
		}
		<-time.After(2 * time.Hour)
		if len(forgotten()) > 0 {
			t.Error("forgotten while a configuration names it")
		}
		if o.forgotten {
			t.Error("the record counts as forgotten")
		}
		s.release(o)
		<-time.After(2 * time.Hour)
	})
}

// The hour is over. Before the timer's function locks the set, a configuration comes and goes.
func TestRecordThatComesBackAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, forgotten := newRecords()
		o := s.acquire("a")
		o.begin("identity")
		s.release(o)
		s.mu.Lock()
		timer := o.timer
		s.mu.Unlock()
		s.acquire("a")
		s.release(o)
		timer.Reset(0) // late
		synctest.Wait()
		<-time.After(30 * time.Minute)
		if len(forgotten()) > 0 {
			t.Error("forgotten too early")
		}
		<-time.After(time.Hour)
	})
}

// A client that takes the name of another client does not inherit its history.
func TestHistoryEndsWithItsClient(t *testing.T) {
	r := newRecord("a")
	r.begin("one")
	r.event("", token.Event{Token: token.NewSecret("t")})
	r.event("", token.Event{Err: &token.Error{Kind: token.Refused}})
	r.begin("one") // a reload
	if seen, _ := r.snapshot(); len(seen.recent) != 2 || seen.lastError == nil || seen.lastSuccess.IsZero() {
		t.Errorf("a reload has lost the history: %+v", seen)
	}
	r.begin("other")
	seen, calls := r.snapshot()
	if len(seen.recent) != 0 || seen.lastError != nil || !seen.lastSuccess.IsZero() {
		t.Errorf("another client has inherited the history: %+v", seen)
	}
	if calls[Obtained] != 1 {
		t.Error("a counter has gone back")
	}
}

func TestHistoryIsBounded(t *testing.T) {
	r := newRecord("a")
	for i := range 2 * maxRecent {
		r.event("", token.Event{Token: token.NewSecret("t"), Lifetime: time.Duration(i) * time.Second})
	}
	seen, calls := r.snapshot()
	if len(seen.recent) != maxRecent || seen.recent[0].Lifetime != 50 || seen.recent[maxRecent-1].Lifetime != 99 {
		t.Errorf("%d entries, from %v", len(seen.recent), seen.recent[0].Lifetime)
	}
	if calls[Obtained] != 2*maxRecent {
		t.Errorf("%d calls are counted", calls[Obtained])
	}
	r.event("", token.Event{Rejected: true, Token: token.NewSecret("t")})
	r.occurred(Occurrence{Outcome: Destination})
	again, calls := r.snapshot()
	if r.invalidations.Load() != 1 || calls[Rejected] != 0 || calls[Destination] != 0 || again.lastError != nil {
		t.Errorf("a rejection or a denial counts as a call: %+v, %v", again, calls)
	}
	if seen.recent[maxRecent-1].Outcome != Obtained {
		t.Error("a snapshot changes after it was taken")
	}
}

// The report has the number of each counter in the right place.
func TestReportedCounters(t *testing.T) {
	c := New("counted", nil, zap.NewNop())
	defer c.Release()
	for n, how := range []Served{ServedFresh, ServedStale, ServedWaited, ServedFailed, ServedLeft} {
		for range n + 1 {
			c.Served(how)
		}
	}
	for range 6 {
		c.Unauthorized()
	}
	for range 7 {
		c.Replayed()
	}
	for range 8 {
		c.Denied(DeniedDestination)
	}
	for range 9 {
		c.Denied(DeniedClient)
	}
	for range 10 {
		c.Observe(token.Event{Rejected: true, Token: token.NewSecret("t")})
	}
	for range 11 {
		c.Observe(token.Event{Token: token.NewSecret("t")})
	}
	_, calls := c.record.snapshot()
	got := c.record.counters(calls)
	want := Counters{
		Requests:      map[string]uint64{"fresh": 1, "stale": 2, "waited": 3, "failed": 4},
		Calls:         map[Outcome]uint64{"obtained": 11, "unavailable": 0, "refused": 0, "unreadable": 0},
		Unauthorized:  6,
		Replays:       7,
		Refusals:      map[string]uint64{"destination": 8, "client": 9},
		Invalidations: 10,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
