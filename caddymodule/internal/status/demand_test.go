package status

import (
	"fmt"
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

// Of the texts of an API, operators see only what a scope, a level of authentication or a URL looks like, and no token.
func TestDemandText(t *testing.T) {
	sent := token.NewSecret("a-token-that-nobody-may-see")
	for _, tc := range []struct {
		demand Demand
		want   string
	}{
		{Demand{Code: "insufficient_scope"}, "a token with more rights"},
		{Demand{Code: "insufficient_scope", Scope: "orders:read orders:write"}, "a token with more rights (scope orders:read orders:write)"},
		{Demand{Code: "insufficient_scope", Scope: "x " + sent.Reveal()}, "a token with more rights"},
		{Demand{Code: "insufficient_scope", Scope: "a\nb"}, "a token with more rights"},
		{Demand{Code: "insufficient_scope", Scope: strings.Repeat("x", maxShown+1)}, "a token with more rights"},
		{Demand{Code: "insufficient_scope", Metadata: "https://api.example.com/.well-known/oauth-protected-resource"},
			"a token with more rights, and names its metadata at https://api.example.com/.well-known/oauth-protected-resource"},
		{Demand{Code: "insufficient_scope", Metadata: "javascript:alert(1)"}, "a token with more rights"},
		{Demand{Code: "insufficient_scope", Metadata: "https://user@api.example.com/"}, "a token with more rights"},
		{Demand{Code: "insufficient_scope", Metadata: "https://api.example.com/?t=" + sent.Reveal()}, "a token with more rights"},
		{Demand{Code: "insufficient_user_authentication", ACR: "phr", MaxAge: "5"}, "that a user has authenticated in another way (acr_values phr) (max_age 5)"},
		{Demand{Code: "invalid_token", Metadata: "https://api.example.com/"}, ""},
		{Demand{}, ""},
	} {
		summary, advice := tc.demand.explain(sent.In)
		if summary != tc.want {
			t.Errorf("%+v: %q, want %q", tc.demand, summary, tc.want)
		}
		caddytest.WantSentences(t, advice, tc.want == "")
	}
}

// A demand is on the page for a while, and in the log at most once a minute.
func TestDemanded(t *testing.T) {
	c, log := observed(t)
	for range 3 {
		c.Demanded("", Demand{Code: "insufficient_scope", Scope: "write"}, nothing)
	}
	c.Demanded("", Demand{Code: "insufficient_user_authentication"}, nothing)
	c.Demanded("", Demand{Code: "invalid_token"}, nothing)
	lines := caddytest.LogLines(t, log)
	if len(lines) != 2 || lines[0]["error_code"] != "insufficient_scope" || lines[0]["advice"] != adviceScope || lines[1]["advice"] != adviceUser {
		t.Errorf("the log is %v", lines)
	}
	seen, _ := c.record.snapshot()
	now := time.Now()
	valid := token.Status{State: token.StateFresh, Expires: now.Add(time.Hour)}
	d := diagnose(oauth2, valid, seen, Sharing{}, now)
	if d.Health != healthDegraded || d.Cause != causeAPI || d.Advice != adviceUser || !strings.Contains(d.Summary, "authenticated in another way") {
		t.Errorf("the diagnosis is %+v", d)
	}
	caddytest.WantSentences(t, d.Summary, false)
	if d := diagnose(oauth2, valid, seen, Sharing{}, now.Add(recently)); d.Health != healthOK {
		t.Errorf("later, the diagnosis is %+v", d)
	}
}

// An API that names each object in its demands fills neither the log nor the history.
func TestDemandsOfManyTexts(t *testing.T) {
	for name, tenantsOf := range map[string]func(n int) string{
		"one client":  func(int) string { return "" },
		"one tenant":  func(int) string { return "shop" },
		"500 tenants": func(n int) string { return fmt.Sprint("shop-", n) },
	} {
		t.Run(name, func(t *testing.T) {
			c := New("demands of "+name, nil, zap.NewNop())
			t.Cleanup(c.Release)
			t.Cleanup(func() { c.record.begin("another identity") }) // forgets it, for a repetition of the test
			c.record.begin("an identity")
			synctest.Test(t, func(t *testing.T) {
				core, logged := observer.New(zapcore.InfoLevel)
				c.LogTo(zap.New(core))
				c.ObserveTenant(tenantsOf(0), token.Event{Rejected: true, Token: token.NewSecret("t")})
				logged.TakeAll()
				round := func() {
					for n := range 500 {
						c.Demanded(tenantsOf(n), Demand{Code: "insufficient_scope", Scope: fmt.Sprint("order:", n)}, nothing)
						c.Demanded(tenantsOf(n), Demand{Code: "insufficient_user_authentication", ACR: fmt.Sprint(n)}, nothing)
					}
				}
				seconds, rounds := 0, 0
				for ; seconds < 120; seconds += 5 {
					round()
					time.Sleep(5 * time.Second)
					rounds++
				}
				interval := 60
				if tenantsOf(0) != "" {
					interval = 10
				}
				lines := logged.TakeAll()
				if want := 2 * seconds / interval; len(lines) != want {
					t.Errorf("%d lines in %d rounds, want %d", len(lines), rounds, want)
				}
				last := lines[len(lines)-1].ContextMap()
				if others, ok := last["others"]; ok != (tenantsOf(0) != "") || ok && others != uint64(999) || fmt.Sprint(last["tenant"]) != fmt.Sprint(tenantsOf(0)) && ok {
					t.Errorf("the last line has %v", last)
				}
				seen, _ := c.record.snapshot()
				if len(seen.recent) != 1+4 || seen.recent[0].Outcome != Rejected {
					t.Errorf("the history has %d entries: %+v", len(seen.recent), seen.recent)
				}
			})
		})
	}
}
