package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

var badlyFormed = regexp.MustCompile(`  |\.\.|%!|: \.|\( |\(\)| \.|\.[A-Z]|;$`)

// wantSentences checks that the text is made of sentences; empty says that it may be none.
func wantSentences(t *testing.T, text string, empty bool) {
	t.Helper()
	if text == "" {
		if !empty {
			t.Error("there is no text")
		}
		return
	}
	first, _ := utf8.DecodeRuneInString(text)
	if !unicode.IsUpper(first) || !strings.HasSuffix(text, ".") || badlyFormed.MatchString(text) || strings.TrimSpace(text) != text {
		t.Errorf("it is not made of sentences: %q", text)
	}
}

// The six failures of the rehearsal, told apart by what the admin API says.
func TestRehearsedFailuresAreToldApart(t *testing.T) {
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
			summary: []string{"cannot be reached"}, advice: []string{"token URL", "is up", "firewall"}},
		{name: "rate-limited", fault: devserver.Fault{Status: 429, RetryAfter: "120"}, status: 503, health: "failing",
			summary: []string{"429", "how often"}, advice: []string{"same client id", "follows by itself"}},
		{name: "wrong-secret", fault: devserver.Fault{Error: "invalid_client"}, status: 502, health: "failing",
			summary: []string{"does not accept the client", "invalid_client"}, advice: []string{"client_id and client_secret", "console"}},
		{name: "revoked-token", status: 200, health: "degraded",
			prepare: func(t *testing.T, s *tokenServer, visit func() clientAnswer) {
				visit().wantStatus(t, 200)
				s.revokeAll()
			},
			summary: []string{"revoked", "401"}, advice: []string{"on purpose", "same id"}},
		{name: "refused-destination", status: 502, health: "failing",
			summary: []string{"may not go", "127.0.0.2:1"}, advice: []string{"api_hosts", "correct the upstream"}},
		{name: "slow-endpoint", fault: devserver.Fault{Latency: slowCall}, status: 200, health: "degraded",
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

// errorsOfEndpoints are failures as providers report them.
var errorsOfEndpoints = map[string]*token.Error{
	"connection":      {Kind: token.Unavailable, Cause: token.CauseConnection, Reason: "the token endpoint cannot be reached: connection refused"},
	"timeout":         {Kind: token.Unavailable, Cause: token.CauseTimeout, Reason: "the token endpoint cannot be reached: it did not answer within fetch_timeout"},
	"503":             {Kind: token.Unavailable, Status: 503, Reason: "the token endpoint asks to try again later"},
	"429":             {Kind: token.Unavailable, Status: 429, Reason: "the token endpoint asks to try again later"},
	"garbage":         {Kind: token.Unreadable, Status: 200, Reason: "the answer holds no token"},
	"panic":           {Kind: token.Unreadable, Cause: token.CauseProvider, Reason: "the provider panicked with a string"},
	"name":            {Kind: token.Unavailable, Cause: token.CauseName, Reason: "the token endpoint cannot be reached: its host name does not exist"},
	"authority":       {Kind: token.Unavailable, Cause: token.CauseAuthority, Reason: "the token endpoint cannot be reached: its certificate is signed by an authority that is not trusted here"},
	"handshake":       {Kind: token.Unavailable, Cause: token.CauseHandshake, Reason: "the token endpoint cannot be reached: it broke off the TLS handshake"},
	"proxy":           {Kind: token.Unavailable, Cause: token.CauseProxy, Reason: "the proxy cannot be used: connection refused"},
	"cut":             {Kind: token.Unavailable, Cause: token.CauseCut, Reason: "the token endpoint cannot be reached: connection reset"},
	"unknown code":    {Kind: token.Refused, Status: 400, Code: "AADSTS7000215", Reason: "the token endpoint refused the request"},
	"no code":         {Kind: token.Refused, Status: 400, Reason: "the token endpoint refused the request"},
	"401, no code":    {Kind: token.Refused, Status: 401, Reason: "the token endpoint refused the request"},
	"403, no code":    {Kind: token.Refused, Status: 403, Code: "odd", Reason: "the token endpoint refused the request"},
	"404":             {Kind: token.Refused, Status: 404, Reason: "there is no token endpoint at this URL: check token_url"},
	"own secret":      {Kind: token.Refused, Reason: "client_secret: the file does not exist"},
	"invalid_client":  {Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "the token endpoint refused the request"},
	"invalid_scope":   {Kind: token.Refused, Status: 400, Code: "invalid_scope", Reason: "the token endpoint refused the request"},
	"invalid_target":  {Kind: token.Refused, Status: 400, Code: "invalid_target", Reason: "the token endpoint refused the request"},
	"invalid_grant":   {Kind: token.Refused, Status: 400, Code: "invalid_grant", Reason: "the token endpoint refused the request"},
	"invalid_request": {Kind: token.Refused, Status: 400, Code: "invalid_request", Reason: "the token endpoint refused the request"},
	"unauthorized_client": {
		Kind: token.Refused, Status: 400, Code: "unauthorized_client", Reason: "the token endpoint refused the request"},
	"unsupported_grant_type": {
		Kind: token.Refused, Status: 400, Code: "unsupported_grant_type", Reason: "the token endpoint refused the request"},
}

func TestExplain(t *testing.T) {
	const endpoint = "login.example.com"
	now := time.Now()
	said := make(map[string]string)
	for name, e := range errorsOfEndpoints {
		for _, next := range []time.Duration{0, 42*time.Second + 1} {
			failure := *e
			if next > 0 {
				failure.RetryAt = now.Add(next)
			}
			d := explain(endpoint, &failure, now)
			wantSentences(t, d.summary, false)
			wantSentences(t, d.advice, false)
			if e.Code != "" && !strings.Contains(d.summary, e.Code) {
				t.Errorf("%s: the code is not in %q", name, d.summary)
			}
			if other, ok := said[d.summary]; ok && other != name {
				t.Errorf("%s and %s are both: %q", other, name, d.summary)
			}
			said[d.summary] = name
			if d.cause == "" {
				t.Errorf("%s: nothing says where to look", name)
			}
			if says := strings.Contains(d.advice, "follows by itself"); says != (next > 0 && e.Kind != token.Refused) {
				t.Errorf("%s, next try in %s: %q", name, next, d.advice)
			}
		}
	}
	for name, want := range map[string]string{
		"connection": "firewall", "timeout": "fetch_timeout", "503": "status page", "name": "name resolution",
		"authority": "server_name", "handshake": "client certificate", "proxy": "HTTPS_PROXY", "cut": "network", "panic": "author of the provider", "429": "higher limit", "garbage": "token URL",
		"own secret": "Files are read again", "404": "token URL", "invalid_client": "client_secret", "401, no code": "client_secret",
		"403, no code": "client_secret", "invalid_scope": "scope", "invalid_target": "audience", "invalid_grant": "clock",
		"unauthorized_client": "grant", "unsupported_grant_type": "grant", "unknown code": "documentation", "invalid_request": "param",
	} {
		if d := explain(endpoint, errorsOfEndpoints[name], now); !strings.Contains(d.advice, want) {
			t.Errorf("%s: the advice is %q, want %q in it", name, d.advice, want)
		}
	}
}

func TestDiagnose(t *testing.T) {
	const endpoint = "login.example.com"
	now := time.Now()
	down := &token.Error{Kind: token.Unavailable, Status: 503, Reason: "x", RetryAt: now.Add(time.Minute)}
	past := &token.Error{Kind: token.Unavailable, Status: 503, Reason: "x", RetryAt: now.Add(-time.Minute)}
	in := func(state token.State, failure *token.Error) token.Status {
		return token.Status{State: state, Failure: failure, Expires: now.Add(30 * time.Minute)}
	}
	at := func(o outcome, ago time.Duration) occurrence {
		return occurrence{At: now.Add(-ago), Outcome: o, Reason: "the host is not among api_hosts: x:1"}
	}
	tests := []struct {
		name          string
		status        token.Status
		seen          snapshot
		health        health
		words, nowise string // in summary and advice
	}{
		{"nothing yet", in(token.StateNone, nil), snapshot{}, healthIdle, "There is no token yet", ""},
		{"asleep", in(token.StateExpired, nil), snapshot{}, healthIdle, "expired unused", ""},
		{"good", in(token.StateFresh, nil), snapshot{}, healthOK, "30 minutes", ""},
		{"stale", in(token.StateStale, nil), snapshot{}, healthOK, "30 minutes", ""},
		{"first call", token.Status{State: token.StateNone, Fetching: true}, snapshot{}, healthDegraded, "Waiting", ""},
		{"refresh", token.Status{State: token.StateStale, Fetching: true, Expires: now.Add(time.Hour)}, snapshot{}, healthOK, "60 minutes", ""},
		{"down", in(token.StateNone, down), snapshot{}, healthFailing, "status 503", "present token"},
		{"down, expired", in(token.StateExpired, down), snapshot{}, healthFailing, "status 503", "present token"},
		{"down, next try is due", in(token.StateExpired, past), snapshot{}, healthFailing, "status 503", "by themselves"},
		{"down, trying", token.Status{State: token.StateNone, Fetching: true, Failure: past}, snapshot{}, healthFailing, "status 503", "Waiting"},
		{"refresh fails", in(token.StateStale, down), snapshot{}, healthDegraded, "serves until it expires in 30 minutes", ""},
		{"refresh fails, trying", in(token.StateStale, past), snapshot{}, healthDegraded, "status 503", ""},
		{"forced refresh failed", in(token.StateFresh, down), snapshot{}, healthDegraded, "status 503", ""},
		{"rejected, and no other", in(token.StateRejected, down), snapshot{recent: []occurrence{at(outcomeRejected, 0)}}, healthDegraded, "status 503", ""},
		{"rejected, another on its way", in(token.StateRejected, nil), snapshot{recent: []occurrence{at(outcomeRejected, 0)}}, healthDegraded, "no other yet", "new ones too"},
		{"revoked", in(token.StateFresh, nil), snapshot{recent: []occurrence{at(outcomeRejected, time.Minute)}}, healthDegraded, "60 seconds ago", "new ones too"},
		{"revoked long ago", in(token.StateFresh, nil), snapshot{recent: []occurrence{at(outcomeRejected, recently)}}, healthOK, "", ""},
		{"all are rejected", in(token.StateFresh, nil), snapshot{recent: []occurrence{at(outcomeRejected, 301*time.Second), at(outcomeRejected, time.Second)}},
			healthDegraded, "new ones too", ""},
		{"destination", in(token.StateFresh, nil), snapshot{recent: []occurrence{at(outcomeDestination, time.Second)}}, healthFailing, "api_hosts: x:1", ""},
		{"destination, a while ago", in(token.StateFresh, nil), snapshot{recent: []occurrence{at(outcomeDestination, 2*warnInterval)}}, healthDegraded, "api_hosts: x:1", ""},
		{"destination, long ago", in(token.StateFresh, nil), snapshot{recent: []occurrence{at(outcomeDestination, recently)}}, healthOK, "", "api_hosts"},
		{"destination, and no token", in(token.StateNone, down), snapshot{recent: []occurrence{at(outcomeDestination, 0)}}, healthFailing, "status 503", "api_hosts"},
		{"slow", in(token.StateFresh, nil), slowly(slowCall, now), healthDegraded, "2.0 s", ""},
		{"not slow", in(token.StateFresh, nil), slowly(slowCall-1, now), healthOK, "", "slow"},
		{"slow, long ago", in(token.StateFresh, nil), slowly(slowCall, now.Add(-recently)), healthOK, "", "slow"},
		{"slow, long ago expired", in(token.StateExpired, nil), slowly(slowCall, now), healthIdle, "", "slow"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d := diagnose(endpoint, tc.status, tc.seen, now)
			if d.health != tc.health {
				t.Errorf("health is %s, want %s: %s", d.health, tc.health, d.summary)
			}
			wantSentences(t, d.summary, false)
			wantSentences(t, d.advice, tc.health == healthOK || tc.health == healthIdle)
			all := d.summary + " " + d.advice
			if !strings.Contains(all, tc.words) || tc.nowise != "" && strings.Contains(all, tc.nowise) {
				t.Errorf("it says %q; want %q, and not %q", all, tc.words, tc.nowise)
			}
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
	for name := range answers {
		a := s.ask(http.MethodPost, "/token_proxy/credentials/"+names[name]+"/refresh")
		if a.StatusCode/100 != 5 {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
		shown := s.ask(http.MethodGet, "/token_proxy/credentials/"+names[name])
		wantNowhere(t, "the endpoint's text", canary, map[string]string{"refresh " + name: wholeAnswer(a), "the report of " + name: wholeAnswer(shown)})
		if name == "refused" && !strings.Contains(a.body, "an_odd_code") {
			t.Errorf("the code is not told: %s", a.body)
		}
	}
}

func TestSentence(t *testing.T) {
	if got := sentence(errors.New("it fails").Error()); got != "It fails." {
		t.Errorf("got %q", got)
	}
	if got := sentence(""); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestLasting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "a moment", 0: "a moment", 2 * time.Second: "2 seconds", 119 * time.Second: "119 seconds", 2 * time.Minute: "2 minutes",
		119 * time.Minute: "119 minutes", 2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours", 48 * time.Hour: "2 days",
	} {
		if got := lasting(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

// slowly is the history of one call that took this long.
func slowly(took time.Duration, at time.Time) snapshot {
	return snapshot{recent: []occurrence{{At: at, Outcome: outcomeObtained, Duration: took.Seconds()}}}
}
