package share

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// callBudget is how long a call of a store may take. A dead store holds up a request that has no token for as long.
	callBudget = 300 * time.Millisecond

	// turnPatience is how much of that a call may wait for its turn. The rest must do for the store, or the call would blame
	// it for what other calls have used up.
	turnPatience = callBudget / 2

	// maxOutstanding bounds the calls of a store that have not returned, abandoned ones included.
	maxOutstanding = 8

	// A store that has failed is left alone for minRest, doubling to maxRest.
	minRest = time.Second
	maxRest = 30 * time.Second

	// openPatience is how long a store may take to open before it is reported.
	openPatience = 10 * time.Second

	// probeName is what a store is asked to save, to learn whether it works again. Nothing reads it.
	probeName = "token_proxy/v1/probe"
	probeLife = time.Minute
)

// Hooks are called when the state of a store changes. They must be quick, and must not call the Guard.
type Hooks struct {
	// Down is called when a store fails that was up, or that has not worked yet.
	Down func(Failure)

	// Up is called when a store works again.
	Up func()
}

// Guard opens a Store and keeps its troubles away from requests: a store that has failed is not called for requests until it
// has saved a probe. (A load that succeeds proves nothing: a store that is full can be read.)
// It is safe for concurrent use.
type Guard struct {
	opener   Opener
	hooks    Hooks
	slots    chan struct{}
	tried    chan struct{} // closed when the first attempt to open is over, or takes too long
	troubled chan struct{} // has an element if the store must be probed
	storeCounters

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	store   Store
	up      bool // since the last probe, nothing has failed
	down    bool // reported as such
	resting bool // until a probe succeeds
	rest    time.Duration
	failure *Failure
}

// NewGuard makes a guard. Its store is absent until Start is called.
func NewGuard(opener Opener, hooks Hooks) *Guard {
	if hooks.Down == nil {
		hooks.Down = func(Failure) {}
	}
	if hooks.Up == nil {
		hooks.Up = func() {}
	}
	return &Guard{
		opener: opener, hooks: hooks,
		slots: make(chan struct{}, maxOutstanding), tried: make(chan struct{}), troubled: make(chan struct{}, 1),
	}
}

// Start opens the store in the background, and tries again until that succeeds or the context ends. When the context has
// ended, the store is absent. Call it once.
func (g *Guard) Start(ctx context.Context) {
	g.mu.Lock()
	g.ctx = ctx
	g.mu.Unlock()
	tried := sync.OnceFunc(func() { close(g.tried) })
	time.AfterFunc(callBudget, tried)
	go func() {
		for !g.open(ctx) {
			tried()
			if !g.pause(ctx) {
				return
			}
		}
		tried()
		g.Probe(ctx) // a wrong address is to be reported now, and not with the first flight
		g.watch(ctx)
	}()
}

// Stats returns what is known of the store.
func (g *Guard) Stats() StoreStats {
	var s StoreStats
	g.storeCounters.snapshot(&s)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Up = g.up
	if g.failure != nil {
		failure := *g.failure
		s.LastFailure = &failure
	}
	return s
}

// open tries once to open the store, and reports whether it is open. While Open does not return, the store stays absent.
func (g *Guard) open(ctx context.Context) bool {
	slow := time.AfterFunc(openPatience, func() { g.failed(nil) })
	a := <-begin(func() (Store, error) { return g.opener.Open(ctx) })
	slow.Stop()
	if a.err == nil && a.result == nil {
		a.err = &Error{Reason: "the store was not made"}
	}
	if a.err != nil {
		g.failed(a.err)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.store, g.resting = a.result, false
	return true
}

// watch probes the store after each rest, so that no request has to find out whether it works again. Saving fails in more ways
// than loading: a store can be full, or have become read-only.
func (g *Guard) watch(ctx context.Context) {
	for {
		select {
		case <-g.troubled:
		case <-ctx.Done():
			return
		}
		for g.isResting() {
			if !g.pause(ctx) {
				return
			}
			g.Probe(ctx)
		}
	}
}

// Probe saves a value that nothing reads, even while the store rests, and reports whether the store works. If it does not,
// Stats has the reason.
func (g *Guard) Probe(ctx context.Context) bool {
	begun := time.Now()
	_, outcome := attempt(ctx, g, g.isOpen, func(ctx context.Context, s Store) (struct{}, error) {
		return struct{}{}, s.Save(ctx, probeName, []byte{version}, probeLife)
	})
	g.count(OperationProbe, outcome, time.Since(begun))
	if outcome == OutcomeOK {
		g.recovered()
	}
	return outcome == OutcomeOK
}

// pause waits for as long as the store rests, and makes the next rest longer. It reports whether it could wait before the
// context ended.
func (g *Guard) pause(ctx context.Context) bool {
	g.mu.Lock()
	rest := g.rest
	g.rest = min(2*rest, maxRest)
	g.mu.Unlock()
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g *Guard) isResting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.resting
}

// isOpen returns the store, or nil if there is none. The first calls wait for it to open for a moment.
func (g *Guard) isOpen(ctx context.Context) Store {
	select {
	case <-g.tried:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil || g.ctx.Err() != nil {
		return nil
	}
	return g.store
}

// usable returns the store, or nil while it must not be called.
func (g *Guard) usable(ctx context.Context) Store {
	store := g.isOpen(ctx)
	if g.isResting() {
		return nil
	}
	return store
}

// call calls the store, within the budget and whatever it does. The outcome is OutcomeOK if f returned no error.
func call[T any](ctx context.Context, g *Guard, op Operation, f func(context.Context, Store) (T, error)) (T, Outcome) {
	begun := time.Now()
	result, outcome := attempt(ctx, g, g.usable, f)
	g.count(op, outcome, time.Since(begun))
	return result, outcome
}

// attempt calls the store that choose returns. The caller's context does not end the call: a canceled call would look like
// a failure of the store, and a claim is released after the caller's time is over.
func attempt[T any](
	ctx context.Context, g *Guard, choose func(context.Context) Store, f func(context.Context, Store) (T, error),
) (none T, outcome Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callBudget)
	defer cancel()
	store := choose(ctx)
	if store == nil {
		return none, OutcomeSkipped
	}
	turn := time.NewTimer(turnPatience)
	defer turn.Stop()
	select {
	case g.slots <- struct{}{}:
	case <-turn.C: // too many calls at once, or calls that do not return, each of which has been reported as a failure
		return none, OutcomeSkipped
	}
	done := begin(func() (T, error) {
		defer func() { <-g.slots }()
		return f(ctx, store)
	})
	select {
	case a := <-done:
		if a.err != nil {
			return none, g.failed(a.err)
		}
		return a.result, OutcomeOK
	case <-ctx.Done():
		return none, g.failed(nil)
	}
}

// answer is what a function has returned.
type answer[T any] struct {
	result T
	err    error
}

// begin runs f in a goroutine of its own. A panic and runtime.Goexit become errors, which show the type of a panic only:
// its value may hold a secret.
func begin[T any](f func() (T, error)) <-chan answer[T] {
	done := make(chan answer[T], 1)
	go func() {
		a := answer[T]{err: &Error{Reason: "the store ended its goroutine"}}
		defer func() {
			if p := recover(); p != nil {
				a.err = &Error{Reason: fmt.Sprintf("the store panicked with a %T", p)}
			}
			done <- a
		}()
		a.result, a.err = f()
	}()
	return done
}

// failed begins a rest unless the store rests already, and reports the failure if the store was not down already.
func (g *Guard) failed(err error) Outcome {
	failure := failureOf(err)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil { // closed, which is no failure
		return OutcomeSkipped
	}
	g.up, g.failure = false, &failure
	if !g.resting {
		g.resting, g.rest = true, minRest
		select {
		case g.troubled <- struct{}{}:
		default:
		}
	}
	if !g.down {
		g.down = true
		g.hooks.Down(failure)
	}
	if failure.Class == "timeout" {
		return OutcomeTimeout
	}
	return OutcomeError
}

// recovered ends the rest.
func (g *Guard) recovered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up, g.resting = true, false
	if g.down {
		g.down = false
		g.hooks.Up()
	}
}
