package token

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// lifetimes are those that are found in the wild; 90000 s is Optoro's.
var lifetimes = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second,
	time.Minute, 5 * time.Minute, time.Hour, 90000 * time.Second,
}

// traffic is a caller who comes at regular intervals, and what became of the requests.
type traffic struct {
	e *endpoint
	s *Source

	served   int
	waited   int // had to wait for the token
	invalid  int // got a token that the API does not take
	failed   int
	longest  time.Duration // wait
	latest   time.Duration // how long after its end a token was handed out
	lastFail *Error
	lastOK   time.Time
}

// once sends one request.
func (f *traffic) once() (Lease, error) {
	var (
		l   Lease
		err error
	)
	wait := took(func() { l, err = f.s.Acquire(context.Background()) })
	f.longest = max(f.longest, wait)
	if wait > 0 {
		f.waited++
	}
	if err != nil {
		f.failed++
		f.lastFail, _ = err.(*Error)
		return l, err
	}
	f.served++
	f.lastOK = time.Now()
	if left := f.e.left(l.Value()); left <= 0 {
		f.invalid++
		f.latest = max(f.latest, -left)
	}
	return l, nil
}

// run sends a request every interval.
func (f *traffic) run(d, interval time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); <-time.After(interval) {
		_, _ = f.once()
	}
	synctest.Wait()
}

// check fails the test if a request has met a failure or an invalid token.
func (f *traffic) check(t *testing.T) {
	t.Helper()
	if f.failed > 0 || f.invalid > 0 {
		t.Errorf("of %d requests %d failed (%v) and %d had an invalid token, want none",
			f.served+f.failed, f.failed, f.lastFail, f.invalid)
	}
}

// TestSteadyTraffic says for every lifetime: no token is used after its end, there is about one call per lifetime, and
// nobody waits but the first, as long as the endpoint answers within the margin.
func TestSteadyTraffic(t *testing.T) {
	const periods = 10
	for _, lifetime := range lifetimes {
		for _, margin := range []time.Duration{0, lifetime / 10, hour} { // 0: the default
			inBubble(t, fmt.Sprintf("lifetime %v, margin %v", lifetime, margin), func(t *testing.T) {
				p := Policy{RefreshMargin: margin}
				m := p.margin(lifetime)
				took := min(m*9/10, DefaultFetchTimeout-time.Second)
				e := newEndpoint(slow(took, grants(lifetime)))
				s := e.source(t, p)
				mustAcquire(t, s)
				f := &traffic{e: e, s: s}
				f.run(periods*lifetime, min(lifetime/200, time.Minute))
				f.check(t)
				if f.waited > 0 {
					t.Errorf("%d requests waited, up to %v, want none", f.waited, f.longest)
				}
				least, most := periods, int(periods*lifetime/(lifetime-m-m/4))+2
				if n := e.count(); n < least || n > most {
					t.Errorf("%d calls in %d lifetimes, want %d to %d", n, periods, least, most)
				}
			})
		}
	}
}

// TestMarginIsSane says that by default the margin costs at most a third more calls, and at most 5 minutes, and that no
// setting makes it more than half of the lifetime.
func TestMarginIsSane(t *testing.T) {
	for _, lifetime := range append(lifetimes, 0, time.Nanosecond, maxLifetime) {
		if got, most := (Policy{}).margin(lifetime), min(5*time.Minute, lifetime/5); got != most {
			t.Errorf("lifetime %v: default margin %v, want %v", lifetime, got, most)
		}
		for _, set := range []time.Duration{time.Nanosecond, time.Second, time.Hour, 1<<63 - 1} {
			if got := (Policy{RefreshMargin: set}).margin(lifetime); got < 0 || got > lifetime/2 || got > set {
				t.Errorf("lifetime %v: margin %v for a setting of %v, want at most half", lifetime, got, set)
			}
		}
	}
}

// TestRefreshIsSpread says that processes that started together do not refresh together.
func TestRefreshIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := make(map[time.Time]bool)
		e := newEndpoint(grants(hour))
		for range 100 {
			l := mustAcquire(t, e.source(t, Policy{}))
			at[l.token.refreshAt] = true
			if early := l.token.expires.Sub(l.token.refreshAt); early < 5*time.Minute || early > 5*time.Minute+75*time.Second {
				t.Errorf("refreshed %v before expiry, want the margin and at most a quarter more", early)
			}
		}
		if len(at) < 90 {
			t.Errorf("100 sources refresh at %d different moments", len(at))
		}
	})
}

// TestLifetimes says how long a token is trusted, whatever the endpoint claims.
func TestLifetimes(t *testing.T) {
	for name, tc := range map[string]struct {
		policy Policy
		said   time.Duration
		want   time.Duration
	}{
		"plain":                 {said: 90000 * time.Second, want: 90000 * time.Second},
		"one second":            {said: time.Second, want: time.Second},
		"one nanosecond":        {said: 1, want: 1},
		"unknown":               {said: UnknownLifetime, want: DefaultLifetime},
		"unknown, configured":   {policy: Policy{DefaultLifetime: 10 * time.Minute}, said: UnknownLifetime, want: 10 * time.Minute},
		"unknown, for ever":     {policy: Policy{DefaultLifetime: 1<<63 - 1}, said: UnknownLifetime, want: maxLifetime},
		"zero":                  {said: 0, want: 0},
		"negative":              {said: -5 * time.Second, want: 0},
		"most negative":         {said: -1 << 63, want: 0},
		"absurd":                {said: 1<<63 - 1, want: maxLifetime},
		"a little too long":     {said: maxLifetime + 1, want: maxLifetime},
		"as long as is allowed": {said: maxLifetime, want: maxLifetime},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(func(_ context.Context, e *endpoint) (Issued, error) {
				return Issued{Token: NewSecret("t"), Lifetime: tc.said}, nil
			})
			s := e.source(t, tc.policy)
			start := time.Now()
			l := mustAcquire(t, s)
			if got := e.lastEvent().Lifetime; got != tc.want {
				t.Errorf("it is told as %v, want %v", got, tc.want)
			}
			if got := l.token.expires.Sub(start); got != tc.want {
				t.Errorf("it is trusted for %v, want %v", got, tc.want)
			}
			if l.Expired() != (tc.want == 0) {
				t.Errorf("Expired is %t", l.Expired())
			}
			s.Rest()
			advance(tc.want)
			if !l.Expired() {
				t.Error("the lease is not expired when the lifetime has passed")
			}
		})
	}
}

// TestLifetimeCountsFromTheRequest says that a slow answer makes a token older, not younger.
func TestLifetimeCountsFromTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(8*time.Second, grants(10*time.Second)))
		s := e.source(t, Policy{})
		l := mustAcquire(t, s)
		s.Rest()
		advance(2*time.Second - 1)
		if l.Expired() {
			t.Error("expired before its time")
		}
		advance(1)
		if !l.Expired() {
			t.Error("a token that was asked for 10 s ago outlives its lifetime of 10 s")
		}
	})
}

// TestSlowerThanTheLifetime says that callers are served by an answer that has cost all of the token's life: it is
// like a lifetime of zero, and no loop.
func TestSlowerThanTheLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(3*time.Second, grants(2*time.Second)))
		f := &traffic{e: e, s: e.source(t, Policy{})}
		f.run(5*time.Minute, 10*time.Millisecond)
		if f.failed > 0 {
			t.Errorf("%d requests failed: %v", f.failed, f.lastFail)
		}
		if n := e.count(); n > 100 {
			t.Errorf("%d calls in 5 minutes, each of 3 s, want one after the other", n)
		}
	})
}

// TestAlwaysZeroLifetime says that an endpoint that only issues tokens without a life serves all who wait, and is
// asked at most every two seconds.
func TestAlwaysZeroLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(latency, grants(0)))
		s := e.source(t, Policy{})
		end := time.Now().Add(time.Minute)
		for time.Now().Before(end) {
			before := e.count()
			got := herd(100, func() string {
				l, err := s.Acquire(context.Background())
				return describe(l, err, Lease{})
			})
			if got["waited new"] != 100 {
				t.Fatalf("callers got %v, want all waited new", got)
			}
			e.wantCalls(t, before+1)
		}
		calls := e.callsSince(0)
		if n := len(calls); n < 28 || n > 36 {
			t.Errorf("%d calls in a minute, want one every two seconds", n)
		}
		for i := range calls[1:] {
			gap := calls[i+1].Sub(calls[i])
			if gap < firstPause || gap > 2*time.Second+2*latency {
				t.Errorf("call %d came %v after the one before, want 100 ms to 2 s", i+1, gap)
			}
			if i > 0 && gap+latency < calls[i].Sub(calls[i-1]) {
				t.Errorf("call %d came %v after the one before, sooner than the one before that", i+1, gap)
			}
		}
		// and it is forgotten with the first token that lives
		e.set(grants(hour))
		mustAcquire(t, s)
		advance(2 * hour)
		e.set(script(grants(0), grants(hour)))
		mustAcquire(t, s)
		if waited := took(func() { mustAcquire(t, s) }); waited != firstPause {
			t.Errorf("the next pause is %v, want %v again", waited, firstPause)
		}
	})
}

// reuse is a Doorkeeper server with token reuse: it hands out one token until it expires, says how many whole seconds
// remain, rounded to the nearest, and so says 0 in the last half second.
func reuse(lifetime time.Duration) answer {
	return func(_ context.Context, e *endpoint) (Issued, error) {
		_, last := e.tokens()
		if !e.accepts(last) {
			last = e.issue(lifetime).Token
		}
		return Issued{Token: last, Lifetime: e.left(last).Round(time.Second)}, nil
	}
}

// TestTokenReuse says that such a server is asked at most four times about one token while it lives, and after that as
// often as 100, 200, 400 ms fit into its last half second; and that no request is refused for it.
func TestTokenReuse(t *testing.T) {
	const periods = 20
	for _, lifetime := range lifetimes {
		inBubble(t, lifetime.String(), func(t *testing.T) {
			e := newEndpoint(reuse(lifetime))
			e.issue(lifetime) // older than this process, and not by whole seconds
			advance(lifetime/3 + 123*time.Millisecond)
			f := &traffic{e: e, s: e.source(t, Policy{})}
			f.run(periods*lifetime, max(lifetime/500, 5*time.Millisecond))
			if f.failed > 0 {
				t.Errorf("%d requests failed: %v", f.failed, f.lastFail)
			}
			if f.latest > time.Second/2 {
				t.Errorf("a token was handed out %v after its end, want at most what the server rounds away", f.latest)
			}
			if f.longest > time.Second {
				t.Errorf("somebody waited %v, want at most for the end of the last half second", f.longest)
			}
			alive, dead := e.answers()
			for token, n := range alive {
				if n > 4 {
					t.Errorf("%d calls about %s while it lived, want at most 4", n, token)
				}
			}
			for token, n := range dead {
				if n > 4 {
					t.Errorf("%d calls about %s in its last half second, want at most 4", n, token)
				}
			}
		})
	}
}

// TestTokenReuseWithoutTraffic says that Prefetch keeps such a token alive through its last half second.
func TestTokenReuseWithoutTraffic(t *testing.T) {
	const (
		periods = 30
		least   = periods * 4 / 5 // a new one comes up to 0.7 s after the end of the one before
	)
	for _, lifetime := range lifetimes[2:] { // a token of 1 or 2 s is in its last half second too often
		inBubble(t, lifetime.String(), func(t *testing.T) {
			e := newEndpoint(reuse(lifetime))
			e.issue(lifetime)
			advance(lifetime/3 + 123*time.Millisecond)
			s := e.source(t, prefetch)
			s.Start(e.config(prefetch))
			advance(periods * lifetime)
			if n := e.count(); n < least || n > 7*periods {
				t.Errorf("%d calls in %d lifetimes, want %d to %d", n, periods, least, 7*periods)
			}
			if n, _ := e.tokens(); n < least {
				t.Errorf("%d tokens in %d lifetimes, want at least %d", n, periods, least)
			}
		})
	}
}

// TestSameTokenForEver says that a server that always answers with one and the same token and a full lifetime is asked
// once per lifetime, like any other.
func TestSameTokenForEver(t *testing.T) {
	for _, lifetime := range lifetimes {
		inBubble(t, lifetime.String(), func(t *testing.T) {
			const periods = 10
			e := newEndpoint(repeats(lifetime))
			f := &traffic{e: e, s: e.source(t, Policy{})}
			f.run(periods*lifetime, lifetime/200)
			if f.failed > 0 || f.waited > 0 {
				t.Errorf("%d requests failed and %d waited, want none", f.failed, f.waited)
			}
			if n := e.count(); n > periods*4/3+2 {
				t.Errorf("%d calls in %d lifetimes, want about one for each", n, periods)
			}
			if got := mustAcquire(t, f.s).token.generation; got != 1 {
				t.Errorf("the one token is of generation %d, want 1", got)
			}
		})
	}
}
