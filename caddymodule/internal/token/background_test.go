package token

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
)

var prefetch = Policy{Prefetch: true}

// TestTimer is the specification of what a source does while nobody calls: whether it refreshes ahead, goes on after
// a failure, or falls asleep.
func TestTimer(t *testing.T) {
	use := func(_ *endpoint, s *Source) { _, _ = s.Acquire(context.Background()) }
	rest := func(_ *endpoint, s *Source) { s.Rest() }
	configure := func(p Policy) func(*endpoint, *Source) {
		return func(e *endpoint, s *Source) { s.Start(e.config(p)) }
	}
	for name, tc := range map[string]struct {
		policy Policy
		answer answer
		then   []func(*endpoint, *Source) // what happens at the beginning, each after all has come to rest
		least  int                        // calls in ten hours
		most   int
		served Served // what somebody gets who comes then
	}{
		"nobody ever calls":             {answer: grants(hour), served: ServedWaited},
		"one call: one refresh, asleep": {answer: grants(hour), then: do(use), least: 2, most: 2, served: ServedWaited},
		"one call, then rest":           {answer: grants(hour), then: do(use, rest), least: 1, most: 1, served: ServedWaited},
		"one call, other policy": {
			answer: grants(hour), then: do(use, configure(Policy{MaxWait: time.Second})), least: 2, most: 2, served: ServedWaited,
		},
		"one call, prefetch switched on": {
			answer: grants(hour), then: do(use, configure(prefetch)), least: 11, most: 12, served: ServedFresh,
		},
		"one call, rest, start": {
			answer: grants(hour), then: do(use, rest, configure(Policy{})), least: 2, most: 2, served: ServedWaited,
		},
		"one call, rest, start with prefetch": {
			answer: grants(hour), then: do(use, rest, configure(prefetch)), least: 11, most: 12, served: ServedFresh,
		},
		"one call refused, start with prefetch": {
			answer: script(fails(errRefused), grants(hour)), then: do(use, configure(prefetch)), least: 12, most: 13, served: ServedFresh,
		},
		"one call throttled, start with prefetch": {
			answer: script(fails(errLater), grants(hour)), then: do(use, configure(prefetch)), least: 12, most: 13, served: ServedFresh,
		},
		"refresh of lifetime zero, somebody would miss it": {
			answer: script(grants(hour), grants(0), grants(hour)), then: do(use), least: 3, most: 3, served: ServedWaited,
		},
		"refresh fails, somebody would miss it": {
			answer: script(grants(hour), fails(errDown), grants(hour)), then: do(use), least: 3, most: 3, served: ServedWaited,
		},
		"refresh fails for ever": {
			// backoff ends with the token: nobody uses it any more
			answer: script(grants(hour), fails(errThrottle)), then: do(use), least: 4, most: 60, served: "",
		},
		"prefetch":                     {policy: prefetch, answer: grants(hour), least: 11, most: 12, served: ServedFresh},
		"prefetch, started twice":      {policy: prefetch, answer: grants(hour), then: do(configure(prefetch)), least: 11, most: 12, served: ServedFresh},
		"prefetch, then switched off":  {policy: prefetch, answer: grants(hour), then: do(configure(Policy{})), least: 1, most: 1, served: ServedWaited},
		"prefetch, then rest":          {policy: prefetch, answer: grants(hour), then: do(rest), least: 1, most: 1, served: ServedWaited},
		"prefetch refused, then rest":  {policy: prefetch, answer: script(fails(errRefused), grants(hour)), then: do(rest), least: 1, most: 1, served: ServedWaited},
		"prefetch, rest, start":        {policy: prefetch, answer: grants(hour), then: do(rest, configure(prefetch)), least: 11, most: 12, served: ServedFresh},
		"prefetch refused twice":       {policy: prefetch, answer: script(fails(errRefused), fails(errRefused), grants(hour)), least: 13, most: 14, served: ServedFresh},
		"prefetch throttled":           {policy: prefetch, answer: script(fails(errThrottle), fails(errLater), grants(hour)), least: 13, most: 14, served: ServedFresh},
		"prefetch down":                {policy: prefetch, answer: script(fails(errDown), fails(errDown), fails(errDown), fails(errDown), grants(hour)), least: 15, most: 16, served: ServedFresh},
		"prefetch unreadable":          {policy: prefetch, answer: script(fails(errGarbage), fails(errGarbage), grants(hour)), least: 13, most: 14, served: ServedFresh},
		"prefetch panics":              {policy: prefetch, answer: script(panics, panics, panics, panics, grants(hour)), least: 15, most: 16, served: ServedFresh},
		"prefetch hangs":               {policy: prefetch, answer: script(hangs, grants(hour)), least: 12, most: 13, served: ServedFresh},
		"prefetch of lifetime zero":    {policy: prefetch, answer: script(grants(0), grants(0), grants(hour)), least: 13, most: 14, served: ServedFresh},
		"refresh of lifetime zero":     {policy: prefetch, answer: script(grants(hour), grants(0), grants(hour)), least: 12, most: 13, served: ServedFresh},
		"refresh refused":              {policy: prefetch, answer: script(grants(hour), fails(errRefused), grants(hour)), least: 12, most: 13, served: ServedFresh},
		"refresh with the same token":  {policy: prefetch, answer: script(grants(hour), repeats(5*time.Minute), grants(hour)), least: 12, most: 13, served: ServedFresh},
		"rest during the first flight": {policy: prefetch, answer: slow(time.Second, grants(hour)), then: do(rest), least: 1, most: 1, served: ServedWaited},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(tc.answer)
			s := e.source(t, Policy{})
			s.Start(e.config(tc.policy))
			for _, f := range tc.then {
				synctest.Wait()
				f(e, s)
			}
			advance(10 * time.Hour)
			if n := e.count(); n < tc.least || n > tc.most {
				t.Errorf("%d calls in ten hours without traffic, want %d to %d", n, tc.least, tc.most)
			}
			l, err := s.Acquire(context.Background())
			if got := l.Served(); got != tc.served {
				t.Errorf("then somebody is served %q (%v), want %q", got, err, tc.served)
			}
		})
	}
}

// do makes a list of functions readable.
func do[F any](f ...F) []F { return f }

// TestStartDoesNotWait says that starting a configuration takes no time, whatever the endpoint does, and that with
// Prefetch the call is on its way before the first caller comes.
func TestStartDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(slow(time.Second, grants(hour)))
		s := e.source(t, prefetch)
		synctest.Wait()
		e.wantCalls(t, 0) // made, but not started: `caddy validate` must not connect
		if d := took(func() { s.Start(e.config(prefetch)) }); d != 0 {
			t.Errorf("Start took %v", d)
		}
		advance(time.Second / 2)
		e.wantCalls(t, 1)
		var l Lease
		if waited := took(func() { l = mustAcquire(t, s) }); waited != time.Second/2 || l.Served() != ServedWaited {
			t.Errorf("the first caller was served %q after %v, want waited after half of the call", l.Served(), waited)
		}
		e.wantCalls(t, 1)
	})
}

// TestStartWithOtherPolicy says that the latest configuration wins, and that it costs no token.
func TestStartWithOtherPolicy(t *testing.T) {
	inBubble(t, "a valid token stays", func(t *testing.T) {
		w := newWorld(t, "fresh", grants(hour))
		w.s.Start(w.e.config(Policy{RefreshMargin: time.Minute, MaxWait: time.Second, Prefetch: true}))
		synctest.Wait()
		if got := describe(mustAcquire(t, w.s), nil, w.held); got != "fresh old" {
			t.Errorf("got %s, want fresh old", got)
		}
		w.e.wantCalls(t, 1)
	})
	inBubble(t, "the next token follows the new margin", func(t *testing.T) {
		w := newWorld(t, "expired", grants(hour))
		w.s.Start(w.e.config(Policy{RefreshMargin: 20 * time.Minute}))
		mustAcquire(t, w.s)
		advance(34 * time.Minute) // margin and jitter are 20 to 25 minutes
		if got := mustAcquire(t, w.s).Served(); got != ServedFresh {
			t.Errorf("before the margin: served %q, want fresh", got)
		}
		calls := w.e.count()
		advance(6 * time.Minute)
		w.e.wantCalls(t, calls+1)
	})
	inBubble(t, "the next call goes to the new fetcher", func(t *testing.T) {
		w := newWorld(t, "expired", grants(hour))
		other := newEndpoint(grants(hour))
		w.s.Start(other.config(Policy{}))
		mustAcquire(t, w.s)
		w.e.wantCalls(t, 1)
		other.wantCalls(t, 1)
	})
	inBubble(t, "a flight that runs is joined", func(t *testing.T) {
		w := newWorld(t, "flight for callers", slow(time.Second, grants(hour)))
		other := newEndpoint(grants(hour))
		w.s.Start(other.config(prefetch))
		mustAcquire(t, w.s)
		w.e.wantCalls(t, 1)
		other.wantCalls(t, 0)
	})
	inBubble(t, "a refusal of other proof does not count", func(t *testing.T) {
		w := newWorld(t, "cooling down", grants(hour))
		other := newEndpoint(grants(hour))
		other.proof = "proof 2"
		w.s.Start(other.config(Policy{}))
		if got := mustAcquire(t, w.s).Served(); got != ServedWaited {
			t.Errorf("served %q, want waited", got)
		}
	})
	inBubble(t, "a refusal of the same proof counts on", func(t *testing.T) {
		w := newWorld(t, "cooling down", grants(hour))
		w.s.Start(w.e.config(Policy{MaxWait: time.Second}))
		if err := mustFail(t, w.s); err.Kind != Refused {
			t.Errorf("got %v, want the refusal", err)
		}
		w.e.wantCalls(t, 1)
	})
	inBubble(t, "the zero policy means the defaults", func(t *testing.T) {
		w := newWorld(t, "empty", slow(9*time.Second, grants(UnknownLifetime)))
		l := mustAcquire(t, w.s)
		if got := l.token.expires.Sub(l.token.issued); got != DefaultLifetime {
			t.Errorf("an unknown lifetime counts as %v, want %v", got, DefaultLifetime)
		}
	})
}

// TestRestedSourceServes says that requests which outlive their configuration are served as before.
func TestRestedSourceServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(grants(hour))
		s := e.source(t, prefetch)
		s.Start(e.config(prefetch))
		synctest.Wait()
		s.Rest()
		s.Rest() // as often as one likes
		for _, step := range []struct {
			later time.Duration
			want  Served
		}{
			{0, ServedFresh},
			{hour - time.Minute, ServedStale},
			{time.Second, ServedFresh},
			{2 * hour, ServedWaited},
		} {
			advance(step.later)
			if got := mustAcquire(t, s).Served(); got != step.want {
				t.Errorf("after another %v: served %q, want %q", step.later, got, step.want)
			}
			synctest.Wait()
		}
		before := e.count()
		advance(10 * hour)
		e.wantCalls(t, before)
	})
}

// TestLowTraffic says that a credential that is used once per half lifetime never makes anybody wait.
func TestLowTraffic(t *testing.T) {
	for name, a := range map[string]answer{
		"new tokens":                      grants(hour),
		"always the same token":           repeats(hour),
		"the same token until it expires": reuse(hour), // its last half second is not when requests come
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(slow(latency, a))
			e.issue(hour)
			advance(10*time.Minute + 123*time.Millisecond)
			s := e.source(t, Policy{})
			mustAcquire(t, s)
			for range 40 {
				advance(hour / 2)
				var l Lease
				if waited := took(func() { l = mustAcquire(t, s) }); waited != 0 || l.Expired() {
					t.Errorf("served %q after %v, expired: %t; want a valid token at once", l.Served(), waited, l.Expired())
				}
			}
			if n := e.count(); n > 7*21 {
				t.Errorf("%d calls in twenty lifetimes", n)
			}
		})
	}
}

// TestAsleep says that a source that fell asleep wakes up with the next caller, for good; whatever the endpoint is like.
func TestAsleep(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		most   int // calls for one request and then a hundred hours of nothing
	}{
		"new tokens":                         {grants(hour), 2},
		"always the same token, always new":  {repeats(hour), 3},
		"the same token until it expires":    {reuse(hour), 10},
		"lifetime unknown":                   {grants(UnknownLifetime), 2},
		"lifetime zero":                      {grants(0), 2},
		"down, and will stay so":             {fails(errDown), 3},
		"refused, and will stay so":          {fails(errRefused), 1},
		"unreadable, and will stay so":       {fails(errGarbage), 3},
		"granted once, then down":            {script(grants(hour), fails(errDown)), 60},
		"granted once, then refused":         {script(grants(hour), fails(errRefused)), 6},
		"granted once, then lifetime zero":   {script(grants(hour), grants(0)), 400},
		"granted once, then same token zero": {script(grants(hour), repeats(0)), 400},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(tc.answer)
			s := e.source(t, Policy{})
			for range 2 {
				before := e.count()
				_, _ = s.Acquire(context.Background())
				advance(100 * hour)
				if n := e.count() - before; n == 0 || n > tc.most {
					t.Errorf("%d calls, want at most %d", n, tc.most)
				}
			}
		})
	}
}

// TestStartDuringFailure says that a reload in the middle of an outage does not end the background's attempts: the
// token is refreshed as soon as the endpoint is back, though nobody calls.
func TestStartDuringFailure(t *testing.T) {
	for name, failure := range map[string]error{"unavailable": errLater, "refused": errRefused} {
		for _, state := range []string{"stale", "rejected"} {
			for policyName, p := range map[string]Policy{"used": {}, "prefetch": prefetch} {
				inBubble(t, name+"/"+state+"/"+policyName, func(t *testing.T) {
					e := newEndpoint(script(grants(hour), fails(failure), grants(hour)))
					s := e.source(t, p)
					held := mustAcquire(t, s)
					if state == "stale" {
						for e.count() < 2 { // until the timer finds the endpoint failing
							advance(time.Second)
						}
					} else if _, ok := held.Reject(context.Background(), Certain); ok {
						t.Fatal("replaced, though the endpoint fails")
					}
					e.wantCalls(t, 2)
					s.Start(e.config(p))
					advance(2 * time.Minute)
					e.wantCalls(t, 3)
					if got := describe(mustAcquire(t, s), nil, held); got != "fresh new" {
						t.Errorf("got %s, want fresh new", got)
					}
				})
			}
		}
	}
}

// TestStartAndEnd says which configuration is in force: the one that was started last and has not ended. A reload
// starts the new one before the old one ends; one that fails as a whole ends the new one.
func TestStartAndEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		steps   string // A and B start a configuration, a and b end it
		inForce string // whom the next call goes to
		rests   bool
	}{
		"one":                        {"A", "A", false},
		"one that has ended":         {"Aa", "A", true},
		"reload":                     {"ABa", "B", false},
		"reload that failed":         {"ABb", "A", false},
		"reload, then gone":          {"ABab", "B", true},
		"failed reload, then gone":   {"ABba", "A", true},
		"comes back":                 {"AaB", "B", false},
		"the same twice, one ends":   {"AAa", "A", false},
		"ended twice":                {"ABaa", "B", false},
		"ended twice, was the last":  {"Aaa", "A", true},
		"ended twice, came back":     {"AaBa", "B", false},
		"reloads one after another":  {"ABaAbBa", "B", false},
		"started anew while it runs": {"ABbB", "B", false},
	} {
		inBubble(t, name, func(t *testing.T) {
			endpoints := map[rune]*endpoint{'A': newEndpoint(grants(hour)), 'B': newEndpoint(grants(hour))}
			s := endpoints['A'].source(t, Policy{})
			ends := make(map[rune]func())
			for _, step := range tc.steps {
				if end, ok := ends[unicode.ToUpper(step)]; ok && unicode.IsLower(step) {
					end()
				} else {
					ends[step] = s.Start(endpoints[step].config(Policy{}))
				}
			}
			mustAcquire(t, s)
			for name, e := range endpoints {
				if n := e.count(); (n == 1) != (string(name) == tc.inForce) {
					t.Errorf("%d calls went to %c, in force is %s", n, name, tc.inForce)
				}
			}
			advance(hour)
			n := endpoints['A'].count() + endpoints['B'].count()
			if rests := n == 1; rests != tc.rests {
				t.Errorf("%d calls in an hour, want that the source rests: %t", n, tc.rests)
			}
		})
	}
}

// TestReloadThatFailsDoesNotEndPrefetch says that what a configuration asked for goes on when the one that was to
// replace it has failed.
func TestReloadThatFailsDoesNotEndPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(grants(hour))
		s := e.source(t, Policy{})
		s.Start(e.config(prefetch))
		synctest.Wait()
		end := s.Start(e.config(Policy{}))
		advance(hour) // the timer finds that nobody would miss the token
		e.wantCalls(t, 1)
		end()
		synctest.Wait()
		e.wantCalls(t, 2)
		advance(10 * time.Hour)
		if got := mustAcquire(t, s).Served(); got != ServedFresh {
			t.Errorf("served %q, want fresh", got)
		}
	})
}

// TestPrefetchSurvives says that nothing that happens inside one flight keeps the next from being flown.
func TestPrefetchSurvives(t *testing.T) {
	for name, config := range map[string]func(e *endpoint) Config{
		"a panic in Proof": func(e *endpoint) Config {
			return Config{Fetcher: &proofPanicsOnce{endpoint: e}, Policy: prefetch}
		},
		"a panic in Observe": func(e *endpoint) Config {
			var once sync.Once
			return Config{Fetcher: e, Policy: prefetch, Observer: observing{observe: func(Event) { once.Do(func() { panic(canary) }) }}}
		},
		"a slow observer of a failure": func(e *endpoint) Config {
			e.set(script(fails(errThrottle), fails(errThrottle), grants(hour)))
			return Config{Fetcher: e, Policy: prefetch, Observer: observing{observe: func(Event) { <-time.After(5 * time.Second) }}}
		},
		"a token that is stale when it comes": func(e *endpoint) Config {
			e.set(slow(1900*time.Millisecond, grants(2*time.Second)))
			return Config{Fetcher: e, Policy: prefetch}
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			e := newEndpoint(grants(hour))
			c := config(e)
			s := e.source(t, Policy{})
			s.Start(c)
			advance(6 * hour)
			calls := e.callsSince(0)
			if n := len(calls); n == 0 || time.Since(calls[n-1]) > hour {
				t.Errorf("%d calls in six hours, and none in the last", n)
			}
		})
	}
}

// proofPanicsOnce is a Fetcher whose first Proof fails.
type proofPanicsOnce struct {
	*endpoint
	once sync.Once
}

func (p *proofPanicsOnce) Prepare() Call { return Call{Proof: NewSecret(p.Proof()), Fetch: p.Fetch} }

func (p *proofPanicsOnce) Proof() string {
	p.once.Do(func() { panic(canary) })
	return p.endpoint.Proof()
}
