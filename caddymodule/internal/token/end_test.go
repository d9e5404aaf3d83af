package token

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// nearEnd returns a source whose token no request has used, so that the timer does not refresh it, and which has so much time
// left. It is the second token, because a source that no request uses fetches none.
func nearEnd(t *testing.T, lifetime time.Duration, left func(end time.Duration) time.Duration) (*endpoint, *Source) {
	t.Helper()
	e := newEndpoint(grants(lifetime))
	s := e.source(t, Policy{})
	mustAcquire(t, s)
	advance(lifetime)
	e.wantCalls(t, 2)
	token := s.current.Load()
	advance(token.left(time.Now()) - left(token.end()))
	e.wantCalls(t, 2)
	return e, s
}

// TestEndOfAToken says that no request gets a token that expires on the way to the API while the token endpoint works. It gets
// that token if the endpoint fails, and does not wait until it has expired if the endpoint hangs.
func TestEndOfAToken(t *testing.T) {
	moments := map[string]func(end time.Duration) time.Duration{
		"a millisecond":   func(time.Duration) time.Duration { return time.Millisecond },
		"the last moment": func(end time.Duration) time.Duration { return min(end, lastMoment) - 1 },
		"half of it":      func(end time.Duration) time.Duration { return end / 2 },
		"near its end":    func(end time.Duration) time.Duration { return end - 1 },
	}
	for _, lifetime := range lifetimes {
		for moment, left := range moments {
			inBubble(t, fmt.Sprint(lifetime, "/", moment), func(t *testing.T) {
				e, s := nearEnd(t, lifetime, left)
				e.set(slow(latency, grants(lifetime)))
				l := mustAcquire(t, s)
				if l.Served() != ServedWaited || e.left(l.Value()) < lifetime-2*latency {
					t.Errorf("served %s a token with %v left", l.Served(), e.left(l.Value()))
				}
				e.wantCalls(t, 3)
			})
			inBubble(t, fmt.Sprint(lifetime, "/", moment, ", the endpoint fails"), func(t *testing.T) {
				e, s := nearEnd(t, lifetime, left)
				e.set(fails(errDown))
				for range 10 { // the failure is known
					waited := took(func() {
						if l := mustAcquire(t, s); l.Served() != ServedStale || !e.accepts(l.Value()) {
							t.Errorf("served %s a token with %v left", l.Served(), e.left(l.Value()))
						}
					})
					if waited > 0 {
						t.Errorf("a request waited for %v", waited)
					}
				}
				e.wantCalls(t, 3)
			})
		}
		inBubble(t, fmt.Sprint(lifetime, "/many at once"), func(t *testing.T) {
			e, s := nearEnd(t, lifetime, moments["a millisecond"])
			e.set(slow(latency, grants(lifetime)))
			if got := herd(100, func() string { return string(mustAcquire(t, s).Served()) }); got[string(ServedWaited)] != 100 {
				t.Errorf("got %v", got)
			}
			e.wantCalls(t, 3)
		})
		inBubble(t, fmt.Sprint(lifetime, "/the endpoint hangs"), func(t *testing.T) {
			e, s := nearEnd(t, lifetime, moments["near its end"])
			e.set(hangs)
			if s.current.Load().end() <= lastMoment {
				return
			}
			first := make(chan Lease)
			go func() { first <- mustAcquire(t, s) }()
			advance(1) // the first request waits, the others do not
			if waited := took(func() { mustAcquire(t, s) }); waited > 0 {
				t.Errorf("another request waited for %v", waited)
			}
			if l := <-first; l.Served() != ServedStale || !e.accepts(l.Value()) {
				t.Errorf("served %s a token with %v left", l.Served(), e.left(l.Value()))
			}
		})
		inBubble(t, fmt.Sprint(lifetime, "/not yet near its end"), func(t *testing.T) {
			e, s := nearEnd(t, lifetime, func(end time.Duration) time.Duration { return min(end, 10*time.Second) + 1 })
			e.set(slow(latency, grants(lifetime)))
			if l := mustAcquire(t, s); l.Served() != ServedStale {
				t.Errorf("served %s", l.Served())
			}
		})
	}
}

// TestEndWithADeadline says that a request that may not wait for long gets the token that it would have got without waiting.
func TestEndWithADeadline(t *testing.T) {
	inBubble(t, "max_wait", func(t *testing.T) {
		e, s := nearEnd(t, hour, func(end time.Duration) time.Duration { return end / 2 })
		e.set(hangs)
		l, err := s.AcquireWithin(context.Background(), time.Second)
		if err != nil || l.Served() != ServedStale || l.maxWait != time.Second {
			t.Errorf("served %s within %v, %v", l.Served(), l.maxWait, err)
		}
	})
}

// The token is purged while a request waits for the next one. The request goes on waiting.
func TestPurgeNearTheEnd(t *testing.T) {
	inBubble(t, "purge", func(t *testing.T) {
		e, s := nearEnd(t, time.Hour, func(end time.Duration) time.Duration { return end / 2 })
		e.set(slow(6*time.Second, grants(time.Hour)))
		go func() {
			time.Sleep(time.Second)
			s.Purge()
		}()
		if waited := took(func() { mustAcquire(t, s) }); waited != 6*time.Second {
			t.Errorf("it waited for %v", waited)
		}
	})
}

// An endpoint that hangs does not keep a request from a token that is still good.
func TestPatienceNearTheEnd(t *testing.T) {
	inBubble(t, "hang", func(t *testing.T) {
		e, s := nearEnd(t, time.Hour, func(end time.Duration) time.Duration { return end - 1 })
		e.set(hangs)
		if waited := took(func() { mustAcquire(t, s) }); waited != endPatience {
			t.Errorf("it waited for %v", waited)
		}
	})
}
