package status

import (
	"strings"
	"testing"
	"time"

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

// Many different demands are not remembered for ever.
func TestDemandsAreBounded(t *testing.T) {
	var d demands
	now := time.Now()
	for i := range 10 * maxDemands {
		if !d.admit(strings.Repeat("x", i), now) {
			t.Errorf("demand %d is not admitted", i)
		}
	}
	if len(d.latest) > maxDemands {
		t.Errorf("%d demands are remembered", len(d.latest))
	}
}
