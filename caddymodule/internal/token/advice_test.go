package token

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// advises answers with a new token, and with when to refresh it.
func advises(lifetime, refreshIn time.Duration) answer {
	return func(_ context.Context, e *endpoint) (Issued, error) {
		issued := e.issue(lifetime)
		issued.RefreshIn = refreshIn
		return issued, nil
	}
}

// TestRefreshAdvice says when a token is refreshed that an endpoint has given advice about: then, or a little before,
// but never later than without it, and not in the first tenth of its life.
func TestRefreshAdvice(t *testing.T) {
	const minute = time.Minute
	for name, tc := range map[string]struct {
		policy           Policy
		refreshIn        time.Duration
		earliest, latest time.Duration
	}{
		"none":                    {Policy{}, 0, 53*minute + 45*time.Second, 55 * minute},
		"negative":                {Policy{}, -time.Second, 53*minute + 45*time.Second, 55 * minute},
		"most negative":           {Policy{}, -1 << 63, 53*minute + 45*time.Second, 55 * minute},
		"half":                    {Policy{}, 30 * minute, 28*minute + 30*time.Second, 30 * minute},
		"a quarter":               {Policy{}, 15 * minute, 14*minute + 15*time.Second, 15 * minute},
		"a tenth":                 {Policy{}, 6 * minute, 5*minute + 42*time.Second, 6 * minute},
		"less than a tenth":       {Policy{}, 5 * minute, 5*minute + 42*time.Second, 6 * minute},
		"a second":                {Policy{}, time.Second, 5*minute + 42*time.Second, 6 * minute},
		"a nanosecond":            {Policy{}, 1, 5*minute + 42*time.Second, 6 * minute},
		"late":                    {Policy{}, 59 * minute, 53*minute + 45*time.Second, 55 * minute},
		"the end":                 {Policy{}, hour, 53*minute + 45*time.Second, 55 * minute},
		"after the end":           {Policy{}, 100 * hour, 53*minute + 45*time.Second, 55 * minute},
		"after all time":          {Policy{}, 1<<63 - 1, 53*minute + 45*time.Second, 55 * minute},
		"with a margin":           {Policy{RefreshMargin: 20 * minute}, 30 * minute, 28*minute + 30*time.Second, 30 * minute},
		"with a margin before it": {Policy{RefreshMargin: 20 * minute}, 45 * minute, 35 * minute, 40 * minute},
		"with the widest margin":  {Policy{RefreshMargin: hour}, 30 * minute, 22*minute + 30*time.Second, 30 * minute},
	} {
		inBubble(t, name, func(t *testing.T) {
			at := make(map[time.Duration]bool)
			for range 50 {
				start := time.Now()
				e := newEndpoint(slow(latency, advises(hour, tc.refreshIn)))
				l := mustAcquire(t, e.source(t, tc.policy))
				got := l.token.refreshAt.Sub(start) // from when it was asked for, like the lifetime
				if at[got] = true; got <= tc.earliest || got > tc.latest {
					t.Fatalf("it is refreshed after %v, want %v to %v", got, tc.earliest, tc.latest)
				}
			}
			if len(at) < 45 {
				t.Errorf("50 sources refresh at %d different moments", len(at))
			}
		})
	}
}

// TestRefreshAdviceIsFollowed says for every lifetime that there is about one call for each time advised, that no
// advice makes it many, and that nobody waits for it.
func TestRefreshAdviceIsFollowed(t *testing.T) {
	const periods = 10
	for _, lifetime := range lifetimes {
		for _, share := range []time.Duration{2, 5, 10, 1000} {
			inBubble(t, fmt.Sprintf("lifetime %v, advice of 1/%d", lifetime, share), func(t *testing.T) {
				advised := max(lifetime/share, lifetime/10)
				e := newEndpoint(slow(min(lifetime/100, time.Second), advises(lifetime, lifetime/share)))
				s := e.source(t, Policy{})
				mustAcquire(t, s)
				f := &traffic{e: e, s: s}
				f.run(periods*lifetime, min(lifetime/200, time.Minute))
				f.check(t)
				if f.waited > 0 {
					t.Errorf("%d requests waited, up to %v", f.waited, f.longest)
				}
				least, most := int(periods*lifetime/(advised*9/8)), int(periods*lifetime/(advised*19/20))+2
				if n := e.count(); n < least || n > most {
					t.Errorf("%d calls in %d lifetimes, want %d to %d", n, periods, least, most)
				}
			})
		}
	}
}

// TestRefreshAdviceWhileDown says that a refresh that came early for advice's sake and failed costs nobody a token: the
// one there is serves to its end.
func TestRefreshAdviceWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(advises(hour, 10*time.Minute))
		s := e.source(t, Policy{})
		first := mustAcquire(t, s)
		e.set(fails(errDown))
		f := &traffic{e: e, s: s}
		f.run(59*time.Minute, time.Second)
		f.check(t)
		if !mustAcquire(t, s).Value().Equal(first.Value()) {
			t.Error("the token has been lost")
		}
		if n := e.count(); n < 40 || n > 250 { // the backoff of any refresh: up to 60 s, 30 s on average
			t.Errorf("%d calls in 49 minutes", n)
		}
	})
}

// TestRefreshAdviceAboutTheSameToken says that advice does not make an endpoint that reuses tokens be asked ever
// faster: there is no other token to be had.
func TestRefreshAdviceAboutTheSameToken(t *testing.T) {
	for _, refreshIn := range []time.Duration{1, time.Second, 10 * time.Minute, 30 * time.Minute} {
		inBubble(t, refreshIn.String(), func(t *testing.T) {
			const periods = 20
			e := newEndpoint(func(_ context.Context, e *endpoint) (Issued, error) {
				_, last := e.tokens()
				if !e.accepts(last) {
					last = e.issue(hour).Token
				}
				return Issued{Token: last, Lifetime: e.left(last), RefreshIn: refreshIn}, nil
			})
			f := &traffic{e: e, s: e.source(t, Policy{})}
			f.run(periods*hour, time.Second)
			f.check(t)
			if n := e.count(); n > 5*(periods+1) { // one more than without advice
				t.Errorf("%d calls in %d lifetimes, want at most 5 each", n, periods)
			}
		})
	}
}

// TestLeaseCarriesTheRest says that a lease has what came with its token, and of no other.
func TestLeaseCarriesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n int
		certificates := []*tls.Certificate{new(tls.Certificate), new(tls.Certificate), nil}
		with := func(a answer) answer {
			return func(ctx context.Context, e *endpoint) (Issued, error) {
				issued, err := a(ctx, e)
				issued.Kept = map[string]string{"url": fmt.Sprint("https://", n, ".example")}
				issued.Certificate = certificates[min(n, 2)]
				n++
				return issued, err
			}
		}
		e := newEndpoint(with(grants(hour)))
		s := e.source(t, Policy{})
		wantRest := func(l Lease, n int) {
			t.Helper()
			if want := map[string]string{"url": fmt.Sprint("https://", n, ".example")}; !maps.Equal(l.Kept(), want) {
				t.Errorf("got %v, want %v", l.Kept(), want)
			}
			if l.Certificate() != certificates[min(n, 2)] {
				t.Errorf("got another certificate than that of answer %d", n)
			}
		}
		first := mustAcquire(t, s)
		wantRest(first, 0)
		for range 3 {
			wantRest(mustAcquire(t, s), 0)
		}
		advance(hour)
		second := mustAcquire(t, s)
		wantRest(second, 1)
		wantRest(first, 0)

		e.set(with(repeats(hour))) // with the same token, the rest may be news
		advance(hour)
		third := mustAcquire(t, s)
		if wantRest(third, 2); !third.Value().Equal(second.Value()) {
			t.Error("this test needs the same token twice")
		}
		s.Rest()
	})
}

// TestRejectedCopyCarriesTheRest says that a token that is served although it was rejected, because no other can be
// had, comes with all that came with it.
func TestRejectedCopyCarriesTheRest(t *testing.T) {
	certificate := new(tls.Certificate)
	answer := Issued{Token: NewSecret("t"), Kept: map[string]string{"a": "b"}, Certificate: certificate}
	c := newToken(answer, 1, time.Now(), hour).asRejected(time.Now())
	l := Lease{token: c}
	if !maps.Equal(l.Kept(), answer.Kept) || l.Certificate() != certificate {
		t.Errorf("got %v, %v", l.Kept(), l.Certificate())
	}
}

// TestLeaseWithoutTheRest says that most answers have none of it.
func TestLeaseWithoutTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustAcquire(t, newEndpoint(grants(hour)).source(t, Policy{}))
		if len(l.Kept()) != 0 || l.Certificate() != nil {
			t.Errorf("got %v, %v", l.Kept(), l.Certificate())
		}
	})
}
