package systemtest

import (
	"crypto/sha1" // RFC 6455 section 1.3
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// openAPI lets every page in the world use it, if it has a token, and speaks WebSocket.
func openAPI(w http.ResponseWriter, r *http.Request) {
	for _, what := range []string{"Origin", "Methods", "Headers"} {
		w.Header().Set("Access-Control-Allow-"+what, "*")
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
			base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n\x81\x06orders")
		return
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write([]byte("orders"))
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// credentialOptions are the global options with one credential of a development token endpoint.
func credentialOptions(name, tokenURL, clientID string) string {
	return caddytest.GlobalOptions(caddytest.CredentialConfig(name, tokenURL, clientID))
}

// wantCalls checks how many requests reached the token endpoint.
func wantCalls(t *testing.T, endpoint *devserver.TokenEndpoint, want int) {
	t.Helper()
	if got := endpoint.Calls(); got != want {
		t.Errorf("the token endpoint got %d calls, want %d", got, want)
	}
}

// servePageOf is a server whose every page is empty. It returns its port.
func servePageOf(t *testing.T) string {
	t.Helper()
	srv := caddytest.ServeHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<title>a page</title>"))
	}))
	return portOf(srv.Listener.Addr().String())
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

// crossSiteDenials counts what the credential's handlers have denied to pages of other sites, as /metrics says.
func crossSiteDenials(t *testing.T, admin, credential string) (n int) {
	t.Helper()
	sample := fmt.Sprintf(`caddy_token_proxy_refused_requests_total{credential=%q,reason="cross_site"} `, credential)
	for line := range strings.Lines(fetch(t, "http://"+admin+"/metrics")) {
		if value, ok := strings.CutPrefix(line, sample); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the metrics have no %s", sample)
	return 0
}

// fetch returns what is at a URL.
func fetch(t *testing.T, url string) string {
	t.Helper()
	res, err := caddytest.Client(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", url, res.Status, err, body)
	}
	return string(body)
}

func TestBrowserCrossSite(t *testing.T) {
	if apart.Run(t) {
		return
	}
	b := startBrowser(t)
	tokens, tokenURL := caddytest.NewTokenEndpoint(t)
	api := caddytest.NewRecordingAPI(t, openAPI)
	admin, denying, allowing, named := caddytest.FreeAddr(t), caddytest.FreeAddr(t), caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	name := caddytest.NewClientID()
	directive := "token_proxy " + name + " " + api.URL
	caddytest.StartOperated(t, admin, credentialOptions(name, tokenURL, tokens.ClientID)+caddytest.SiteConfig(denying, directive)+
		caddytest.SiteConfig(allowing, directive+" {\n cross_site allow\n}")+
		"http://"+named+", http://localhost:"+portOf(named)+" {\n bind 127.0.0.1\n "+directive+"\n}\n")
	pages := servePageOf(t)

	attack := func(t *testing.T, page, url string, a siteAttack) string {
		t.Helper()
		b.t = t
		b.stayAt(page)
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
							return attack(t, "http://"+page+":"+pages+"/", "http://"+target.host+":"+portOf(proxy)+"/orders", a)
						})
					})
				}
			}
		}
	}
	t.Run("deny", func(t *testing.T) {
		each(t, denying, func(t *testing.T, a siteAttack, attack func() string) {
			denials := crossSiteDenials(t, admin, name)
			if attack() == "orders" {
				t.Error("the page reads what the API answers")
			}
			caddytest.Eventually(t, "a denial", func() bool { return crossSiteDenials(t, admin, name) > denials })
		})
		b.t = t
		b.navigate("about:blank")
		for _, r := range api.Received() {
			t.Errorf("the API got %s %s, %v", r.Method, r.URI, r.Header)
		}
		if n := api.ConnectionCount(); n != 0 {
			t.Errorf("the API was connected to %d times", n)
		}
		wantCalls(t, tokens, 0)
	})
	t.Run("allow", func(t *testing.T) { // or else the above shows nothing
		each(t, allowing, func(t *testing.T, a siteAttack, attack func() string) {
			requests := len(api.Received())
			if learned := attack(); a.learns != "" && learned != a.learns {
				t.Errorf("the page learns %q, not %q", learned, a.learns)
			}
			caddytest.Eventually(t, "the request at the API, with a token", func() bool {
				return slices.ContainsFunc(api.Received()[requests:], func(r caddytest.RecordedRequest) bool {
					return r.URI == "/orders" && strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ")
				})
			})
		})
		wantCalls(t, tokens, 1)
	})

	// A page that the API itself serves, through the proxy, goes on working.
	for _, host := range []string{"127.0.0.1", "localhost", "proxy.example"} {
		t.Run("own page at "+host, func(t *testing.T) {
			b.t = t
			own, denials := "http://"+host+":"+portOf(denying)+"/orders", crossSiteDenials(t, admin, name)
			for _, a := range siteAttacks {
				requests := len(api.Received())
				attack(t, own, own+"?again", a)
				caddytest.Eventually(t, a.name, func() bool {
					return slices.ContainsFunc(api.Received()[requests:], func(r caddytest.RecordedRequest) bool { return r.URI == "/orders?again" })
				})
			}
			if n := crossSiteDenials(t, admin, name) - denials; n != 0 {
				t.Errorf("%d requests were denied", n)
			}
		})
	}

	// DNS rebinding: the page's own host is 127.0.0.1 now. What is same-origin to the browser is so to the proxy; only a
	// site that names its host keeps it out.
	t.Run("rebinding", func(t *testing.T) {
		b.t = t
		for addr, want := range map[string]string{denying: "orders", named: ""} {
			requests := len(api.Received())
			b.navigate("http://evil.example:" + portOf(addr) + "/")
			if got := b.eval(`fetch("/orders").then(r => r.text())`); got != want {
				t.Errorf("%s: the page reads %q, want %q", addr, got, want)
			}
			if got := len(api.Received()) > requests; got != (want != "") {
				t.Errorf("%s: the API was asked: %t", addr, got)
			}
		}
	})
}

// The README's site for the page, in a browser: people get in, pages of other sites do not.
func TestBrowserAdmin(t *testing.T) {
	if apart.Run(t) {
		return
	}
	b := startBrowser(t)
	tokens, tokenURL := caddytest.NewTokenEndpoint(t)
	name := caddytest.NewClientID()
	admin, site := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	caddytest.StartOperated(t, admin, credentialOptions(name, tokenURL, tokens.ClientID)+caddytest.PageSiteAt(t, reference, admin, site))
	b.t = t
	adminPort := portOf(admin)
	page := "http://localhost:" + portOf(site)

	b.navigate(page + "/token_proxy/")
	b.wait("an answer", `shownAt > 0`)
	b.waitText("#summary", name)
	b.click(".refresh")
	b.waitText(".said", "New token")
	b.click(".purge")
	b.click("#ask-yes")
	b.waitText(".said", "Purged.")
	wantCalls(t, tokens, 1)
	b.click(".refresh")
	b.waitText(".said", "New token")

	pages := servePageOf(t)
	for _, from := range []string{"http://evil.example:" + pages + "/", "http://localhost:" + pages + "/"} {
		for _, to := range []string{page, "http://localhost:" + adminPort, "http://127.0.0.1:" + adminPort} {
			for _, action := range []string{"/token_proxy/purge", "/token_proxy/credentials"} {
				for _, a := range siteAttacks {
					if !slices.Contains([]string{"fetch", "no-cors", "frame", "link without referrer", "form"}, a.name) {
						continue
					}
					b.stayAt(from)
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
	var credential struct{ State string }
	if err := json.Unmarshal([]byte(fetch(t, "http://"+admin+"/token_proxy/credentials/"+name)), &credential); err != nil {
		t.Fatal(err)
	}
	if credential.State != "fresh" || tokens.Calls() != 2 {
		t.Errorf("a page of another site had an effect: %s, %d token calls", credential.State, tokens.Calls())
	}

	// The site leads nowhere else, and Caddy's own endpoints stay closed to what has no referrer.
	b.navigate(page + "/debug/pprof/cmdline")
	if text := b.eval("document.body.innerText"); text != "" {
		t.Errorf("the site shows %q", text)
	}
	b.navigate("http://localhost:" + adminPort + "/debug/pprof/cmdline")
	b.waitText("body", "not allowed to access from origin ''")
}
