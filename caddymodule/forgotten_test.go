package caddymodule

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// countSeries counts the series of credentials with that prefix.
func countSeries(e exposition, prefix string) (n int) {
	for series := range e.series {
		if strings.Contains(series, `credential="`+prefix) {
			n++
		}
	}
	return n
}

// A configuration that was never in force leaves nothing behind.
func TestObservationOfARefusedConfiguration(t *testing.T) {
	name := "refused-" + newClientID()
	refused := appsJSON(fmt.Sprintf(`"token_proxy": {"credentials": {%q: %s}}`, name, goodCredential),
		siteJSON(nowhere, `{"handler": "token_proxy", "credential": "nobody"}`))
	wantRefused(t, validateJSON(refused), "nobody")
	if names := status.Known(name); len(names) > 0 {
		t.Errorf("kept are %q", names)
	}
}

// Names that come and go with each deployment: after a while only those of the configuration in force are left, even
// though requests and token calls of earlier ones go on.
func TestForgottenCredentials(t *testing.T) {
	const reloads = 100
	t.Cleanup(status.ForgetAfter(100 * time.Millisecond))
	prefix := "deployed-" + newClientID() + "-"
	tokens := newTokenServer(t)
	api := serveHTTP(t, tokens.api())
	addr := freeAddr(t)
	config := func(n int) string {
		name := fmt.Sprint(prefix, n)
		return globalOptions(tokens.credential(name)) + siteConfig(addr, "token_proxy "+name+" "+api.URL)
	}
	s := startOperated(t, config(0), nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	first := runningApp().clients[fmt.Sprint(prefix, 0)]
	for n := range reloads {
		if err := s.load(config(n + 1)); err != nil {
			t.Fatal(err)
		}
		get(t, "http://"+addr).wantStatus(t, 200)
	}
	last := fmt.Sprint(prefix, reloads)
	eventually(t, "all but the last to be forgotten", func() bool { return slices.Equal(status.Known(prefix), []string{last}) })

	first.status.Observe(token.Event{Token: token.NewSecret("late"), Lifetime: time.Hour})
	first.status.Observe(token.Event{Token: token.NewSecret("late"), Rejected: true})
	first.status.Served(status.ServedFresh)
	first.status.Waited(time.Second)
	e := s.readMetrics()
	if all, want := countSeries(e, prefix), countSeries(e, last); want == 0 || all != want {
		t.Errorf("%d series are left, want the %d of the last credential", all, want)
	}
	if n := s.credential(last).Counters.Calls.Obtained; n != 0 { // one source: its token is still good
		t.Errorf("%d calls", n)
	}

	// It comes back after all: from zero, as after a start.
	if err := s.load(config(0)); err != nil {
		t.Fatal(err)
	}
	get(t, "http://"+addr).wantStatus(t, 200)
	s.readMetrics().want(t, 1, "requests_total", "credential", prefix+"0", "served", "fresh")
}
