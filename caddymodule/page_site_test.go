package caddymodule

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// browserFields are what browsers send to the page's site, in pairs.
var browserFields = []struct {
	name   string
	fields []string
	status int // "ORIGIN" stands for the site's
}{
	{"nothing, as curl", nil, 200},
	{"the user", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 200},
	{"the page", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Origin", "ORIGIN", "Referer", "ORIGIN/token_proxy/"}, 200},
	{"the page in an older browser", []string{"Origin", "ORIGIN"}, 200},
	{"another page", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
	{"another page's form", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Origin", "https://evil.example"}, 403},
	{"another port's", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate"}, 403},
	{"another page in an older browser", []string{"Origin", "https://evil.example"}, 403},
	{"a page whose name begins like ours", []string{"Origin", "ORIGIN.evil.example"}, 403},
	{"a file", []string{"Origin", "file://"}, 403},
	{"a page without a name", []string{"Origin", "null"}, 400}, // Caddy's own word
}

// The same without a browser, with the admin API on a port and, as the README says it, on a unix socket.
func TestPageSite(t *testing.T) {
	socket := filepath.Join(shortDir(t), "admin.sock")
	for _, kind := range []string{"port", "unix socket"} {
		t.Run(kind, func(t *testing.T) {
			tokens := newTokenServer(t)
			name := newClientID()
			admin, site := freeAddr(t), freeAddr(t)
			config := globalOptions(tokens.credential(name)) + caddytest.PageSiteAt(t, reference, admin, site)
			if kind == "port" {
				startOperatedAt(t, admin, config, nil)
			} else {
				_, port, _ := net.SplitHostPort(admin)
				config = strings.NewReplacer("reverse_proxy localhost:"+port, "reverse_proxy unix/"+socket,
					"Host {upstream_hostport}", "Host localhost:"+port).Replace(config)
				s := &operatedServer{&caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}, "unix/" + socket, nil}
				stopAtEnd(t, s)
				if err := s.caddyServer.load(config, s.operate, func(root map[string]any) {
					root["admin"].(map[string]any)["origins"] = []string{"localhost:" + port}
				}); err != nil {
					t.Fatal(err)
				}
			}
			_, port, _ := net.SplitHostPort(site)
			origin := "http://localhost:" + port
			for _, test := range browserFields {
				t.Run(test.name, func(t *testing.T) {
					var fields []string
					for _, f := range test.fields {
						fields = append(fields, strings.ReplaceAll(f, "ORIGIN", origin))
					}
					calls := tokens.Calls()
					get(t, origin+"/token_proxy/", fields...).wantStatus(t, test.status)
					send(t, http.MethodPost, origin+"/token_proxy/credentials/"+name+"/refresh", "", fields...).wantStatus(t, test.status)
					if got := tokens.Calls() > calls; got != (test.status == 200) {
						t.Errorf("a token was fetched: %t", got)
					}
				})
			}
			for _, path := range []string{"/config/", "/stop", "/debug/pprof/cmdline", "/token_proxy/../config/", "/token_proxy/%2e%2e/config/", "/token_proxy//../../config/"} {
				if a := get(t, origin+path); a.body != "" {
					t.Errorf("%s leads to the admin API: status %d, %q", path, a.StatusCode, a.body)
				}
			}
		})
	}
}

// With origins "", Caddy lets in every page that sends no referrer. Our part of the admin API does not.
func TestAdminWhateverOriginsSays(t *testing.T) {
	tokens := newTokenServer(t)
	name := newClientID()
	s := &operatedServer{&caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}, freeAddr(t), nil}
	stopAtEnd(t, s)
	if err := s.caddyServer.load(globalOptions(tokens.credential(name)), s.operate, func(root map[string]any) {
		root["admin"].(map[string]any)["origins"] = []string{"", s.admin, "https://evil.example"}
	}); err != nil {
		t.Fatal(err)
	}
	foreign := append([][]string{{"Origin", "file://"}, {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}}, foreignFields[1], foreignFields[2])
	for _, fields := range foreign {
		s.ask(http.MethodGet, "/debug/pprof/cmdline", fields...).wantStatus(t, 200) // or else it is Caddy that denies the rest
		for _, path := range []string{"/token_proxy/", "/token_proxy/credentials", "/token_proxy/credentials/" + name} {
			s.ask(http.MethodGet, path, fields...).wantAdminError(t, 403, "another site")
		}
		for _, path := range []string{"/token_proxy/credentials/" + name + "/refresh", "/token_proxy/credentials/" + name + "/purge", "/token_proxy/purge"} {
			s.ask(http.MethodPost, path, fields...).wantAdminError(t, 403, "another site")
			s.ask(http.MethodOptions, path, fields...).wantAdminError(t, 403, "another site")
		}
	}
	wantCalls(t, tokens.TokenEndpoint, 0)
	s.ask(http.MethodGet, "/token_proxy/", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate").wantStatus(t, 200)
	s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/refresh").wantStatus(t, 200)
	s.ask(http.MethodPost, "/token_proxy/purge", "Origin", "http://"+s.admin).wantStatus(t, 200) // as Caddy's command line
	wantCalls(t, tokens.TokenEndpoint, 1)
}
