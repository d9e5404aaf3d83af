package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// world is a source in some state, on a virtual clock.
type world struct {
	t    *testing.T
	e    *endpoint
	s    *Source
	held Lease // on the last token, if there was one
}

// hour is the lifetime of tokens in the specification: they are stale for at least their last 5 minutes, and fresh
// for at least their first 53.
const hour = time.Hour

// state brings a new source into a state. next is what the endpoint answers from then on.
type state func(w *world, next answer)

// rejectHeld marks the held token as the API's rejection does, before anybody asks for another.
func (w *world) rejectHeld() {
	w.t.Helper()
	if !w.s.invalidate(w.held.token, Certain) {
		w.t.Fatal("the first rejection was not taken")
	}
}

// background lets one caller start a flight that it does not wait for.
func (w *world) background(a answer) {
	w.t.Helper()
	w.e.set(a)
	mustAcquire(w.t, w.s)
	synctest.Wait()
}

// The states. Sources rest, so that nothing happens but what a caller causes; TestTimer is about the rest.
var states map[string]state

func init() {
	states = map[string]state{
		"empty": func(w *world, next answer) {
			w.e.set(next)
		},
		"fresh": func(w *world, next answer) {
			w.held = mustAcquire(w.t, w.s)
			w.s.Rest()
			w.e.set(next)
		},
		"stale":   aged(hour - 3*time.Minute),
		"expired": aged(hour),
		"rejected": func(w *world, next answer) {
			states["fresh"](w, next)
			w.rejectHeld()
		},
		"backing off": func(w *world, next answer) {
			w.e.set(fails(errLater))
			mustFail(w.t, w.s)
			w.e.set(next)
		},
		"backing off, stale":    afterBackground(errLater, (*world).nothing),
		"backing off, rejected": afterBackground(errLater, (*world).rejectHeld),
		"backing off, expired": func(w *world, next answer) {
			aged(hour-time.Second/2)(w, nil)
			w.background(fails(errLater))
			advance(time.Second)
			w.e.set(next)
		},
		"cooling down": func(w *world, next answer) {
			w.e.set(fails(errRefused))
			mustFail(w.t, w.s)
			w.e.set(next)
		},
		"cooling down, stale":    afterBackground(errRefused, (*world).nothing),
		"cooling down, rejected": afterBackground(errRefused, (*world).rejectHeld),
		"pausing": func(w *world, next answer) {
			w.e.set(grants(0))
			w.held = mustAcquire(w.t, w.s)
			w.e.set(next)
		},
		"pausing, stale": func(w *world, next answer) {
			aged(hour-3*time.Minute)(w, nil)
			w.background(grants(0))
			w.e.set(next)
		},
		"replaced": func(w *world, next answer) {
			states["fresh"](w, grants(hour))
			w.rejectHeld()
			mustAcquire(w.t, w.s)
			w.e.set(next)
		},
		"flight for callers": func(w *world, next answer) {
			w.e.set(next)
			go func() { _, _ = w.s.Acquire(context.Background()) }()
			synctest.Wait()
		},
		"flight in the background": func(w *world, next answer) {
			aged(hour-3*time.Minute)(w, nil)
			w.background(next)
		},
	}
}

func (w *world) nothing() {}

// aged is the state of a source whose token is of that age, and that has done nothing since it got it.
func aged(age time.Duration) state {
	return func(w *world, next answer) {
		w.held = mustAcquire(w.t, w.s)
		w.s.Rest()
		advance(age)
		w.e.set(next)
	}
}

// afterBackground is the state after a background refresh of a stale token has failed, and then.
func afterBackground(err error, then func(*world)) state {
	return func(w *world, next answer) {
		aged(hour-3*time.Minute)(w, nil)
		w.background(fails(err))
		then(w)
		w.e.set(next)
	}
}

// endpoints are what a token endpoint may do.
func endpoints() map[string]answer {
	return map[string]answer{
		"grants":           slow(latency, grants(hour)),
		"same token":       slow(latency, repeats(10*time.Minute)),
		"zero lifetime":    slow(latency, grants(0)),
		"negative":         slow(latency, grants(-time.Hour)),
		"unknown lifetime": slow(latency, grants(UnknownLifetime)),
		"absurd lifetime":  slow(latency, grants(1<<63-1)),
		"down":             slow(latency, fails(errDown)),
		"down once":        script(slow(latency, fails(errDown)), slow(latency, grants(hour))),
		"throttles":        slow(latency, fails(errThrottle)),
		"retry-after":      slow(latency, fails(errLater)),
		"refuses":          slow(latency, fails(errRefused)),
		"unreadable":       slow(latency, fails(errGarbage)),
		"plain error":      slow(latency, fails(errors.New(canary))),
		"wrapped error":    slow(latency, fails(fmt.Errorf("%s: %w", canary, errRefused))),
		"nil *Error":       slow(latency, fails((*Error)(nil))),
		"empty token":      slow(latency, func(context.Context, *endpoint) (Issued, error) { return Issued{Lifetime: hour}, nil }),
		"panics":           panics,
		"hangs":            hangs,
	}
}

// want is what a caller gets, how many calls that costs, and how long the caller waits at most.
type want struct {
	got    string
	calls  int
	within time.Duration
}

// row is what happens for each behaviour of the endpoint; "" is for those that are not listed.
type row map[string]want

// always is the row of a state in which the endpoint's behaviour makes no difference to callers.
func always(got string, calls int) row { return row{"": {got, calls, 0}} }

// of returns what happens for one behaviour, if the row says.
func (r row) of(behaviour string) (want, bool) {
	if w, ok := r[behaviour]; ok {
		return w, true
	}
	w, ok := r[""]
	return w, ok
}

// with returns the row with another outcome for one behaviour.
func (r row) with(behaviour string, w want) row {
	all := maps.Clone(r)
	all[behaviour] = w
	return all
}

// each returns the row with every outcome changed.
func (r row) each(change func(*want)) row {
	all := maps.Clone(r)
	for k, w := range all {
		change(&w)
		all[k] = w
	}
	return all
}

const (
	// brief bounds what three calls take that all fail at once: two pauses below 200 and 400 ms.
	brief = 3*latency + 600*time.Millisecond

	// firstPause is the wait before the call that follows a lifetime of zero.
	firstPause = 100 * time.Millisecond

	// settled is when every flight has ended that a caller started.
	settled = DefaultFetchTimeout + DefaultMaxWait
)

var (
	// first is what callers get who need the next call to have a token, and have had none before.
	first = row{
		"":              {"waited new", 1, latency},
		"down":          {"unavailable", 3, brief},
		"down once":     {"waited new", 2, brief},
		"throttles":     {"unavailable", 1, latency},
		"retry-after":   {"unavailable", 1, latency},
		"refuses":       {"refused", 1, latency},
		"wrapped error": {"refused", 1, latency},
		"unreadable":    {"unreadable", 3, brief},
		"plain error":   {"unreadable", 3, brief},
		"nil *Error":    {"unreadable", 3, brief},
		"empty token":   {"unreadable", 3, brief},
		"panics":        {"unreadable", 3, brief},
		"hangs":         {"unavailable", 1, DefaultFetchTimeout},
	}

	// again is what they get if they have had one.
	again = first.with("same token", want{"waited old", 1, latency})

	// rather is what they get if the old one is still there.
	rather = again.each(func(w *want) {
		if !strings.HasPrefix(w.got, "waited") {
			w.got = "stale old"
		}
	})

	// replaced is what becomes of a rejected token.
	replaced = again.each(func(w *want) {
		if w.got == "waited new" {
			w.got = "replaced new"
		} else {
			w.got = "kept"
		}
	})
)

// paused is the row of callers who have to wait until the next call is allowed.
func paused(r row) row { return r.each(func(w *want) { w.within += firstPause }) }

// joined is the row of callers of a flight whose first call is on its way.
func joined(r row) row { return r.each(func(w *want) { w.calls-- }) }

// newWorld makes a source in a state.
func newWorld(t *testing.T, name string, next answer) *world {
	t.Helper()
	e := newEndpoint(grants(hour))
	w := &world{t: t, e: e, s: e.source(t, Policy{})}
	states[name](w, next)
	return w
}

// specify checks one table: in each state, for each behaviour of the endpoint, for one caller and for many.
func specify(t *testing.T, table map[string]row, event func(w *world) string, then func(w *world, got string)) {
	for state, outcomes := range table {
		for behaviour := range endpoints() {
			want, ok := outcomes.of(behaviour)
			if !ok {
				continue
			}
			for _, callers := range []int{1, 50} {
				inBubble(t, fmt.Sprintf("%s/endpoint %s/callers %d", state, behaviour, callers), func(t *testing.T) {
					w := newWorld(t, state, endpoints()[behaviour])
					before := w.e.count()
					var got map[string]int
					waited := took(func() { got = herd(callers, func() string { return event(w) }) })
					if got[want.got] != callers {
						t.Errorf("callers got %v, want all %d %q", got, callers, want.got)
					}
					if waited > want.within {
						t.Errorf("callers waited %v, want at most %v", waited, want.within)
					}
					if then != nil {
						then(w, want.got)
					}
					advance(settled)
					w.e.wantCalls(t, before+want.calls)
				})
			}
		}
	}
}

// TestAcquire is the specification of Acquire: what callers get in each state, whatever the endpoint does.
func TestAcquire(t *testing.T) {
	specify(t, map[string]row{
		"empty":                    first,
		"fresh":                    always("fresh old", 0),
		"stale":                    always("stale old", 1),
		"expired":                  again,
		"rejected":                 rather,
		"backing off":              always("unavailable", 0),
		"backing off, stale":       always("stale old", 0),
		"backing off, rejected":    always("stale old", 0),
		"backing off, expired":     always("unavailable", 0),
		"cooling down":             always("refused", 0),
		"cooling down, stale":      always("stale old", 0),
		"cooling down, rejected":   always("stale old", 0),
		"pausing":                  paused(again),
		"pausing, stale":           always("stale old", 1),
		"flight for callers":       joined(first),
		"flight in the background": always("stale old", 0),
	}, func(w *world) string {
		l, err := w.s.Acquire(context.Background())
		return describe(l, err, w.held)
	}, nil)
}

// TestReject is the specification of Reject: whoever reports a token gets another if one can be had for at most one
// call, and is otherwise told so; the rejected token is served on.
func TestReject(t *testing.T) {
	for doubtName, doubt := range map[string]Doubt{"certain": Certain, "doubtful": Doubtful} {
		t.Run(doubtName, func(t *testing.T) {
			specify(t, map[string]row{
				"fresh":                  replaced,
				"stale":                  replaced,
				"expired":                replaced,
				"rejected":               replaced,
				"backing off, stale":     always("kept", 0),
				"backing off, rejected":  always("kept", 0),
				"backing off, expired":   always("kept", 0),
				"cooling down, stale":    always("kept", 0),
				"cooling down, rejected": always("kept", 0),
				"pausing":                paused(replaced),
				// the token issued last is not the one that is rejected
				"pausing, stale": paused(replaced.with("same token", want{"replaced new", 1, latency})),
				// a replay joins a refresh that is already running
				"flight in the background": {"grants": {"replaced new", 0, latency}, "refuses": {"kept", 0, latency}},
				"replaced":                 always("replaced new", 0),
			}, func(w *world) string {
				l, ok := w.held.Reject(context.Background(), doubt)
				switch {
				case !ok:
					return "kept"
				case l.Value().Equal(w.held.Value()):
					return "replaced by itself"
				case l.Value().Empty():
					return "replaced by nothing"
				}
				return "replaced new"
			}, func(w *world, got string) {
				if got != "kept" || w.held.Expired() {
					return
				}
				var l Lease
				if waited := took(func() { l = mustAcquire(w.t, w.s) }); waited != 0 || !l.Value().Equal(w.held.Value()) {
					w.t.Errorf("after the rejection: got %s after %v, want the old one at once", describe(l, nil, w.held), waited)
				}
			})
		})
	}
}

// TestDiscard is the specification of Discard: it costs what Reject costs, and nobody waits.
func TestDiscard(t *testing.T) {
	atOnce := replaced.each(func(w *want) { w.got, w.within = "", 0 })
	specify(t, map[string]row{
		"fresh":                    atOnce,
		"stale":                    atOnce,
		"expired":                  atOnce,
		"rejected":                 atOnce,
		"backing off, stale":       always("", 0),
		"backing off, rejected":    always("", 0),
		"backing off, expired":     always("", 0),
		"cooling down, stale":      always("", 0),
		"cooling down, rejected":   always("", 0),
		"pausing, stale":           atOnce,
		"flight in the background": {"grants": {}, "refuses": {}},
		"replaced":                 always("", 0),
	}, func(w *world) string {
		w.held.Discard(Certain)
		return ""
	}, nil)
}

// TestAcquireAfterDiscard says what Discard is for: the next request finds another token, without waiting.
func TestAcquireAfterDiscard(t *testing.T) {
	inBubble(t, "granted", func(t *testing.T) {
		w := newWorld(t, "fresh", grants(hour))
		w.held.Discard(Certain)
		synctest.Wait()
		if l := mustAcquire(t, w.s); describe(l, nil, w.held) != "fresh new" {
			t.Errorf("got %s, want fresh new", describe(l, nil, w.held))
		}
	})
	inBubble(t, "refused", func(t *testing.T) {
		w := newWorld(t, "fresh", fails(errRefused))
		w.held.Discard(Certain)
		synctest.Wait()
		if l := mustAcquire(t, w.s); describe(l, nil, w.held) != "stale old" {
			t.Errorf("got %s, want stale old", describe(l, nil, w.held))
		}
	})
}

// Two credentials can share a source: each is told of what happens to its token. A credential and itself before a reload
// are one.
func TestEachObserverIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		config := func(observer, configuration string) Config {
			return Config{Fetcher: fixed("token"), Observer: observing{observer, func(Event) { told = append(told, observer+configuration) }}}
		}
		s := NewSource(config("a", "0")) // in force nowhere, so far
		mustAcquire(t, s)
		endOld := s.Start(config("a", "1"))
		endOther := s.Start(config("b", "1"))
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		endNew := s.Start(config("a", "2")) // a reload, half way
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		endOld()
		endOther()
		mustAcquire(t, s).Discard(Certain)
		synctest.Wait()
		endNew()
		slices.Sort(told)
		if want := []string{"a0", "a1", "a2", "a2", "a2", "b1", "b1"}; !slices.Equal(told, want) {
			t.Errorf("told are %q, want %q", told, want)
		}
	})
}
