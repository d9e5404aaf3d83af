package caddymodule

import (
	"fmt"
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
	if n := len(server.logged("handled request")); n != 3*(maxVisits+2) { // the first pass does not count
		t.Errorf("3 requests came in %d times, want %d", n, 3*(maxVisits+2))
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

// TestLoopOfSeveralProxies sends a request through several proxies and back. It must end soon, whichever fields carry the
// tokens and whether or not the API may see Via.
func TestLoopOfSeveralProxies(t *testing.T) {
	for name, tc := range map[string]struct {
		headers []string // of each proxy's credential
		block   string   // in all directives
		sent    []string
	}{
		"two in Authorization":                  {headers: []string{"", ""}},
		"three in Authorization":                {headers: []string{"", "", ""}},
		"two in fields of their own":            {headers: []string{"header X-A", "header X-B"}},
		"two in the same field":                 {headers: []string{"header X-A", "header X-A"}},
		"one in Authorization, one in another":  {headers: []string{"", "header X-B"}},
		"one in another, one in Authorization":  {headers: []string{"header X-A", ""}},
		"in cookies":                            {headers: []string{`header Cookie "a={token}"`, `header Cookie "b={token}"`}},
		"in the query":                          {headers: []string{"header query:a", "header query:b"}},
		"in a cookie and the query":             {headers: []string{`header Cookie "a={token}"`, "header query:a"}},
		"forwarded on":                          {headers: []string{"", "header X-B"}, block: "forwarded on"},
		"header_up changes fields":              {headers: []string{"", "header X-B"}, block: "header_up X-Source legacy"},
		"the application sends its credentials": {headers: []string{"", "header X-B"}, sent: []string{"Authorization", "Bearer own"}},
		"they are kept":                         {headers: []string{"", ""}, block: "client_authorization keep", sent: []string{"Authorization", "Bearer own"}},
		"the application sends a stub's token":  {headers: []string{"", ""}, sent: []string{"Authorization", "Bearer " + stubToken}},
		"the application sends Via":             {headers: []string{"", "header X-B"}, sent: []string{"Via", "1.1 fred"}},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			var credentials, sites []string
			var addrs []string
			for range tc.headers {
				addrs = append(addrs, freeAddr(t))
			}
			for n, header := range tc.headers {
				credential := fmt.Sprintf("c%d", n)
				credentials = append(credentials, credentialConfig(credential, tokens.url, tokens.ClientID, header))
				sites = append(sites, siteConfig(addrs[n], fmt.Sprintf("log\ntoken_proxy %s http://%s {\n header_up Host %[2]s\n%s\n}", credential, addrs[(n+1)%len(addrs)], tc.block)))
			}
			server := startCaddy(t, globalOptions(credentials...)+strings.Join(sites, ""))
			get(t, "http://"+addrs[0], tc.sent...).wantProblem(t, http.StatusBadGateway, "proxy_loop_detected")
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			if n, most := len(server.logged("handled request")), len(tc.headers)*(maxVisits+1)+1; n > most {
				t.Errorf("the request came in %d times, want %d at most", n, most)
			}
		})
	}
}
