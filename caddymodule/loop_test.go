package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestLoops(t *testing.T) {
	many := strings.Repeat("1.1 Caddy, ", maxVisits-2) + "1.1 Caddy"
	for _, test := range []struct {
		via  []string
		want bool
	}{
		{nil, false},
		{[]string{"1.1 Caddy"}, false},
		{[]string{many}, false},
		{[]string{many, "1.1 Caddy"}, true},
		{[]string{many + ", 2.0 Caddy"}, true},
		{[]string{many + ", 1.1 Caddy, 3.0 Caddy"}, true},
		{strings.Split(many+", 1.1 Caddy", ", "), true},
		{[]string{strings.Repeat("1.1 varnish, ", 100)}, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Via"] = test.via
		if got := loops(r); got != test.want {
			t.Errorf("Via %q: got %v", test.via, got)
		}
	}
}

// TestRequestLoop points a proxy at itself. It must end soon, and say why.
func TestRequestLoop(t *testing.T) {
	tokens := newTokenServer(t)
	addr := freeAddr(t)
	server := startCaddy(t, globalOptions(tokens.credential("api"))+siteConfig(addr, "log\n token_proxy api http://"+addr))
	for range 3 {
		get(t, "http://"+addr).wantProblem(t, http.StatusBadGateway, "proxy_loop_detected")
	}
	wantCalls(t, tokens.TokenEndpoint, 1)
	if err := caddy.Stop(); err != nil { // now all is logged
		t.Fatal(err)
	}
	if n := len(server.logged("handled request")); n != 3*(maxVisits+1) {
		t.Errorf("3 requests came in %d times, want %d", n, 3*(maxVisits+1))
	}
	warnings := 0
	for _, entry := range logEntries(t, server) {
		if message, _ := entry["msg"].(string); strings.Contains(message, "keeps coming back") {
			warnings++
		}
	}
	if warnings != 1 {
		t.Errorf("the log says so %d times in a minute, want 1", warnings)
	}
}
