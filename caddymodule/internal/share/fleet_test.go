package share

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// fleetSize is how many replicas a fleet has.
const fleetSize = 100

// scenario is what happens to a fleet, and what may come of it.
type scenario struct {
	within  time.Duration // the replicas start within; 0: 1 s
	every   time.Duration // between two requests of a replica; 0: 10 s
	run     time.Duration
	arrange func(f *fleet) // before the replicas start
	happens func(f *fleet) // while they run

	alone             limits // without sharing; the zero value: of no interest
	register, claimer limits // the zero value of claimer: those of register
}

// limits bound what may come of a scenario.
type limits struct {
	calls      [2]int        // of the token endpoint: at least, at most
	wait       time.Duration // of a request
	rejected   int           // answers of the API with status 401
	failed     int           // requests
	late       time.Duration // a token is used after it was revoked; 0: lastLook
	storeCalls int           // 0: of no interest
}

func (l limits) check(t *testing.T, f *fleet) {
	t.Helper()
	stored := 0
	for _, operation := range []string{"load", "save", "delete", "claim", "replace"} {
		stored += f.memory.Calls(operation)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t.Logf("%d calls, longest wait %v, %d answers 401, %d of %d requests failed, %d calls of the store, a token used %v after it was revoked",
		len(f.calls), f.wait.Round(10*time.Millisecond), f.rejected, f.failed, f.requests, stored, f.late)
	if n := len(f.calls); n < l.calls[0] || n > l.calls[1] {
		t.Errorf("%d token calls, want %d to %d", n, l.calls[0], l.calls[1])
	}
	if f.wait > l.wait {
		t.Errorf("a request has waited for %v, want at most %v", f.wait, l.wait)
	}
	if f.rejected > l.rejected {
		t.Errorf("%d answers 401, want at most %d", f.rejected, l.rejected)
	}
	if f.failed > l.failed || f.requests == 0 {
		t.Errorf("%d of %d requests failed, want at most %d", f.failed, f.requests, l.failed)
	}
	if l.storeCalls > 0 && stored > l.storeCalls {
		t.Errorf("%d calls of the store, want at most %d", stored, l.storeCalls)
	}
	if late := cmp.Or(l.late, lastLook); f.late > late {
		t.Errorf("a replica has used a token %v after it was revoked, want at most %v", f.late, late)
	}
}

// lastLook is when all replicas have looked for the token that follows a revoked one: lead, spread, and the call itself.
const lastLook = 3 * time.Second

const (
	ms = time.Millisecond

	// oneCall is how long a request may wait for one call of the token endpoint by another replica.
	oneCall = 700 * ms

	// deadCaller is how long, if that replica dies.
	deadCaller = 5 * time.Second

	unlimited = 1 << 30
)

// often is the time between two requests of a replica where many requests matter. The race detector makes each a burden.
func often() time.Duration {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 10 * time.Second
	}
	return time.Second
}

// TestFleet is a hundred replicas in fair and foul weather. The limits of a fleet without sharing show what sharing is for.
func TestFleet(t *testing.T) {
	for name, tc := range map[string]scenario{
		"cold start within 50 ms": {
			within: 50 * ms, run: time.Minute,
			alone:    limits{calls: [2]int{100, 100}, wait: 400 * ms},
			register: limits{calls: [2]int{1, 1}, wait: oneCall},
		},
		"cold start within 1 s": {
			run:      time.Minute,
			register: limits{calls: [2]int{1, 1}, wait: oneCall},
		},
		"cold start, endpoint needs 6 s": {
			run:      time.Minute,
			arrange:  func(f *fleet) { f.latency = within(5*time.Second, 7*time.Second) },
			alone:    limits{calls: [2]int{100, 100}, wait: 7 * time.Second},
			register: limits{calls: [2]int{2, 3}, wait: 12 * time.Second},
		},
		"cold start, endpoint needs 9 s": { // longer than any patience
			run:      time.Minute,
			arrange:  func(f *fleet) { f.latency = within(8500*ms, 9500*ms) },
			alone:    limits{calls: [2]int{100, 100}, wait: 9500 * ms},
			register: limits{calls: [2]int{2, 101}, wait: token.DefaultMaxWait},
		},
		"cold start, store needs 60 ms for a call": {
			within: 50 * ms, run: time.Minute,
			arrange:  func(f *fleet) { f.memory.Latency = within(40*ms, 80*ms) },
			register: limits{calls: [2]int{1, 1}, wait: 1500 * ms},
			claimer:  limits{calls: [2]int{1, 1}, wait: time.Second},
		},
		"2 h, tokens of 1 h": {
			run:      2 * time.Hour,
			alone:    limits{calls: [2]int{290, 310}, wait: 400 * ms},
			register: limits{calls: [2]int{3, 3}, wait: oneCall, storeCalls: 800},
		},
		"2 h, tokens of 5 min": {
			run:      2 * time.Hour,
			arrange:  func(f *fleet) { f.lifetime = 5 * time.Minute },
			register: limits{calls: [2]int{30, 34}, wait: oneCall},
		},
		"10 min, tokens of 10 s": {
			run: 10 * time.Minute, every: time.Second,
			arrange:  func(f *fleet) { f.lifetime = 10 * time.Second },
			register: limits{calls: [2]int{70, 85}, wait: oneCall},
		},
		"token revoked at the API": {
			run: time.Minute, every: time.Second,
			happens:  func(f *fleet) { time.Sleep(30 * time.Second); f.revoke() },
			alone:    limits{calls: [2]int{200, 200}, wait: 400 * ms, rejected: 100},
			register: limits{calls: [2]int{2, 2}, wait: oneCall, rejected: 100},
		},
		"API answers 401 to everything": {
			run: time.Hour, every: often(),
			arrange:  func(f *fleet) { f.rejectsAll = true },
			register: limits{calls: [2]int{10, 130}, wait: deadCaller, rejected: unlimited, failed: unlimited},
		},
		"caller dies in its call": {
			within: 50 * ms, run: time.Minute,
			arrange:  func(f *fleet) { f.fatal = true },
			alone:    limits{calls: [2]int{100, 100}, wait: 400 * ms},
			register: limits{calls: [2]int{2, 2}, wait: deadCaller},
		},
		"store refuses": {
			within: 50 * ms, run: time.Minute,
			arrange:  func(f *fleet) { f.memory.Fail = refuse },
			register: limits{calls: [2]int{100, 100}, wait: 450 * ms},
		},
		"store hangs for 5 s and heeds no context": {
			within: 50 * ms, run: time.Minute,
			arrange:  func(f *fleet) { f.memory.Latency, f.memory.Deaf = constant(5*time.Second), true },
			register: limits{calls: [2]int{100, 100}, wait: 400*ms + callBudget},
		},
		"store hangs for 30 of 120 min": {
			run: 2 * time.Hour,
			happens: func(f *fleet) {
				time.Sleep(40 * time.Minute)
				f.memory.Change(func(s *sharetest.Store) { s.Latency, s.Deaf = constant(5*time.Second), true })
				time.Sleep(30 * time.Minute)
				f.memory.Change(func(s *sharetest.Store) { s.Latency, s.Deaf = constant(ms), false })
			},
			register: limits{calls: [2]int{3, 105}, wait: oneCall},
		},
		"store corrupts every value": {
			run:      2 * time.Hour,
			arrange:  func(f *fleet) { f.memory.Alter = corrupt },
			register: limits{calls: [2]int{290, 310}, wait: 900 * ms},
		},
		"endpoint revokes the previous token": {
			run: 2 * time.Hour, every: often(),
			arrange:  func(f *fleet) { f.revokes = true },
			register: limits{calls: [2]int{3, 3}, wait: oneCall, rejected: 400},
		},
		"clocks differ by 2 min, tokens of 1 h": {
			run:      2 * time.Hour,
			arrange:  clocksDiffer,
			register: limits{calls: [2]int{3, 3}, wait: oneCall},
		},
		"clocks differ by 2 min, tokens of 5 min": {
			run: 2 * time.Hour,
			arrange: func(f *fleet) {
				clocksDiffer(f)
				f.lifetime = 5 * time.Minute
			},
			register: limits{calls: [2]int{30, 34}, wait: oneCall, rejected: 2000},
		},
		"rolling restart over 20 min": {
			run: 30 * time.Minute,
			happens: func(f *fleet) {
				time.Sleep(5 * time.Minute)
				f.rollOut(20 * time.Minute)
			},
			alone:    limits{calls: [2]int{200, 200}, wait: 400 * ms},
			register: limits{calls: [2]int{1, 1}, wait: oneCall},
		},
		"endpoint down for 8 min around the refresh": {
			run: 2 * time.Hour,
			happens: func(f *fleet) {
				time.Sleep(50 * time.Minute)
				f.change(func() { f.refuses = down })
				time.Sleep(8 * time.Minute)
				f.change(func() { f.refuses = nil })
			},
			register: limits{calls: [2]int{4, 60}, wait: oneCall},
		},
		"endpoint throttles the refresh": {
			run: 2 * time.Hour,
			happens: func(f *fleet) {
				time.Sleep(50 * time.Minute)
				f.change(func() { f.refuses = throttle })
				time.Sleep(7 * time.Minute)
				f.change(func() { f.refuses = nil })
			},
			register: limits{calls: [2]int{4, 7}, wait: oneCall},
		},
		"10 replicas cannot reach the endpoint": {
			run: 2 * time.Hour,
			arrange: func(f *fleet) {
				f.refuses = func(m *member) *token.Error {
					if m.number < 10 {
						return &token.Error{Kind: token.Unavailable, Cause: token.CauseName, Reason: "no such host"}
					}
					return nil
				}
			},
			register: limits{calls: [2]int{3, 30}, wait: deadCaller, failed: 5}, // if one of them is the first to call
		},
		"10 replicas have an old secret": {
			run: 2 * time.Hour,
			arrange: func(f *fleet) {
				for _, m := range f.replicas[:10] {
					m.secret = "old"
				}
				f.refuses = func(m *member) *token.Error {
					if m.secret == "old" {
						return &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "refused"}
					}
					return nil
				}
			},
			register: limits{calls: [2]int{3, 14}, wait: deadCaller, failed: 5},
		},
		"1 replica has another key": {
			run: 2 * time.Hour,
			arrange: func(f *fleet) {
				f.replicas[42].keys = []token.Secret{keyB}
				f.replicas[42].startAfter = 2 * time.Second // the others have a token
			},
			register: limits{calls: [2]int{6, 8}, wait: 900 * ms},
		},
		"the first replica has another key": { // those that start during its call cannot open its claim: they call by themselves
			run: 2 * time.Hour,
			arrange: func(f *fleet) {
				f.replicas[42].keys = []token.Secret{keyB}
				f.replicas[42].startAfter = time.Nanosecond
			},
			register: limits{calls: [2]int{6, 106}, wait: 900 * ms},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.claimer == (limits{}) {
				tc.claimer = tc.register
			}
			for w, want := range map[way]limits{alone: tc.alone, byRegister: tc.register, byClaimer: tc.claimer} {
				if want == (limits{}) {
					continue
				}
				inFleet(t, w, fleetSize, func(t *testing.T, f *fleet) {
					f.play(tc)
					want.check(t, f)
				})
			}
		})
	}
}

// TestFleetReplacesItsKey says that replacing the key of all replicas costs no call if each step is rolled out, and has lasted
// for a token's lifetime, before the next. At a stroke, it costs some.
func TestFleetReplacesItsKey(t *testing.T) {
	inSteps := [][]token.Secret{{keyA, keyB}, {keyB, keyA}, {keyB}}
	atAStroke := [][]token.Secret{{keyA}, {keyB}, {keyB}}
	for name, tc := range map[string]struct { // a process may be replaced in its call: then the others wait for its claim, and look after that
		rollOuts [][]token.Secret
		revokes  bool
		want     limits
	}{
		"in steps":                    {inSteps, false, limits{calls: [2]int{24, 28}, wait: deadCaller}},
		"in steps, endpoint revokes":  {inSteps, true, limits{calls: [2]int{24, 28}, wait: deadCaller, rejected: 2000, late: deadCaller + lastLook}},
		"at a stroke":                 {atAStroke, false, limits{calls: [2]int{29, 40}, wait: deadCaller}},
		"no change":                   {nil, false, limits{calls: [2]int{24, 28}, wait: deadCaller}},
		"no change, endpoint revokes": {nil, true, limits{calls: [2]int{24, 28}, wait: deadCaller, rejected: 2000, late: deadCaller + lastLook}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, w := range []way{byRegister, byClaimer} {
				inFleet(t, w, fleetSize, func(t *testing.T, f *fleet) {
					f.play(scenario{
						run: 100 * time.Minute, every: 5 * time.Second,
						arrange: func(f *fleet) { f.lifetime, f.revokes = 5*time.Minute, tc.revokes },
						happens: func(f *fleet) {
							time.Sleep(10 * time.Minute)
							for _, keys := range tc.rollOuts {
								f.rollOut(20*time.Minute, keys...)
								time.Sleep(f.lifetime)
							}
						},
					})
					tc.want.check(t, f)
				})
			}
		})
	}
}

// TestFleetWithPrefetch says that replicas that fetch before the first request make one call too.
func TestFleetWithPrefetch(t *testing.T) {
	for _, w := range []way{byRegister, byClaimer} {
		inFleet(t, w, fleetSize, func(t *testing.T, f *fleet) {
			for _, m := range f.replicas {
				m.start(true)
			}
			time.Sleep(2 * time.Second)
			for _, m := range f.replicas {
				m.request()
				m.end()
			}
			limits{calls: [2]int{1, 1}}.check(t, f)
		})
	}
}

// TestFleetRecovers says that replicas that start in an outage of the token endpoint serve soon after its end, and that it
// costs each replica no more calls than without sharing.
func TestFleetRecovers(t *testing.T) {
	for outage, most := range map[time.Duration]int{time.Minute: 14, 10 * time.Minute: 68} { // the earlier pauses cost 22 and 76
		t.Run(outage.String(), func(t *testing.T) {
			for _, w := range []way{alone, byRegister, byClaimer} {
				inFleet(t, w, fleetSize/5, func(t *testing.T, f *fleet) {
					f.play(scenario{
						run: outage + time.Minute, every: time.Second,
						arrange: func(f *fleet) { f.refuses = down },
						happens: func(f *fleet) {
							time.Sleep(outage)
							f.change(func() { f.refuses = nil })
							time.Sleep(10*time.Second + 2*time.Second) // the longest pause, and the calls before and after it
							f.change(func() { f.failed = 0 })
						},
					})
					limits{calls: [2]int{1, most * len(f.replicas)}, wait: deadCaller}.check(t, f)
				})
			}
		})
	}
}

// TestLateAnswer says that a token that comes late does not stay, if the endpoint has revoked it with a newer one.
func TestLateAnswer(t *testing.T) {
	for _, w := range []way{byRegister, byClaimer} {
		inFleet(t, w, 3, func(t *testing.T, f *fleet) {
			f.revokes = true
			latencies := []time.Duration{7 * time.Second, 200 * ms, 200 * ms}
			f.latency = func() time.Duration { return latencies[min(len(f.calls), len(latencies))-1] }
			f.work(ms, 500*ms, time.Now().Add(time.Minute))
			limits{calls: [2]int{2, 3}, wait: 8 * time.Second, rejected: 3}.check(t, f)
		})
	}
}

// play lets a scenario happen.
func (f *fleet) play(s scenario) {
	if s.arrange != nil {
		s.arrange(f)
	}
	if s.happens != nil {
		go s.happens(f)
	}
	f.work(cmp.Or(s.within, time.Second), cmp.Or(s.every, 10*time.Second), time.Now().Add(s.run))
}

// rollOut replaces one process after the other, with these keys if there are any.
func (f *fleet) rollOut(within time.Duration, keys ...token.Secret) {
	for _, m := range f.replicas {
		time.Sleep(within / time.Duration(len(f.replicas)))
		m.end()
		if len(keys) > 0 {
			m.keys = keys
		}
		m.start(false)
	}
}

func constant(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// refuse is a store that does nothing.
func refuse(string, string) error { return errors.New("refused") }

// corrupt changes one bit.
func corrupt(_ string, value []byte) []byte {
	value[rand.N(len(value))] ^= 1 << rand.N(8)
	return value
}

// clocksDiffer lets the clocks of the replicas be up to 2 min ahead or behind.
func clocksDiffer(f *fleet) {
	for _, m := range f.replicas {
		m.ahead.Store(int64(rand.N(4*time.Minute) - 2*time.Minute))
	}
}

// down is a token endpoint that is down.
func down(*member) *token.Error {
	return &token.Error{Kind: token.Unavailable, Status: 503, Reason: "down"}
}

// throttle is a token endpoint that asks for a pause.
func throttle(*member) *token.Error {
	return &token.Error{Kind: token.Unavailable, Status: 429, RetryAfter: time.Minute, Reason: "too many requests"}
}

// The clock of the only replica is wrong, and is set while its token serves. No application gets an expired token because of it.
func TestFleetWhoseClockIsSet(t *testing.T) {
	for _, ahead := range []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour, -10 * time.Minute, -time.Hour} {
		t.Run(fmt.Sprint("ahead by ", ahead), func(t *testing.T) {
			inFleet(t, byRegister, 1, func(t *testing.T, f *fleet) {
				m := f.replicas[0]
				m.ahead.Store(int64(ahead))
				time.AfterFunc(5*time.Minute, func() { m.ahead.Store(0) })
				f.work(time.Second, 20*time.Second, time.Now().Add(150*time.Minute))
				if f.rejected > 0 || f.failed > 0 || len(f.calls) > 4 {
					t.Errorf("of %d requests, %d were rejected, and %d failed; %d token calls", f.requests, f.rejected, f.failed, len(f.calls))
				}
			})
		})
	}
}
