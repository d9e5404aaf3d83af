package share

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// log collects what hooks are called with.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) hooks() Hooks {
	return Hooks{Down: func(f Failure) { l.add("down: " + f.String()) }, Up: func() { l.add("up") }}
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *log) want(t *testing.T, lines ...string) {
	t.Helper()
	if all := l.all(); !slices.Equal(all, lines) {
		t.Errorf("reported %q, want %q", all, lines)
	}
}

// wholeFlight does what a flight without a token does with the store, and returns how long that takes.
func wholeFlight(ctx context.Context, c *Credential) time.Duration {
	begun := time.Now()
	c.Load(ctx)
	if c.Claim(ctx, proof("s")) == token.ClaimWon {
		c.Load(ctx)
	}
	c.Save(ctx, found("T"))
	c.Release(ctx, 0, token.Secret{})
	return time.Since(begun)
}

// A store hangs, and ignores its context.
func TestStoreThatHangs(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			var reported log
			release := make(chan struct{})
			memory.Deaf = true
			memory.Fail = func(string, string) error { <-release; return nil }
			g := guard(ctx, s, reported.hooks())
			synctest.Wait()
			before := runtime.NumGoroutine()
			for i := range 100 {
				c := Share{Ring: ring(t, keyA), Guard: g}.Credential(spec())
				took := wholeFlight(ctx, c)
				if i == 0 && took != callBudget || i > 0 && took != 0 {
					t.Errorf("flight %d was held up for %v", i, took)
				}
				time.Sleep(10 * time.Second)
			}
			if n := runtime.NumGoroutine() - before; n > maxOutstanding {
				t.Errorf("%d goroutines", n)
			}
			if n := memory.Calls("load") + memory.Calls("save") + memory.Calls("probe"); n != maxOutstanding {
				t.Errorf("%d calls are outstanding, want %d", n, maxOutstanding)
			}
			reported.want(t, "down: timeout")
			close(release)
			time.Sleep(maxRest + time.Second)
			wholeFlight(ctx, Share{Ring: ring(t, keyA), Guard: g}.Credential(spec()))
			reported.want(t, "down: timeout", "up")
			if !g.Stats().Up {
				t.Error("the store works, and is not up")
			}
		})
	})
}

// All credentials of a configuration start at once: more than the slots, and none is to miss what the others have.
func TestCallsWaitForTheirTurn(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := &sharetest.Store{Latency: func() time.Duration { return 5 * time.Millisecond }}
		g := guard(ctx, store)
		var running sync.WaitGroup
		for range 100 {
			running.Go(func() {
				if _, outcome := g.load(ctx, OperationLoad, "x"); outcome != OutcomeAbsent {
					t.Errorf("outcome %s", outcome)
				}
			})
		}
		running.Wait()
	})
}

// More calls than the store can take in time are no failure of it: it goes on working for those that had their turn.
func TestCallsThatGetNoTurn(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		var reported log
		store := &sharetest.Store{Latency: func() time.Duration { return 5 * time.Millisecond }}
		g := guard(ctx, store, reported.hooks())
		time.Sleep(time.Second)
		var running sync.WaitGroup
		for range 1000 {
			running.Go(func() { g.load(ctx, OperationLoad, "x") })
		}
		running.Wait()
		stats := g.Stats()
		calls := stats.Calls[OperationLoad]
		if calls[OutcomeAbsent] < 200 || calls[OutcomeAbsent]+calls[OutcomeSkipped] != 1000 || !stats.Up {
			t.Errorf("calls %v, up: %t", calls, stats.Up)
		}
		reported.want(t)
	})
}

// An outage looks like a store with nothing in it, until something is written.
func TestStoreThatKnowsNothingWhileItIsDown(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			one := replica(t, ctx, s)
			one.Save(ctx, found("T1"))
			memory.Change(func(m *sharetest.Store) {
				m.Alter = func(string, []byte) []byte { return nil }
				m.Fail = func(operation, _ string) error {
					if operation == "load" {
						return nil
					}
					return errors.New("down")
				}
			})
			if _, ok := one.Load(ctx); ok {
				t.Fatal("the store is not down")
			}
			wantClaim(t, ctx, one, token.ClaimUnknown, "s")
			if took := wholeFlight(ctx, one); took > 0 {
				t.Errorf("held up for %v", took)
			}
		})
	})
}

func TestStoreThatFails(t *testing.T) {
	secret := "redis://:hunter2@10.0.0.5"
	refused := &net.OpError{Op: "dial", Net: secret, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for name, c := range map[string]struct {
		fail func() error
		want string
	}{
		"error":          {func() error { return errors.New(secret) }, "down: other (*errors.errorString)"},
		"wrapped":        {func() error { return fmt.Errorf("%s: %w", secret, refused) }, "down: refused (*net.OpError)"},
		"timeout":        {func() error { return os.ErrDeadlineExceeded }, "down: timeout (*poll.DeadlineExceededError)"},
		"explained":      {func() error { return &Error{"the password is wrong", refused} }, "down: refused (*net.OpError): the password is wrong"},
		"panic":          {func() error { panic(secret) }, "down: other: the store panicked with a string"},
		"runtime.Goexit": {func() error { runtime.Goexit(); return nil }, "down: other: the store ended its goroutine"},
	} {
		t.Run(name, func(t *testing.T) {
			stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
				bubble(t, func(t *testing.T, ctx context.Context) {
					var reported log
					memory.Fail = func(string, string) error { return c.fail() }
					g := guard(ctx, s, reported.hooks())
					credential := Share{Ring: ring(t, keyA), Guard: g}.Credential(spec())
					for range 10 {
						if took := wholeFlight(ctx, credential); took > 0 {
							t.Errorf("held up for %v", took)
						}
						time.Sleep(time.Second)
					}
					if credential.Purge(ctx) || credential.PurgeFleet(ctx) {
						t.Error("a purge has worked in a store that fails")
					}
					reported.want(t, c.want)
					if last := g.Stats().LastFailure; last == nil || "down: "+last.String() != c.want || strings.Contains(last.String(), "hunter2") {
						t.Errorf("last failure %v", last)
					}
					memory.Change(func(m *sharetest.Store) { m.Fail = nil })
					time.Sleep(maxRest)
					reported.want(t, c.want, "up")
					credential.Save(ctx, found("T1"))
					if loads(ctx, credential) != "T1" {
						t.Error("a store that works again is not used")
					}
				})
			})
		})
	}
}

// A store that fails is left alone for 1 s, doubling to 30 s, and no request is held up to learn whether it works.
func TestRest(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := new(sharetest.Store)
		g := guard(ctx, store)
		synctest.Wait()
		store.Change(func(s *sharetest.Store) { s.Fail = func(string, string) error { return errors.New("down") } })
		g.load(ctx, OperationLoad, "x")
		for seconds, probes := range map[time.Duration]int{1: 1, 3: 2, 7: 3, 15: 4, 31: 5, 61: 6, 91: 7, 121: 8} {
			go func() {
				time.Sleep(seconds*time.Second - time.Millisecond)
				if n := store.Calls("probe"); n != probes {
					t.Errorf("%d probes just before %d s, want %d", n, seconds, probes)
				}
				time.Sleep(2 * time.Millisecond)
				if n := store.Calls("probe"); n != probes+1 {
					t.Errorf("%d probes after %d s, want %d", n, seconds, probes+1)
				}
			}()
		}
		for range 125 {
			time.Sleep(time.Second)
			g.load(ctx, OperationLoad, "x")
		}
		if n := store.Calls("load"); n != 1 {
			t.Errorf("%d loads of a store that rests", n)
		}
		store.Change(func(s *sharetest.Store) { s.Fail = nil })
		time.Sleep(30 * time.Second)
		if _, outcome := g.load(ctx, OperationLoad, "x"); outcome != OutcomeAbsent {
			t.Errorf("outcome %s after one success", outcome)
		}
	})
}

// A store that cannot be written to (full, a replica) works no more, although it can be read.
func TestStoreThatIsFull(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			var reported log
			memory.Fail = func(operation, _ string) error {
				if operation == "load" {
					return nil
				}
				return &Error{Reason: "the server is out of memory"}
			}
			c := Share{Ring: ring(t, keyA), Guard: guard(ctx, s, reported.hooks())}.Credential(spec())
			for range 100 {
				wholeFlight(ctx, c)
				time.Sleep(5 * time.Second)
			}
			reported.want(t, "down: other: the server is out of memory")
		})
	})
}

func TestOpening(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			store := new(sharetest.Store)
			g := NewGuard(OpenerFunc(func(context.Context) (Store, error) { time.Sleep(20 * time.Millisecond); return store, nil }), Hooks{})
			g.Start(ctx)
			if _, outcome := g.load(ctx, OperationLoad, "x"); outcome != OutcomeAbsent { // of a flight that begins with the configuration
				t.Errorf("outcome %s", outcome)
			}
		})
	})
	t.Run("later", func(t *testing.T) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			var reported log
			store, opened := new(sharetest.Store), atomic.Int32{}
			g := NewGuard(OpenerFunc(func(context.Context) (Store, error) {
				if opened.Add(1) < 4 {
					return nil, errors.New("hunter2")
				}
				return store, nil
			}), reported.hooks())
			g.Start(ctx)
			c := Share{Ring: ring(t, keyA), Guard: g}.Credential(spec())
			for range 6 {
				if took := wholeFlight(ctx, c); took > 0 {
					t.Errorf("held up for %v", took)
				}
				time.Sleep(time.Second)
			}
			reported.want(t, "down: other (*errors.errorString)")
			time.Sleep(time.Second + time.Millisecond) // 1 s, 2 s and 4 s are over
			wholeFlight(ctx, c)
			reported.want(t, "down: other (*errors.errorString)", "up")
			if store.Calls("save") == 0 {
				t.Error("the store is not used")
			}
		})
	})
	for name, open := range map[string]func() (Store, error){
		"panics":      func() (Store, error) { panic("hunter2") },
		"ends":        func() (Store, error) { runtime.Goexit(); return nil, nil },
		"has nothing": func() (Store, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ctx context.Context) {
				var reported log
				g := NewGuard(OpenerFunc(func(context.Context) (Store, error) { return open() }), reported.hooks())
				g.Start(ctx)
				time.Sleep(time.Minute)
				if all := reported.all(); len(all) != 1 || strings.Contains(all[0], "hunter2") {
					t.Errorf("reported %q", all)
				}
				c := Share{Ring: ring(t, keyA), Guard: g}.Credential(spec())
				if took := wholeFlight(ctx, c); took > 0 || g.Stats().Up {
					t.Errorf("held up for %v, %+v", took, g.Stats())
				}
			})
		})
	}
	t.Run("hangs", func(t *testing.T) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			var reported log
			release := make(chan struct{})
			g := NewGuard(OpenerFunc(func(context.Context) (Store, error) { <-release; return new(sharetest.Store), nil }), reported.hooks())
			g.Start(ctx)
			c := Share{Ring: ring(t, keyA), Guard: g}.Credential(spec())
			if took := wholeFlight(ctx, c); took > callBudget {
				t.Errorf("the first flight was held up for %v", took)
			}
			if took := wholeFlight(ctx, c); took > 0 {
				t.Errorf("another flight was held up for %v", took)
			}
			time.Sleep(openPatience)
			reported.want(t, "down: timeout")
			close(release)
			synctest.Wait()
			wholeFlight(ctx, c)
			reported.want(t, "down: timeout", "up")
		})
	})
	t.Run("never started", func(t *testing.T) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			g := NewGuard(OpenerFunc(func(context.Context) (Store, error) { panic("opened") }), Hooks{})
			wholeFlight(ctx, Share{Ring: ring(t, keyA), Guard: g}.Credential(spec()))
		})
	})
}

// A configuration is unloaded under a running flight, and its client is closed.
func TestStoreThatIsClosedUnderAFlight(t *testing.T) {
	stores(t, func(t *testing.T, s Store, memory *sharetest.Store) {
		bubble(t, func(t *testing.T, ctx context.Context) {
			var reported log
			loaded, unload := context.WithCancel(ctx)
			memory.Latency = func() time.Duration { return 20 * time.Millisecond }
			memory.Fail = func(string, string) error {
				if loaded.Err() != nil {
					return errors.New("closed")
				}
				return nil
			}
			c := Share{Ring: ring(t, keyA), Guard: guard(loaded, s, reported.hooks())}.Credential(spec())
			go func() { time.Sleep(5 * time.Millisecond); unload() }()
			wholeFlight(ctx, c)
			time.Sleep(time.Minute)
			before := memory.Calls("load")
			wholeFlight(ctx, c)
			if memory.Calls("load") != before {
				t.Error("the store of an unloaded configuration is called")
			}
			reported.want(t)
		})
	})
}

func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		store := &sharetest.Claimer{Store: sharetest.Store{Latency: func() time.Duration { return 3 * time.Millisecond }}}
		g := guard(ctx, store)
		one := Share{Ring: ring(t, keyA), Guard: g}.Credential(spec())
		if s := one.Stats(); s.From != "" || s.LastClaim != "" {
			t.Errorf("before anything happened: %+v", s)
		}
		wholeFlight(ctx, one)
		s := g.Stats()
		for op, outcomes := range map[Operation]map[Outcome]uint64{
			OperationLoad:    {OutcomeAbsent: 2},
			OperationSave:    {OutcomeAbsent: 1, OutcomeOK: 1},
			OperationClaim:   {OutcomeOK: 1},
			OperationRelease: {OutcomeOK: 1},
		} {
			for outcome := range Outcome(len(s.Calls[op])) {
				if got := s.Calls[op][outcome]; got != outcomes[outcome] {
					t.Errorf("%d calls %s %s, want %d", got, op, outcome, outcomes[outcome])
				}
			}
		}
		h := s.Durations[OperationLoad]
		if h.Count != 2 || h.Sum != 0.006 || h.Buckets[0.0025] != 0 || h.Buckets[0.005] != 2 || h.Buckets[0.3] != 2 {
			t.Errorf("durations %+v", h)
		}
		if c := one.Stats(); !s.Up || c.From != "here" || c.LastClaim != "won" || c.Claims[token.ClaimWon] != 1 {
			t.Errorf("up %v, credential %+v", s.Up, c)
		}
	})
}

// A store that does not work is reported when the configuration is loaded, and not with the first flight.
func TestProbe(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		var reported log
		store := &sharetest.Store{Fail: func(string, string) error { return &Error{Reason: "the password is wrong"} }}
		g := guard(ctx, store, reported.hooks())
		synctest.Wait()
		reported.want(t, "down: other: the password is wrong")
		if g.Probe(ctx) {
			t.Error("a store that fails works")
		}
		store.Change(func(s *sharetest.Store) { s.Fail = nil })
		if !g.Probe(ctx) || !g.Stats().Up {
			t.Error("a store that works does not")
		}
		g.Probe(ctx)
		reported.want(t, "down: other: the password is wrong", "up")
	})
}
