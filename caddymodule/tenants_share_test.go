package caddymodule

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// anotherReplica returns the tenants as another process has them.
func (c *client) anotherReplica() *tenants {
	ts := &tenants{lookups: rate.NewLimiter(lookupRate, lookupRate), calls: rate.NewLimiter(rate.Limit(c.Tenant.NewRate), c.Tenant.burst())}
	ts.use(c)
	return ts
}

// Replicas have one token for each tenant between them, and none of them gets the token of another tenant.
func TestTenantsAreShared(t *testing.T) {
	server := redistest.Start(t)
	p := newTenantPlatform(t, "a", "b")
	addr := freeAddr(t)
	t.Setenv("TOKEN_PROXY_TEST_KEY", strings.Repeat("k", 32))
	share := fmt.Sprintf("share {\n store redis {\n address %s\n }\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n", server.Addr)
	startCaddy(t, globalOptions(share+p.credential("api"))+siteConfig(addr, "token_proxy api "+p.api.addr()))
	c := runningApp().clients["api"]
	eventually(t, "the store is open", func() bool { return runningApp().Share.store.guard.Stats().Up })
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	p.wantTenant(p.ask("http://"+addr, "b"), "b")
	first := make(map[string]string)
	for _, name := range []string{"a", "b"} {
		of, _ := c.tenants().find(name)
		first[name] = of.source.Status().Token.Reveal()
	}
	other := c.anotherReplica()
	other.calls.SetBurst(0) // what another replica has needs no call, and no permission for one
	for _, name := range []string{"b", "a"} {
		of, err := other.get(name)
		if err != nil {
			t.Fatal(err)
		}
		lease, err := of.source.Acquire(t.Context())
		if err != nil || lease.Value().Reveal() != first[name] {
			t.Errorf("tenant %s has another token in the other replica: %v", name, err)
		}
		of.source.Rest()
	}
	if n := p.calls(); n != 2 {
		t.Errorf("%d token calls, want one for each tenant", n)
	}
}

// A reload can begin to share the tokens of tenants, and end it.
func TestTenantsAreSharedAfterAReload(t *testing.T) {
	server := redistest.Start(t)
	p := newTenantPlatform(t, "a")
	addr := freeAddr(t)
	t.Setenv("TOKEN_PROXY_TEST_KEY", strings.Repeat("k", 32))
	share := fmt.Sprintf("share {\n store redis {\n address %s\n }\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n", server.Addr)
	site := siteConfig(addr, "token_proxy api "+p.api.addr())
	s := startCaddy(t, globalOptions(p.credential("api"))+site)
	p.wantTenant(p.ask("http://"+addr, "a"), "a")

	if err := s.load(globalOptions(share+p.credential("api")) + site); err != nil {
		t.Fatal(err)
	}
	c := runningApp().clients["api"]
	eventually(t, "the store is open", func() bool { return runningApp().Share.store.guard.Stats().Up })
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	c.tenants().purge()
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	adopts := func() bool {
		of, err := c.anotherReplica().get("a")
		if err != nil {
			t.Fatal(err)
		}
		defer of.source.Rest()
		of.of.calls.SetBurst(0)
		_, err = of.source.Acquire(t.Context())
		return err == nil
	}
	if !adopts() {
		t.Error("another replica does not find the token")
	}

	if err := s.load(globalOptions(p.credential("api")) + site); err != nil {
		t.Fatal(err)
	}
	c.tenants().purge()
	before := p.calls()
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	if n := p.calls(); n != before+1 {
		t.Errorf("%d calls after the share ended, want one", n-before)
	}
}

// TestSharedTenantsAreSmall bounds what sharing adds to a tenant.
func TestSharedTenantsAreSmall(t *testing.T) {
	const count, most = 5_000, 4 * 1024
	server := redistest.Start(t)
	t.Setenv("TOKEN_PROXY_TEST_KEY", strings.Repeat("k", 32))
	addr := freeAddr(t)
	p := newTenantPlatform(t)
	share := fmt.Sprintf("share {\n store redis {\n address %s\n }\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n", server.Addr)
	startCaddy(t, globalOptions(share+p.credential("api"))+siteConfig(addr, "token_proxy api "+p.api.addr()))
	c := runningApp().clients["api"]
	eventually(t, "the store is open", func() bool { return runningApp().Share.store.guard.Stats().Up })
	c.template.files = nil
	c.template.clientID = newClientID() + "-{tenant}"
	c.template.clientSecret = "{env.TOKEN_PROXY_TEST_KEY}"
	t.Cleanup(c.tenants().all.Clear) // the vault would be full for other tests
	fill(t, c, 0, 100)
	before := heapInUse()
	fill(t, c, 100, 100+count)
	per := float64(heapInUse()-before) / count
	t.Logf("%.0f bytes for each of %d shared tenants", per, count)
	if per > most {
		t.Errorf("%.0f bytes for each tenant, want %d at most", per, most)
	}
	if of, _ := c.tenants().find(numberedTenant(200)); of.shared == nil || of.source.Status().State != token.StateFresh {
		t.Error("the tenants are not shared, or have no token")
	}
}
