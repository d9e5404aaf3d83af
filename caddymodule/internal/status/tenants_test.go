package status

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

var (
	tenantRefused = token.Event{Err: &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "the token endpoint refused the request"}}
	tenantServed  = token.Event{Token: token.NewSecret("t"), Lifetime: time.Hour}
)

// withTenants is a credential whose tenants are in these states.
func withTenants(t *testing.T, name string, most int, tenants ...token.Status) *Credential {
	t.Helper()
	c := New(name, nil, zap.NewNop())
	t.Cleanup(c.Release)
	c.Endpoint = "login.example.com"
	c.Tenants = func() (int, int) { return len(tenants), most }
	c.TenantSources = slices.Values(tenants)
	c.Begin("identity of "+token.Key(name), token.NewSource(token.Config{}))
	return c
}

// The latest failures are of different tenants, newest first, and bounded.
func TestTenantFailures(t *testing.T) {
	c := withTenants(t, "failures", 100)
	t.Cleanup(func() { c.record.begin("another identity") }) // forgets them, for a repetition of the test
	names := func() (names []string) {
		for _, f := range c.Report().Tenants.Failures {
			names = append(names, f.Tenant)
		}
		return names
	}
	if c.Report().Tenants.Failures == nil {
		t.Error("no failures are null in JSON, not an empty list")
	}
	for _, tenant := range []string{"a", "b", "a", "c"} {
		c.ObserveTenant(tenant, tenantRefused)
	}
	if got := names(); !slices.Equal(got, []string{"c", "a", "b"}) {
		t.Errorf("got %q", got)
	}
	c.ObserveTenant("a", tenantServed)
	c.ObserveTenant("b", token.Event{Rejected: true, Token: token.NewSecret("t")})
	c.ObserveTenant("d", tenantServed)
	c.ObserveTenant("e", token.Event{Err: &token.Error{Kind: token.Refused, Cause: token.CauseTenant, Reason: "client_id: the file does not exist"}})
	failures := c.Report().Tenants.Failures
	if got := names(); !slices.Equal(got, []string{"c", "a", "b"}) || failures[0].Over || !failures[1].Over || failures[2].Over {
		t.Errorf("got %+v", failures)
	}
	c.ObserveTenant("a", tenantRefused)
	if f := c.Report().Tenants.Failures[0]; f.Tenant != "a" || f.Over || f.Code != "invalid_client" || f.At.IsZero() {
		t.Errorf("got %+v", f)
	}
	for i := range 10 * mostTenantFailures {
		c.ObserveTenant(fmt.Sprint(i), tenantRefused)
	}
	if got := names(); len(got) != mostTenantFailures || got[0] != "199" || got[19] != "180" {
		t.Errorf("got %d failures: %q", len(got), got)
	}
	if recent := c.Report().Recent; recent[len(recent)-1].Tenant != "199" {
		t.Errorf("the history does not name the tenant: %+v", recent[len(recent)-1])
	}
}

// The numbers are those of the tenants as they are now.
func TestTenantNumbers(t *testing.T) {
	failure := &token.Error{Kind: token.Unavailable}
	c := withTenants(t, "numbers", 100, token.Status{State: token.StateFresh}, token.Status{State: token.StateFresh, Failure: failure},
		token.Status{State: token.StateStale}, token.Status{State: token.StateRejected}, token.Status{State: token.StateExpired},
		token.Status{State: token.StateExpired, Failure: failure}, token.Status{State: token.StateNone, Failure: failure})
	got := c.Report().Tenants
	for state, want := range map[token.State]int{token.StateNone: 1, token.StateFresh: 2, token.StateStale: 1, token.StateRejected: 1, token.StateExpired: 2} {
		if n, ok := got.States[state]; !ok || n != want {
			t.Errorf("%s: %d, want %d", state, n, want)
		}
	}
	if len(got.States) != len(States) || got.Failing != 2 || got.valid() != 4 {
		t.Errorf("got %+v", got)
	}
}

// A credential with tenants is judged by all of them: by their tokens, and by the failures that go on.
func TestTenantsDiagnosis(t *testing.T) {
	fresh, none := token.Status{State: token.StateFresh}, token.Status{State: token.StateNone}
	for name, tc := range map[string]struct {
		tenants []token.Status
		most    int
		failed  int           // how many tenants
		passed  time.Duration // since then
		over    bool
		health  Health
		cause   Cause
		summary string
	}{
		"nothing":          {most: 9, health: healthIdle, summary: "No tenant has a valid token."},
		"no valid token":   {tenants: []token.Status{none}, most: 9, health: healthIdle, summary: "No tenant has a valid token."},
		"a token":          {tenants: []token.Status{fresh, none}, most: 9, health: healthOK, summary: "Tenants take 2 of 9 places, 1 of them with a valid token."},
		"full":             {tenants: []token.Status{fresh, none}, most: 2, health: healthDegraded, cause: causeConfiguration, summary: "All 2 places"},
		"one fails":        {tenants: []token.Status{fresh, none}, most: 9, failed: 1, health: healthDegraded, cause: causeConfiguration, summary: "The last token call of tenant t0 failed. The token endpoint refuses the credential"},
		"all fail":         {tenants: []token.Status{none}, most: 1, failed: 1, health: healthFailing, cause: causeConfiguration, summary: "The last token call of tenant t0 failed."},
		"three fail":       {tenants: []token.Status{fresh}, most: 9, failed: 3, health: healthDegraded, cause: causeConfiguration, summary: "The last token calls of 3 tenants failed. The newest failure is that of tenant t2. The token endpoint"},
		"many fail":        {tenants: []token.Status{fresh}, most: 9, failed: 50, health: healthDegraded, cause: causeConfiguration, summary: "The last token calls of 20 tenants or more failed. The newest failure is that of tenant t49."},
		"they got a token": {tenants: []token.Status{fresh}, most: 9, failed: 3, over: true, health: healthOK},
		"long ago":         {tenants: []token.Status{fresh}, most: 9, failed: 3, passed: recently, health: healthOK},
	} {
		t.Run(name, func(t *testing.T) {
			c := withTenants(t, "diagnosis of "+name, tc.most, tc.tenants...)
			synctest.Test(t, func(t *testing.T) {
				for i := range tc.failed {
					c.ObserveTenant(fmt.Sprint("t", i), tenantRefused)
					if tc.over {
						c.ObserveTenant(fmt.Sprint("t", i), tenantServed)
					}
				}
				time.Sleep(tc.passed)
				r := c.Report()
				if r.Health != tc.health || r.Cause != tc.cause || !strings.HasPrefix(r.Summary, tc.summary) {
					t.Errorf("got %s, %q, %q", r.Health, r.Cause, r.Summary)
				}
				caddytest.WantSentences(t, r.Summary, false)
				caddytest.WantSentences(t, r.Advice, tc.health == healthOK || tc.health == healthIdle)
			})
			c.record.begin("another identity") // forgets it, for a repetition of the test
		})
	}
}

// The report of one tenant judges that tenant alone.
func TestReportTenant(t *testing.T) {
	now := time.Now()
	c := withTenants(t, "one", 9)
	c.ObserveTenant("other", tenantRefused)
	c.ObserveTenant("other", token.Event{Rejected: true, Token: token.NewSecret("t")})
	fresh := token.Status{State: token.StateFresh, Token: token.NewSecret("a-secret-token"), Issued: now, RefreshAt: now.Add(time.Minute), Expires: now.Add(time.Hour)}
	if r := c.ReportTenant("a", fresh, now); r.Name != "a" || r.Credential != "one" || r.Health != healthOK || r.Fingerprint == "" ||
		!r.Expires.Equal(fresh.Expires) || !r.Issued.Equal(now) || !r.Refresh.Equal(fresh.RefreshAt) || r.NextTry != nil || r.LastError != nil {
		t.Errorf("got %+v", r)
	}
	refused := *tenantRefused.Err
	refused.RetryAt = now.Add(time.Minute)
	if r := c.ReportTenant("a", token.Status{State: token.StateNone, Failure: &refused}, now); r.Health != healthFailing || r.Fingerprint != "" || r.Expires != nil ||
		r.NextTry == nil || !r.NextTry.Equal(refused.RetryAt) || r.LastError == nil || r.LastError.Code != "invalid_client" || r.Advice == "" {
		t.Errorf("got %+v", r)
	}
}

// The log has at most one line for each kind in an interval, with the number of the others of that kind.
func TestTenantLogKinds(t *testing.T) {
	c := withTenants(t, "kinds", 9)
	synctest.Test(t, func(t *testing.T) {
		core, logged := observer.New(zapcore.InfoLevel)
		c.LogTo(zap.New(core))
		round := func() {
			for i := range 50 {
				name := fmt.Sprint("shop-", i)
				c.ObserveTenant(name, tenantRefused)
				c.ObserveTenant(name, token.Event{Err: &token.Error{Kind: token.Unavailable, Reason: "down"}})
				c.ObserveTenant(name, token.Event{Rejected: true, Token: token.NewSecret("t")})
				c.ObserveTenant(name, tenantServed) // no line
				c.LogTenantDenied(name, TenantUnknown)
				c.LogTenantDenied(name, TenantFull)
			}
		}
		round()
		time.Sleep(tenantLogInterval - 1)
		round()
		if lines := logged.TakeAll(); len(lines) != 5 {
			t.Errorf("%d lines of 5 kinds: %v", len(lines), lines)
		}
		time.Sleep(time.Nanosecond)
		round()
		lines := logged.TakeAll()
		if len(lines) != 5 {
			t.Errorf("%d lines of 5 kinds after the interval: %v", len(lines), lines)
		}
		for _, line := range lines {
			if fields := line.ContextMap(); fields["others"] != uint64(99) || fields["tenant"] != "shop-0" || fields["credential"] != "kinds" {
				t.Errorf("%s: %v", line.Message, fields)
			}
		}
	})
}

// What is wrong with the sharing concerns operators more than how many tenants are there, unless no place is left.
func TestTenantsDiagnosisOfSharing(t *testing.T) {
	down := diagnoseSharing(Sharing{On: true, Store: Store{Name: "redis", LastError: "the server refuses connections"}})
	for _, tc := range []struct {
		tenants Tenants
		shared  Diagnosis
		health  Health
		cause   Cause
	}{
		{Tenants{Count: 0, Max: 2}, Diagnosis{}, healthIdle, ""},
		{Tenants{Count: 1, Max: 2, States: map[token.State]int{token.StateFresh: 1}}, Diagnosis{}, healthOK, ""},
		{Tenants{Count: 1, Max: 2}, Diagnosis{}, healthIdle, ""},
		{Tenants{Count: 0, Max: 2}, down, healthDegraded, causeStore},
		{Tenants{Count: 1, Max: 2}, down, healthDegraded, causeStore},
		{Tenants{Count: 2, Max: 2}, down, healthDegraded, causeConfiguration},
		{Tenants{Count: 2, Max: 2}, Diagnosis{}, healthDegraded, causeConfiguration},
	} {
		if d := tc.tenants.diagnosis(oauth2, tc.shared, time.Now()); d.Health != tc.health || d.Cause != tc.cause {
			t.Errorf("%d of %d, %q: got %+v", tc.tenants.Count, tc.tenants.Max, tc.shared.Cause, d)
		}
	}
}
