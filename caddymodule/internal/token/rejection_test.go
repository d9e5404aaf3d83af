package token

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// api is what answers 401. It tells apart what a proxied request does: it takes a lease, and replays once with another
// token if there is one.
type api struct {
	e       *endpoint
	s       *Source
	doubt   Doubt
	refuses func(Secret) bool

	requests, unauthorized, replays int
}

// request sends one request and reports whether it was authorized in the end.
func (a *api) request(t testing.TB) bool {
	t.Helper()
	a.requests++
	l := mustAcquire(t, a.s)
	if !a.refuses(l.Value()) {
		return true
	}
	other, ok := l.Reject(context.Background(), a.doubt)
	if ok {
		a.replays++
		if other.Value().Equal(l.Value()) {
			t.Error("a request was repeated with the token that was rejected")
		}
		if !a.refuses(other.Value()) {
			return true
		}
	}
	a.unauthorized++
	return false
}

// run sends a request every interval.
func (a *api) run(t testing.TB, d, interval time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); <-time.After(interval) {
		a.request(t)
	}
	synctest.Wait()
}

func always401(Secret) bool { return true }

// revoked refuses the tokens that the endpoint has issued so far.
func (a *api) revoke() {
	n, _ := a.e.tokens()
	a.refuses = func(token Secret) bool {
		for i := range n {
			if token.Reveal() == fmt.Sprintf("token-%d", i+1) {
				return true
			}
		}
		return false
	}
}

// accept refuses nothing any more.
func (a *api) accept() { a.refuses = func(Secret) bool { return false } }

var doubts = map[string]Doubt{"certain": Certain, "doubtful": Doubtful}

// TestStorm says that an API that rejects every token costs a handful of calls, whatever the traffic.
func TestStorm(t *testing.T) {
	for doubtName, doubt := range doubts {
		for name, a := range map[string]answer{
			"new tokens":   slow(latency, grants(hour)),
			"same token":   slow(latency, repeats(hour)),
			"reuse":        slow(latency, reuse(hour)),
			"then refuses": script(grants(25*hour), fails(errRefused)),
		} {
			inBubble(t, doubtName+"/"+name, func(t *testing.T) {
				e := newEndpoint(a)
				api := &api{e: e, s: e.source(t, Policy{}), doubt: doubt, refuses: always401}
				api.run(t, time.Minute, 2*time.Millisecond)
				if n := e.count(); n > 12 {
					t.Errorf("%d calls in a minute of %d requests, want a handful", n, api.requests)
				}
				before := e.count()
				api.run(t, time.Hour, time.Second)
				limit := 120 // one each 30 s
				if doubt == Doubtful {
					limit = 12 // one each 5 min
				}
				if n := e.count() - before; n > limit+8 {
					t.Errorf("%d calls in the hour that follows, want at most %d and the token's own renewal", n, limit)
				}
			})
		}
	}
}

// TestStormDoesNotSlowDown says that of the many who are rejected only those wait who share in a call.
func TestStormDoesNotSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(hour)))
		api := &api{e: e, s: e.source(t, Policy{}), refuses: always401}
		mustAcquire(t, api.s)
		var slowest time.Duration
		waited := 0
		for range 5000 {
			d := took(func() { api.request(t) })
			slowest = max(slowest, d)
			if d > 0 {
				waited++
			}
			<-time.After(2 * time.Millisecond)
		}
		if n := e.count(); waited > n || slowest > latency {
			t.Errorf("%d requests waited, up to %v, for %d calls", waited, slowest, n)
		}
	})
}

// TestStormOfManyAtOnce says the same of requests that are in flight at the same time.
func TestStormOfManyAtOnce(t *testing.T) {
	for doubtName, doubt := range doubts {
		inBubble(t, doubtName, func(t *testing.T) {
			e := newEndpoint(slow(latency, grants(hour)))
			s := e.source(t, Policy{})
			mustAcquire(t, s)
			for range 60 {
				herd(500, func() string {
					l, err := s.Acquire(context.Background())
					if err != nil {
						return err.Error()
					}
					if other, ok := l.Reject(context.Background(), doubt); ok {
						other.Discard(doubt) // the replay was rejected too
					}
					return ""
				})
				advance(time.Second)
			}
			if n := e.count(); n > 12 {
				t.Errorf("%d calls in a minute of 500 requests a second, want a handful", n)
			}
		})
	}
}

// TestRevocation says that a token which is really revoked is replaced at once: before any storm, between two, and
// after one.
func TestRevocation(t *testing.T) {
	for doubtName, doubt := range doubts {
		for name, tc := range map[string]struct {
			storm time.Duration
			quiet time.Duration
		}{
			"before any storm":         {0, 0},
			"long after a storm":       {time.Minute, 11 * time.Minute},
			"long after a long storm":  {2 * time.Hour, 11 * time.Minute},
			"a while after a storm":    {time.Minute, 5 * time.Minute},
			"a while after a long one": {2 * time.Hour, 5 * time.Minute},
		} {
			inBubble(t, doubtName+"/"+name, func(t *testing.T) {
				e := newEndpoint(slow(latency, grants(hour)))
				api := &api{e: e, s: e.source(t, prefetch), doubt: doubt, refuses: always401}
				api.run(t, tc.storm, time.Second)
				api.accept()
				api.request(t)
				advance(tc.quiet)
				api.revoke()
				before := e.count()
				if !api.request(t) {
					t.Error("the request was not served, though another token could be had")
				}
				e.wantCalls(t, before+1)
				for range 100 {
					if !api.request(t) {
						t.Fatal("a later request was not served")
					}
				}
				e.wantCalls(t, before+1)
			})
		}
	}
}

// TestRevocationEachHour says that revocations that are no storm are each replaced at once: here the API's operator
// does it once an hour.
func TestRevocationEachHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(90000*time.Second)))
		api := &api{e: e, s: e.source(t, Policy{}), doubt: Doubtful}
		api.accept()
		for range 24 {
			api.run(t, time.Hour, time.Minute)
			api.revoke()
		}
		api.request(t)
		if api.unauthorized > 0 {
			t.Errorf("%d of %d requests were unauthorized in the end", api.unauthorized, api.requests)
		}
		e.wantCalls(t, 25)
	})
}

// TestCertainAfterADoubtfulStorm says that rejections that may be about permissions do not keep a token alive that the
// API names as invalid.
func TestCertainAfterADoubtfulStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(hour)))
		api := &api{e: e, s: e.source(t, Policy{}), doubt: Doubtful, refuses: always401}
		api.run(t, 3*time.Hour, time.Second)
		api.revoke()
		api.doubt = Certain
		for start := time.Now(); !api.request(t); <-time.After(time.Second) {
			if time.Since(start) > maxCertainInterval {
				t.Fatal("a revoked token has not been replaced within the interval of certain rejections")
			}
		}
	})
}

// TestRejectionOfAnOldGeneration says that requests which come back late with the 401 of a token that is gone cost
// nothing: no call, and none of what later rejections may cost.
func TestRejectionOfAnOldGeneration(t *testing.T) {
	for doubtName, doubt := range doubts {
		inBubble(t, doubtName, func(t *testing.T) {
			w := newWorld(t, "replaced", slow(latency, grants(hour)))
			advance(time.Minute)
			before := w.e.count()
			current := mustAcquire(t, w.s)
			got := herd(500, func() string {
				l, ok := w.held.Reject(context.Background(), doubt)
				w.held.Discard(doubt)
				return fmt.Sprint(ok, " ", l.Value().Reveal())
			})
			if want := "true " + current.Value().Reveal(); got[want] != 500 {
				t.Errorf("callers got %v, want all 500 %q", got, want)
			}
			w.e.wantCalls(t, before)
			if _, ok := current.Reject(context.Background(), doubt); !ok {
				t.Error("the current token's rejection was not taken")
			}
			w.e.wantCalls(t, before+1)
		})
	}
}

// TestRejectedTokenIsServedWhenThereIsNoOther says that a rejection does not take the only token away: it may have been
// about one resource, and others still work with it.
func TestRejectedTokenIsServedWhenThereIsNoOther(t *testing.T) {
	for name, down := range outages() {
		inBubble(t, name, func(t *testing.T) {
			w := newWorld(t, "fresh", down)
			if l, ok := w.held.Reject(context.Background(), Certain); ok {
				t.Errorf("replaced by %s, though the endpoint fails", describe(l, nil, w.held))
			}
			f := &traffic{e: w.e, s: w.s}
			f.run(30*time.Minute, time.Second)
			f.check(t)
			w.e.set(grants(hour))
			advance(time.Minute)
			if got := describe(mustAcquire(t, w.s), nil, w.held); got != "waited new" {
				t.Errorf("when the endpoint is back: got %s, want waited new", got)
			}
		})
	}
}

// TestRejectedTokenEnds says that a rejected token is still not served beyond its expiry.
func TestRejectedTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "rejected", fails(errLater))
		advance(hour - 1)
		if got := describe(mustAcquire(t, w.s), nil, w.held); got != "stale old" {
			t.Errorf("a moment before its end: got %s, want stale old", got)
		}
		advance(1)
		mustFail(t, w.s)
	})
}

// TestSameTokenAfterRejection says that a server that answers a rejection with the same token is not asked again at
// once, and that the request is not repeated.
func TestSameTokenAfterRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "fresh", repeats(hour))
		for range 100 {
			if _, ok := w.held.Reject(context.Background(), Certain); ok {
				t.Fatal("the rejected token was given again as another")
			}
		}
		w.e.wantCalls(t, 2)
		if !w.e.lastEvent().Unchanged {
			t.Error("observers do not learn that it is the same token")
		}
		if got := describe(mustAcquire(t, w.s), nil, w.held); got != "fresh old" {
			t.Errorf("got %s, want fresh old", got)
		}
	})
}

// TestInvalidations says how often rejections may cost a call: at first soon, then ever more seldom.
func TestInvalidations(t *testing.T) {
	start := time.Now()
	for name, tc := range map[string]struct {
		doubt Doubt
		at    []time.Duration // allowed then, and not a nanosecond before
	}{
		"certain":  {Certain, seconds(0, 1, 3, 7, 15, 31, 61, 91, 121)},
		"doubtful": {Doubtful, seconds(0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1111)},
	} {
		t.Run(name, func(t *testing.T) {
			var i invalidations
			for n, at := range tc.at {
				if n > 0 && i.allow(start.Add(at-1), tc.doubt, worthless) {
					t.Errorf("allowed before %v", at)
				}
				if !i.allow(start.Add(at), tc.doubt, worthless) {
					t.Errorf("not allowed at %v", at)
				}
			}
			// ten minutes without any, and all is forgotten
			later := start.Add(tc.at[len(tc.at)-1] + 10*time.Minute)
			for _, at := range seconds(0, 1, 3, 7) {
				if at > 0 && i.allow(later.Add(at-1), tc.doubt, worthless) {
					t.Errorf("allowed before %v, in the second storm", at)
				}
				if !i.allow(later.Add(at), tc.doubt, worthless) {
					t.Errorf("not allowed at %v, in the second storm", at)
				}
			}
		})
	}
}

func seconds(n ...int) []time.Duration {
	d := make([]time.Duration, len(n))
	for i := range n {
		d[i] = time.Duration(n[i]) * time.Second
	}
	return d
}

// TestMustWait asks before Another is called whether that will wait.
func TestMustWait(t *testing.T) {
	for name, tc := range map[string]struct {
		happens func(s *Source, e *endpoint) // while a request has its token
		waits   bool
	}{
		"nothing else":          {func(*Source, *endpoint) {}, true},
		"the token is replaced": {func(s *Source, _ *endpoint) { _ = s.Refresh(context.Background()) }, false},
		"the token endpoint fails": {func(s *Source, e *endpoint) {
			e.set(fails(errRefused))
			mustAcquire(t, s).Reject(context.Background(), Certain)
		}, false},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(slow(time.Second, grants(hour)))
			s := e.source(t, Policy{})
			l := mustAcquire(t, s)
			tc.happens(s, e)
			wantMustWait(t, l, tc.waits)
		})
	}
	inBubble(t, "an operator's call, for a token that only some paths reject", func(t *testing.T) {
		e := newEndpoint(grants(hour))
		s := e.source(t, Policy{})
		mustAcquire(t, s).Reject(context.Background(), Certain)
		for range 2 { // too early for a call
			l := mustAcquire(t, s)
			l.Accepted()
			l.Rejected(Certain)
		}
		l := mustAcquire(t, s)
		l.Accepted()
		e.set(slow(time.Second, grants(hour)))
		go func() { _ = s.Refresh(context.Background()) }()
		synctest.Wait()
		wantMustWait(t, l, true)
	})
}

// wantMustWait rejects the token, and compares what MustWait says with what Another does.
func wantMustWait(t *testing.T, l Lease, want bool) {
	t.Helper()
	if !l.Rejected(Certain) {
		t.Fatal("no other token may be had")
	}
	if got := l.MustWait(); got != want {
		t.Errorf("must wait: %t, want %t", got, want)
	}
	if waited := took(func() { l.Another(context.Background()) }); (waited > 0) != want {
		t.Errorf("waited %v", waited)
	}
}
