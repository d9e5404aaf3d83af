package token

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// blocking is a Fetcher that blocks, deaf to its context, while its gates are closed.
type blocking struct {
	*endpoint
	mu           sync.Mutex
	fetch, proof chan struct{} // nil: open
	afterwards   func()        // what a call does that was let go
}

func (b *blocking) pass(gate func() chan struct{}) {
	b.mu.Lock()
	closed, afterwards := gate(), b.afterwards
	b.mu.Unlock()
	if closed == nil {
		return
	}
	<-closed
	if afterwards != nil {
		afterwards()
	}
}

func (b *blocking) Fetch(ctx context.Context) (Issued, error) {
	b.pass(func() chan struct{} { return b.fetch })
	return b.endpoint.Fetch(ctx)
}

func (b *blocking) Prepare() Call { return Call{Proof: NewSecret(b.Proof()), Fetch: b.Fetch} }

func (b *blocking) Proof() string {
	b.pass(func() chan struct{} { return b.proof })
	return b.endpoint.Proof()
}

// close closes gates, and returns what lets those go who wait behind them. Who comes after open is not held.
func (b *blocking) close(fetch, proof bool) (open, release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gate := make(chan struct{})
	if fetch {
		b.fetch = gate
	}
	if proof {
		b.proof = gate
	}
	open = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.fetch, b.proof = nil, nil
	}
	return open, func() { open(); close(gate) }
}

func newBlocking(t testing.TB, a answer, p Policy) (*blocking, *Source) {
	b := &blocking{endpoint: newEndpoint(a)}
	s := NewSource(Config{Fetcher: b, Policy: p, Observer: observing{observe: b.observe}})
	t.Cleanup(func() {
		s.Rest()
		advance(settled)
	})
	return b, s
}

// TestFlightEndsAtItsDeadline says that a call that blocks holds nobody beyond fetch_timeout and nothing for ever: the
// next flight is served as soon as the cause is gone, while the old call still blocks, and what that brings in the end
// changes nothing.
func TestFlightEndsAtItsDeadline(t *testing.T) {
	for name, tc := range map[string]struct {
		fetch, proof bool
		answer       answer
		afterwards   func()
	}{
		"Fetch blocks":                     {fetch: true, answer: grants(hour)},
		"Proof blocks":                     {proof: true, answer: grants(hour)},
		"Fetch blocks, and panics":         {fetch: true, answer: grants(hour), afterwards: func() { panic(canary) }},
		"Proof blocks, and panics":         {proof: true, answer: grants(hour), afterwards: func() { panic(canary) }},
		"Fetch blocks, and ends abruptly":  {fetch: true, answer: grants(hour), afterwards: runtime.Goexit},
		"Fetch blocks, and fails too late": {fetch: true, answer: script(grants(hour), fails(errRefused))},
	} {
		inBubble(t, name, func(t *testing.T) {
			const timeout = 3 * time.Second
			b, s := newBlocking(t, tc.answer, Policy{FetchTimeout: timeout})
			b.afterwards = tc.afterwards
			open, release := b.close(tc.fetch, tc.proof)
			var err *Error
			if waited := took(func() { err = mustFail(t, s) }); waited > timeout+callGrace {
				t.Errorf("the caller waited %v, want %v", waited, timeout)
			}
			if err.Kind != Unavailable {
				t.Errorf("got %v of kind %s, want unavailable", err, err.Kind)
			}
			open()
			advance(time.Until(err.RetryAt))
			held := mustAcquire(t, s)
			events := len(b.told())

			release()
			synctest.Wait()
			if got := mustAcquire(t, s); got.Served() != ServedFresh || !got.Value().Equal(held.Value()) {
				t.Errorf("served %s after the late answer, want the token of before", got.Served())
			}
			if late := b.told()[events:]; len(late) > 0 {
				t.Errorf("observers are told of the late answer: %v", late)
			}
		})
	}
}

// TestSecondProofBlocks says the same of the look at the proof after a refusal.
func TestSecondProofBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBlocking(t, nil, Policy{})
		releases := make(chan func(), 1)
		b.set(func(context.Context, *endpoint) (Issued, error) {
			b.set(grants(hour))
			_, release := b.close(false, true)
			releases <- release
			return Issued{}, errRefused
		})
		if waited := took(func() { mustFail(t, s) }); waited > DefaultFetchTimeout+callGrace {
			t.Errorf("the caller waited %v", waited)
		}
		(<-releases)()
		advance(time.Minute)
		mustAcquire(t, s)
	})
}

// TestAbandonedCallsAreFew says that a Fetcher that blocks for hours costs a bounded number of goroutines, and that
// service is back when it does not block any more.
func TestAbandonedCallsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBlocking(t, grants(hour), Policy{FetchTimeout: time.Second})
		_, release := b.close(true, false)
		s.Start(Config{Fetcher: b, Policy: Policy{FetchTimeout: time.Second, Prefetch: true}, Observer: observing{observe: b.observe}})
		before := runtime.NumGoroutine()
		advance(12 * time.Hour)
		if more := runtime.NumGoroutine() - before; more > maxCalls+2 { // and a flight
			t.Errorf("%d goroutines more than before", more)
		}
		release()
		advance(2 * time.Minute)
		if got := mustAcquire(t, s).Served(); got != ServedFresh {
			t.Errorf("served %s, want fresh", got)
		}
	})
}

// TestProofBlocksOnTheRequestPath says that no request waits long for a proof of identity that blocks, that those who
// ask meanwhile do not wait at all, and that a proof that comes late still counts.
func TestProofBlocksOnTheRequestPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBlocking(t, fails(errRefused), Policy{})
		mustFail(t, s)
		advance(proofCheckInterval)
		_, release := b.close(false, true)
		if waited := took(func() { mustFail(t, s) }); waited > proofPatience {
			t.Errorf("the first request waited %v, want %v at most", waited, proofPatience)
		}
		before := runtime.NumGoroutine()
		for range 50 {
			advance(proofCheckInterval)
			if waited := took(func() { mustFail(t, s) }); waited > 0 {
				t.Fatalf("a further request waited %v", waited)
			}
		}
		if more := runtime.NumGoroutine() - before; more > 0 {
			t.Errorf("%d goroutines wait for the proof", more+1)
		}
		b.rotate("proof 2")
		b.set(grants(hour))
		release()
		synctest.Wait()
		if got := mustAcquire(t, s).Served(); got != ServedWaited {
			t.Errorf("after the proof has changed: served %s, want waited", got)
		}
	})
}

// TestProofPanicsOnTheRequestPath says that the request is denied as before, and the process lives.
func TestProofPanicsOnTheRequestPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s := newBlocking(t, fails(errRefused), Policy{})
		mustFail(t, s)
		for range 3 {
			advance(proofCheckInterval)
			b.afterwards = func() { panic(canary) }
			_, release := b.close(false, true)
			time.AfterFunc(proofPatience/2, release)
			if err := mustFail(t, s); err.Kind != Refused {
				t.Errorf("got %v", err)
			}
		}
	})
}
