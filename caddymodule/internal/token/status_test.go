package token

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// wantState fails the test unless the source is in this state.
func wantState(t *testing.T, s *Source, want State) Status {
	t.Helper()
	status := s.Status()
	if status.State != want {
		t.Errorf("the state is %s, want %s", status.State, want)
	}
	if has := !status.Token.Empty() && !status.Issued.IsZero() && !status.Expires.IsZero(); has != (want != StateNone) {
		t.Errorf("%s: token, issue and expiry are there: %t", want, has)
	}
	return status
}

func TestStatusInEveryState(t *testing.T) {
	inBubble(t, "the life of a token", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{RefreshMargin: 10 * time.Minute})
		if status := wantState(t, s, StateNone); status.Fetching || status.Failure != nil {
			t.Errorf("a new source: %+v", status)
		}
		go func() { _, _ = s.Acquire(context.Background()) }()
		synctest.Wait()
		if status := wantState(t, s, StateNone); !status.Fetching {
			t.Error("it does not say that a call is running")
		}
		began := time.Now()
		advance(latency)
		status := wantState(t, s, StateFresh)
		if _, last := e.tokens(); !status.Token.Equal(last) || status.Fetching || status.Failure != nil {
			t.Errorf("after the call: %+v", status)
		}
		if !status.Issued.Equal(began) || !status.Expires.Equal(began.Add(time.Hour)) {
			t.Errorf("issued %s and expires %s after the call began", status.Issued.Sub(began), status.Expires.Sub(began))
		}
		if due := status.Expires.Sub(status.RefreshAt); due < 10*time.Minute || due > 13*time.Minute {
			t.Errorf("due %s before expiry", due)
		}
		e.set(fails(errDown))
		s.Rest()
		advance(time.Until(status.RefreshAt))
		wantState(t, s, StateStale)
		advance(time.Until(status.Expires) - 1)
		wantState(t, s, StateStale)
		advance(1)
		if status := wantState(t, s, StateExpired); status.Failure != nil {
			t.Errorf("nobody asked, and there is a failure: %v", status.Failure)
		}
		e.wantCalls(t, 1) // asking for the status is not asking for a token
	})

	inBubble(t, "rejected", func(t *testing.T) {
		gate := make(chan struct{})
		e := newEndpoint(script(grants(time.Hour), gated(gate, grants(time.Hour))))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		l.Discard(Certain)
		synctest.Wait()
		if status := wantState(t, s, StateRejected); !status.Fetching || !status.RefreshAt.IsZero() {
			t.Errorf("%+v", status)
		}
		close(gate)
		synctest.Wait()
		if status := wantState(t, s, StateFresh); status.Token.Equal(l.Value()) {
			t.Error("it shows the token that was rejected")
		}
	})

	inBubble(t, "failure", func(t *testing.T) {
		e := newEndpoint(fails(errRefused))
		s := e.source(t, Policy{})
		failed := mustFail(t, s)
		status := wantState(t, s, StateNone)
		if status.Failure == nil || *status.Failure != *failed || status.Failure.RetryAt.IsZero() {
			t.Fatalf("the failure is %+v, want %+v", status.Failure, failed)
		}
		// It stays known when calls are no longer held back, and while the next one runs: until it has succeeded.
		advance(time.Until(failed.RetryAt) + time.Second)
		if status := s.Status(); status.Failure == nil {
			t.Error("the failure is forgotten when its time has come")
		}
		e.set(slow(time.Minute/10, grants(time.Hour)))
		go func() { _, _ = s.Acquire(context.Background()) }()
		synctest.Wait()
		if status := s.Status(); status.Failure == nil || !status.Fetching {
			t.Errorf("while the next call runs: %+v", status)
		}
		advance(time.Minute)
		if status := wantState(t, s, StateFresh); status.Failure != nil {
			t.Errorf("after a success: %v", status.Failure)
		}
	})
}

func TestReady(t *testing.T) {
	notReady := func(t *testing.T, s *Source, want *Error) {
		t.Helper()
		ready, why := s.Ready()
		if ready || (why == nil) != (want == nil) || why != nil && why.Reason != want.Reason {
			t.Errorf("ready: %t, because of %v; want %v", ready, why, want)
		}
	}
	ready := func(t *testing.T, s *Source) {
		t.Helper()
		if ok, why := s.Ready(); !ok || why != nil {
			t.Fatalf("ready: %t, because of %v", ok, why)
		}
	}

	inBubble(t, "a probe fetches", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		if d := took(func() { notReady(t, s, nil) }); d != 0 {
			t.Errorf("a probe took %s", d)
		}
		synctest.Wait()
		for range 10 { // while the call runs
			notReady(t, s, nil)
		}
		advance(latency)
		ready(t, s)
		e.wantCalls(t, 1)
	})

	inBubble(t, "probes keep the token", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		notReady(t, s, nil)
		advance(latency)
		for range 24 * 4 {
			ready(t, s)
			advance(15 * time.Minute)
		}
		if n := e.count(); n < 24 || n > 36 {
			t.Errorf("%d calls in a day of tokens for an hour", n)
		}
	})

	inBubble(t, "without probes it sleeps", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		notReady(t, s, nil)
		synctest.Wait()
		advance(24 * time.Hour)
		e.wantCalls(t, 1)
	})

	inBubble(t, "one probe keeps the token for another life", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		notReady(t, s, nil)
		synctest.Wait()
		ready(t, s)
		advance(24 * time.Hour)
		e.wantCalls(t, 2)
	})

	inBubble(t, "a probe of a stale token that sleeps", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{RefreshMargin: 30 * time.Minute})
		notReady(t, s, nil)
		advance(45 * time.Minute)
		wantState(t, s, StateStale)
		ready(t, s)
		synctest.Wait()
		e.wantCalls(t, 2)
		ready(t, s)
		wantState(t, s, StateFresh)
	})

	for name, broken := range map[string]answer{
		"down": fails(errDown), "hangs": hangs, "refuses": fails(errRefused), "garbage": fails(errGarbage), "panics": panics,
		"rate-limits": fails(errThrottle), "later": fails(errLater),
	} {
		inBubble(t, "no flapping while it "+name, func(t *testing.T) {
			e := newEndpoint(grants(time.Hour))
			s := e.source(t, Policy{})
			notReady(t, s, nil)
			synctest.Wait()
			status := s.Status()
			e.set(broken)
			for time.Until(status.Expires) > time.Second {
				ready(t, s)
				advance(time.Second)
			}
			if e.count() == 1 {
				t.Error("nothing was tried")
			}
			advance(2 * time.Second)
			// From now on there is a reason each time, also while a call is under way.
			for range 120 {
				ok, why := s.Ready()
				if ok || why == nil || why.Reason == "" {
					t.Fatalf("ready: %t, because of %v", ok, why)
				}
				advance(time.Second)
			}
			e.set(grants(time.Hour))
			advance(maxRetryAfter + time.Minute)
			s.Ready() // a permanent failure: nobody calls again by itself
			advance(time.Second)
			ready(t, s)
		})
	}

	inBubble(t, "a rejected token is valid", func(t *testing.T) {
		gate := make(chan struct{})
		e := newEndpoint(script(grants(time.Hour), gated(gate, fails(errRefused))))
		s := e.source(t, Policy{})
		mustAcquire(t, s).Discard(Certain)
		synctest.Wait()
		ready(t, s)
		close(gate)
		synctest.Wait()
		ready(t, s)
		e.wantCalls(t, 2)
	})

	inBubble(t, "probes do not call while calls are held back", func(t *testing.T) {
		e := newEndpoint(fails(errRefused))
		s := e.source(t, Policy{})
		notReady(t, s, nil)
		synctest.Wait()
		calls := e.count()
		for range 25 {
			notReady(t, s, errRefused)
			advance(time.Second)
		}
		e.wantCalls(t, calls)
	})

	inBubble(t, "a changed proof is tried at once", func(t *testing.T) {
		e := newEndpoint(fails(errRefused))
		s := e.source(t, Policy{})
		notReady(t, s, nil)
		advance(time.Second)
		e.set(grants(time.Hour))
		e.rotate("proof 2")
		notReady(t, s, nil)
		synctest.Wait()
		ready(t, s)
	})
}

func TestRefreshCalls(t *testing.T) {
	refresh := func(t *testing.T, s *Source) {
		t.Helper()
		if err := s.Refresh(t.Context()); err != nil {
			t.Errorf("refreshing: %v", err)
		}
	}

	inBubble(t, "without a token", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		refresh(t, s)
		wantState(t, s, StateFresh)
		e.wantCalls(t, 1)
	})

	inBubble(t, "while fresh, once each time", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		for want := 2; want < 5; want++ {
			refresh(t, s)
			e.wantCalls(t, want)
		}
		if now := mustAcquire(t, s); now.Value().Equal(l.Value()) || now.Served() != ServedFresh {
			t.Error("the refreshed token is not served")
		}
		advance(30 * time.Minute)
		e.wantCalls(t, 4)
	})

	for name, failure := range map[string]*Error{"backoff": errDown, "cooldown": errRefused, "asked to wait": errLater} {
		inBubble(t, "in "+name, func(t *testing.T) {
			e := newEndpoint(fails(failure))
			s := e.source(t, Policy{})
			mustFail(t, s)
			e.set(grants(time.Hour))
			calls := e.count()
			refresh(t, s)
			e.wantCalls(t, calls+1)
			if got := mustAcquire(t, s); got.Served() != ServedFresh {
				t.Errorf("served %s", got.Served())
			}
			if status := s.Status(); status.Failure != nil {
				t.Errorf("the failure is still there: %v", status.Failure)
			}
		})
	}

	inBubble(t, "the old token is served meanwhile", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		before := mustAcquire(t, s)
		e.set(slow(time.Second, grants(time.Hour)))
		go func() { _ = s.Refresh(context.Background()) }()
		synctest.Wait()
		if d := took(func() {
			if l := mustAcquire(t, s); !l.Value().Equal(before.Value()) {
				t.Error("another token, before there can be one")
			}
		}); d != 0 {
			t.Errorf("a request waited for %s", d)
		}
		advance(time.Second)
		if l := mustAcquire(t, s); l.Value().Equal(before.Value()) {
			t.Error("the old token is still there")
		}
	})

	inBubble(t, "many at once, and with a running flight", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		go func() { _, _ = s.Acquire(context.Background()) }()
		synctest.Wait()
		got := herd(100, func() string {
			if err := s.Refresh(context.Background()); err != nil {
				return err.Error()
			}
			return "ok"
		})
		if got["ok"] != 100 {
			t.Errorf("got %v", got)
		}
		e.wantCalls(t, 1)
		herd(100, func() string { _ = s.Refresh(context.Background()); return "" })
		e.wantCalls(t, 2)
	})

	inBubble(t, "joining a flight leaves nothing behind", func(t *testing.T) {
		gate := make(chan struct{})
		e := newEndpoint(gated(gate, grants(time.Hour)))
		s := e.source(t, Policy{})
		go func() { _, _ = s.Acquire(context.Background()) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		failed := make(chan error)
		go func() { failed <- s.Refresh(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(gate)
		synctest.Wait()
		// Somebody who looked before the flight ended, and came after: the token is there, so there is no call.
		<-s.group.DoChan("", s.flight)
		e.wantCalls(t, 1)
	})

	inBubble(t, "whoever leaves takes nothing with them", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Refresh(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		advance(latency)
		wantState(t, s, StateFresh)
		e.wantCalls(t, 1)
		<-s.group.DoChan("", s.flight)
		e.wantCalls(t, 1)
	})

	inBubble(t, "returns the failure", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		before := mustAcquire(t, s)
		e.set(fails(errRefused))
		failed, ok := errors.AsType[*Error](s.Refresh(t.Context()))
		if !ok || failed.Code != "invalid_client" || failed.RetryAt.IsZero() {
			t.Fatalf("got %#v", failed)
		}
		status := wantState(t, s, StateFresh)
		if status.Failure == nil || *status.Failure != *failed {
			t.Errorf("the failure is %v", status.Failure)
		}
		if l := mustAcquire(t, s); !l.Value().Equal(before.Value()) || l.Served() != ServedFresh {
			t.Errorf("a fresh token is served %s after a refresh that failed", l.Served())
		}
		e.wantCalls(t, 2) // the token is good: one try is enough
	})

	inBubble(t, "a failure while fresh does not keep the timer busy", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{Prefetch: true})
		mustAcquire(t, s)
		refreshAt := s.Status().RefreshAt
		e.set(fails(errDown))
		if s.Refresh(t.Context()) == nil {
			t.Fatal("it did not fail")
		}
		e.set(grants(time.Hour))
		least := uint64(math.MaxUint64) // since other goroutines of the process may allocate now and then
		for range 100 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			advance(5 * time.Second)
			runtime.ReadMemStats(&after)
			least = min(least, after.Mallocs-before.Mallocs)
		}
		if least > 100 {
			t.Errorf("something runs all the time: %d allocations in five seconds", least)
		}
		e.wantCalls(t, 2)
		advance(time.Until(refreshAt))
		advance(time.Second)
		e.wantCalls(t, 3)
		if status := s.Status(); status.Failure != nil {
			t.Errorf("there is still a failure: %v", status.Failure)
		}
	})

	inBubble(t, "a panic", func(t *testing.T) {
		e := newEndpoint(panics)
		s := e.source(t, Policy{})
		failed, ok := errors.AsType[*Error](s.Refresh(t.Context()))
		if !ok || failed.Kind != Unreadable {
			t.Errorf("got %v", failed)
		}
	})

	inBubble(t, "at rest", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		s.Rest()
		refresh(t, s)
		e.wantCalls(t, 1)
	})
}

func TestPurge(t *testing.T) {
	inBubble(t, "fresh", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		before := mustAcquire(t, s)
		s.Purge()
		wantState(t, s, StateNone)
		advance(time.Second)
		e.wantCalls(t, 1)
		l := mustAcquire(t, s)
		if l.Served() != ServedWaited || l.Value().Equal(before.Value()) {
			t.Errorf("served %s", describe(l, nil, before))
		}
		e.wantCalls(t, 2)
	})

	inBubble(t, "nobody misses it", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		t.Cleanup(s.Start(e.config(Policy{})))
		mustAcquire(t, s)
		mustAcquire(t, s)
		s.Purge()
		advance(24 * time.Hour)
		e.wantCalls(t, 1)
		wantState(t, s, StateNone)
	})

	inBubble(t, "failing", func(t *testing.T) {
		e := newEndpoint(fails(errRefused))
		s := e.source(t, Policy{})
		mustFail(t, s)
		s.Purge()
		if status := s.Status(); status.Failure != nil {
			t.Errorf("the failure is still there: %v", status.Failure)
		}
		e.set(grants(time.Hour))
		mustAcquire(t, s)
	})

	inBubble(t, "without a token", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		s.Purge()
		synctest.Wait()
		e.wantCalls(t, 0)
	})

	inBubble(t, "prefetch", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		end := s.Start(e.config(Policy{Prefetch: true}))
		synctest.Wait()
		before := mustAcquire(t, s)
		s.Purge()
		synctest.Wait()
		e.wantCalls(t, 2)
		if l := mustAcquire(t, s); l.Served() != ServedFresh || l.Value().Equal(before.Value()) {
			t.Errorf("served %s", describe(l, nil, before))
		}
		// Once the configuration is out of force, nothing happens by itself.
		end()
		s.Purge()
		advance(24 * time.Hour)
		e.wantCalls(t, 2)
	})

	inBubble(t, "prefetch that fails goes on", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		t.Cleanup(s.Start(e.config(Policy{Prefetch: true})))
		synctest.Wait()
		e.set(fails(errDown))
		s.Purge()
		advance(10 * time.Second)
		e.set(grants(time.Hour))
		advance(2 * time.Minute)
		wantState(t, s, StateFresh)
	})

	inBubble(t, "during a flight", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{RefreshMargin: 30 * time.Minute})
		before := mustAcquire(t, s)
		s.Rest()
		advance(50 * time.Minute)
		stale := mustAcquire(t, s)
		if !stale.Value().Equal(before.Value()) {
			t.Fatal("the token is not stale")
		}
		synctest.Wait()
		s.Purge()
		wantState(t, s, StateNone)
		l := mustAcquire(t, s) // joins the flight
		if l.Served() != ServedWaited || l.Value().Equal(before.Value()) {
			t.Errorf("served %s", describe(l, nil, before))
		}
		e.wantCalls(t, 2)
		wantState(t, s, StateFresh)
	})

	inBubble(t, "leases go on", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		before := mustAcquire(t, s)
		s.Purge()
		if before.Value().Empty() || before.Expired() {
			t.Error("a lease ended with the purge")
		}
		l, ok := before.Reject(t.Context(), Certain)
		if !ok || l.Value().Equal(before.Value()) {
			t.Error("a request whose token was purged and then refused gets no other")
		}
		e.wantCalls(t, 2)
	})
}

// rejectedEvents returns the rejections that observers were told of, by token.
func (e *endpoint) rejectedEvents() []string {
	var rejected []string
	for _, event := range e.told() {
		if event.Rejected {
			rejected = append(rejected, event.Token.Reveal())
		}
	}
	return rejected
}

func TestRejectionIsToldOnce(t *testing.T) {
	want := func(t *testing.T, e *endpoint, want ...string) {
		t.Helper()
		if got := e.rejectedEvents(); !slices.Equal(got, want) {
			t.Errorf("told of %q, want %q", got, want)
		}
	}
	inBubble(t, "a herd with one token", func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(time.Hour)))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		got := herd(100, func() string {
			other, ok := l.Reject(context.Background(), Certain)
			if !ok {
				return "none"
			}
			return other.Value().Reveal()
		})
		if got["token-2"] != 100 {
			t.Errorf("got %v", got)
		}
		want(t, e, "token-1")
		l.Discard(Certain) // a straggler
		synctest.Wait()
		want(t, e, "token-1")
		e.wantCalls(t, 2)
	})

	inBubble(t, "by Discard", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		herd(10, func() string { l.Discard(Certain); return "" })
		synctest.Wait()
		want(t, e, "token-1")
		for _, event := range e.told() {
			if event.Rejected && (event.Err != nil || event.Duration != 0 || event.Lifetime != 0) {
				t.Errorf("a rejection is about no call: %+v", event)
			}
		}
	})

	inBubble(t, "not where it does not count", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		first := mustAcquire(t, s)
		second, ok := first.Reject(t.Context(), Certain)
		if !ok {
			t.Fatal("no other token")
		}
		if _, ok := second.Reject(t.Context(), Certain); ok { // too soon after the first
			t.Fatal("a third token at once")
		}
		want(t, e, "token-1")
		s.Rest()
		advance(2 * time.Hour)
		if _, ok := second.Reject(t.Context(), Certain); !ok { // it has expired: nothing is lost
			t.Fatal("no other token")
		}
		want(t, e, "token-1")
	})

	inBubble(t, "each token of an API that refuses all", func(t *testing.T) {
		e := newEndpoint(grants(time.Hour))
		s := e.source(t, Policy{})
		for range 3 {
			if _, ok := mustAcquire(t, s).Reject(t.Context(), Certain); !ok {
				t.Fatal("no other token")
			}
			advance(time.Minute)
		}
		want(t, e, "token-1", "token-2", "token-3")
		e.wantCalls(t, 4)
	})

	inBubble(t, "a token that is not kept", func(t *testing.T) {
		e := newEndpoint(grants(0))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		herd(10, func() string { l.Discard(Certain); return "" })
		advance(time.Minute)
		want(t, e, "token-1")
	})
}
