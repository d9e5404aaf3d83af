package token

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// askers are what waits for a token while none serves.
func askers() map[string]struct {
	ask   func(*Source)
	every time.Duration
} {
	type asker = struct {
		ask   func(*Source)
		every time.Duration
	}
	probe := func(s *Source) { s.Ready() }
	request := func(s *Source) { _, _ = s.Acquire(context.Background()) }
	return map[string]asker{
		"startup probe":   {probe, time.Second},
		"readiness probe": {probe, 5 * time.Second},
		"rare probe":      {probe, 10 * time.Second},
		"requests":        {request, time.Second / 2},
	}
}

// TestRecovery says that the first token comes within 10 s of the end of an outage, and what the outage costs the token
// endpoint: seven calls in the first seconds, and then one every 10 s.
//
// With pauses of up to 60 s and three calls in each round, outages of 1 min, 10 min and 1 h cost 22, 76 and 368 calls on
// average, and lasted up to a minute longer.
func TestRecovery(t *testing.T) {
	earlier := map[time.Duration]int{time.Minute: 22, 10 * time.Minute: 76, time.Hour: 368}
	for name, down := range outages() {
		if name == "429" || name == "hangs" {
			continue // see TestThrottledSourceWaits, TestRecoveryOfAnEndpointThatHangs
		}
		for who, a := range askers() {
			for outage, most := range earlier {
				inBubble(t, fmt.Sprint(name, "/", who, "/", outage), func(t *testing.T) {
					for range 5 {
						e := newEndpoint(down)
						s := e.source(t, Policy{})
						stop := asking(s, a.ask, a.every)
						advance(outage)
						if n := e.count(); n > most || n < int(outage/maxColdWait)*9/10 {
							t.Errorf("%d calls, want one every %v and at most %d", n, maxColdWait, most)
						}
						e.set(slow(latency, grants(hour)))
						if late := untilToken(s, time.Minute); late > maxColdWait+2*latency {
							t.Errorf("the first token came %v after the end of the outage", late)
						}
						stop()
					}
				})
			}
		}
	}
}

// asking asks for a token until stop is called, without waiting for answers.
func asking(s *Source, ask func(*Source), every time.Duration) (stop func()) {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		for ctx.Err() == nil {
			go ask(s)
			sleep(ctx, every)
		}
	}()
	return stop
}

// untilToken returns how long it takes, within limit, until the source has a valid token.
func untilToken(s *Source, limit time.Duration) time.Duration {
	return took(func() {
		for end := time.Now().Add(limit); time.Now().Before(end) && !s.current.Load().alive(time.Now()); {
			advance(latency)
		}
	})
}

// TestRecoveryOfAnEndpointThatHangs says that a call that was made before the end of an outage delays the first token by
// fetch_timeout at most.
func TestRecoveryOfAnEndpointThatHangs(t *testing.T) {
	for who, a := range askers() {
		inBubble(t, who, func(t *testing.T) {
			for range 10 {
				e := newEndpoint(hangs)
				s := e.source(t, Policy{})
				stop := asking(s, a.ask, a.every)
				advance(10*time.Minute + jitter(time.Minute))
				if n := e.count(); n > 12*60/20+5 {
					t.Errorf("%d calls, want one every 20 s", n)
				}
				e.set(slow(latency, grants(hour)))
				if late := untilToken(s, time.Minute); late > DefaultFetchTimeout+maxColdWait+2*latency {
					t.Errorf("the first token came %v after the end of the outage", late)
				}
				stop()
			}
		})
	}
}

// TestRecoveryAfterExpiry says the same of an outage that begins while a token serves, and of a token that the API has
// rejected.
func TestRecoveryAfterExpiry(t *testing.T) {
	for _, state := range []string{"expired", "rejected"} {
		inBubble(t, state, func(t *testing.T) {
			for range 10 {
				e := newEndpoint(grants(hour))
				s := e.source(t, Policy{})
				l := mustAcquire(t, s)
				e.set(slow(latency, fails(errDown)))
				if state == "rejected" {
					l.Discard(Certain)
				} else {
					advance(hour)
				}
				before := e.count()
				stop := asking(s, func(s *Source) { _, _ = s.Acquire(context.Background()) }, time.Second)
				advance(10 * time.Minute)
				if n := e.count() - before; n > 70 {
					t.Errorf("%d calls in 10 min, want one every %v", n, maxColdWait)
				}
				made, _ := e.tokens()
				e.set(slow(latency, grants(hour)))
				advance(maxColdWait + 2*latency)
				if now, _ := e.tokens(); now != made+1 {
					t.Errorf("%d new tokens within 10 s of the end of the outage, want 1", now-made)
				}
				stop()
			}
		})
	}
}

// TestNobodyWaits says that a source calls only for requests and probes that have asked: one that asks in a pause gets one
// call at its end.
func TestNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(fails(errDown))
		s := e.source(t, Policy{})
		mustFail(t, s)
		advance(time.Hour)
		e.wantCalls(t, coldAttempts)
		pause := time.Until(mustFail(t, s).RetryAt) // of a new outage, because nobody has asked for an hour
		advance(pause - 1)
		e.wantCalls(t, 2*coldAttempts)
		for range 100 {
			mustFail(t, s)
			s.Ready()
		}
		e.wantCalls(t, 2*coldAttempts)
		advance(time.Hour)
		e.wantCalls(t, 2*coldAttempts+1)
		s.Rest() // no configuration uses it any more
		mustFail(t, s)
		mustFail(t, s)
		before := e.count()
		advance(time.Hour)
		e.wantCalls(t, before)
	})
}

// TestQuickTries says that an outage has one round of quick tries, and the next outage another. One lost packet is no reason
// to fail a request after a pause in which no request or probe has asked.
func TestQuickTries(t *testing.T) {
	for name, tc := range map[string]struct {
		between func(e *endpoint, s *Source)
		calls   int
	}{
		"the same outage":          {func(*endpoint, *Source) { advance(maxColdWait) }, 1},
		"the same, a little later": {func(*endpoint, *Source) { advance(coldMemory) }, 1},
		"long after":               {func(*endpoint, *Source) { advance(coldMemory + 1) }, coldAttempts},
		"after a token": {func(e *endpoint, s *Source) {
			e.set(grants(time.Second))
			advance(maxColdWait)
			_, _ = s.Acquire(context.Background())
			s.Rest()
			advance(time.Second)
			e.set(fails(errDown))
		}, coldAttempts},
		"after a token without life": {func(e *endpoint, s *Source) {
			e.set(grants(0))
			advance(maxColdWait)
			_, _ = s.Acquire(context.Background())
			e.set(fails(errDown))
		}, coldAttempts},
		"after a throttled call": {func(e *endpoint, s *Source) {
			e.set(fails(errThrottle))
			advance(maxColdWait)
			_, _ = s.Acquire(context.Background())
			advance(time.Second) // its pause
			e.set(fails(errDown))
		}, 1},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(fails(errDown))
			s := e.source(t, Policy{})
			mustFail(t, s)
			e.wantCalls(t, coldAttempts)
			tc.between(e, s)
			before := e.count()
			mustFail(t, s)
			e.wantCalls(t, before+tc.calls)
		})
	}
}

// TestColdWaits says that the pauses while no token serves are full jitter below 1, 2, 4 and 8 s, and then 10 s.
func TestColdWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sources, steps = 200, 12
		var most [steps]time.Duration
		for range sources {
			e := newEndpoint(fails(errDown))
			s := NewSource(e.config(Policy{})) // with no configuration in force: nothing is left behind
			s.Rest()
			for step := range steps {
				err := mustFail(t, s)
				wait := time.Until(err.RetryAt)
				most[step] = max(most[step], wait)
				if step >= 4 && wait != maxColdWait {
					t.Fatalf("step %d: %v, want %v", step, wait, maxColdWait)
				}
				<-time.After(wait)
			}
		}
		for step := range 4 {
			if limit := time.Second << step; most[step] > limit || most[step] < limit*9/10 {
				t.Errorf("step %d: up to %v, want nearly %v", step, most[step], limit)
			}
		}
	})
}

// TestThrottledSourceWaits says that a token endpoint that asks to be called less often is: requests and probes that wait
// change nothing about the pauses after a 429, after Retry-After and after a refusal.
func TestThrottledSourceWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		err  *Error
		most int // calls in an hour
	}{
		"429":                     {errThrottle, 180}, // 124 on average
		"429 with Retry-After":    {&Error{Kind: Unavailable, Status: 429, RetryAfter: time.Minute}, 61},
		"503 with Retry-After":    {errLater, 61},
		"503 with a long one":     {&Error{Kind: Unavailable, Status: 503, RetryAfter: time.Hour}, 13},
		"refused":                 {errRefused, 16},
		"refused, and not before": {&Error{Kind: Refused, Status: 401, RetryAfter: 5 * time.Minute}, 13},
	} {
		for who, a := range askers() {
			inBubble(t, name+"/"+who, func(t *testing.T) {
				e := newEndpoint(slow(latency, fails(tc.err)))
				s := e.source(t, Policy{})
				stop := asking(s, a.ask, a.every)
				advance(time.Hour)
				stop()
				if n := e.count(); n > tc.most {
					t.Errorf("%d calls in an hour, want at most %d", n, tc.most)
				}
				least := min(tc.err.RetryAfter, maxRetryAfter)
				calls := e.callsSince(0)
				for i := range calls[1:] {
					if gap := calls[i+1].Sub(calls[i]); gap < least {
						t.Errorf("a call came %v after the one before, want %v", gap, least)
					}
				}
			})
		}
	}
}
