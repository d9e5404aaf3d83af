package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
)

// Each tenant has a token of its own. Tenants come and go with their files, without a reload.
func TestTenants(t *testing.T) {
	p := newTenantPlatform(t, "acme", "b-2", "c.d_e")
	_, base := p.start()
	for range 3 {
		for _, tenant := range []string{"acme", "b-2", "c.d_e"} {
			p.wantTenant(p.ask(base, tenant), tenant)
		}
	}
	if n := p.calls(); n != 3 {
		t.Errorf("%d token calls, want one for each tenant", n)
	}
	for _, r := range p.api.received() {
		if len(r.Header["X-Tenant"]) != 0 {
			t.Errorf("the API saw the tenant %q", r.Header["X-Tenant"])
		}
	}
	p.add("new")
	p.wantTenant(p.ask(base, "new"), "new")

	c := runningApp().clients["api"]
	if err := os.RemoveAll(filepath.Join(p.folder, "new")); err != nil {
		t.Fatal(err)
	}
	p.wantTenant(p.ask(base, "new"), "new") // until its token is fetched again
	gone, _ := c.tenants.Find("new")
	gone.Source.Purge()
	p.wantDenied(p.ask(base, "new"), 403, "tenant-not-allowed")
	if _, still := c.tenants.Find("new"); still {
		t.Error("a tenant without files still has a place")
	}
	p.wantDenied(p.ask(base, "nobody"), 403, "tenant-not-allowed")
	if n := p.calls(); n != 4 {
		t.Errorf("%d token calls, want one for each tenant that exists", n)
	}
}

// The header field that names the tenant does not reach the API in any spelling, unless keep is set.
func TestTenantHeader(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	_, base := p.start()
	req, _ := http.NewRequest(http.MethodGet, base+"/", nil)
	req.Header = http.Header{"X-Tenant": {"acme"}, "X_tenant": {"other"}, "x.tenant": {"other"}, "X-Tenant-2": {"stays"}}
	p.wantTenant(ask(t, testClient(t), req), "acme")
	got := p.api.only(t).Header
	for name := range got {
		if sameField(name, "X-Tenant") {
			t.Errorf("the API got %s", name)
		}
	}
	if got.Get("X-Tenant-2") != "stays" {
		t.Error("another field was removed")
	}

	keeps := newTenantPlatform(t, "acme")
	addr := freeAddr(t)
	startCaddy(t, globalOptions(keeps.credential("api", "keep"))+siteConfig(addr, "token_proxy api "+keeps.api.addr()))
	keeps.wantTenant(keeps.ask("http://"+addr, "acme"), "acme")
	if got := keeps.api.only(t).Header.Get("X-Tenant"); got != "acme" {
		t.Errorf("the API got the tenant %q, want it kept", got)
	}
}

// Nor does the API get it in the trailer, announced or not, with any credentials.
func TestTenantTrailer(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	api := newRawAPI(t)
	addr := freeAddr(t)
	startCaddy(t, globalOptions(p.credential("api"))+siteConfig(addr,
		"token_proxy /keep api http://"+api.addr+" {\n client_authorization keep\n}\ntoken_proxy api http://"+api.addr))
	for path, field := range map[string]string{"/": "", "/keep": "Authorization: Bearer own\r\n"} {
		for _, announced := range []string{"Trailer: X-Ok, X-Tenant, X_Tenant", "Trailer: X-Ok"} {
			status := sendRaw(t, "http://"+addr, "POST "+path+" HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\n"+field+"Transfer-Encoding: chunked\r\n"+announced+
				"\r\n\r\n2\r\nhi\r\n0\r\nX-Ok: still there\r\nX-Tenant: acme\r\nx_tenant: acme\r\n\r\n")
			arrived := api.take()
			if status != 200 || len(arrived) != 1 || !strings.Contains(arrived[0], "X-Ok: still there\r\n") || strings.Contains(strings.ToLower(arrived[0]), "tenant") {
				t.Errorf("%s, %s: status %d, the API got %q", path, announced, status, arrived)
			}
		}
	}
}

// Caddy drops fields with an underscore or a dot, unless its configuration expects them.
func TestTenantHeaderLookalikes(t *testing.T) {
	tenant := &Tenant{Name: "{http.request.header.X-Tenant}"}
	if err := tenant.provision(); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{"X-Tenant": {"acme"}, "X_tenant": {"other"}, "X.tenant": {"other"}, "X-Tenant-2": {"stays"}}
	if tenant.removeFrom(r); len(r.Header) != 1 || r.Header.Get("X-Tenant-2") != "stays" {
		t.Errorf("left are %v", r.Header)
	}
}

// The proxy denies what is not a name before it does anything with it.
func TestTenantNames(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	p.write("..", "outside", "canary")
	s, base := p.start()
	invalid := []string{
		"", " ", ".", "..", "../outside", "acme/../../outside", "/etc/passwd", "acme/client_id", "%2e%2e", "..%2foutside", `..\outside`,
		"Acme", "ACME", "acme.", ".acme", "-acme", "acme-", "a..b", "acmé", "аcme", "acme,other", "acme,", "a b", "acme\t", "{tenant}", "{env.HOME}",
		"a:b", "a*", "a\u200bb", strings.Repeat("a", 65),
	}
	for _, name := range invalid {
		req, _ := http.NewRequest(http.MethodGet, base+"/", nil)
		req.Header["X-Tenant"] = []string{name}
		a := ask(t, testClient(t), req)
		if name == "acme\t" { // net/http trims it
			p.wantTenant(a, "acme")
			continue
		}
		p.wantDenied(a, 400, "tenant-name-not-valid")
		if name != "" && len(name) > 3 && strings.Contains(s.logs(), name) && name != "acme/client_id" {
			t.Errorf("the log has the name %q", name)
		}
	}
	for _, name := range []string{"acme", "a", "0", "a-b_c.d", strings.Repeat("a", 64)} {
		if !tenants.ValidName(name) {
			t.Errorf("%q is no name", name)
		}
	}
	if n := p.calls(); n != 1 { // of the name that net/http trims
		t.Errorf("%d token calls", n)
	}
}

// A request names exactly one tenant.
func TestTenantIsNamedOnce(t *testing.T) {
	p := newTenantPlatform(t, "acme", "other")
	_, base := p.start()
	for _, names := range [][]string{nil, {"acme", "other"}, {"acme", "acme"}, {"acme,other"}, {"acme", ""}, {"", "acme"}} {
		p.wantDenied(p.ask(base, names...), 400, "tenant-name-not-valid")
	}
	if p.calls() != 0 || len(p.api.received()) != 0 {
		t.Error("a request without one tenant was served")
	}
}

// Other parts of a request can name the tenant. A host is changed to lower case.
func TestTenantPlaceholders(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	for placeholder, request := range map[string]func(*http.Request){
		"{http.request.host}":              func(r *http.Request) { r.Host = "ACME" },
		"{http.request.host.labels.1}":     func(r *http.Request) { r.Host = "ACME.example" },
		"{http.request.uri.path.0}":        func(r *http.Request) { r.URL.Path = "/acme/orders" },
		"{http.request.uri.query.tenant}":  func(r *http.Request) { r.URL.RawQuery = "tenant=acme" },
		"{http.vars.tenant}":               func(*http.Request) {},
		"{http.request.header.x-tenant}":   func(r *http.Request) { r.Header.Set("X-Tenant", "acme") },
		"{http.request.cookie.the-tenant}": func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "the-tenant", Value: "acme"}) },
	} {
		t.Run(strings.Trim(placeholder, "{}"), func(t *testing.T) {
			addr := freeAddr(t)
			startCaddy(t, globalOptions(p.credentialFor("api", placeholder))+siteConfig(addr, "vars tenant acme\ntoken_proxy api "+p.api.addr()))
			req, _ := http.NewRequest(http.MethodGet, "http://"+addr+"/x", nil)
			request(req)
			p.wantTenant(ask(t, testClient(t), req), "acme")
		})
	}
}

// A rejected token costs only its own tenant a call.
func TestTenantRejection(t *testing.T) {
	p := newTenantPlatform(t)
	a, b := p.add("a"), p.add("b")
	_, base := p.start()
	p.wantTenant(p.ask(base, "a"), "a")
	p.wantTenant(p.ask(base, "b"), "b")
	a.Registry.RevokeAll(a.ClientID)
	p.wantTenant(p.ask(base, "a"), "a")
	p.wantTenant(p.ask(base, "b"), "b")
	if a.Calls() != 2 || b.Calls() != 1 {
		t.Errorf("the tenants called %d and %d times, want 2 and 1", a.Calls(), b.Calls())
	}
}

// The application cannot find out which tenants exist.
func TestTenantAnswersAreAlike(t *testing.T) {
	p := newTenantPlatform(t, "refused", "broken")
	p.write("refused", "client_secret", "another secret")
	p.write("broken", "client_secret", "")
	_, base := p.start()
	want := p.ask(base, "nobody")
	p.wantDenied(want, 403, "tenant-not-allowed")
	for _, tenant := range []string{"refused", "refused", "broken", "nobody"} {
		got := p.ask(base, tenant)
		got.Header.Del("Date")
		want.Header.Del("Date")
		if got.StatusCode != want.StatusCode || got.body != want.body || !sameHeader(got.Header, want.Header) {
			t.Errorf("%s: got %d %v %s\nwant %d %v %s", tenant, got.StatusCode, got.Header, got.body, want.StatusCode, want.Header, want.body)
		}
	}
}

func sameHeader(a, b http.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if strings.Join(a[name], "\n") != strings.Join(b[name], "\n") {
			return false
		}
	}
	return true
}

// A handler in the handle_response of another one serves the same tenant, although the header field is gone by then.
func TestTenantOfHandleResponse(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	down := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	addr := freeAddr(t)
	other := strings.Replace(p.credential("other"), "elastic_path {", "elastic_path {\n store x", 1)
	startCaddy(t, globalOptions(p.credential("api"), other, p.credentialFor("third", "{http.request.header.X-Shop}"))+
		siteConfig(addr, "token_proxy api "+down.Listener.Addr().String()+" {\n @teapot status 418\n handle_response @teapot {\n"+
			"token_proxy /other other "+p.api.addr()+"\n token_proxy /third third "+p.api.addr()+"\n token_proxy api "+p.api.addr()+"\n }\n }"))
	ask := func(path string) clientAnswer {
		req := mustRequest(t, "http://"+addr+path)
		req.Header.Set("X-Tenant", "acme")
		return ask(t, testClient(t), req)
	}
	p.wantTenant(ask("/"), "acme")
	p.wantTenant(ask("/other"), "acme")
	if n := p.calls(); n != 2 {
		t.Errorf("%d token calls, want one for each credential", n)
	}
	p.wantDenied(ask("/third"), 400, "tenant-name-not-valid") // whose tenants another field names
}

// A handler in handle_errors, which makes up for an upstream that is down, serves the same tenant.
func TestTenantOfHandleErrors(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	addr := freeAddr(t)
	startCaddy(t, globalOptions(p.credential("api"))+
		siteConfig(addr, "token_proxy api "+freeAddr(t)+"\n handle_errors {\n token_proxy api "+p.api.addr()+"\n }\n"))
	p.wantTenant(p.ask("http://"+addr, "acme"), "acme")
	p.wantDenied(p.ask("http://"+addr, "acme", "acme"), 400, "tenant-name-not-valid")
	p.wantDenied(p.ask("http://"+addr), 400, "tenant-name-not-valid")
}

// An endpoint that is down is no reason to deny a tenant for good.
func TestTenantEndpointDown(t *testing.T) {
	p := newTenantPlatform(t)
	p.add("acme").SetFault(devserver.Fault{Status: 503})
	_, base := p.start()
	a := p.ask(base, "acme")
	p.wantDenied(a, 503, "token-endpoint-unavailable")
	if a.Header.Get("Retry-After") == "" {
		t.Error("the answer has no Retry-After")
	}
}

// A tenant whose files are gone for a moment is served as soon as they are back.
func TestTenantFilesComeBack(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	_, base := p.start()
	p.wantTenant(p.ask(base, "acme"), "acme")
	away := filepath.Join(t.TempDir(), "acme")
	if err := os.Rename(filepath.Join(p.folder, "acme"), away); err != nil {
		t.Fatal(err)
	}
	acme, _ := runningApp().clients["api"].tenants.Find("acme")
	acme.Source.Purge()
	p.wantDenied(p.ask(base, "acme"), 403, "tenant-not-allowed")
	if err := os.Rename(away, filepath.Join(p.folder, "acme")); err != nil {
		t.Fatal(err)
	}
	p.wantTenant(p.ask(base, "acme"), "acme")
}

// A tenant can take part in the address of its upstream. The rules for where tokens may go are the same.
func TestTenantUpstream(t *testing.T) {
	p := newTenantPlatform(t, "127.0.0.1", "127.0.0.2", "evil.example")
	addr := freeAddr(t)
	_, port, _ := strings.Cut(p.api.addr(), ":")
	startCaddy(t, globalOptions(p.credential("api"))+siteConfig(addr, "token_proxy api {http.token_proxy.tenant}:"+port))
	p.wantTenant(p.ask("http://"+addr, "127.0.0.1"), "127.0.0.1")
	for _, tenant := range []string{"127.0.0.2", "evil.example"} {
		p.wantDenied(p.ask("http://"+addr, tenant), 502, "destination-not-allowed")
	}
	if n := len(p.api.received()); n != 1 {
		t.Errorf("the API got %d requests, want one", n)
	}
}

// A reload keeps the tokens of all tenants. Another template does not get the tokens of the first one.
func TestTenantReload(t *testing.T) {
	p := newTenantPlatform(t, "a", "b")
	addr := freeAddr(t)
	site := siteConfig(addr, "token_proxy api "+p.api.addr())
	s := startCaddy(t, globalOptions(p.credential("api"))+site)
	load := func(credential string) {
		t.Helper()
		if err := s.load(globalOptions(credential) + site); err != nil {
			t.Fatal(err)
		}
	}
	both := func(calls int) {
		t.Helper()
		p.wantTenant(p.ask("http://"+addr, "a"), "a")
		p.wantTenant(p.ask("http://"+addr, "b"), "b")
		if n := p.calls(); n != calls {
			t.Errorf("%d token calls, want %d", n, calls)
		}
	}
	both(2)
	load(p.credential("api", "max 5", "new_rate 7"))
	both(2)
	all := runningApp().clients["api"].tenants
	if most := all.Config().Max; most != 5 || all.Calls.Limit() != 7 || all.Calls.Burst() != 14 {
		t.Errorf("max is %d after the reload, and new_rate %v with a burst of %d", most, all.Calls.Limit(), all.Calls.Burst())
	}
	store := func(id string) string {
		return strings.Replace(p.credential("api"), "provider elastic_path {", "provider elastic_path {\n store "+id, 1)
	}
	load(store("{tenant}"))
	both(4)
	load(store("x"))
	both(6)
	load(store("{tenant}")) // the vault remembers them
	both(6)
	load(p.credential("api"))
	both(6)
}
