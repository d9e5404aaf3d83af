package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// The six failures of the rehearsal, told apart by what the admin API says.
func TestRehearsedFailuresAreToldApart(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tests := []struct {
		name    string
		fault   devserver.Fault
		prepare func(t *testing.T, s *tokenServer, visit func() clientAnswer)
		status  int // of the last request
		health  string
		summary []string
		advice  []string
	}{
		{name: "endpoint-down", status: 503, health: "failing",
			summary: []string{"The token endpoint refused the connection."}, advice: []string{"token URL", "is running", "firewall"}},
		{name: "rate-limited", fault: devserver.Fault{Status: 429, RetryAfter: "120"}, status: 503, health: "failing",
			summary: []string{"429", "how often"}, advice: []string{"same client id", "calls again by itself"}},
		{name: "wrong-secret", fault: devserver.Fault{Error: "invalid_client"}, status: 502, health: "failing",
			summary: []string{"refuses the credential", "invalid_client"}, advice: []string{"client_id and client_secret", "console"}},
		{name: "revoked-token", status: 200, health: "degraded",
			prepare: func(t *testing.T, s *tokenServer, visit func() clientAnswer) {
				visit().wantStatus(t, 200)
				s.revokeAll()
			},
			summary: []string{"revoked", "The API rejected a token"}, advice: []string{"on purpose", "same client id"}},
		{name: "refused-destination", status: 502, health: "failing",
			summary: []string{"may not go", "127.0.0.2:1"}, advice: []string{"api_hosts", "correct the upstream"}},
		{name: "slow-endpoint", fault: devserver.Fault{Latency: 2 * time.Second}, status: 200, health: "degraded",
			summary: []string{"slow", "2."}, advice: []string{"status page", "before they expire"}},
	}
	type rehearsal struct {
		tokens                  *tokenServer
		name, address, upstream string
	}
	all := make([]rehearsal, len(tests))
	var credentials []string
	var sites strings.Builder
	for i, tc := range tests {
		r := rehearsal{tokens: newTokenServer(t), name: tc.name + "-" + newClientID(), address: freeAddr(t)}
		r.upstream = newRecordingAPI(t, r.tokens.api().ServeHTTP).addr()
		config := r.tokens.credential(r.name, "api_hosts "+r.upstream)
		switch tc.name {
		case "endpoint-down":
			config = credentialConfig(r.name, "http://"+freeAddr(t)+"/oauth/token", newClientID(), "api_hosts "+r.upstream)
		case "refused-destination":
			r.upstream = "127.0.0.2:1"
		}
		r.tokens.SetFault(tc.fault)
		credentials = append(credentials, config)
		sites.WriteString(siteConfig(r.address, fmt.Sprintf("token_proxy %s {header.X-Upstream} {\n header_up -X-Upstream\n}", r.name)))
		all[i] = r
	}
	s := startOperated(t, globalOptions(credentials...)+sites.String(), nil)
	said := make(map[string]string)
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			visit := func() clientAnswer { return get(t, "http://"+all[i].address, "X-Upstream", all[i].upstream) }
			if tc.prepare != nil {
				tc.prepare(t, all[i].tokens, visit)
			}
			visit().wantStatus(t, tc.status)
			c := s.credential(all[i].name)
			if c.Health != tc.health {
				t.Errorf("health is %s, want %s: %s", c.Health, tc.health, c.Summary)
			}
			for _, want := range tc.summary {
				if !strings.Contains(c.Summary, want) {
					t.Errorf("the summary is %q, want %q in it", c.Summary, want)
				}
			}
			for _, want := range tc.advice {
				if !strings.Contains(c.Advice, want) {
					t.Errorf("the advice is %q, want %q in it", c.Advice, want)
				}
			}
			for _, line := range s.logged("no token") { // the log has the next step, too
				if advice, _ := line["advice"].(string); line["credential"] == all[i].name && advice == "" {
					t.Errorf("the log has no advice: %v", line)
				}
			}
			for _, text := range []string{c.Summary, c.Advice} {
				if before, ok := said[text]; ok {
					t.Errorf("it says of %s and %s: %q", before, tc.name, text)
				}
				said[text] = tc.name
			}
			t.Logf("%s. %s %s", c.Health, c.Summary, c.Advice)
		})
	}
}

// Nothing that the endpoint sends is told, but its code.
func TestDiagnosisHidesTheEndpointsText(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"refused": oauthFailure(400, "an_odd_code"),
		"down":    oauthFailure(503, canaryCode, "Retry-After", "30"),
		"html":    sendAnswer(200, "text/html", canary),
		"moved":   sendAnswer(302, "text/html", canary, "Location", "http://"+canary+"/"),
		"nothing": sendAnswer(404, "text/html", canary),
		"odd":     sendAnswer(200, "application/json", `{"access_token":"`+canary+`\u0000","token_type":"Bearer"}`),
	}
	var credentials []string
	names := make(map[string]string)
	for name, h := range answers {
		names[name] = name + "-" + newClientID()
		credentials = append(credentials, credentialConfig(names[name], serveHTTP(t, h).URL, newClientID()))
	}
	s := startOperated(t, globalOptions(credentials...), nil)
	var group sync.WaitGroup
	for name := range answers { // all at once, since failures are tried again after a pause
		group.Go(func() {
			a := s.ask(http.MethodPost, "/token_proxy/credentials/"+names[name]+"/refresh")
			if a.StatusCode/100 != 5 {
				t.Errorf("%s: status %d", name, a.StatusCode)
			}
			shown := s.ask(http.MethodGet, "/token_proxy/credentials/"+names[name])
			wantNowhere(t, "the endpoint's text", canary, map[string]string{"refresh " + name: wholeAnswer(a), "the report of " + name: wholeAnswer(shown)})
			if name == "refused" && !strings.Contains(a.body, "an_odd_code") {
				t.Errorf("the code is not told: %s", a.body)
			}
		})
	}
	group.Wait()
}
