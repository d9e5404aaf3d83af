package status

import (
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// errorsOfEndpoints are failures as providers report them.
var errorsOfEndpoints = map[string]*token.Error{
	"connection":      {Kind: token.Unavailable, Cause: token.CauseConnection, Reason: "the token endpoint refused the connection"},
	"timeout":         {Kind: token.Unavailable, Cause: token.CauseTimeout, Reason: "the token endpoint cannot be reached: it did not answer within fetch_timeout"},
	"503":             {Kind: token.Unavailable, Status: 503, Reason: "the token endpoint asks to try again later"},
	"429":             {Kind: token.Unavailable, Status: 429, Reason: "the token endpoint asks to try again later"},
	"garbage":         {Kind: token.Unreadable, Status: 200, Reason: "the answer holds no token"},
	"panic":           {Kind: token.Unreadable, Cause: token.CauseProvider, Reason: "the provider panicked with a string"},
	"name":            {Kind: token.Unavailable, Cause: token.CauseName, Reason: "the token endpoint cannot be reached: its host name does not exist"},
	"authority":       {Kind: token.Unavailable, Cause: token.CauseAuthority, Reason: "the token endpoint cannot be reached: its certificate is signed by an authority that is not trusted here"},
	"handshake":       {Kind: token.Unavailable, Cause: token.CauseHandshake, Reason: "the token endpoint broke off the TLS handshake"},
	"proxy":           {Kind: token.Unavailable, Cause: token.CauseConnection, Peer: token.PeerProxy, Reason: "the network proxy refused the connection"},
	"issuer":          {Kind: token.Unavailable, Status: 503, Peer: token.PeerIssuer, Reason: "the issuer cannot serve its metadata at the moment"},
	"unknown":         {Kind: token.Unavailable, Reason: "the exchange with the token endpoint failed"},
	"transient code":  {Kind: token.Unavailable, Status: 400, Code: "slow_down", Reason: "the token endpoint asks to try again later"},
	"cut":             {Kind: token.Unavailable, Cause: token.CauseCut, Reason: "the token endpoint cannot be reached: connection reset"},
	"unknown code":    {Kind: token.Refused, Status: 400, Code: "AADSTS7000215", Reason: "the token endpoint refused the request"},
	"no code":         {Kind: token.Refused, Status: 400, Reason: "the token endpoint refused the request"},
	"401, no code":    {Kind: token.Refused, Status: 401, Reason: "the token endpoint refused the request"},
	"403, no code":    {Kind: token.Refused, Status: 403, Code: "odd", Reason: "the token endpoint refused the request"},
	"404":             {Kind: token.Refused, Status: 404, Cause: token.CauseNoEndpoint, Reason: "the server has no token endpoint at this URL"},
	"own secret":      {Kind: token.Refused, Reason: "client_secret: the file is empty"},
	"own file":        {Kind: token.Refused, Cause: token.CauseFile, Reason: "client_secret: stat /run/secret: no such file or directory"},
	"own path":        {Kind: token.Refused, Cause: token.CauseFile, Reason: "open /run/secret: no such file or directory"},
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

// oauth2 is a service with all options.
var oauth2 = Service{Provider: "oauth2", Endpoint: "login.example.com"}

// The advice names no option that the provider does not have, unless it names provider oauth2 as well.
func TestAdviceFitsTheProvider(t *testing.T) {
	vendor := Service{Provider: "optoro", Endpoint: "login.example.com"}
	failures := maps.Clone(errorsOfEndpoints)
	for code := range refusals {
		failures["code "+code] = &token.Error{Kind: token.Refused, Status: 400, Code: code, Reason: "x"}
	}
	for _, cause := range causes(t) {
		if strings.HasPrefix(cause, "metadata") || cause == string(token.CauseClientCertificateRefused) || cause == string(token.CauseNotBound) {
			continue // only provider oauth2 has an issuer, a certificate and DPoP
		}
		for _, peer := range []token.Peer{token.PeerEndpoint, token.PeerProxy} {
			failures[cause+" of "+string(peer)] = &token.Error{Kind: token.Unavailable, Cause: token.Cause(cause), Peer: peer, Reason: "x"}
		}
	}
	options := regexp.MustCompile(`issuer|signing_key|client_auth|client_certificate|dpop|\boption (grant|scope|token)|Compare (scope|audience)|param\b|token_type|response`)
	for name, failure := range failures {
		if failure.Peer == token.PeerIssuer {
			continue
		}
		d := Explain(vendor, failure, time.Now())
		caddytest.WantSentences(t, d.Summary, false)
		caddytest.WantSentences(t, d.Advice, false)
		if text := strings.ReplaceAll(d.Summary, failure.Code, "") + " " + d.Advice; options.MatchString(text) && !strings.Contains(text, "of provider oauth2") {
			t.Errorf("%s: %s", name, text)
		}
	}
	d := diagnoseDead(vendor, nil, time.Now())
	if options.MatchString(d.Advice) {
		t.Errorf("dead: %s", d.Advice)
	}
}

func TestExplain(t *testing.T) {
	now := time.Now()
	summaries := make(map[string]string)
	for name, e := range errorsOfEndpoints {
		for _, next := range []time.Duration{0, 42*time.Second + 1} {
			failure := *e
			if next > 0 {
				failure.RetryAt = now.Add(next)
			}
			d := Explain(oauth2, &failure, now)
			caddytest.WantSentences(t, d.Summary, false)
			caddytest.WantSentences(t, d.Advice, false)
			if e.Code != "" && !strings.Contains(d.Summary, e.Code) {
				t.Errorf("%s: the code is not in %q", name, d.Summary)
			}
			if other, ok := summaries[d.Summary]; ok && other != name {
				t.Errorf("%s and %s have the same summary: %q", other, name, d.Summary)
			}
			summaries[d.Summary] = name
			if d.Cause == "" {
				t.Errorf("%s: the diagnosis has no cause", name)
			}
			if again := strings.Contains(d.Advice, "calls again by itself"); again != (next > 0 && e.Kind != token.Refused) {
				t.Errorf("%s, next try in %s: %q", name, next, d.Advice)
			}
		}
	}
	for name, want := range map[string]string{
		"connection": "firewall", "timeout": "fetch_timeout", "503": "status page", "name": "DNS server",
		"authority": "option ca", "handshake": "client certificate", "proxy": "HTTPS_PROXY", "cut": "firewall", "unknown": "network", "panic": "author of the provider", "429": "higher limit", "garbage": "token URL",
		"own secret": "reads a changed file within moments", "own file": "Create the file, or correct its path in client_secret.", "own path": "Create the file, or correct its path in the configuration.", "404": "token URL", "invalid_client": "client_secret", "401, no code": "client_secret",
		"403, no code": "client_secret", "invalid_scope": "scope", "invalid_target": "audience", "invalid_grant": "clock",
		"unauthorized_client": "grant", "unsupported_grant_type": "grant", "unknown code": "documentation", "invalid_request": "param",
	} {
		if d := Explain(oauth2, errorsOfEndpoints[name], now); !strings.Contains(d.Advice, want) {
			t.Errorf("%s: the advice is %q, want %q in it", name, d.Advice, want)
		}
	}
}

// A summary that begins with an option keeps the case of its name.
func TestSummaryOfAnOption(t *testing.T) {
	for name, want := range map[string]string{
		"own secret": "Option client_secret: the file is empty.",
		"own path":   "Open /run/secret: no such file or directory.",
	} {
		if got := Explain(oauth2, errorsOfEndpoints[name], time.Now()).Summary; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Each cause has advice for each peer that it can concern, and the advice names the peer that the cause is about.
func TestEachCauseHasAdvice(t *testing.T) {
	for _, cause := range causes(t) {
		if slices.Contains([]token.Cause{token.CauseProvider, token.CauseTenant, token.CauseFile}, token.Cause(cause)) {
			continue // Explain has it
		}
		for peer, place := range map[token.Peer]string{token.PeerEndpoint: "token", token.PeerIssuer: "issuer", token.PeerProxy: "network proxy"} {
			advice := oauth2.advise(&token.Error{Cause: token.Cause(cause), Peer: peer})
			caddytest.WantSentences(t, advice, false)
			general := []token.Cause{token.CauseNotYetValid, token.CauseVersion, token.CauseExpired, token.CauseLimit, token.CauseClientCertificate, token.CauseClientCertificateRefused, token.CauseRenegotiation}
			about := strings.HasPrefix(cause, "proxy") || strings.HasPrefix(cause, "metadata") || slices.Contains(general, token.Cause(cause))
			answered := slices.Contains([]token.Cause{token.CauseNoEndpoint, token.CauseMethod, token.CauseTokenText, token.CauseTokenType, token.CauseNotBound, token.CauseRedirect}, token.Cause(cause))
			if !about && !answered && !strings.Contains(advice, place) {
				t.Errorf("%s, peer %q: the advice does not name %q: %s", cause, peer, place, advice)
			}
		}
	}
}

// causes returns the values of all constants of the type token.Cause.
func causes(t *testing.T) (values []string) {
	t.Helper()
	file, err := parser.ParseFile(gotoken.NewFileSet(), "../token/cause.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Cause" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	if len(values) < 40 {
		t.Fatalf("found only the causes %q", values)
	}
	return values
}

func TestDiagnose(t *testing.T) {
	now := time.Now()
	down := &token.Error{Kind: token.Unavailable, Status: 503, Reason: "x", RetryAt: now.Add(time.Minute)}
	past := &token.Error{Kind: token.Unavailable, Status: 503, Reason: "x", RetryAt: now.Add(-time.Minute)}
	refused := &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "x", RetryAt: now.Add(time.Minute)}
	dead := func(s token.Status) token.Status {
		s.Dead = true
		return s
	}
	in := func(state token.State, failure *token.Error) token.Status {
		return token.Status{State: state, Failure: failure, Expires: now.Add(30 * time.Minute)}
	}
	at := func(o Outcome, ago time.Duration) Occurrence {
		return Occurrence{At: now.Add(-ago), Outcome: o, Reason: "x:1: the host is not one of api_hosts"}
	}
	demand := func(ago time.Duration) Occurrence {
		o := occurrenceOf(token.Event{Rejected: true, Demanded: true})
		o.At = now.Add(-ago)
		return o
	}
	tests := []struct {
		name          string
		status        token.Status
		seen          history
		health        Health
		words, nowise string // in summary and advice
	}{
		{"nothing yet", in(token.StateNone, nil), history{}, healthIdle, "has no token. The next request fetches one.", ""},
		{"asleep", in(token.StateExpired, nil), history{}, healthIdle, "expired unused", ""},
		{"good", in(token.StateFresh, nil), history{}, healthOK, "30 minutes", ""},
		{"stale", in(token.StateStale, nil), history{}, healthOK, "30 minutes", ""},
		{"first call", token.Status{State: token.StateNone, Fetching: true}, history{}, healthDegraded, "is waiting for the token endpoint", ""},
		{"refresh", token.Status{State: token.StateStale, Fetching: true, Expires: now.Add(time.Hour)}, history{}, healthOK, "60 minutes", ""},
		{"down", in(token.StateNone, down), history{}, healthFailing, "status 503", "present token"},
		{"down, expired", in(token.StateExpired, down), history{}, healthFailing, "status 503", "present token"},
		{"down, next try is due", in(token.StateExpired, past), history{}, healthFailing, "status 503", "by itself"},
		{"down, trying", token.Status{State: token.StateNone, Fetching: true, Failure: past}, history{}, healthFailing, "status 503", "waiting"},
		{"refresh fails", in(token.StateStale, down), history{}, healthDegraded, "use the present token, which expires in 30 minutes", ""},
		{"refresh fails, trying", in(token.StateStale, past), history{}, healthDegraded, "status 503", ""},
		{"forced refresh failed", in(token.StateFresh, down), history{}, healthDegraded, "status 503", ""},
		{"rejected, and no new token", in(token.StateRejected, down), history{recent: []Occurrence{at(Rejected, 0)}}, healthDegraded, "status 503", ""},
		{"rejected, and not replaced", in(token.StateRejected, down), history{}, healthDegraded, "which the API has rejected", "expires"},
		{"dead", dead(in(token.StateRejected, refused)), history{recent: []Occurrence{at(Rejected, 0)}}, healthFailing, "invalid_client). The API rejects the present token, so requests fail.", "use the present token"},
		{"dead, then down", dead(in(token.StateRejected, down)), history{}, healthFailing, "status 503. The API rejects the present token", "use the present token"},
		{"dead, with a new secret", dead(in(token.StateRejected, nil)), history{}, healthFailing, "refuses the credential. The API rejects", "use the present token"},
		{"dead, though fresh", dead(in(token.StateFresh, refused)), history{recent: []Occurrence{at(Destination, time.Second)}}, healthFailing, "If the service has disabled the client", "api_hosts"},
		{"rejected, and a call follows", in(token.StateRejected, nil), history{recent: []Occurrence{at(Rejected, 0)}}, healthDegraded, "no new token yet", "rejects new tokens"},
		{"revoked", in(token.StateFresh, nil), history{recent: []Occurrence{at(Rejected, time.Minute)}}, healthDegraded, "60 seconds ago", "rejects new tokens"},
		{"revoked long ago", in(token.StateFresh, nil), history{recent: []Occurrence{at(Rejected, recently)}}, healthOK, "", ""},
		{"all are rejected", in(token.StateFresh, nil), history{recent: []Occurrence{at(Rejected, 301*time.Second), at(Rejected, time.Second)}},
			healthDegraded, "rejects new tokens, too", ""},
		{"claims are demanded, and a call follows", in(token.StateRejected, nil), history{recent: []Occurrence{demand(0)}},
			healthDegraded, "demands claims that the token was issued without (insufficient_claims), and the proxy has no new token yet", "revoked"},
		{"claims were demanded", in(token.StateFresh, nil), history{recent: []Occurrence{demand(time.Second)}}, healthOK, "30 minutes", "claims"},
		{"claims were demanded, and a token was revoked", in(token.StateFresh, nil),
			history{recent: []Occurrence{demand(time.Minute), at(Rejected, time.Second)}}, healthDegraded, "revoked early", "new tokens, too"},
		{"claims are demanded of each token", in(token.StateFresh, nil), history{recent: []Occurrence{demand(301 * time.Second), demand(0)}},
			healthDegraded, "claims of tokens (insufficient_claims), and of new tokens, too", "revoked"},
		{"claims were demanded long ago, too", in(token.StateFresh, nil), history{recent: []Occurrence{demand(recently), demand(0)}}, healthOK, "", "claims"},
		{"destination", in(token.StateFresh, nil), history{recent: []Occurrence{at(Destination, time.Second)}}, healthFailing, "x:1: the host is not one of api_hosts", ""},
		{"destination, a while ago", in(token.StateFresh, nil), history{recent: []Occurrence{at(Destination, 2*DestinationInterval)}}, healthDegraded, "x:1: the host is not one of api_hosts", ""},
		{"destination, long ago", in(token.StateFresh, nil), history{recent: []Occurrence{at(Destination, recently)}}, healthOK, "", "api_hosts"},
		{"destination, and no token", in(token.StateNone, down), history{recent: []Occurrence{at(Destination, 0)}}, healthFailing, "status 503", "api_hosts"},
		{"slow", in(token.StateFresh, nil), slowly(slowCall, now), healthDegraded, "2.0 s", ""},
		{"not slow", in(token.StateFresh, nil), slowly(slowCall-1, now), healthOK, "", "slow"},
		{"slow, long ago", in(token.StateFresh, nil), slowly(slowCall, now.Add(-recently)), healthOK, "", "slow"},
		{"slow, long ago expired", in(token.StateExpired, nil), slowly(slowCall, now), healthIdle, "", "slow"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d := diagnose(oauth2, tc.status, tc.seen, Sharing{}, now)
			if d.Health != tc.health {
				t.Errorf("health is %s, want %s: %s", d.Health, tc.health, d.Summary)
			}
			if tc.status.Failure == nil && strings.Contains(d.Summary+d.Advice, "401") {
				t.Errorf("it names a status that the API may not have sent (rejected_status): %s %s", d.Summary, d.Advice)
			}
			caddytest.WantSentences(t, d.Summary, false)
			caddytest.WantSentences(t, d.Advice, tc.health == healthOK || tc.health == healthIdle)
			all := d.Summary + " " + d.Advice
			if !strings.Contains(all, tc.words) || tc.nowise != "" && strings.Contains(all, tc.nowise) {
				t.Errorf("summary and advice are %q; want %q, and not %q", all, tc.words, tc.nowise)
			}
		})
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
		if got := Lasting(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

// slowly returns the history of one call that took this long.
func slowly(took time.Duration, at time.Time) history {
	return history{recent: []Occurrence{{At: at, Outcome: Obtained, Duration: took.Seconds()}}}
}
