package caddymodule

import (
	"crypto/sha1" // RFC 6455 section 1.3
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// openAPI lets every page in the world use it, if it has a token, and speaks WebSocket.
func openAPI(w http.ResponseWriter, r *http.Request) {
	for _, what := range []string{"Origin", "Methods", "Headers"} {
		w.Header().Set("Access-Control-Allow-"+what, "*")
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		cutOff("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
			base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n\x81\x06orders")(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write([]byte("orders"))
}

// servePageOf is a server whose every page is empty.
func servePageOf(t *testing.T) (port string) {
	t.Helper()
	srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<title>a page</title>"))
	}))
	return portOfURL(t, srv.URL)
}

type siteAttack struct {
	name, script string
	learns       string // what the page gets to know if nothing stops it
	bare         bool   // no Origin goes with it
	leaves       bool   // the page is gone afterwards
}

// siteAttacks are what a page can do to a URL, as JavaScript. What it learns is the value.
var siteAttacks = []siteAttack{
	{name: "fetch", script: `fetch(URL).then(r => r.text()).catch(() => "blocked")`, learns: "orders"},
	{name: "preflighted", script: `fetch(URL, {method: "PUT", headers: {"Content-Type": "application/json"}, body: "{}"}).then(r => r.text()).catch(() => "blocked")`, learns: "orders"},
	{name: "no-cors", script: `fetch(URL, {method: "POST", mode: "no-cors", body: '{"order": 1}'}).then(r => r.type).catch(() => "blocked")`, learns: "opaque"},
	{name: "beacon", script: `navigator.sendBeacon(URL, "x") ? "sent" : "blocked"`, learns: "sent"},
	{name: "websocket", script: `new Promise(done => { const s = new WebSocket(URL.replace("http", "ws")); s.onmessage = m => done(m.data); s.onerror = () => done("blocked"); })`, learns: "orders"},
	{name: "image", script: `new Promise(done => { const n = new Image(); n.onload = n.onerror = () => done("sent"); n.src = URL; })`, learns: "sent", bare: true},
	{name: "script", script: `new Promise(done => { const n = document.createElement("script"); n.onload = n.onerror = () => done("sent"); n.src = URL; document.head.append(n); })`, learns: "sent", bare: true},
	{name: "frame", script: `new Promise(done => { const n = document.createElement("iframe"); n.onload = () => done("sent"); n.src = URL; document.documentElement.append(n); })`, learns: "sent", bare: true},
	{name: "link", script: `location.href = URL`, bare: true, leaves: true},
	{name: "link without referrer", script: `(() => { const n = document.createElement("a"); n.rel = "noreferrer"; n.href = URL; document.documentElement.append(n); n.click(); })()`, bare: true, leaves: true},
	// The classic: a form whose text/plain body is JSON.
	{name: "form", script: `(() => { const f = document.createElement("form"); f.method = "POST"; f.enctype = "text/plain"; f.action = URL;
		const i = document.createElement("input"); i.name = '{"order": 1, "pad": "'; i.value = '"}'; f.append(i); document.documentElement.append(f); f.submit(); })()`, leaves: true},
}

// crossSiteDenials counts what the credential's handlers have denied to pages of other sites.
func crossSiteDenials(t *testing.T, credential string) uint64 {
	t.Helper()
	c, err := runningApp().client(credential)
	if err != nil {
		t.Fatal(err)
	}
	return c.status.CountDenied(status.DeniedCrossSite)
}

func TestBrowserCrossSite(t *testing.T) {
	b := startBrowser(t)
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, openAPI)
	denying, allowing, named := freeAddr(t), freeAddr(t), freeAddr(t)
	port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
	name := newClientID()
	directive := "token_proxy " + name + " " + api.URL
	startCaddy(t, globalOptions(tokens.credential(name))+siteConfig(denying, directive)+
		siteConfig(allowing, directive+" {\n cross_site allow\n}")+
		"http://"+named+", http://localhost:"+port(named)+" {\n bind 127.0.0.1\n "+directive+"\n}\n")
	pages := servePageOf(t)

	attack := func(t *testing.T, page, url string, a siteAttack) string {
		t.Helper()
		b.t = t
		b.navigate(page)
		learned := b.eval("(URL => " + a.script + ")(" + jsString(url) + ")")
		if a.leaves {
			b.wait("the page to be gone", "location.href === "+jsString(url)+` && document.readyState === "complete"`)
		}
		return fmt.Sprint(learned)
	}
	each := func(t *testing.T, proxy string, check func(t *testing.T, a siteAttack, attack func() (learned string))) {
		for _, target := range []struct {
			host string
			bare bool // without an Origin, the browser does not tell that a page is behind a request
		}{
			{"127.0.0.1", false},
			{"localhost", false},
			{"proxy.example", true}, // no loopback address, as far as the browser knows, and no HTTPS
		} {
			for _, page := range []string{"evil.example", target.host} { // there on another port
				for _, a := range siteAttacks {
					if target.bare && a.bare {
						continue
					}
					t.Run(target.host+" from "+page+" "+a.name, func(t *testing.T) {
						check(t, a, func() string {
							return attack(t, "http://"+page+":"+pages, "http://"+target.host+":"+port(proxy)+"/orders", a)
						})
					})
				}
			}
		}
	}
	t.Run("deny", func(t *testing.T) {
		each(t, denying, func(t *testing.T, a siteAttack, attack func() string) {
			denials := crossSiteDenials(t, name)
			if attack() == "orders" {
				t.Error("the page reads what the API answers")
			}
			eventually(t, "a denial", func() bool { return crossSiteDenials(t, name) > denials })
		})
		b.t = t
		b.navigate("about:blank")
		for _, r := range api.received() {
			t.Errorf("the API got %s %s, %v", r.Method, r.URI, r.Header)
		}
		if n := api.connectionCount(); n != 0 {
			t.Errorf("the API was connected to %d times", n)
		}
		wantCalls(t, tokens.TokenEndpoint, 0)
	})
	t.Run("allow", func(t *testing.T) { // or else the above shows nothing
		each(t, allowing, func(t *testing.T, a siteAttack, attack func() string) {
			requests := len(api.received())
			if learned := attack(); a.learns != "" && learned != a.learns {
				t.Errorf("the page learns %q, not %q", learned, a.learns)
			}
			eventually(t, "the request at the API, with a token", func() bool {
				return slices.ContainsFunc(api.received()[requests:], func(r recordedRequest) bool {
					return r.URI == "/orders" && strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ")
				})
			})
		})
		wantCalls(t, tokens.TokenEndpoint, 1)
	})

	// A page that the API itself serves, through the proxy, goes on working.
	for _, host := range []string{"127.0.0.1", "localhost", "proxy.example"} {
		t.Run("own page at "+host, func(t *testing.T) {
			b.t = t
			own, denials := "http://"+host+":"+port(denying)+"/orders", crossSiteDenials(t, name)
			for _, a := range siteAttacks {
				requests := len(api.received())
				attack(t, own, own+"?again", a)
				eventually(t, a.name, func() bool {
					return slices.ContainsFunc(api.received()[requests:], func(r recordedRequest) bool { return r.URI == "/orders?again" })
				})
			}
			if n := crossSiteDenials(t, name) - denials; n != 0 {
				t.Errorf("%d requests were denied", n)
			}
		})
	}

	// DNS rebinding: the page's own host is 127.0.0.1 now. What is same-origin to the browser is so to the proxy; only a
	// site that names its host keeps it out.
	t.Run("rebinding", func(t *testing.T) {
		b.t = t
		for addr, want := range map[string]string{denying: "orders", named: ""} {
			requests := len(api.received())
			b.navigate("http://evil.example:" + port(addr) + "/")
			if got := b.eval(`fetch("/orders").then(r => r.text())`); got != want {
				t.Errorf("%s: the page reads %q, want %q", addr, got, want)
			}
			if got := len(api.received()) > requests; got != (want != "") {
				t.Errorf("%s: the API was asked: %t", addr, got)
			}
		}
	})
}

// The reference's site for the page, in a browser: people get in, pages of other sites do not.
func TestBrowserAdmin(t *testing.T) {
	b := startBrowser(t)
	tokens := newTokenServer(t)
	name := newClientID()
	admin, site := freeAddr(t), freeAddr(t)
	s := startOperatedAt(t, admin, globalOptions(tokens.credential(name))+pageSiteAt(t, admin, site), nil)
	b.t = t
	_, sitePort, _ := net.SplitHostPort(site)
	_, adminPort, _ := net.SplitHostPort(admin)
	page := "http://localhost:" + sitePort

	b.navigate(page + "/token_proxy/")
	b.wait("an answer", `shownAt > 0`)
	b.waitText("#summary", name)
	b.click(".refresh")
	b.waitText(".said", "New token")
	b.click(".purge")
	b.click("#ask-yes")
	b.waitText(".said", "Purged.")
	wantCalls(t, tokens.TokenEndpoint, 1)
	b.click(".refresh")
	b.waitText(".said", "New token")

	pages := servePageOf(t)
	for _, from := range []string{"http://evil.example:" + pages, "http://localhost:" + pages} {
		for _, to := range []string{page, "http://localhost:" + adminPort, "http://127.0.0.1:" + adminPort} {
			for _, action := range []string{"/token_proxy/purge", "/token_proxy/credentials"} {
				for _, a := range siteAttacks {
					if !slices.Contains([]string{"fetch", "no-cors", "frame", "link without referrer", "form"}, a.name) {
						continue
					}
					b.navigate(from)
					learned := b.eval("(URL => " + a.script + ")(" + jsString(to+action) + ")")
					if text, _ := learned.(string); strings.Contains(text, "{") || strings.Contains(text, "<") {
						t.Errorf("%s: %s of %s learns %q", from, a.name, to+action, text)
					}
					if a.leaves {
						b.wait("the page to be gone", "location.href === "+jsString(to+action)+` && document.readyState === "complete"`)
						if text := b.eval("document.body.innerText").(string); !strings.Contains(text, `"error"`) {
							t.Errorf("%s: %s of %s shows %q", from, a.name, to+action, text)
						}
					}
				}
			}
		}
	}
	if c := s.credential(name); c.State != "fresh" || tokens.Calls() != 2 {
		t.Errorf("a page of another site had an effect: %s, %d token calls", c.State, tokens.Calls())
	}

	// The site leads nowhere else, and Caddy's own endpoints stay closed to what has no referrer.
	b.navigate(page + "/debug/pprof/cmdline")
	if text := b.eval("document.body.innerText"); text != "" {
		t.Errorf("the site shows %q", text)
	}
	b.navigate("http://localhost:" + adminPort + "/debug/pprof/cmdline")
	b.waitText("body", "not allowed to access from origin ''")
}

// pageSiteAt is the reference's site with other addresses.
func pageSiteAt(t *testing.T, admin, site string) string {
	t.Helper()
	_, adminPort, _ := net.SplitHostPort(admin)
	_, sitePort, _ := net.SplitHostPort(site)
	return strings.NewReplacer("localhost:2019", "localhost:"+adminPort, "localhost:2020", "localhost:"+sitePort).Replace(pageSite(t))
}

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

// The same without a browser, with the admin API on a port and, as the reference describes it, on a unix socket.
func TestPageSite(t *testing.T) {
	socket := filepath.Join(shortDir(t), "admin.sock")
	for _, kind := range []string{"port", "unix socket"} {
		t.Run(kind, func(t *testing.T) {
			tokens := newTokenServer(t)
			name := newClientID()
			admin, site := freeAddr(t), freeAddr(t)
			config := globalOptions(tokens.credential(name)) + pageSiteAt(t, admin, site)
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
