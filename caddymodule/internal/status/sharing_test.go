package status

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// A token of another replica is no call: no counter, no duration, no span. It ends a failure.
func TestAdoptedIsNoCall(t *testing.T) {
	c, log := observed(t)
	value := token.NewSecret("a-token-that-no-log-may-show")
	began := time.Now()
	_, before := c.record.snapshot()
	c.Observe(token.Event{Adopted: true, Token: value, Lifetime: time.Hour})
	c.Observe(token.Event{Err: &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "it is wrong", RetryAt: began}})
	c.Observe(token.Event{Adopted: true, Token: value, Lifetime: time.Hour, Unchanged: true, Recovered: true})
	seen, calls := c.record.snapshot()
	if calls[Obtained] != before[Obtained] || calls[Outcome(token.Refused)] != before[Outcome(token.Refused)]+1 || calls[Adopted] != 0 {
		t.Errorf("the calls are %v, and were %v", calls, before)
	}
	if c.record.adoptions.Load() != 2 || seen.lastSuccess.IsZero() || !seen.adopted {
		t.Errorf("adopted %d tokens; the history is %+v", c.record.adoptions.Load(), seen)
	}
	if spans := seen.callsSince(began.Add(-time.Second)); len(spans) != 1 || spans[0].Outcome != Outcome(token.Refused) {
		t.Errorf("a trace has the calls %+v", spans)
	}
	text := log.String()
	lines := caddytest.LogLines(t, log)
	if len(lines) != 3 || strings.Contains(text, value.Reveal()) {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	const message = "adopted a token from another replica"
	wantLine(t, lines[0], "debug", message, map[string]any{"fingerprint": value.Fingerprint(), "lifetime": 3600.0, "unchanged": false})
	wantLine(t, lines[2], "info", message, map[string]any{"fingerprint": value.Fingerprint(), "lifetime": 3600.0, "unchanged": true, "recovered": true, "failures": 1.0})
	c.Observe(token.Event{Token: value, Lifetime: time.Hour, Recovered: true})
	if line := caddytest.LogLines(t, log)[0]; line["failures"] != 0.0 {
		t.Errorf("the failures were counted on: %v", line)
	}
	if seen, _ := c.record.snapshot(); seen.adopted {
		t.Error("a token of this replica counts as that of another")
	}
}

func TestDiagnoseSharing(t *testing.T) {
	now := time.Now()
	fresh := token.Status{State: token.StateFresh, Expires: now.Add(time.Hour)}
	none := token.Status{State: token.StateNone, Failure: &token.Error{Kind: token.Unavailable, Status: 503}}
	refused := Occurrence{At: now, Outcome: Outcome(token.Refused), Status: 401, Code: "invalid_client"}
	unreachable := Occurrence{At: now, Outcome: Outcome(token.Unavailable)}
	adopted := Occurrence{At: now, Outcome: Adopted}
	up := Store{Name: "redis", Up: true}
	down := Store{Name: "redis", LastError: "the server does not accept the password"}
	for name, tc := range map[string]struct {
		status token.Status
		seen   history
		with   Sharing
		health Health
		cause  Cause
		words  string
	}{
		"all is well":            {fresh, history{adopted: true, recent: []Occurrence{adopted}}, Sharing{On: true, Store: up}, healthOK, "", "valid"},
		"not used yet":           {fresh, history{}, Sharing{On: true}, healthOK, "", "valid"},
		"it failed once":         {fresh, history{}, Sharing{On: true, Store: Store{Up: true, LastError: "x"}}, healthOK, "", "valid"},
		"down":                   {fresh, history{}, Sharing{On: true, Store: down}, healthDegraded, causeStore, "The server does not accept the password."},
		"down, but excluded":     {fresh, history{}, Sharing{Store: down}, healthOK, "", "valid"},
		"down, and a failure":    {none, history{}, Sharing{On: true, Store: down}, healthFailing, causeEndpoint, "503"},
		"other key":              {fresh, history{}, Sharing{On: true, Store: up, Unopened: "key"}, healthDegraded, causeConfiguration, "a key that this replica does not have"},
		"other version":          {fresh, history{}, Sharing{On: true, Store: up, Unopened: "version"}, healthDegraded, causeConfiguration, "same version"},
		"other settings":         {fresh, history{}, Sharing{On: true, Store: up, Unopened: "forged"}, healthDegraded, causeConfiguration, "down to the names of its files"},
		"clock ahead":            {fresh, history{}, Sharing{On: true, Store: up, Skew: 5 * time.Second}, healthDegraded, causeConfiguration, "5 seconds ahead"},
		"clock a little ahead":   {fresh, history{}, Sharing{On: true, Store: up, Skew: minSkew}, healthOK, "", "valid"},
		"refused, then adopted":  {fresh, history{adopted: true, recent: []Occurrence{refused, adopted}}, Sharing{On: true, Store: up}, healthDegraded, causeConfiguration, "another replica obtained"},
		"unreachable, then so":   {fresh, history{adopted: true, recent: []Occurrence{unreachable, adopted}}, Sharing{On: true, Store: up}, healthOK, "", "valid"},
		"refused, then obtained": {fresh, history{recent: []Occurrence{refused, {At: now, Outcome: Obtained}}}, Sharing{On: true, Store: up}, healthOK, "", "valid"},
	} {
		t.Run(name, func(t *testing.T) {
			d := diagnose(oauth2, tc.status, tc.seen, tc.with, now)
			if d.Health != tc.health || d.Cause != tc.cause {
				t.Errorf("%s, cause %q; want %s, %q", d.Health, d.Cause, tc.health, tc.cause)
			}
			caddytest.WantSentences(t, d.Summary, false)
			caddytest.WantSentences(t, d.Advice, tc.health == healthOK)
			wantWords(t, d.Summary+" "+d.Advice, tc.words)
		})
	}
}

func wantWords(t *testing.T, text, words string) {
	t.Helper()
	if !strings.Contains(text, words) {
		t.Errorf("the text is %q, want %q in it", text, words)
	}
}

// Counters of a configuration that has ended are kept, and are shown only while a configuration shares the credential.
func TestShareCountersAreKept(t *testing.T) {
	r := newRecord("a")
	configuration := func(claims uint64, on bool) (end func()) {
		return r.share(func() Sharing {
			return Sharing{On: on, Claims: map[string]uint64{"won": claims}, UnopenedTotal: map[string]uint64{"key": 2 * claims}}
		})
	}
	want := func(inUse bool, n uint64) {
		t.Helper()
		claims, unopened := r.shares.counts()
		if r.shares.inUse() != inUse || claims["won"] != n || unopened["key"] != 2*n {
			t.Errorf("in use: %t, claims %v, unopened %v; want %t, %d", r.shares.inUse(), claims, unopened, inUse, n)
		}
	}
	want(false, 0)
	endFirst, endExcluded := configuration(3, true), configuration(5, false)
	want(true, 3)
	endSecond := configuration(4, true)
	want(true, 7)
	endFirst()
	endExcluded()
	endFirst() // has no effect
	want(true, 7)
	endSecond()
	want(false, 7)
}
