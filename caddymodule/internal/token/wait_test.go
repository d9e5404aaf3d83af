package token

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestCallerThatLeaves says what a caller gets who gives up while the endpoint is silent, and that the flight goes on
// for the others.
func TestCallerThatLeaves(t *testing.T) {
	const patience = 3 * time.Second
	for name, tc := range map[string]struct {
		state  string
		leave  func() (context.Context, context.CancelFunc)
		policy Policy
		want   string
		within time.Duration
	}{
		"cancelled, no token": {
			state: "empty", leave: cancelAfter(patience), want: context.Canceled.Error(), within: patience,
		},
		"deadline, no token": {
			state: "empty", leave: timeoutAfter(patience), want: context.DeadlineExceeded.Error(), within: patience,
		},
		"max_wait, no token": {
			state: "empty", leave: stays, policy: Policy{MaxWait: patience}, want: "waited_too_long", within: patience,
		},
		"cancelled, expired": {
			state: "expired", leave: cancelAfter(patience), want: context.Canceled.Error(), within: patience,
		},
		"max_wait, expired": {
			state: "expired", leave: stays, policy: Policy{MaxWait: patience}, want: "waited_too_long", within: patience,
		},
		"cancelled, rejected": {
			state: "rejected", leave: cancelAfter(patience), want: "stale old", within: patience,
		},
		"max_wait, rejected": {
			state: "rejected", leave: stays, policy: Policy{MaxWait: patience}, want: "stale old", within: patience,
		},
		"cancelled before, no token": {
			state: "empty", leave: cancelAfter(0), want: context.Canceled.Error(),
		},
		"cancelled before, fresh":   {state: "fresh", leave: cancelAfter(0), want: "fresh old"},
		"cancelled before, stale":   {state: "stale", leave: cancelAfter(0), want: "stale old"},
		"cancelled before, refused": {state: "cooling down", leave: cancelAfter(0), want: "refused"},
	} {
		inBubble(t, name, func(t *testing.T) {
			gate := make(chan struct{})
			w := newWorld(t, tc.state, gated(gate, grants(hour)))
			w.s.Start(w.e.config(tc.policy))
			before := w.e.count()

			// somebody else is patient
			others := make(chan string, 1)
			go func() {
				w.s.Start(w.e.config(Policy{MaxWait: hour}))
				l, err := w.s.Acquire(context.Background())
				others <- describe(l, err, w.held)
			}()
			synctest.Wait()
			w.s.Start(w.e.config(tc.policy))

			ctx, cancel := tc.leave()
			defer cancel()
			var got string
			waited := took(func() {
				l, err := w.s.Acquire(ctx)
				got = describe(l, err, w.held)
			})
			if got != tc.want || waited != tc.within {
				t.Errorf("got %q after %v, want %q after %v", got, waited, tc.want, tc.within)
			}
			close(gate)
			if tc.within > 0 {
				if other := <-others; other != "waited new" {
					t.Errorf("the others got %q, want waited new", other)
				}
				w.e.wantCalls(t, before+1)
			}
		})
	}
}

func cancelAfter(d time.Duration) func() (context.Context, context.CancelFunc) {
	return func() (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(context.Background())
		if d == 0 {
			cancel()
		} else {
			time.AfterFunc(d, cancel)
		}
		return ctx, cancel
	}
}

func timeoutAfter(d time.Duration) func() (context.Context, context.CancelFunc) {
	return func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.Background(), d)
	}
}

func stays() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) }

// TestFirstCallerCancelled says that the flight belongs to nobody: the one who started it leaves, hundreds who joined
// are served by the same call.
func TestFirstCallerCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(time.Second, grants(hour)))
		s := e.source(t, Policy{})
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), leaderKey{}, "leader"))
		left := make(chan error, 1)
		go func() {
			_, err := s.Acquire(ctx)
			left <- err
		}()
		synctest.Wait()
		time.AfterFunc(time.Second/2, cancel)
		got := herd(500, func() string {
			l, err := s.Acquire(context.Background())
			return describe(l, err, Lease{})
		})
		if got["waited new"] != 500 {
			t.Errorf("the others got %v, want all waited new", got)
		}
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the first caller got %v, want its context's error", err)
		}
		e.wantCalls(t, 1)
	})
}

type leaderKey struct{}

// TestFlightContextIsTheSourcesOwn says that no caller's values or deadline reach the Fetcher: they would outlive the
// request, or end the flight with it.
func TestFlightContextIsTheSourcesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var deadline time.Time
		e := newEndpoint(func(ctx context.Context, e *endpoint) (Issued, error) {
			if ctx.Value(leaderKey{}) != nil {
				t.Error("the flight holds values of the first caller's context")
			}
			deadline, _ = ctx.Deadline()
			return e.issue(hour), nil
		})
		s := e.source(t, Policy{FetchTimeout: 7 * time.Second})
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), leaderKey{}, "leader"), time.Second)
		defer cancel()
		if _, err := s.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		if got := time.Until(deadline); got != 7*time.Second {
			t.Errorf("the flight's deadline is in %v, want fetch_timeout", got)
		}
	})
}

// TestFetchTimeout says that a Fetcher that honours its context cannot hold anybody longer, however often it is called.
func TestFetchTimeout(t *testing.T) {
	for name, a := range map[string]answer{
		"hangs":                      hangs,
		"down, then hangs":           script(fails(errDown), hangs),
		"plain error of its context": func(ctx context.Context, _ *endpoint) (Issued, error) { <-ctx.Done(); return Issued{}, ctx.Err() },
		"down after almost all":      slow(1900*time.Millisecond, fails(errDown)),
	} {
		inBubble(t, name, func(t *testing.T) {
			const timeout = 2 * time.Second
			e := newEndpoint(a)
			s := e.source(t, Policy{FetchTimeout: timeout})
			var err *Error
			if waited := took(func() { err = mustFail(t, s) }); waited > timeout {
				t.Errorf("the caller waited %v, want at most %v", waited, timeout)
			}
			if !err.RetryAt.After(time.Now()) {
				t.Errorf("the failure says to retry at %v, which is not in the future", err.RetryAt)
			}
		})
	}
}

// TestMaxWaitWithAFetcherThatIgnoresItsContext says that nobody hangs behind a stalled flight, that
// callers who come do not add calls, and that its token is used if it comes before the flight's deadline.
func TestMaxWaitWithAFetcherThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		e := newEndpoint(gated(gate, grants(hour)))
		s := e.source(t, Policy{FetchTimeout: 10 * time.Second, MaxWait: 2 * time.Second})
		for round := range 3 {
			var got map[string]int
			waited := took(func() {
				got = herd(100, func() string {
					l, err := s.Acquire(context.Background())
					return describe(l, err, Lease{})
				})
			})
			if got["waited_too_long"] != 100 || waited != 2*time.Second {
				t.Errorf("round %d: callers got %v after %v, want all waited_too_long after max_wait", round, got, waited)
			}
		}
		e.wantCalls(t, 1)
		close(gate)
		synctest.Wait()
		if got := mustAcquire(t, s).Served(); got != ServedFresh {
			t.Errorf("after the flight has ended: served %q, want fresh", got)
		}
		e.wantCalls(t, 1)
	})
}

// TestPanickingFetcher says that a provider that panics fails the call and nothing else, and that the
// panic's value shows nowhere.
func TestPanickingFetcher(t *testing.T) {
	for name, value := range map[string]any{
		"text":         canary,
		"error":        errors.New(canary),
		"struct":       struct{ Text string }{canary},
		"stringer":     NewSecret(canary),
		"own error":    &Error{Kind: Refused, Reason: canary},
		"nil":          nil,
		"out of range": "runtime",
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(func(context.Context, *endpoint) (Issued, error) {
				if value == "runtime" {
					var none []int
					_ = none[len(canary)]
				}
				panic(value)
			})
			s := e.source(t, Policy{})
			err := mustFail(t, s)
			if err.Kind != Unreadable {
				t.Errorf("kind %q, want unreadable", err.Kind)
			}
			mustHide(t, fmt.Sprintf("%v %+v %#v", err, err, err))
			for _, event := range e.told() {
				mustHide(t, fmt.Sprintf("%v %+v %#v", event, event, event.Err))
			}
			e.set(grants(hour))
			advance(time.Minute)
			if got := mustAcquire(t, s).Served(); got != ServedWaited {
				t.Errorf("after the panic: served %q, want waited", got)
			}
		})
	}
}

// TestPanicsBesideFetch says the same of what else a flight calls: singleflight would raise the panic again in a
// goroutine of its own, which ends the process. The flight is called directly here, so that it ends only the test.
func TestPanicsBesideFetch(t *testing.T) {
	for name, config := range map[string]Config{
		"Proof":   {Fetcher: panickingProof{newEndpoint(grants(hour))}},
		"Observe": {Fetcher: newEndpoint(grants(hour)), Observer: observing{observe: func(Event) { panic(canary) }}},
	} {
		inBubble(t, name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("a panic in %s gets out of the flight, which ends the process", name)
				}
			}()
			if _, err := NewSource(config).flight(); err != nil {
				mustHide(t, err.Error())
			}
		})
	}
}

type panickingProof struct{ *endpoint }

func (panickingProof) Prepare() Call { panic(canary) }

// TestFetcherThatExitsItsGoroutine says that even runtime.Goexit, after which singleflight never answers
// (golang/go#52557), holds nobody longer than max_wait and does not spoil the source.
func TestFetcherThatExitsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(func(context.Context, *endpoint) (Issued, error) {
			runtime.Goexit()
			return Issued{}, nil
		})
		s := e.source(t, Policy{})
		s.Start(e.config(prefetch))
		if waited := took(func() { mustFail(t, s) }); waited > DefaultMaxWait {
			t.Errorf("the caller waited %v, want at most max_wait", waited)
		}
		advance(time.Minute)
		if n := e.count(); n > 20*coldAttempts {
			t.Errorf("%d calls in little more than a minute, want a backoff", n)
		}
		e.set(grants(hour))
		advance(time.Minute)
		if got := mustAcquire(t, s).Served(); got != ServedFresh {
			t.Errorf("afterwards: served %q, want fresh: prefetch goes on", got)
		}
	})
}

// TestAcquireWithin says that callers may have a patience of their own, longer or shorter, and that the default is the
// policy's.
func TestAcquireWithin(t *testing.T) {
	for _, tc := range []struct{ own, want time.Duration }{
		{0, 5 * time.Second},
		{-time.Second, 5 * time.Second},
		{time.Second, time.Second},
		{8 * time.Second, 8 * time.Second},
	} {
		for state, got := range map[string]string{"empty": "waited_too_long", "expired": "waited_too_long", "rejected": "stale old"} {
			inBubble(t, fmt.Sprintf("%s, own %v", state, tc.own), func(t *testing.T) {
				w := newWorld(t, state, hangs)
				w.s.Start(w.e.config(Policy{MaxWait: 5 * time.Second}))
				var outcome string
				waited := took(func() {
					l, err := w.s.AcquireWithin(context.Background(), tc.own)
					outcome = describe(l, err, w.held)
				})
				if outcome != got || waited != tc.want {
					t.Errorf("got %q after %v, want %q after %v", outcome, waited, got, tc.want)
				}
			})
		}
	}
}

// TestRejectWithin says that the patience of the request is that of its replay too.
func TestRejectWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "fresh", hangs)
		l, err := w.s.AcquireWithin(context.Background(), 2*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var ok bool
		if waited := took(func() { _, ok = l.Reject(context.Background(), Certain) }); ok || waited != 2*time.Second {
			t.Errorf("replaced: %t after %v, want that it gives up after 2 s", ok, waited)
		}
	})
}

// TestFlightLooksAgain says that whoever looked before a flight ended, and starts another after it, makes no call: what
// the first has brought, a token or a failure, counts for both.
func TestFlightLooksAgain(t *testing.T) {
	for state, want := range map[string]string{
		"fresh":        "",
		"replaced":     "",
		"backing off":  "unavailable",
		"cooling down": "refused",
	} {
		inBubble(t, state, func(t *testing.T) {
			w := newWorld(t, state, grants(hour))
			before := w.e.count()
			_, err := w.s.flight()
			if failed, ok := errors.AsType[*Error](err); ok != (want != "") || ok && string(failed.Kind) != want {
				t.Errorf("got %v, want %q", err, want)
			}
			w.e.wantCalls(t, before)
		})
	}
}

// TestTokenExpiresWhileTheBackgroundRefreshFails says that a flight that began in the background is as persistent as
// any other once somebody has to wait for it: one lost packet is no reason to fail a request.
func TestTokenExpiresWhileTheBackgroundRefreshFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "empty", grants(hour))
		w.held = mustAcquire(t, w.s)
		w.s.Rest()
		advance(hour - time.Second)
		w.background(script(slow(2*time.Second, fails(errDown)), grants(hour)))
		advance(time.Second)
		l, err := w.s.Acquire(context.Background())
		if got := describe(l, err, w.held); got != "waited new" {
			t.Errorf("who joined got %q, want waited new", got)
		}
	})
}
