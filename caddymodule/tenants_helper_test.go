package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tenantPlatform is a token endpoint with a client for each tenant, the folder with their files, and an API that demands
// the tokens of the endpoint and answers with the client that a token was issued to.
type tenantPlatform struct {
	t      *testing.T
	folder string
	url    string // of the token endpoint
	api    *recordingAPI
	prefix string // of client ids

	mu      sync.Mutex
	clients map[string]*devserver.TokenEndpoint // by client id
	refused int                                 // calls of clients that the endpoint does not know
	form    url.Values                          // of the latest call
}

func newTenantPlatform(t *testing.T, tenants ...string) *tenantPlatform {
	t.Helper()
	p := &tenantPlatform{t: t, folder: t.TempDir(), prefix: newClientID() + "-", clients: make(map[string]*devserver.TokenEndpoint)}
	p.url = serveHTTP(t, http.HandlerFunc(p.serveTokens)).URL + "/oauth/access_token"
	p.api = newRecordingAPI(t, p.serveAPI)
	for _, tenant := range tenants {
		p.add(tenant)
	}
	return p
}

// add makes a client for a tenant, and its files.
func (p *tenantPlatform) add(tenant string) *devserver.TokenEndpoint {
	p.t.Helper()
	endpoint := &devserver.TokenEndpoint{Dialect: devserver.ElasticPath, ClientID: p.prefix + tenant, ClientSecret: "secret-of-" + tenant, Registry: devserver.NewRegistry()}
	p.mu.Lock()
	p.clients[endpoint.ClientID] = endpoint
	p.mu.Unlock()
	p.write(tenant, "client_id", endpoint.ClientID)
	p.write(tenant, "client_secret", endpoint.ClientSecret)
	return endpoint
}

func (p *tenantPlatform) write(tenant, file, content string) {
	p.t.Helper()
	folder := filepath.Join(p.folder, tenant)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tenantPlatform) serveTokens(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	p.mu.Lock()
	p.form = form
	endpoint, ok := p.clients[form.Get("client_id")]
	if !ok {
		p.refused++
		endpoint = &devserver.TokenEndpoint{Dialect: devserver.ElasticPath}
	}
	p.mu.Unlock()
	endpoint.ServeHTTP(w, r)
}

// owner returns the client that a token was issued to, while the token is valid.
func (p *tenantPlatform) owner(token string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, endpoint := range p.clients {
		if _, state := endpoint.Registry.Lookup(token); state == devserver.Live {
			return id, true
		}
	}
	return "", false
}

func (p *tenantPlatform) serveAPI(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	id, ok := p.owner(token)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, strings.TrimPrefix(id, p.prefix))
}

// calls returns how often the token endpoint was called for all tenants.
func (p *tenantPlatform) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.refused
	for _, endpoint := range p.clients {
		calls += endpoint.Calls()
	}
	return calls
}

// credential is the configuration of a credential for the tenants.
func (p *tenantPlatform) credential(name string, options ...string) string {
	return p.credentialFor(name, "{http.request.header.X-Tenant}", options...)
}

func (p *tenantPlatform) credentialFor(name, placeholder string, options ...string) string {
	host, _, _ := strings.Cut(p.api.addr(), ":")
	return fmt.Sprintf("credential %s {\n tenant %s {\n%s\n }\n provider elastic_path {\n token_url %s\n }\n"+
		" client_id {file.%s/{tenant}/client_id}\n client_secret {file.%[5]s/{tenant}/client_secret}\n api_hosts %s\n}\n",
		name, placeholder, strings.Join(options, "\n"), p.url, p.folder, host)
}

// start boots Caddy with the tenants' credential, "api", and one site, and returns the site's base URL.
func (p *tenantPlatform) start(options ...string) (*caddyServer, string) {
	p.t.Helper()
	addr := freeAddr(p.t)
	return startCaddy(p.t, globalOptions(p.credential("api", options...))+siteConfig(addr, "token_proxy api "+p.api.addr())), "http://" + addr
}

// ask sends a request for a tenant.
func (p *tenantPlatform) ask(base string, tenants ...string) clientAnswer {
	p.t.Helper()
	a, err := p.tryAsk(base, tenants...)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *tenantPlatform) tryAsk(base string, tenants ...string) (clientAnswer, error) {
	req, err := http.NewRequest(http.MethodGet, base+"/orders", nil)
	if err != nil {
		return clientAnswer{}, err
	}
	for _, tenant := range tenants {
		req.Header.Add("X-Tenant", tenant)
	}
	return tryAsk(testClient(p.t), req)
}

// wantTenant fails the test unless the API saw the token of this tenant.
func (p *tenantPlatform) wantTenant(a clientAnswer, tenant string) {
	p.t.Helper()
	if a.StatusCode != http.StatusOK || a.body != tenant {
		p.t.Errorf("tenant %s: got status %d, %s", tenant, a.StatusCode, a.body)
	}
}

// wantDenied fails the test unless the answer is this problem of the proxy.
func (p *tenantPlatform) wantDenied(a clientAnswer, status int, slug string) {
	p.t.Helper()
	if a.StatusCode != status || !strings.Contains(a.body, "#"+slug+`"`) || a.Header.Get("Proxy-Status") == "" {
		p.t.Errorf("got status %d, %s; want %d, %s", a.StatusCode, a.body, status, slug)
	}
}

// provisionTenants provisions a credential for tenants whose tokens come from fetch, and starts it.
func provisionTenants(t testing.TB, folder, tenantOptions string, fetch func(tenant string) (provider.Issued, error)) *client {
	t.Helper()
	c := provisionTenantCredential(t, filesConfig(t, folder, tenantOptions))
	c.fetchTenants(func(of *tenants.Tenant) (provider.Issued, error) { return fetch(of.Name) })
	end := c.start()
	t.Cleanup(end)
	return c
}

// filesConfig is a credential for tenants that have a folder with the file client_id each.
func filesConfig(t testing.TB, folder, tenantOptions string) string {
	t.Setenv("TOKEN_PROXY_TEST_SECRET", "a secret of tests")
	return fmt.Sprintf(`{"provider": {"name": "elastic_path"}, "client_id": "{file.%s/{tenant}/client_id}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
		"api_hosts": ["127.0.0.1"], "tenant": {"name": "{http.request.header.X-Tenant}" %s}}`, folder, tenantOptions)
}

// provisionTenantCredential provisions an app with one credential, "test", from JSON.
func provisionTenantCredential(t testing.TB, config string) *client {
	t.Helper()
	c, err := tryTenantCredential(t, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryTenantCredential(t testing.TB, config string) (*client, error) {
	t.Helper()
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON([]byte(`{"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"apps": {"token_proxy": {"credentials": {"test": `+config+`}}}}`), cfg); err != nil {
		t.Fatalf("%v: %s", err, config)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, err
	}
	loaded, err := ctx.App(appName)
	if err != nil {
		t.Fatal(err)
	}
	app := loaded.(*App)
	app.events.End() // they would wait for Caddy to start
	t.Cleanup(func() {
		if err := app.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return app.clients["test"], nil
}

// tenantFetch reads the tenant's files as always, and gets its tokens from a function.
type tenantFetch struct {
	tenants.Caller
	template *tenants.Template
	fetch    func(of *tenants.Tenant) (provider.Issued, error)
}

// fetchTenants makes the tokens of all tenants come from a function.
func (c *client) fetchTenants(fetch func(of *tenants.Tenant) (provider.Issued, error)) {
	caller := c.tenantConfig.Caller
	if f, ok := caller.(tenantFetch); ok {
		caller = f.Caller
	}
	c.tenantConfig.Caller = tenantFetch{caller, c.template, fetch}
}

func (f tenantFetch) Prepare(of *tenants.Tenant) token.Call {
	call := f.Caller.Prepare(of)
	if f.template.Missing(of.Name) {
		return call
	}
	call.Fetch = func(context.Context) (provider.Issued, error) { return f.fetch(of) }
	return call
}
