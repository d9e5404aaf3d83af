package caddymodule

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func TestCrossSite(t *testing.T) {
	const own, foreign = "http://127.0.0.1:8080", "https://evil.example"
	for _, test := range []struct {
		name          string
		sites, origin []string
		host          string // "" is 127.0.0.1:8080
		denied        bool
	}{
		// What is no browser sends neither field.
		{name: "an application"},

		// Sec-Fetch-Site
		{name: "the same origin", sites: []string{"same-origin"}},
		{name: "the same origin, and says so", sites: []string{"same-origin"}, origin: []string{own}},
		{name: "the same origin, before a proxy that changes Host", sites: []string{"same-origin"}, origin: []string{"https://shop.example"}},
		{name: "the user", sites: []string{"none"}},
		{name: "the user, at our own page", sites: []string{"none"}, origin: []string{own}},
		{name: "the user, at another page", sites: []string{"none"}, origin: []string{foreign}, denied: true},
		{name: "the user, at a page without a name", sites: []string{"none"}, origin: []string{"null"}, denied: true},
		{name: "another site", sites: []string{"cross-site"}, denied: true},
		{name: "another site with our origin", sites: []string{"cross-site"}, origin: []string{own}, denied: true},
		{name: "another host of the site", sites: []string{"same-site"}, denied: true},
		{name: "another port of the host", sites: []string{"same-site"}, origin: []string{"http://127.0.0.1:9000"}, denied: true},
		{name: "a new word", sites: []string{"same-planet"}, denied: true},
		{name: "an empty word", sites: []string{""}, denied: true},
		{name: "another case", sites: []string{"Same-Origin"}, denied: true},
		{name: "a parameter", sites: []string{"same-origin;a=b"}, denied: true},
		{name: "two fields", sites: []string{"same-origin", "cross-site"}, denied: true},
		{name: "two fields alike", sites: []string{"same-origin", "same-origin"}, denied: true},
		{name: "a list", sites: []string{"none, none"}, denied: true},

		// Origin, from browsers that do not know Sec-Fetch-Site, for hosts to which they do not send it, and of WebSockets
		{name: "own origin", origin: []string{own}},
		{name: "own origin in other letters", origin: []string{"http://LOCALHOST:8080"}, host: "localhost:8080"},
		{name: "own origin, IPv6", origin: []string{"http://[::1]:8080"}, host: "[::1]:8080"},
		{name: "own origin, no ports", origin: []string{"http://shop.example"}, host: "shop.example"},
		{name: "own origin, Host with the port", origin: []string{"http://shop.example"}, host: "shop.example:80"},
		{name: "own origin, origin with the port", origin: []string{"http://shop.example:80"}, host: "shop.example"},
		{name: "own origin, TLS ends before", origin: []string{"https://shop.example"}, host: "shop.example"},
		{name: "own origin, TLS ends before, Host with the port", origin: []string{"https://shop.example"}, host: "shop.example:443"},
		{name: "an admin address without a host", origin: []string{"http://:2019"}, host: ":2019"}, // Caddy's own command line sends it
		{name: "another origin", origin: []string{foreign}, denied: true},
		{name: "another port", origin: []string{"http://127.0.0.1:9000"}, denied: true},
		{name: "another name of the host", origin: []string{"http://localhost:8080"}, denied: true},
		{name: "the port of another scheme", origin: []string{"http://shop.example"}, host: "shop.example:443", denied: true},
		{name: "Host without a port", origin: []string{own}, host: "127.0.0.1", denied: true},
		{name: "a name that begins with ours", origin: []string{"http://127.0.0.1:8080.evil.example"}, denied: true},
		{name: "a name that ends in ours", origin: []string{"http://evil.localhost:8080"}, host: "localhost:8080", denied: true},
		{name: "no Host", origin: []string{foreign}, host: "-", denied: true},
		{name: "no Host, no host", origin: []string{"http://"}, host: "-", denied: true},
		{name: "null", origin: []string{"null"}, denied: true},
		{name: "null, and a host of this name", origin: []string{"null"}, host: "null", denied: true},
		{name: "empty", origin: []string{""}, denied: true},
		{name: "empty, without Host", origin: []string{""}, host: "-", denied: true},
		{name: "a file", origin: []string{"file://"}, denied: true},
		{name: "a file, without Host", origin: []string{"file://"}, host: "-", denied: true},
		{name: "an extension", origin: []string{"chrome-extension://127.0.0.1:8080"}, denied: true},
		{name: "several fields", origin: []string{own, own}, denied: true},
		{name: "several fields, the other first", origin: []string{foreign, own}, denied: true},
		{name: "a list of RFC 6454", origin: []string{own + " " + foreign}, denied: true},
		{name: "a comma", origin: []string{own + ", " + foreign}, denied: true},
		{name: "a path", origin: []string{own + "/"}, denied: true},
		{name: "a query", origin: []string{own + "?"}, denied: true},
		{name: "a fragment", origin: []string{own + "#"}, denied: true},
		{name: "a user", origin: []string{"http://evil.example@127.0.0.1:8080"}, denied: true},
		{name: "no scheme", origin: []string{"127.0.0.1:8080"}, denied: true},
		{name: "no scheme but slashes", origin: []string{"//127.0.0.1:8080"}, denied: true},
		{name: "nonsense", origin: []string{"http://[::1"}, host: "[::1", denied: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, before := range []http.Header{
				nil,
				{"Via": {"1.1 proxy"}, "Forwarded": {"for=127.0.0.1;host=127.0.0.1:8080"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"evil.example"}},
			} {
				for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodPost, http.MethodConnect} {
					r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/", nil)
					r.Method, r.Header = method, before.Clone()
					if r.Header == nil {
						r.Header = make(http.Header)
					}
					if test.host != "" {
						r.Host = strings.TrimPrefix(test.host, "-")
					}
					if test.sites != nil {
						r.Header["Sec-Fetch-Site"] = test.sites
					}
					if test.origin != nil {
						r.Header["Origin"] = test.origin
					}
					if got := crossSite(r); got != test.denied {
						t.Errorf("%s, Host %q, %v: denied is %t, want %t", method, r.Host, r.Header, got, test.denied)
					}
				}
			}
		})
	}
}

func TestCrossSiteAllocatesNothing(t *testing.T) {
	plain := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/", nil)
	page := plain.Clone(t.Context())
	page.Header.Set("Sec-Fetch-Site", "same-origin")
	for name, r := range map[string]*http.Request{"an application": plain, "a page of our own": page} {
		if n := testing.AllocsPerRun(100, func() { crossSite(r) }); n != 0 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}

// crossSiteWarnings returns the sites that warnings name, one for each warning.
func crossSiteWarnings(t *testing.T, s *caddyServer) (sites []string) {
	t.Helper()
	for _, entry := range logEntries(t, s) {
		if message, _ := entry["msg"].(string); entry["level"] == "warn" && strings.Contains(message, "cross_site") {
			sites = append(sites, fmt.Sprint(entry["site"]))
		}
	}
	return sites
}

// foreignFields is what browsers send for pages of other sites, in pairs.
var foreignFields = [][]string{
	{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"},
	{"Sec-Fetch-Site", "same-site"},
	{"Origin", "https://evil.example"},
	{"Origin", "null"},
	{"Origin", "https://evil.example", "Via", "1.1 proxy", "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1"},
	{"Sec-Fetch-Site", "none", "Origin", "https://evil.example"},
}

// A page of another site gets nothing done, and costs nothing: no token, no connection, not even a placeholder.
func TestCrossSiteRequestsAreDenied(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, nil)
	s, base := startProxy(t, tokens.credential("api"), `
		token_proxy /any/* api `+api.URL+` {
			clients any
		}
		token_proxy api `+api.URL+` {
			token_stub /oauth/token
		}`)
	for _, fields := range foreignFields {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PURGE"} {
			for _, path := range []string{"/orders", "/any/orders", "/oauth/token"} {
				a := ask(t, testClient(t), newRequest(t, method, base+path, nil, append(fields, "Authorization", "Bearer mine")...))
				if method == http.MethodHead {
					a.wantStatus(t, 403)
					continue
				}
				a.wantProblem(t, 403, "http_request_denied")
				if !strings.Contains(a.body, "#cross-site-request-not-allowed") || strings.Contains(a.body, "evil") {
					t.Errorf("%s %s: %s", method, path, a.body)
				}
				for name := range a.Header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s %s: the answer has a field %s", method, path, name)
					}
				}
			}
		}
	}
	wantCalls(t, tokens.TokenEndpoint, 0)
	if n := api.connectionCount(); n != 0 {
		t.Errorf("the API was connected to %d times", n)
	}
	if sites := crossSiteWarnings(t, s); len(sites) != 2 { // of two handlers
		t.Errorf("the log warns %d times in a minute, want 2: %q", len(sites), sites)
	}

	// The application, and a page that comes from the API itself.
	get(t, base+"/orders").wantStatus(t, 200)
	get(t, base+"/orders", "Origin", base).wantStatus(t, 200)
	get(t, base+"/orders", "Sec-Fetch-Site", "same-origin").wantStatus(t, 200)
	get(t, base+"/any/orders", "Sec-Fetch-Site", "none", "Via", "1.1 proxy").wantStatus(t, 200)
	send(t, http.MethodPost, base+"/oauth/token", "", "Origin", base).wantStatus(t, 200)
	if n := len(api.received()); n != 4 {
		t.Errorf("the API got %d requests, want 4", n)
	}
}

func TestCrossSiteAllow(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, nil)
	s, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n cross_site allow\n}")
	for _, fields := range foreignFields {
		get(t, base, fields...).wantStatus(t, 200)
	}
	for _, r := range api.received() {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			t.Errorf("without a token: %v", r.Header)
		}
	}
	if n := len(api.received()); n != len(foreignFields) {
		t.Errorf("the API got %d requests, want %d", n, len(foreignFields))
	}
	if sites := crossSiteWarnings(t, s); len(sites) != 0 {
		t.Errorf("the log warns of what is allowed: %q", sites)
	}
}

// What is no client of the proxy is told so first, and is not counted as a page.
func TestCrossSiteAfterClients(t *testing.T) {
	tokens := newTokenServer(t)
	name := newClientID()
	addr := freeAddr(t)
	s := startOperated(t, globalOptions(tokens.credential(name))+siteConfig(addr, "token_proxy /far "+name+" http://127.0.0.1:1 {\n clients 192.0.2.1\n}\ntoken_proxy "+name+" http://127.0.0.1:1"), nil)
	s.readMetrics().want(t, 0, "refused_requests_total", "credential", name, "reason", "cross_site")
	if a := get(t, "http://"+addr+"/far", "Origin", "https://evil.example"); !strings.Contains(a.body, "#client-not-allowed") {
		t.Errorf("got %s", a.body)
	}
	get(t, "http://"+addr, "Origin", "https://evil.example").wantStatus(t, 403)
	e := s.readMetrics()
	e.want(t, 1, "refused_requests_total", "credential", name, "reason", "cross_site")
	e.want(t, 1, "refused_requests_total", "credential", name, "reason", "client")
}

// The warning names the site, if that is harmless, and never the field as it came.
func TestCrossSiteWarning(t *testing.T) {
	for origin, want := range map[string]string{
		"https://evil.example":                                "evil.example",
		"http://localhost:3000":                               "localhost:3000",
		"http://[::1]:3000":                                   "[::1]:3000",
		"null":                                                "",
		"file://":                                             "",
		"https://user:password@evil.example":                  "",
		"https://evil.example/path?token=secret":              "",
		"https://<b>evil</b>":                                 "",
		"https://evil.example\tlevel=error":                   "",
		"https://" + strings.Repeat("a.", 200) + "example":    "",
		"https://b\u00fccher.example":                         "",
		"chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb": "",
	} {
		t.Run(origin, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/", nil)
			r.Header.Set("Origin", origin)
			if got := siteOf(r); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	tokens := newTokenServer(t)
	s, base := startProxy(t, tokens.credential("api"), "token_proxy api http://127.0.0.1:1")
	for range 3 {
		get(t, base, "Origin", "https://evil.example").wantStatus(t, 403)
	}
	if sites := crossSiteWarnings(t, s); len(sites) != 1 || sites[0] != "evil.example" {
		t.Errorf("the log warns of %q, want evil.example once", sites)
	}
}

// A WebSocket is not subject to the browser's own rules: any page may open one to any host, and read what it says.
func TestCrossSiteWebSocket(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		cutOff("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")(w, r)
	})
	addr := freeAddr(t)
	startCaddy(t, globalOptions(tokens.credential("api"))+siteConfig(addr, "token_proxy api "+api.URL))
	handshake := func(origin string) string {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "GET /feed HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\n\r\n", addr, origin)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	if got := handshake("https://evil.example"); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("another site: %s", got)
	}
	wantCalls(t, tokens.TokenEndpoint, 0)
	if n := api.connectionCount(); n != 0 {
		t.Errorf("the API was connected to %d times", n)
	}
	if got := handshake("http://" + addr); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
		t.Errorf("our own site: %s", got)
	}
	wantCalls(t, tokens.TokenEndpoint, 1)
}

// Over HTTP/2 and HTTP/3 a handshake is a CONNECT, which Go's servers hand over in one of two ways (RFC 8441, RFC 9220).
func TestCrossSiteExtendedConnect(t *testing.T) {
	for name, shape := range map[string]func(*http.Request){
		"HTTP/2": func(r *http.Request) {
			r.Proto, r.ProtoMajor, r.Header[":protocol"] = "HTTP/2.0", 2, []string{"websocket"}
		},
		"HTTP/3": func(r *http.Request) { r.Proto, r.ProtoMajor = "websocket", 3 },
	} {
		for origin, want := range map[string]int{"https://evil.example": http.StatusForbidden, "https://127.0.0.1:8443": http.StatusOK} {
			t.Run(name+" "+origin, func(t *testing.T) {
				_, proxy := newContenders(t, "")
				r := peerRequest("127.0.0.1:50000", "tcp")
				r.Method, r.Host = http.MethodConnect, "127.0.0.1:8443"
				r.Header.Set("Origin", origin)
				shape(r)
				w := httptest.NewRecorder()
				h := proxy.handler.(*Handler)
				h.warnings = newWarnings(zap.NewNop(), "api")
				if err := h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, proxy.server), nil); err != nil {
					t.Fatal(err)
				}
				if w.Code != want {
					t.Errorf("status %d, want %d", w.Code, want)
				}
			})
		}
	}
}
