package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/optoro"
)

// A link of a tenant does not lead out of the folder.
func TestTenantLinksStayInTheFolder(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	outside := t.TempDir()
	stolen := p.add("stolen") // whose files are where no tenant's files are
	if err := os.Rename(filepath.Join(p.folder, "stolen"), filepath.Join(outside, "stolen")); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"absolute": filepath.Join(outside, "stolen"), "relative": "../" + filepath.Base(outside) + "/stolen", "inside": "acme"} {
		if err := os.Symlink(to, filepath.Join(p.folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, base := p.start()
	for _, name := range []string{"absolute", "relative"} {
		p.wantDenied(p.ask(base, name), 403, "tenant-not-allowed")
	}
	p.wantTenant(p.ask(base, "inside"), "acme")
	if stolen.Calls() != 0 {
		t.Error("a file outside the folder was read")
	}
}

// The literal name of the sample that stands for all tenants is no template.
func TestTenantSampleIsNoTenant(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_SECRET", "a secret")
	id := newClientID()
	config := func(store, clientID string) *client {
		return provisionTenantCredential(t, `{"provider": {"name": "elastic_path", "store": `+quote(store)+`}, "client_id": `+quote(clientID)+`,
			"client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", "api_hosts": ["127.0.0.1"], "tenant": {"name": "{http.request.header.X-Tenant}"}}`)
	}
	if config("{tenant}", id+"{tenant}").tenants == config(tenants.SampleName, id+"{tenant}").tenants {
		t.Error("a literal store has the tenants of the template")
	}
	if config("{tenant}", id+"{tenant}").tenants == config("{tenant}", id+tenants.SampleName).tenants {
		t.Error("a literal client_id has the tenants of the template")
	}
}

// What one tenant's provider has learned of the issuer is there for all others, and after a reload.
func TestTenantsShareDiscovery(t *testing.T) {
	p := newTenantPlatform(t, "a", "b", "c")
	var metadata atomic.Int64
	var issuer string
	srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		metadata.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "token_endpoint": p.url})
	}))
	issuer = srv.URL
	addr := freeAddr(t)
	config := func(wait string) string {
		credential := fmt.Sprintf("credential api {\n tenant {http.request.header.X-Tenant}\n provider oauth2 {\n issuer %s\n client_auth client_secret_post\n }\n"+
			" client_id {file.%s/{tenant}/client_id}\n client_secret {file.%[2]s/{tenant}/client_secret}\n api_hosts 127.0.0.1\n max_wait %s\n}\n", issuer, p.folder, wait)
		return globalOptions(credential) + siteConfig(addr, "token_proxy api "+p.api.addr())
	}
	s := startCaddy(t, config("5s"))
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	p.wantTenant(p.ask("http://"+addr, "b"), "b")
	if err := s.load(config("6s")); err != nil {
		t.Fatal(err)
	}
	p.wantTenant(p.ask("http://"+addr, "c"), "c")
	if n := metadata.Load(); n != 1 {
		t.Errorf("%d requests for metadata, want one", n)
	}
}

// cleanedProvider is a provider that counts how many of it there are.
type cleanedProvider struct{ optoro.Provider }

var providersMade, providersCleaned atomic.Int64

func init() { caddy.RegisterModule(new(cleanedProvider)) }

// CaddyModule returns the Caddy module information.
func (*cleanedProvider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_proxy.providers.test_cleaned", New: func() caddy.Module { return new(cleanedProvider) }}
}

// Provision implements caddy.Provisioner.
func (p *cleanedProvider) Provision(ctx caddy.Context) error {
	providersMade.Add(1)
	return p.Provider.Provision(ctx)
}

// Cleanup implements caddy.CleanerUpper.
func (*cleanedProvider) Cleanup() error {
	providersCleaned.Add(1)
	return nil
}

// Validate implements caddy.Validator.
func (p *cleanedProvider) Validate() error {
	if _, err := url.Parse(p.Endpoint()); err != nil {
		return err
	}
	return nil
}

// The provider of a tenant ends with the token call.
func TestTenantProvidersAreCleanedUp(t *testing.T) {
	p := newTenantPlatform(t, "a", "b")
	c := provisionTenantCredential(t, fmt.Sprintf(`{"provider": {"name": "test_cleaned", "token_url": %q}, "client_id": "{file.%s/{tenant}/client_id}",
		"client_secret": "{file.%[2]s/{tenant}/client_secret}", "api_hosts": ["127.0.0.1"], "tenant": {"name": "{http.request.header.X-Tenant}"}}`, p.url, p.folder))
	t.Cleanup(c.start())
	for _, name := range []string{"a", "b", "nobody"} {
		_, _ = c.leaseFor(name)
	}
	made, cleaned := providersMade.Load(), providersCleaned.Load()
	if made < 4 || made != cleaned {
		t.Errorf("%d providers were made, and %d cleaned up", made, cleaned)
	}
}

// A request that is under way when a reload removes its credential still gets what it needs, as that of a credential without
// tenants does. Caddy does not wait for it.
func TestRequestOutlivesItsTenants(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	arrived, answer := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if first.CompareAndSwap(false, true) {
			close(arrived)
			<-answer
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		p.serveAPI(w, r)
	})
	addr := freeAddr(t)
	site := siteConfig(addr, "token_proxy api "+api.addr())
	s := startCaddy(t, globalOptions(p.credential("api"))+site)
	c := runningApp().clients["api"]
	done := make(chan clientAnswer, 1)
	go func() {
		a, _ := p.tryAsk("http://"+addr, "acme")
		done <- a
	}()
	<-arrived
	other := strings.Replace(p.credential("api"), "elastic_path {", "elastic_path {\n store x", 1)
	if err := s.load(globalOptions(other) + site); err != nil {
		t.Fatal(err)
	}
	close(answer)
	p.wantTenant(<-done, "acme")
	if _, err := c.leaseFor("acme"); err != nil { // as for a request that reaches the handler just now
		t.Errorf("a look-up after the reload: %v", err)
	}
}

type configured struct{}

// A credential that is removed keeps nothing of the configuration that Caddy has ended.
func TestRemovedTenantsLetGo(t *testing.T) {
	var c *client
	t.Run("configured", func(t *testing.T) { // at its end, the configuration is cleaned up
		c = provisionTenantCredential(t, crowdConfig(t, ""))
		c.tenantConfig.Caller = tenantCaller{c, caddy.Context{Context: context.WithValue(t.Context(), configured{}, true)}}
	})
	if c.tenants.Config().Caller.(tenantCaller).ctx.Value(configured{}) != nil || c.tenantConfig != nil {
		t.Error("the context is still there")
	}
}

// FuzzTenantName looks for a name that is more than a segment of a path, or means something to a URL or a log.
func FuzzTenantName(f *testing.F) {
	for _, name := range []string{"acme", "a..b", "a/b", "..", "%2e", "a\x00b", "A", "а", strings.Repeat("a", 64)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !tenants.ValidName(name) {
			return
		}
		if !filepath.IsLocal(name) || filepath.Base(name) != name || filepath.Clean(name) != name || url.PathEscape(name) != name ||
			strings.ToLower(name) != name || len(name) > 64 || strings.Contains(name, "..") || fmt.Sprintf("%q", name) != `"`+name+`"` {
			t.Errorf("%q is a name", name)
		}
	})
}
