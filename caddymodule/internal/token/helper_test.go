package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// latency is how long the endpoint takes, so that callers who come at the same moment find the same flight.
const latency = 50 * time.Millisecond

// endpoint is a token endpoint. It counts the calls that reach it, and knows until when each of its tokens is valid.
type endpoint struct {
	mu     sync.Mutex
	answer answer
	proof  string
	calls  []time.Time
	made   int
	last   Secret
	valid  map[string]time.Time
	alive  map[string]int // answers with each token and a lifetime
	dead   map[string]int // answers with each token and none
	events []Event
}

// answer is what an endpoint does with one call.
type answer func(ctx context.Context, e *endpoint) (Issued, error)

func newEndpoint(a answer) *endpoint {
	return &endpoint{
		answer: a,
		proof:  "proof 1",
		valid:  make(map[string]time.Time),
		alive:  make(map[string]int),
		dead:   make(map[string]int),
	}
}

// Fetch implements Fetcher.
func (e *endpoint) Fetch(ctx context.Context) (Issued, error) {
	e.mu.Lock()
	e.calls = append(e.calls, time.Now())
	a := e.answer
	e.mu.Unlock()
	issued, err := a(ctx, e)
	if err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		if issued.Lifetime > 0 {
			e.alive[issued.Token.Reveal()]++
		} else {
			e.dead[issued.Token.Reveal()]++
		}
	}
	return issued, err
}

// Proof implements Fetcher.
func (e *endpoint) Prepare() Call { return Call{Proof: NewSecret(e.Proof()), Fetch: e.Fetch} }

func (e *endpoint) Proof() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.proof
}

func (e *endpoint) set(a answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = a
}

func (e *endpoint) rotate(proof string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.proof = proof
}

// count returns the number of calls so far.
func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls)
}

// callsSince returns when calls came, except for the first n.
func (e *endpoint) callsSince(n int) []time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.calls[n:])
}

// tokens returns how many tokens there have been, and the last of them.
func (e *endpoint) tokens() (int, Secret) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.made, e.last
}

// answers returns how often the endpoint has answered with each token, with and without a lifetime.
func (e *endpoint) answers() (alive, dead map[string]int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.alive), maps.Clone(e.dead)
}

// issue makes a new token.
func (e *endpoint) issue(lifetime time.Duration) Issued {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made++
	e.last = NewSecret(fmt.Sprintf("token-%d", e.made))
	e.valid[e.last.Reveal()] = time.Now().Add(lifetime)
	return Issued{Token: e.last, Lifetime: lifetime}
}

// left returns how long the API will still take the token.
func (e *endpoint) left(token Secret) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Until(e.valid[token.Reveal()])
}

// accepts reports whether the API would take the token now.
func (e *endpoint) accepts(token Secret) bool { return e.left(token) > 0 }

// observe is a Config.Observe.
func (e *endpoint) observe(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, event)
}

// told returns what observers have been told.
func (e *endpoint) told() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.events)
}

// lastEvent returns what observers have been told last.
func (e *endpoint) lastEvent() Event {
	events := e.told()
	if len(events) == 0 {
		return Event{}
	}
	return events[len(events)-1]
}

// observing is an Observer.
type observing struct {
	id      string
	observe func(Event)
}

func (o observing) ID() string      { return o.id }
func (o observing) Observe(e Event) { o.observe(e) }

// config makes the endpoint a source's.
func (e *endpoint) config(p Policy) Config {
	return Config{Fetcher: e, Policy: p, Observer: observing{observe: e.observe}, Endpoint: fmt.Sprintf("%p", e)}
}

// source makes a source that asks the endpoint, and that leaves no flight behind in the test's bubble.
func (e *endpoint) source(t testing.TB, p Policy) *Source {
	s := NewSource(e.config(p))
	t.Cleanup(func() {
		s.Rest()
		advance(settled)
	})
	return s
}

// grants answers with a new token.
func grants(lifetime time.Duration) answer {
	return func(_ context.Context, e *endpoint) (Issued, error) { return e.issue(lifetime), nil }
}

// fails answers with a failure.
func fails(err error) answer {
	return func(context.Context, *endpoint) (Issued, error) { return Issued{}, err }
}

// hangs answers nothing until the caller's context ends.
func hangs(ctx context.Context, _ *endpoint) (Issued, error) {
	<-ctx.Done()
	return Issued{}, &Error{Kind: Unavailable, Reason: "timeout"}
}

// panics does what a provider must not do, with a value that must not be shown.
func panics(context.Context, *endpoint) (Issued, error) { panic(canary) }

// repeats answers with the token it issued last (a Doorkeeper server with token reuse).
func repeats(lifetime time.Duration) answer {
	return func(_ context.Context, e *endpoint) (Issued, error) {
		_, last := e.tokens()
		if last.Empty() {
			return e.issue(lifetime), nil
		}
		return Issued{Token: last, Lifetime: lifetime}, nil
	}
}

// slow decides at once and answers after d.
func slow(d time.Duration, a answer) answer {
	return func(ctx context.Context, e *endpoint) (Issued, error) {
		issued, err := a(ctx, e)
		if !sleep(ctx, d) {
			return hangs(ctx, e)
		}
		return issued, err
	}
}

// gated answers only after the gate has been closed, whatever becomes of the context.
func gated(gate <-chan struct{}, a answer) answer {
	return func(ctx context.Context, e *endpoint) (Issued, error) {
		<-gate
		return a(ctx, e)
	}
}

// script answers with one after the other, and from then on with the last.
func script(answers ...answer) answer {
	var mu sync.Mutex
	var n int
	return func(ctx context.Context, e *endpoint) (Issued, error) {
		mu.Lock()
		a := answers[min(n, len(answers)-1)]
		n++
		mu.Unlock()
		return a(ctx, e)
	}
}

var (
	errDown     = &Error{Kind: Unavailable, Status: 503, Reason: "down"}
	errThrottle = &Error{Kind: Unavailable, Status: 429, Reason: "throttled"}
	errLater    = &Error{Kind: Unavailable, Status: 503, Reason: "later", RetryAfter: time.Minute}
	errRefused  = &Error{Kind: Refused, Status: 401, Code: "invalid_client", Reason: "refused"}
	errMissing  = &Error{Kind: Refused, Status: 404, Cause: CauseNoEndpoint, Reason: "no endpoint", Passing: true}
	errGarbage  = &Error{Kind: Unreadable, Status: 200, Reason: "not a token"}
)

// inBubble runs f as a subtest on a virtual clock.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// advance lets the virtual clock run, and everything that was due come to rest.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// took returns how long f takes on the virtual clock.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// mustAcquire returns a lease of s.
func mustAcquire(t testing.TB, s *Source) Lease {
	t.Helper()
	l, err := s.Acquire(context.Background())
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return l
}

// mustFail returns the failure that s answers with.
func mustFail(t testing.TB, s *Source) *Error {
	t.Helper()
	l, err := s.Acquire(context.Background())
	failed, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %q (%s), error %v; want a failure of type *Error", l.Served(), describe(l, nil, Lease{}), err)
	}
	return failed
}

// describe says what a caller got, in the words of the specification: how it was served, and whether with the token
// it knew before.
func describe(l Lease, err error, before Lease) string {
	if failed, ok := errors.AsType[*Error](err); ok {
		return string(failed.Kind)
	}
	switch {
	case err != nil:
		return err.Error()
	case l.Value().Empty():
		return string(l.Served()) + " nothing"
	case before.token != nil && l.Value().Equal(before.Value()):
		return string(l.Served()) + " old"
	default:
		return string(l.Served()) + " new"
	}
}

// herd calls acquire in n goroutines at once and returns how many got what.
func herd(n int, acquire func() string) map[string]int {
	var (
		mu    sync.Mutex
		got   = make(map[string]int)
		group sync.WaitGroup
		start = make(chan struct{})
	)
	for range n {
		group.Go(func() {
			<-start
			s := acquire()
			mu.Lock()
			defer mu.Unlock()
			got[s]++
		})
	}
	close(start)
	group.Wait()
	return got
}

// wantCalls fails the test unless the endpoint has seen that many calls.
func (e *endpoint) wantCalls(t testing.TB, want int) {
	t.Helper()
	if n := e.count(); n != want {
		t.Errorf("the endpoint saw %d calls, want %d", n, want)
	}
}

// Reject is Rejected and then Another, for tests in which requests hold a rejected token.
func (l Lease) Reject(ctx context.Context, doubt Doubt) (Lease, bool) {
	if !l.Rejected(doubt) {
		return Lease{}, false
	}
	return l.Another(ctx)
}
