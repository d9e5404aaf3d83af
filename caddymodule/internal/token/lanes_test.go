package token

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is many credentials of one token endpoint.
type crowd struct {
	name    string
	sources []*Source
	servers []*endpoint
	ends    []func()

	mu      sync.Mutex
	now     int // calls under way
	most    int // of them
	answers answer
}

func newCrowd(t *testing.T, name string, n int, a answer) *crowd {
	c := &crowd{name: name, answers: a}
	for range n {
		e := newEndpoint(c.answer)
		c.servers = append(c.servers, e)
		c.sources = append(c.sources, NewSource(c.config(e, Policy{})))
	}
	t.Cleanup(func() {
		for _, s := range c.sources {
			s.Rest()
		}
		advance(settled)
	})
	return c
}

func (c *crowd) config(e *endpoint, p Policy) Config {
	config := e.config(p)
	config.Endpoint = c.name
	return config
}

// answer counts the calls that are under way at the same time.
func (c *crowd) answer(ctx context.Context, e *endpoint) (Issued, error) {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	a := c.answers
	c.mu.Unlock()
	issued, err := a(ctx, e)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
	return issued, err
}

func (c *crowd) set(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = a
}

// start puts all into force, as a configuration does.
func (c *crowd) start() {
	for i, s := range c.sources {
		c.ends = append(c.ends, s.Start(c.config(c.servers[i], prefetch)))
	}
}

func (c *crowd) calls() (n int) {
	for _, e := range c.servers {
		n += e.count()
	}
	return n
}

// ready returns how many have a token.
func (c *crowd) ready() (n int) {
	for _, s := range c.sources {
		if s.current.Load().alive(time.Now()) {
			n++
		}
	}
	return n
}

// atOnce returns how many calls there have been at the same time.
func (c *crowd) atOnce() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

func (c *crowd) check(t *testing.T, ready, calls int) {
	t.Helper()
	if got := c.ready(); got != ready {
		t.Errorf("%s: %d of %d have a token, want %d", c.name, got, len(c.sources), ready)
	}
	if got := c.calls(); got != calls {
		t.Errorf("%s: %d calls, want %d", c.name, got, calls)
	}
	if n := c.atOnce(); n > maxBackground {
		t.Errorf("%s: %d calls at the same time, want %d at most", c.name, n, maxBackground)
	}
}

// waiting returns how many wait for their turn.
func waiting(endpoint string) int {
	background.mu.Lock()
	defer background.mu.Unlock()
	return len(background.byEndpoint[endpoint].waiting)
}

// wantNoLanes says that nothing is kept of token endpoints at which nothing happens.
func wantNoLanes(t *testing.T) {
	t.Helper()
	synctest.Wait()
	background.mu.Lock()
	defer background.mu.Unlock()
	if n := len(background.byEndpoint); n > 0 {
		t.Errorf("%d lanes are left", n)
	}
}

const many = 300

// TestPrefetchTakesTurns says that some hundred credentials do not all call at once, and all get their token.
func TestPrefetchTakesTurns(t *testing.T) {
	for name, begin := range map[string]func(*crowd){
		"start": (*crowd).start,
		"probes": func(c *crowd) {
			for range 3 {
				for _, s := range c.sources {
					s.Ready()
				}
			}
		},
		"purge": func(c *crowd) {
			c.start()
			advance(time.Second)
			for _, s := range c.sources { // most of them wait for their turn already
				s.Purge()
			}
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			c := newCrowd(t, "a", many, slow(latency, grants(hour)))
			before := runtime.NumGoroutine()
			begin(c)
			synctest.Wait()
			if n := waiting(c.name); n > many {
				t.Errorf("%d wait for their turn, of %d", n, many)
			}
			if n := runtime.NumGoroutine() - before; n > 10*maxBackground { // the runtime has some, too
				t.Errorf("%d goroutines for %d credentials", n, many)
			}
			advance(many / maxBackground * latency)
			calls := many
			if name == "purge" {
				calls = c.calls() // those that had a token get another
				advance(many / maxBackground * latency)
			}
			c.check(t, many, calls)
			wantNoLanes(t)
		})
	}
}

// TestCallersTakeNoTurn says that a request which needs a token gets it as if nobody else were there.
func TestCallersTakeNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, "a", many, slow(latency, grants(hour)))
		c.start()
		synctest.Wait()
		for _, i := range []int{many - 1, many / 2, 0} {
			if d := took(func() { mustAcquire(t, c.sources[i]) }); d > latency {
				t.Errorf("the caller of number %d waited %v", i, d)
			}
			c.servers[i].wantCalls(t, 1)
		}
		advance(many / maxBackground * latency)
		if n := c.calls(); n != many {
			t.Errorf("%d calls for %d credentials", n, many)
		}
	})
}

// TestEndpointThatHangsDelaysItsOwn says that the credentials of other token endpoints do not wait for one that hangs,
// and that fetch_timeout bounds what its own wait for each other.
func TestEndpointThatHangsDelaysItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, good := newCrowd(t, "hung", many, hangs), newCrowd(t, "good", many, slow(latency, grants(hour)))
		hung.start()
		good.start()
		advance(many / maxBackground * latency)
		good.check(t, many, many)
		hung.check(t, 0, maxBackground)
		advance(DefaultFetchTimeout - many/maxBackground*latency)
		hung.check(t, 0, 2*maxBackground)
		hung.set(slow(latency, grants(hour)))
		advance(DefaultFetchTimeout + (many/maxBackground)*latency + time.Minute) // and the backoff of the first ones
		hung.check(t, many, many+2*maxBackground)
	})
}

// TestEndpointThatFailsIsLeftAlone says that an outage costs each credential what it costs one, and that they do not all
// come back at once.
func TestEndpointThatFailsIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, "a", many, slow(latency, fails(errThrottle)))
		c.start()
		advance(10 * time.Minute)
		before := c.calls()
		advance(10 * time.Minute)
		if n := c.calls() - before; n > many*10*60/20 { // full jitter of a minute: one in half a minute on average
			t.Errorf("%d calls in ten minutes", n)
		}
		c.check(t, 0, c.calls())
		c.set(slow(latency, grants(hour)))
		advance(2 * time.Minute)
		c.check(t, many, c.calls())
	})
}

// TestQueueEndsWithTheConfiguration says that credentials which no configuration names any more do not call when their
// turn comes, and that those that a reload keeps do.
func TestQueueEndsWithTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, "a", many, slow(latency, grants(hour)))
		c.start()
		advance(latency / 2)
		ends := slices.Clone(c.ends)
		const kept = many / 3
		gone := c.servers[kept:]
		c.sources, c.servers = c.sources[:kept], c.servers[:kept]
		c.start() // the reload
		for _, end := range ends {
			end()
		}
		advance(many / maxBackground * latency)
		c.check(t, kept, kept)
		for _, e := range gone {
			e.wantCalls(t, 0)
		}
		wantNoLanes(t)
	})
}

// TestGoexitInAQueue says that a provider that ends its goroutine does not end the queue.
func TestGoexitInAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, "a", 20, func(context.Context, *endpoint) (Issued, error) {
			runtime.Goexit()
			return Issued{}, nil
		})
		c.start()
		advance(time.Minute) // each is tried three times, with pauses
		if n := c.calls(); n < 20 {
			t.Errorf("%d calls for 20 credentials", n)
		}
		for _, s := range c.sources {
			s.Rest()
		}
		advance(time.Minute) // a flight that is between two tries ends
		wantNoLanes(t)
	})
}

// TestLanesAreByEndpoint says that each token endpoint has its own bound.
func TestLanesAreByEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var crowds []*crowd
		for i := range 5 {
			c := newCrowd(t, fmt.Sprint("endpoint ", i), 20, slow(latency, grants(hour)))
			c.start()
			crowds = append(crowds, c)
		}
		advance(20 / maxBackground * latency)
		for _, c := range crowds {
			c.check(t, 20, 20)
			if n := c.atOnce(); n != maxBackground {
				t.Errorf("%s: %d calls at the same time, want %d", c.name, n, maxBackground)
			}
		}
	})
}
