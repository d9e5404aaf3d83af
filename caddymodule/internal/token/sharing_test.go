package token

import (
	"context"
	"crypto/tls"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// replicas is a Shared without a store: tests say what the other replicas have left, and what becomes of a claim.
type replicas struct {
	mu       sync.Mutex
	found    Found
	asked    time.Time
	any      bool
	claim    func(proof func() Secret) Claim
	latency  time.Duration // of each call of the store
	loads    int
	claims   int
	saved    []Found
	released []released
}

type released struct {
	hold    time.Duration
	refused string
}

// leave makes it what another replica has saved.
func (r *replicas) leave(value string, age, lifetime, refreshIn time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.any, r.asked = true, time.Now().Add(-age)
	r.found = Found{Issued: Issued{Token: NewSecret(value)}, Lifetime: lifetime, RefreshIn: refreshIn}
}

// purge leaves a tombstone.
func (r *replicas) purge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.any, r.asked, r.found = true, time.Now(), Found{Purged: true, Lifetime: hour}
}

func (r *replicas) answerClaims(with func(proof func() Secret) Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claim = with
}

// Load implements Shared.
func (r *replicas) Load(context.Context) (Found, bool) {
	time.Sleep(r.latency)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads++
	found := r.found
	found.Age = time.Since(r.asked)
	return found, r.any
}

// Save implements Shared.
func (r *replicas) Save(_ context.Context, f Found) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saved = append(r.saved, f)
}

// Claim implements Shared.
func (r *replicas) Claim(_ context.Context, proof func() Secret) Claim {
	time.Sleep(r.latency)
	r.mu.Lock()
	r.claims++
	claim := r.claim
	r.mu.Unlock()
	if claim == nil {
		return ClaimWon
	}
	return claim(proof)
}

// Release implements Shared.
func (r *replicas) Release(_ context.Context, hold time.Duration, refused Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released = append(r.released, released{hold, refused.Reveal()})
}

func (r *replicas) counts() (loads, claims int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loads, r.claims
}

// sharing makes a source that asks the endpoint and shares with the replicas.
func (e *endpoint) sharing(t testing.TB, r *replicas, p Policy) *Source {
	config := e.config(p)
	config.Sharing = NewSharing(r)
	s := NewSource(config)
	t.Cleanup(func() {
		s.Rest()
		advance(settled)
	})
	return s
}

func claim(c Claim) func(func() Secret) Claim { return func(func() Secret) Claim { return c } }

// wantServed fails the test unless the next request gets this token without waiting longer.
func wantServed(t *testing.T, s *Source, value string, within time.Duration) {
	t.Helper()
	var l Lease
	waited := took(func() { l = mustAcquire(t, s) })
	if got := l.Value().Reveal(); got != value || waited > within {
		t.Errorf("served %q after %v, want %q within %v", got, waited, value, within)
	}
}

// TestAdoption says which tokens of other replicas a source takes over.
func TestAdoption(t *testing.T) {
	const own = "token-1"
	minute := time.Minute
	for name, tc := range map[string]struct {
		present       time.Duration // how long ago the source has got a token of its own; 0: it has none
		rejected      bool
		value         string
		age, lifetime time.Duration
		refreshIn     time.Duration
		adopted       bool
	}{
		"no token of its own":                      {value: "other", age: minute, lifetime: hour, refreshIn: 55 * minute, adopted: true},
		"none, and one that is due":                {value: "other", age: 57 * minute, lifetime: hour, refreshIn: 55 * minute, adopted: true},
		"none, and one that has expired":           {value: "other", age: hour, lifetime: hour, refreshIn: 55 * minute},
		"due, and a fresh one":                     {present: 58 * minute, value: "other", age: minute, lifetime: hour, refreshIn: 55 * minute, adopted: true},
		"due, and one that is due":                 {present: 58 * minute, value: "other", age: 57 * minute, lifetime: hour, refreshIn: 55 * minute},
		"due, and its own":                         {present: 58 * minute, value: own, age: 58 * minute, lifetime: hour, refreshIn: 55 * minute},
		"due, and its own, prolonged":              {present: 58 * minute, value: own, age: minute, lifetime: hour, refreshIn: 55 * minute, adopted: true},
		"due, and an older one of a long lifetime": {present: 58 * minute, value: "other", age: 2 * hour, lifetime: 5 * hour, refreshIn: 4 * hour},
		"rejected, and another":                    {present: minute, rejected: true, value: "other", age: time.Second, lifetime: hour, refreshIn: 55 * minute, adopted: true},
		"rejected, and another that is due":        {present: 58 * minute, rejected: true, value: "other", age: 57 * minute, lifetime: hour, refreshIn: 55 * minute, adopted: true},
		"rejected, and its own":                    {present: minute, rejected: true, value: own, age: minute, lifetime: hour, refreshIn: 55 * minute},
		"rejected, and its own, prolonged":         {present: minute, rejected: true, value: own, age: 0, lifetime: hour, refreshIn: 55 * minute},
		"rejected, and an older one":               {present: minute, rejected: true, value: "other", age: 2 * minute, lifetime: hour, refreshIn: 55 * minute},
		"a lifetime that no token has":             {value: "other", age: 31 * 24 * hour, lifetime: 1000 * 24 * hour, refreshIn: 900 * 24 * hour},
	} {
		inBubble(t, name, func(t *testing.T) {
			e, r := newEndpoint(grants(hour)), new(replicas)
			s := e.sharing(t, r, Policy{})
			calls := 0
			if tc.present > 0 {
				l := mustAcquire(t, s)
				l.Accepted()
				calls = 1
				r.answerClaims(claim(ClaimHeld))
				advance(tc.present)
				r.leave(tc.value, tc.age, tc.lifetime, tc.refreshIn)
				r.answerClaims(claim(ClaimWon))
				if tc.rejected {
					l.Reject(context.Background(), Certain)
				} else {
					advance(maxLook)
				}
			} else {
				r.leave(tc.value, tc.age, tc.lifetime, tc.refreshIn)
				mustAcquire(t, s)
			}
			last := e.lastEvent()
			if last.Adopted != tc.adopted || tc.adopted && last.Token.Reveal() != tc.value {
				t.Errorf("the last event is %+v", last)
			}
			if !tc.adopted {
				calls++
			}
			e.wantCalls(t, calls)
			if tc.adopted {
				wantServed(t, s, tc.value, 0) // the refresh of a token that is due may begin here
			}
		})
	}
}

// TestRefreshPoint says that the replica that called last looks for the next token before the others, and that those look
// within lead and spread of the point that all have in common.
func TestRefreshPoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		caller := e.sharing(t, r, Policy{})
		mustAcquire(t, caller)
		point := caller.Status().RefreshAt
		if want := time.Now().Add(r.saved[0].RefreshIn - r.saved[0].Age); !point.Equal(want) {
			t.Errorf("the caller refreshes at %v, and has told the others %v", point, want)
		}
		advance(time.Minute)
		r.leave("token-1", time.Minute, r.saved[0].Lifetime, r.saved[0].RefreshIn)
		first, last := hour, time.Duration(0)
		for range 50 {
			other := e.sharing(t, r, Policy{})
			mustAcquire(t, other)
			after := other.Status().RefreshAt.Sub(point)
			if after < lead || after > lead+spread {
				t.Errorf("another replica refreshes %v after the caller", after)
			}
			first, last = min(first, after), max(last, after)
		}
		if last-first < spread/2 {
			t.Errorf("all replicas look within %v", last-first)
		}
		e.wantCalls(t, 1)
	})
}

// TestAdoptedTokenEnds says that no token outlives its end because the other replicas look later than the caller.
func TestAdoptedTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.leave("other", 0, time.Second, time.Second)
		s := e.sharing(t, r, Policy{})
		wantServed(t, s, "other", 0)
		if st := s.Status(); st.RefreshAt.After(st.Expires) {
			t.Errorf("the token is to be refreshed %v after its end", st.RefreshAt.Sub(st.Expires))
		}
		s.Rest() // requests alone are to see the end
		advance(time.Second)
		wantServed(t, s, "token-1", 0)
	})
}

// TestRejectedTokenDoesNotComeBack says that a token that the API has rejected is not adopted again, although the store has
// it.
func TestRejectedTokenDoesNotComeBack(t *testing.T) {
	for name, then := range map[string]func(e *endpoint, r *replicas, s *Source){
		"after a purge": func(_ *endpoint, _ *replicas, s *Source) { s.Purge() },
		"after a reload": func(e *endpoint, r *replicas, s *Source) {
			config := e.config(Policy{})
			config.Sharing = NewSharing(r)
			s.Start(config)
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			e, r := newEndpoint(script(grants(hour), fails(errRefused))), new(replicas)
			s := e.sharing(t, r, Policy{})
			l := mustAcquire(t, s)
			l.Accepted()
			advance(time.Minute)
			r.leave("token-1", time.Minute, hour, 55*time.Minute)
			l.Reject(context.Background(), Certain)
			then(e, r, s)
			advance(2 * failedLook)
			_, _ = s.Acquire(context.Background())
			synctest.Wait()
			for _, event := range e.told() {
				if event.Adopted {
					t.Errorf("adopted %q", event.Token.Reveal())
				}
			}
		})
	}
}

// TestAllOfATokenIsShared says that requests with an adopted token have what came with it.
func TestAllOfATokenIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept, certificate := map[string]string{"region": "eu"}, new(tls.Certificate)
		e, r := newEndpoint(func(context.Context, *endpoint) (Issued, error) {
			return Issued{Token: NewSecret("T1"), Lifetime: hour, Kept: kept, Certificate: certificate, Note: "odd"}, nil
		}), new(replicas)
		mustAcquire(t, e.sharing(t, r, Policy{}))
		saved := r.saved[0].Issued
		if !maps.Equal(saved.Kept, kept) || saved.Certificate != certificate || saved.Note != "odd" {
			t.Errorf("saved %+v", saved)
		}
		r.leave("T1", 0, hour, 55*time.Minute)
		r.found.Issued = saved
		other := mustAcquire(t, e.sharing(t, r, Policy{}))
		if !maps.Equal(other.token.kept, kept) || other.Certificate() != certificate || e.lastEvent().Note != "odd" {
			t.Errorf("adopted %+v", other.token)
		}
		e.wantCalls(t, 1)
	})
}

// TestLateRejection says that a late answer about the token before does not end the token that was adopted.
func TestLateRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		s := e.sharing(t, r, Policy{})
		l := mustAcquire(t, s)
		l.Accepted()
		advance(time.Minute)
		r.leave("other", 0, hour, 55*time.Minute)
		for range 3 {
			other, ok := l.Reject(context.Background(), Certain)
			if !ok || other.Value().Reveal() != "other" {
				t.Errorf("got %q, %t", other.Value().Reveal(), ok)
			}
			advance(time.Minute)
		}
		wantServed(t, s, "other", 0)
		e.wantCalls(t, 1)
	})
}

// TestTokenSavedWhileClaiming says that the winner of a claim looks again: another replica may have saved a token, and
// released its claim, since the last look.
func TestTokenSavedWhileClaiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.answerClaims(func(func() Secret) Claim {
			r.leave("other", 0, hour, 55*time.Minute)
			return ClaimWon
		})
		s := e.sharing(t, r, Policy{})
		wantServed(t, s, "other", 0)
		e.wantCalls(t, 0)
		if len(r.released) != 1 || r.released[0] != (released{}) {
			t.Errorf("released %v, want the claim without a hold", r.released)
		}
	})
}

// TestLostClaim says what a replica does while another calls the token endpoint.
func TestLostClaim(t *testing.T) {
	inBubble(t, "its token serves, and it leaves the store alone", func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		s := e.sharing(t, r, Policy{})
		mustAcquire(t, s)
		r.answerClaims(claim(ClaimLost))
		advance(54 * time.Minute)
		for s.Status().State != StateStale {
			advance(time.Second)
		}
		before, _ := r.counts()
		for range 3000 {
			wantServed(t, s, "token-1", 0)
			advance(10 * time.Millisecond)
		}
		if after, _ := r.counts(); after-before < 2 || after-before > 20 {
			t.Errorf("%d looks in 30 s", after-before)
		}
		e.wantCalls(t, 1)
		r.leave("token-2", 0, hour, 55*time.Minute)
		advance(maxLook)
		mustAcquire(t, s)
		synctest.Wait()
		wantServed(t, s, "token-2", 0)
		e.wantCalls(t, 1)

		advance(54 * time.Minute) // the looks of the next time begin anew
		for s.Status().State != StateStale {
			before, _ = r.counts()
			advance(100 * time.Millisecond)
		}
		advance(2 * time.Second)
		if after, _ := r.counts(); after-before < 3 {
			t.Errorf("%d looks in the first 2 s", after-before)
		}
	})
	inBubble(t, "it has none, and waits for the other's", func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.answerClaims(claim(ClaimLost))
		s := e.sharing(t, r, Policy{})
		time.AfterFunc(time.Second, func() { r.leave("other", 0, hour, 55*time.Minute) })
		wantServed(t, s, "other", time.Second+maxPoll)
		e.wantCalls(t, 0)
	})
	inBubble(t, "it has none, and the other goes on for ever", func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.answerClaims(claim(ClaimLost))
		s := e.sharing(t, r, Policy{})
		wantServed(t, s, "token-1", DefaultMaxWait/2+maxPoll)
		e.wantCalls(t, 1)
		if len(r.saved) != 1 || len(r.released) != 0 {
			t.Errorf("saved %d tokens and released %v; want the token left and no claim released", len(r.saved), r.released)
		}
	})
	inBubble(t, "patience does not outlast max_wait", func(t *testing.T) {
		e, r := newEndpoint(slow(latency, grants(hour))), new(replicas)
		r.answerClaims(claim(ClaimLost))
		s := e.sharing(t, r, Policy{MaxWait: time.Second})
		wantServed(t, s, "token-1", 500*time.Millisecond+maxPoll+latency)
	})
	inBubble(t, "it has none, calls too, and the other is faster", func(t *testing.T) {
		e, r := newEndpoint(slow(9*time.Second, grants(hour))), new(replicas)
		r.answerClaims(claim(ClaimLost))
		s := e.sharing(t, r, Policy{})
		time.AfterFunc(10*time.Second, func() { r.leave("other", 0, hour, 55*time.Minute) })
		wantServed(t, s, "other", DefaultMaxWait-callGrace)
		e.wantCalls(t, 1)
	})
	inBubble(t, "its call fails, and the other's does not", func(t *testing.T) {
		e, r := newEndpoint(slow(latency, fails(errRefused))), new(replicas)
		s := e.sharing(t, r, Policy{})
		time.AfterFunc(latency/2, func() { r.leave("other", 0, hour, 55*time.Minute) })
		wantServed(t, s, "other", latency)
		advance(2 * failedLook)
		r.leave("newer", 0, hour, 55*time.Minute)
		if s.Refresh(context.Background()) == nil {
			t.Error("an operator is not told that the call has failed")
		}
	})
	inBubble(t, "its token is rejected, and it waits for the other's", func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		s := e.sharing(t, r, Policy{})
		l := mustAcquire(t, s)
		l.Accepted()
		advance(time.Minute)
		r.leave("token-1", time.Minute, hour, 55*time.Minute)
		r.answerClaims(claim(ClaimLost))
		time.AfterFunc(time.Second, func() { r.leave("other", 0, hour, 55*time.Minute) })
		other, ok := l.Reject(context.Background(), Certain)
		if !ok || other.Value().Reveal() != "other" {
			t.Errorf("got %q, %t", other.Value().Reveal(), ok)
		}
		e.wantCalls(t, 1)
	})
}

// TestSlowStore says that a store that works, but slowly, takes no time away from the call of the token endpoint, and takes
// half of max_wait at most from the requests.
func TestSlowStore(t *testing.T) {
	for name, answer := range map[string]Claim{"won": ClaimWon, "held": ClaimHeld} {
		inBubble(t, "a claim is "+name+", max_wait is short", func(t *testing.T) {
			e, r := newEndpoint(slow(400*time.Millisecond, grants(hour))), &replicas{latency: 280 * time.Millisecond}
			r.answerClaims(claim(answer))
			s := e.sharing(t, r, Policy{MaxWait: 500 * time.Millisecond})
			mustFail(t, s) // it would take 680 ms at least
			advance(200 * time.Millisecond)
			wantServed(t, s, "token-1", 0)
			e.wantCalls(t, 1)
		})
		inBubble(t, "a claim is "+name+", max_wait is longer", func(t *testing.T) {
			e, r := newEndpoint(slow(400*time.Millisecond, grants(hour))), &replicas{latency: 280 * time.Millisecond}
			r.answerClaims(claim(answer))
			s := e.sharing(t, r, Policy{MaxWait: time.Second})
			wantServed(t, s, "token-1", 960*time.Millisecond)
			e.wantCalls(t, 1)
		})
	}
}

// TestShortestMaxWait says that of the credentials that share a source, the least patient one decides how long the source
// waits for other replicas.
func TestShortestMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(slow(latency, grants(hour))), new(replicas)
		r.answerClaims(claim(ClaimLost))
		s := e.sharing(t, r, Policy{})
		config := *s.config.Load()
		config.Policy.MaxWait = time.Second
		defer s.Start(config)()
		config.Policy.MaxWait = DefaultMaxWait
		defer s.Start(config)()
		if _, err := s.AcquireWithin(context.Background(), time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestHeldClaim says that a failure of another replica binds only those that have a token.
func TestHeldClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		r.answerClaims(claim(ClaimHeld))
		s := e.sharing(t, r, Policy{})
		wantServed(t, s, "token-1", 0)
		advance(57 * time.Minute)
		for range 100 {
			wantServed(t, s, "token-1", 0)
			advance(time.Second)
		}
		e.wantCalls(t, 1)
		advance(2 * time.Minute) // expired
		mustAcquire(t, s)
		e.wantCalls(t, 2)
	})
}

// TestHold says which failures the other replicas are told of, and for how long.
func TestHold(t *testing.T) {
	for name, tc := range map[string]struct {
		failure *Error
		held    bool
		refused string
	}{
		"the endpoint is down":         {failure: errDown, held: true},
		"the endpoint throttles":       {failure: errThrottle, held: true},
		"the endpoint asks for a rest": {failure: errLater, held: true},
		"the answer is no token":       {failure: errGarbage, held: true},
		"no route to the endpoint":     {failure: errMissing, held: true}, // for replicas with another proof too
		"the proof is refused":         {failure: errRefused, held: true, refused: "proof 1"},
		"only this replica is cut off": {failure: &Error{Kind: Unavailable, Cause: CauseName, Reason: "no such host"}},
	} {
		inBubble(t, name, func(t *testing.T) {
			e, r := newEndpoint(fails(tc.failure)), new(replicas)
			s := e.sharing(t, r, Policy{})
			failed := mustFail(t, s)
			if len(r.released) != 1 {
				t.Fatalf("released %v, want one", r.released)
			}
			got := r.released[0]
			if want := time.Until(failed.RetryAt); tc.held && got.hold != want || !tc.held && got.hold != 0 {
				t.Errorf("held for %v; this replica calls again after %v", got.hold, want)
			}
			if got.refused != tc.refused {
				t.Errorf("held for proof %q, want %q", got.refused, tc.refused)
			}
		})
	}
}

// TestLookWhileHeldBack says that a replica that may not call serves what another gets, and does not ask the store at
// every request.
func TestLookWhileHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(fails(errRefused)), new(replicas)
		s := e.sharing(t, r, Policy{})
		mustFail(t, s)
		before, _ := r.counts()
		for range 3000 {
			mustFail(t, s)
			advance(time.Millisecond)
		}
		if after, _ := r.counts(); after-before < 2 || after-before > 4 {
			t.Errorf("%d looks in 3 s", after-before)
		}
		e.wantCalls(t, 1)
		r.leave("other", 0, hour, 55*time.Minute)
		advance(failedLook)
		wantServed(t, s, "other", 0)
		if last := e.lastEvent(); !last.Adopted || !last.Recovered {
			t.Errorf("the last event is %+v", last)
		}
		if ready, failed := s.Ready(); !ready || failed != nil || s.Status().Failure != nil {
			t.Errorf("ready %t, failure %v", ready, failed)
		}
	})
}

// TestUnknownClaim says that a replica without a store works as it does without sharing.
func TestUnknownClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(script(grants(hour), fails(errDown), grants(hour))), new(replicas)
		r.answerClaims(claim(ClaimUnknown))
		s := e.sharing(t, r, Policy{Prefetch: true})
		s.Start(*s.config.Load())
		advance(70 * time.Minute)
		e.wantCalls(t, 3)
		if len(r.released) != 0 || len(r.saved) != 2 {
			t.Errorf("released %v, saved %d", r.released, len(r.saved))
		}
	})
}

// TestForcedCallIsShared says that an operator's refresh asks no other replica, and serves them all.
func TestForcedCallIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		s := e.sharing(t, r, Policy{})
		mustAcquire(t, s)
		loads, claims := r.counts()
		if err := s.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
		e.wantCalls(t, 2)
		if l, c := r.counts(); l != loads || c != claims || len(r.saved) != 2 || r.saved[1].Issued.Token.Reveal() != "token-2" {
			t.Errorf("%d looks and %d claims more, saved %v", l-loads, c-claims, r.saved)
		}
	})
}

// TestPurgeOfTheFleet says that a source forgets a token that is older than an operator's purge, and keeps a newer one.
func TestPurgeOfTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(hour)), new(replicas)
		s := e.sharing(t, r, Policy{})
		mustAcquire(t, s)
		advance(10 * time.Minute)
		r.purge()
		wantServed(t, s, "token-1", 0) // until it looks
		r.answerClaims(claim(ClaimHeld))
		advance(48 * time.Minute)
		wantServed(t, s, "token-2", 0)
		e.wantCalls(t, 2)
		r.answerClaims(claim(ClaimLost))
		advance(52 * time.Minute)
		for range 10 {
			wantServed(t, s, "token-2", 0)
			advance(time.Second)
		}
		e.wantCalls(t, 2)
	})
}

// TestTokensWithoutLifeAreNotShared says that a token that serves only the requests that waited for it is not saved.
func TestTokensWithoutLifeAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, r := newEndpoint(grants(0)), new(replicas)
		s := e.sharing(t, r, Policy{})
		mustAcquire(t, s)
		if len(r.saved) != 0 || len(r.released) != 1 {
			t.Errorf("saved %v, released %v", r.saved, r.released)
		}
	})
}

// TestSharingAllocatesNothing guards the path of nearly every request.
func TestSharingAllocatesNothing(t *testing.T) {
	config := newEndpoint(grants(hour)).config(Policy{})
	config.Sharing = NewSharing(new(replicas))
	s := NewSource(config)
	mustAcquire(t, s)
	s.Rest()
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := s.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each request, want none", n)
	}
}
