package token

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// outages are the ways of a token endpoint to be out of order that end by themselves.
func outages() map[string]answer {
	return map[string]answer{
		"unreachable": fails(&Error{Kind: Unavailable, Reason: "connection refused"}),
		"503":         slow(latency, fails(errDown)),
		"429":         fails(errThrottle),
		"login page":  slow(latency, fails(errGarbage)),
		"no route":    slow(latency, fails(errMissing)),
		"hangs":       hangs,
	}
}

// disturbances are those that are over as suddenly as they came: somebody has disabled the client by mistake, or the
// clock of the endpoint was wrong.
func disturbances() map[string]answer {
	all := outages()
	all["refused"] = slow(latency, fails(errRefused))
	return all
}

// TestOutageShorterThanTheToken says that an outage is invisible if it ends before the token does, however little
// before: the endpoint is back, so any other implementation could serve.
func TestOutageShorterThanTheToken(t *testing.T) {
	for name, down := range disturbances() {
		for _, left := range []time.Duration{time.Minute, 10 * time.Second, time.Second} {
			if name == "hangs" && left < DefaultFetchTimeout {
				continue // the last call of the outage hangs until after the token's end
			}
			inBubble(t, fmt.Sprintf("%s, back %v before expiry", name, left), func(t *testing.T) {
				for range 8 {
					e := newEndpoint(grants(hour))
					f := &traffic{e: e, s: e.source(t, Policy{})}
					_, _ = f.once()
					advance(hour - 7*time.Minute)
					e.set(down)
					f.run(7*time.Minute-left, time.Second)
					if n := e.count(); n > 60 {
						t.Errorf("%d calls during the outage", n)
					}
					e.set(slow(latency, grants(hour)))
					f.run(2*time.Minute, time.Second)
					f.check(t)
				}
			})
		}
	}
}

// TestOutageShorterThanAShortToken says the same of tokens whose margin is shorter than the steps of the backoff.
func TestOutageShorterThanAShortToken(t *testing.T) {
	for name, failure := range map[string]error{"down": errDown, "refused": errRefused} {
		for _, lifetime := range []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute} {
			inBubble(t, name+"/"+lifetime.String(), func(t *testing.T) {
				for range 10 {
					e := newEndpoint(grants(lifetime))
					f := &traffic{e: e, s: e.source(t, Policy{})}
					_, _ = f.once()
					e.set(fails(failure))
					f.run(lifetime*99/100, lifetime/100)
					e.set(slow(latency, grants(lifetime)))
					f.run(3*lifetime, lifetime/100)
					f.check(t)
				}
			})
		}
	}
}

// TestOutageLongerThanTheToken says that callers without a token are told at once and told the truth, that the
// endpoint is spared, and that all is well within one step of the backoff after it is back.
func TestOutageLongerThanTheToken(t *testing.T) {
	const outage = time.Hour
	for name, down := range outages() {
		// Full jitter below steps of 1, 2, 4 … 60 s is 30 s on average, in the long run. Otherwise, 10 s.
		longest, least, most := maxColdWait, 180, 370
		if name == "429" {
			longest, least, most = time.Minute, 60, 240
		}
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(grants(time.Minute))
			s := e.source(t, Policy{})
			mustAcquire(t, s)
			s.Rest() // no flights but those of callers
			e.set(down)
			advance(time.Minute)
			before := e.count()

			flights := 0
			for end := time.Now().Add(outage); time.Now().Before(end); <-time.After(time.Second / 2) {
				calls := e.count()
				var err *Error
				waited := took(func() { err = mustFail(t, s) })
				if e.count() == calls {
					if waited != 0 {
						t.Fatalf("a caller waited %v for no call", waited)
					}
				} else {
					flights++
				}
				if !err.RetryAt.After(time.Now()) || time.Until(err.RetryAt) > longest {
					t.Fatalf("told to come back in %v, want up to %v", time.Until(err.RetryAt), longest)
				}
			}
			if flights < least || flights > most {
				t.Errorf("%d flights in an hour, want %d to %d", flights, least, most)
			}
			if n := e.count() - before; n > flights+coldAttempts-1 {
				t.Errorf("%d calls in %d flights, want %d for the first and one for each other", n, flights, coldAttempts)
			}

			// not before the time that callers are told, and then at once, one call for all of them
			err := mustFail(t, s)
			before = e.count()
			e.set(slow(latency, grants(hour)))
			advance(time.Until(err.RetryAt) - 1)
			if got := mustFail(t, s); !got.RetryAt.Equal(err.RetryAt) {
				t.Errorf("a moment before, callers are told %v instead of %v", got.RetryAt, err.RetryAt)
			}
			e.wantCalls(t, before)
			<-time.After(1)
			got := herd(500, func() string {
				l, err := s.Acquire(context.Background())
				return describe(l, err, Lease{})
			})
			if got["waited new"] != 500 {
				t.Errorf("callers got %v, want all waited new", got)
			}
			e.wantCalls(t, before+1)
		})
	}
}

// TestBackoffStartsAgain says that one outage leaves nothing behind for the next.
func TestBackoffStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			e := newEndpoint(fails(errThrottle))
			s := e.source(t, Policy{})
			for range 12 {
				advance(time.Until(mustFail(t, s).RetryAt))
			}
			e.set(grants(time.Second))
			mustAcquire(t, s)
			s.Rest()
			advance(time.Minute)
			e.set(fails(errThrottle))
			if wait := time.Until(mustFail(t, s).RetryAt); wait > time.Second {
				t.Errorf("the first step is %v, want at most 1 s", wait)
			}
		}
	})
}

// TestBackoffSteps says that the steps are full jitter below 1, 2, 4 … 60 s.
func TestBackoffSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sources, steps = 200, 9
		var sum, most [steps]time.Duration
		for range sources {
			e := newEndpoint(fails(errThrottle))
			s := NewSource(e.config(Policy{})) // leaves nothing behind: these calls take no time
			for step := range steps {
				wait := time.Until(mustFail(t, s).RetryAt)
				sum[step] += wait
				most[step] = max(most[step], wait)
				<-time.After(wait)
			}
		}
		for step := range steps {
			limit := min(time.Second<<step, time.Minute)
			if most[step] > limit+1 || most[step] < limit*9/10 {
				t.Errorf("step %d: up to %v, want nearly %v", step, most[step], limit)
			}
			if mean := sum[step] / sources; mean < limit*2/5 || mean > limit*3/5 {
				t.Errorf("step %d: %v on average, want about half of %v", step, mean, limit)
			}
		}
	})
}

// TestRetryAfter says that the endpoint's own wish is honoured within bounds, in the background too.
func TestRetryAfter(t *testing.T) {
	for name, tc := range map[string]struct {
		asked       time.Duration
		least, most time.Duration
	}{
		"none":       {0, 0, time.Second},
		"negative":   {-time.Hour, 0, time.Second},
		"a moment":   {time.Nanosecond, 0, time.Second},
		"a minute":   {time.Minute, time.Minute, time.Minute},
		"too long":   {24 * time.Hour, 5 * time.Minute, 5 * time.Minute},
		"far beyond": {1<<63 - 1, 5 * time.Minute, 5 * time.Minute},
	} {
		for _, state := range []string{"empty", "stale"} {
			inBubble(t, name+"/"+state, func(t *testing.T) {
				failure := &Error{Kind: Unavailable, Status: 429, RetryAfter: tc.asked}
				w := newWorld(t, state, fails(failure))
				_, _ = w.s.Acquire(context.Background())
				synctest.Wait()
				wait := time.Until(w.e.lastEvent().Err.RetryAt)
				if wait < tc.least || wait > tc.most {
					t.Errorf("the next call is due in %v, want %v to %v", wait, tc.least, tc.most)
				}
				if !failure.RetryAt.IsZero() {
					t.Error("the Fetcher's own error has been changed")
				}
				before := w.e.count()
				for range 10 { // nobody makes it sooner
					_, _ = w.s.Acquire(context.Background())
				}
				w.e.wantCalls(t, before)
			})
		}
	}
}

// TestRefused says that a refusal is repeated seldom, is told at once, and ends on its own.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(latency, fails(errRefused)))
		f := &traffic{e: e, s: e.source(t, Policy{})}
		f.run(time.Hour, time.Second/2)
		var gaps []time.Duration
		calls := e.callsSince(0)
		for i := range calls[1:] {
			gaps = append(gaps, calls[i+1].Sub(calls[i]).Round(time.Second))
		}
		if len(gaps) < 12 || gaps[0] != 30*time.Second || gaps[1] != time.Minute || gaps[len(gaps)-1] != 5*time.Minute {
			t.Errorf("calls came after %v, want 30 s doubling to 5 min", gaps)
		}
		if f.waited != len(calls) {
			t.Errorf("%d callers waited, want one for each of %d calls", f.waited, len(calls))
		}
		if f.served > 0 || f.lastFail.Kind != Refused || f.lastFail.Code != "invalid_client" {
			t.Errorf("callers got %v (%d were served), want the refusal", f.lastFail, f.served)
		}
		e.set(grants(hour))
		advance(time.Until(f.lastFail.RetryAt))
		if got := mustAcquire(t, f.s).Served(); got != ServedWaited {
			t.Errorf("after the cooldown: served %q, want waited", got)
		}
	})
}

// TestProofChanges says that a refusal of the old proof of identity does not count for the new one.
func TestProofChanges(t *testing.T) {
	for _, state := range []string{"cooling down", "cooling down, stale", "cooling down, rejected"} {
		inBubble(t, state, func(t *testing.T) {
			w := newWorld(t, state, grants(hour))
			before := w.e.count()
			for range 1000 { // a refusal that is asked about often, as under traffic
				_, _ = w.s.Acquire(context.Background())
			}
			w.e.wantCalls(t, before)
			w.e.rotate("proof 2")
			advance(proofCheckInterval)
			_, _ = w.s.Acquire(context.Background())
			synctest.Wait()
			w.e.wantCalls(t, before+1)
			if got := describe(mustAcquire(t, w.s), nil, w.held); got != "fresh new" {
				t.Errorf("got %s, want fresh new", got)
			}
		})
	}
	inBubble(t, "backing off", func(t *testing.T) {
		w := newWorld(t, "backing off", grants(hour))
		before := w.e.count()
		w.e.rotate("proof 2")
		advance(proofCheckInterval)
		if err := mustFail(t, w.s); err.Kind != Unavailable {
			t.Errorf("got %v, want that the endpoint is unavailable: another secret does not help", err)
		}
		w.e.wantCalls(t, before)
	})
	inBubble(t, "cooling down, a herd", func(t *testing.T) {
		w := newWorld(t, "cooling down", slow(latency, grants(hour)))
		w.e.rotate("proof 2")
		advance(proofCheckInterval)
		_ = herd(500, func() string {
			l, err := w.s.Acquire(context.Background())
			return describe(l, err, Lease{})
		})
		w.e.wantCalls(t, 2)
	})
	inBubble(t, "new proof refused too", func(t *testing.T) {
		w := newWorld(t, "cooling down", fails(errRefused))
		for n := range 3 {
			w.e.rotate(fmt.Sprint("other proof ", n))
			advance(proofCheckInterval)
			if err := mustFail(t, w.s); time.Until(err.RetryAt) != 30*time.Second {
				t.Errorf("the new proof is refused, next call in %v, want the first cooldown", time.Until(err.RetryAt))
			}
			w.e.wantCalls(t, n+2)
		}
		advance(time.Second)
		mustFail(t, w.s)
		w.e.wantCalls(t, 4)
	})
}

// TestProofChangesInFlight says that a secret that is rotated while the old one is refused is tried at once: those who
// wait never see the refusal.
func TestProofChangesInFlight(t *testing.T) {
	rotating := func(last answer) answer {
		return script(func(context.Context, *endpoint) (Issued, error) {
			return Issued{}, errRefused
		}, last)
	}
	inBubble(t, "new one accepted", func(t *testing.T) {
		w := newWorld(t, "empty", nil)
		w.e.set(func(ctx context.Context, e *endpoint) (Issued, error) {
			e.rotate("proof 2")
			e.set(grants(hour))
			return Issued{}, errRefused
		})
		var l Lease
		if waited := took(func() { l = mustAcquire(t, w.s) }); waited != 0 || l.Served() != ServedWaited {
			t.Errorf("served %q after %v, want waited at once", l.Served(), waited)
		}
		w.e.wantCalls(t, 2)
	})
	inBubble(t, "in the background", func(t *testing.T) {
		w := newWorld(t, "stale", nil)
		w.e.set(func(ctx context.Context, e *endpoint) (Issued, error) {
			e.rotate("proof 2")
			e.set(grants(hour))
			return Issued{}, errRefused
		})
		mustAcquire(t, w.s)
		synctest.Wait()
		if got := describe(mustAcquire(t, w.s), nil, w.held); got != "fresh new" {
			t.Errorf("got %s, want fresh new", got)
		}
		w.e.wantCalls(t, 3)
	})
	inBubble(t, "changes with every call", func(t *testing.T) {
		var n int
		w := newWorld(t, "empty", func(_ context.Context, e *endpoint) (Issued, error) {
			n++
			e.rotate(fmt.Sprint("proof ", n+1))
			return Issued{}, errRefused
		})
		if err := mustFail(t, w.s); err.Kind != Refused {
			t.Errorf("got %v, want the refusal", err)
		}
		w.e.wantCalls(t, coldAttempts) // and no loop
	})
	inBubble(t, "did not change", func(t *testing.T) {
		w := newWorld(t, "empty", rotating(grants(hour)))
		if err := mustFail(t, w.s); err.Kind != Refused {
			t.Errorf("got %v, want the refusal", err)
		}
		w.e.wantCalls(t, 1)
	})
}

// TestFailuresAreTold says what observers learn: every call, with the time of the next where there is one, and the
// recovery.
func TestFailuresAreTold(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		events int
		after  time.Duration
	}{
		"recovers in the same flight": {script(fails(errDown), fails(errGarbage), grants(hour)), 3, 0},
		"recovers after the backoff":  {script(fails(errThrottle), grants(hour)), 2, time.Second},
		"recovers after the cooldown": {script(fails(errRefused), grants(hour)), 2, 30 * time.Second},
		"recovers with other proof": {script(func(_ context.Context, e *endpoint) (Issued, error) {
			time.AfterFunc(time.Second, func() { e.rotate("proof 2") })
			return Issued{}, errRefused
		}, grants(hour)), 2, time.Second},
		"recovers with a lifetime of zero": {script(fails(errThrottle), grants(0)), 2, time.Second},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(tc.answer)
			s := e.source(t, Policy{})
			if _, err := s.Acquire(context.Background()); err != nil {
				if told := e.lastEvent().Err; told == nil || told.RetryAt.IsZero() {
					t.Errorf("observers were told %v, want the time of the next call", told)
				}
				advance(tc.after)
				mustAcquire(t, s)
			}
			if n := len(e.told()); n != tc.events || n != e.count() {
				t.Errorf("%d calls were told in %d events, want %d", e.count(), n, tc.events)
			}
			last := e.lastEvent()
			if last.Err != nil || !last.Recovered {
				t.Errorf("the last event is %+v, want the recovery", last)
			}
			advance(hour)
			mustAcquire(t, s)
			if last := e.lastEvent(); last.Err != nil || last.Recovered {
				t.Errorf("the next event is %+v, want a success like any other", last)
			}
		})
	}
}
