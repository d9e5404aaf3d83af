package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// anotherReplica returns the tenants as another process has them.
func (c *client) anotherReplica() *tenants.Set { return tenants.New(c.tenantConfig) }

// Replicas have one token for each tenant between them, and none of them gets the token of another tenant.
func TestTenantsAreShared(t *testing.T) {
	server := redistest.Start(t)
	p := newTenantPlatform(t, "a", "b")
	addr := freeAddr(t)
	t.Setenv("TOKEN_PROXY_TEST_KEY", strings.Repeat("k", 32))
	share := fmt.Sprintf("share {\n store redis {\n address %s\n }\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n", server.Addr)
	startCaddy(t, globalOptions(share+p.credential("api"))+siteConfig(addr, "token_proxy api "+p.api.addr()))
	c := runningApp().clients["api"]
	storeWorks(t)
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	p.wantTenant(p.ask("http://"+addr, "b"), "b")
	first := make(map[string]string)
	for _, name := range []string{"a", "b"} {
		of, _ := c.tenants.Find(name)
		first[name] = of.Source.Status().Token.Reveal()
	}
	other := c.anotherReplica()
	other.Calls.SetBurst(0) // what another replica has needs no call, and no permission for one
	for _, name := range []string{"b", "a"} {
		of, err := other.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		lease, err := of.Source.Acquire(t.Context())
		if err != nil || lease.Value().Reveal() != first[name] {
			t.Errorf("tenant %s has another token in the other replica: %v", name, err)
		}
		of.Source.Rest()
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
	storeWorks(t)
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	c.tenants.Purge(t.Context(), false)
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	adopts := func() bool {
		other := c.anotherReplica()
		of, err := other.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		defer of.Source.Rest()
		other.Calls.SetBurst(0)
		_, err = of.Source.Acquire(t.Context())
		return err == nil
	}
	if !adopts() {
		t.Error("another replica does not find the token")
	}

	if err := s.load(globalOptions(p.credential("api")) + site); err != nil {
		t.Fatal(err)
	}
	c.tenants.Purge(t.Context(), false)
	before := p.calls()
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	if n := p.calls(); n != before+1 {
		t.Errorf("%d calls after the share ended, want one", n-before)
	}
}

// TestSharedTenantsAreSmall bounds what sharing adds to a tenant.
func TestSharedTenantsAreSmall(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const count, step, most = 2_000, 100, 4 * 1024
	server := redistest.Start(t)
	t.Setenv("TOKEN_PROXY_TEST_KEY", strings.Repeat("k", 32))
	addr := freeAddr(t)
	p := newTenantPlatform(t)
	share := fmt.Sprintf("share {\n store redis {\n address %s\n }\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n", server.Addr)
	// without files, because there would be very many
	credential := "credential api {\n tenant {http.request.header.X-Tenant}\n provider elastic_path\n client_id " + newClientID() + "-{tenant}\n client_secret {env.TOKEN_PROXY_TEST_KEY}\n api_hosts 127.0.0.1\n}\n"
	startCaddy(t, globalOptions(share+credential)+siteConfig(addr, "token_proxy api "+p.api.addr()))
	c := runningApp().clients["api"]
	storeWorks(t)
	t.Cleanup(func() { removeTenants(c) }) // the vault would be full for other tests
	fill(t, c, 0, step)
	before := heapInUse()
	for from := step; from < step+count; from += step {
		storeWorks(t) // on a busy machine, it may have missed its budget
		fill(t, c, from, from+step)
	}
	per := float64(heapInUse()-before) / count
	t.Logf("%.0f bytes for each of %d shared tenants", per, count)
	if per > most {
		t.Errorf("%.0f bytes for each tenant, want %d at most", per, most)
	}
	if of, _ := c.tenants.Find(numberedTenant(200)); of.Source.Status().State != token.StateFresh {
		t.Error("the tenants have no token")
	}
	if n := c.status.Sharing().Claims["won"]; n < count/2 {
		t.Errorf("the tenants have claimed %d token calls in the store, want about %d", n, step+count)
	}
}

// sharedTenantServer is a server with shared tenants, of which a and b have tokens, and their store.
func sharedTenantServer(t *testing.T) (s *operatedServer, p *tenantPlatform, name, site string, m memory) {
	t.Helper()
	p, m = newTenantPlatform(t, "a", "b"), newMemory(t)
	name, addr := "shops-"+newClientID(), freeAddr(t)
	s = startOperated(t, globalOptions(sharedThrough(t, m), p.credential(name))+siteConfig(addr, "token_proxy "+name+" "+p.api.addr()), nil)
	storeWorks(t)
	for _, tenant := range []string{"a", "b"} {
		p.wantTenant(p.ask("http://"+addr, tenant), tenant)
	}
	return s, p, name, "http://" + addr, m
}

// A purge deletes the records of all tenants, so that this replica does not get the same tokens from there again.
func TestPurgeDeletesTheRecordsOfTenants(t *testing.T) {
	s, p, name, site, m := sharedTenantServer(t)
	if len(m.records()) != 2 {
		t.Fatalf("the store has %q", m.records())
	}
	a := s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/purge")
	a.wantStatus(t, 200)
	c := readCredential(t, a.body)
	if c.Purge == nil || c.Purge.Store != "deleted" || !strings.Contains(c.Purge.Text, "2 tenants") || len(m.records()) != 0 {
		t.Errorf("the answer is %s; the store has %q", a.body, m.records())
	}
	for _, tenant := range []string{"a", "b"} {
		p.wantTenant(p.ask(site, tenant), tenant)
	}
	if n := p.calls(); n != 4 {
		t.Errorf("%d token calls, want two of each tenant", n)
	}
	m.fail(errors.New(canary))
	out, err := runCommand(purgeCommand(), name, "--address", s.admin)
	wantError(t, err, "in this process only")
	wantText(t, out, "the tokens of 2 of 2 tenants are purged in this process only")
	m.fail(nil)
}

// The tombstones make another replica forget the tokens of tenants.
func TestPurgeOfTenantsInTheFleet(t *testing.T) {
	s, p, name, _, m := sharedTenantServer(t)
	other := runningApp().clients[name].anotherReplica()
	other.Calls.SetBurst(0) // it adopts tokens, and fetches none
	acquire := func() error {
		of, err := other.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Remove(of)
		_, err = of.Source.Acquire(t.Context())
		return err
	}
	if err := acquire(); err != nil {
		t.Fatalf("another replica does not find the token: %v", err)
	}
	a := s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/purge?fleet=true")
	a.wantStatus(t, 200)
	wantText(t, a.body, `"store":"marked"`, "2 tenants")
	if len(m.records()) != 2 {
		t.Errorf("the store has %q", m.records())
	}
	if err := acquire(); denialOf(err) != "limited" {
		t.Errorf("another replica finds a token that is purged: %v", err)
	}
	if n := p.calls(); n != 2 {
		t.Errorf("%d token calls", n)
	}
	out, err := runCommand(purgeCommand(), name, "--fleet", "--address", s.admin)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, out, "tell all replicas to forget")
}

// Operators see what came of the sharing, summed over the tenants.
func TestSharingOfTenantsIsReported(t *testing.T) {
	s, p, name, _, m := sharedTenantServer(t)
	c := s.credential(name)
	if c.Share == nil || !c.Share.On || !c.Share.Up || c.Share.Claims["won"] != 2 || c.Share.Adopted != 0 || c.Health != "ok" {
		t.Errorf("share is %+v; health %s", c.Share, c.Health)
	}
	metrics := s.readMetrics()
	metrics.want(t, 2, "share_claims_total", "credential", name, "outcome", "won")
	metrics.want(t, 0, "share_claims_total", "credential", name, "outcome", "lost")
	metrics.want(t, 0, "share_adopted_total", "credential", name)
	metrics.want(t, 0, "share_unopened_total", "credential", name, "reason", "forged")
	metrics.want(t, 0, "share_skew_seconds", "credential", name)
	metrics.wantNone(t, "token_remaining_seconds", name)

	for at, value := range m.Values() { // as after a forgery
		value = bytes.Clone(value)
		value[len(value)-1] ^= 1
		m.Put(at, value)
	}
	a, _ := runningApp().clients[name].tenants.Find("a")
	a.Source.Purge()
	if _, err := a.Source.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := s.credential(name); c.Share.Unopened != "forged" || c.Health == "ok" || p.calls() != 3 {
		t.Errorf("share is %+v; health %s: %s; %d calls", c.Share, c.Health, c.Summary, p.calls())
	}
	if n, _ := s.readMetrics().of("share_unopened_total", "credential", name, "reason", "forged"); n < 1 {
		t.Errorf("%v values could not be opened", n)
	}
	m.fail(errors.New(canary))
	a.Source.Purge()
	_, _ = a.Source.Acquire(t.Context())
	eventually(t, "the store is down in the report", func() bool { return !s.credential(name).Share.Up })
	if c := s.credential(name); c.Share.LastError == "" || c.Health != "degraded" {
		t.Errorf("share is %+v; health %s: %s", c.Share, c.Health, c.Summary)
	}
	m.fail(nil)
}

// The counters of sharing go on after a reload.
func TestSharingOfTenantsIsCountedAcrossReloads(t *testing.T) {
	p, m := newTenantPlatform(t, "a", "b"), newMemory(t)
	name, addr := "shops-"+newClientID(), freeAddr(t)
	config := globalOptions(sharedThrough(t, m), p.credential(name)) + siteConfig(addr, "token_proxy "+name+" "+p.api.addr())
	s := startOperated(t, config, nil)
	p.wantTenant(p.ask("http://"+addr, "a"), "a")
	if err := s.load(config + "# again\n"); err != nil {
		t.Fatal(err)
	}
	p.wantTenant(p.ask("http://"+addr, "b"), "b")
	eventually(t, "the claims of both configurations", func() bool { return s.credential(name).Share.Claims["won"] == 2 })
}

// `tokens check` tests the store even if only tenants share.
func TestCheckTestsTheStoreOfTenants(t *testing.T) {
	m, p := newMemory(t), newTenantPlatform(t, "a")
	config := writeConfig(t, "Caddyfile", globalOptions(sharedThrough(t, m), p.credential("shops")))
	out, _ := runCommand(checkCommand(), "--config", config)
	wantText(t, out, "✓ store memory_of_test (")
	off := writeConfig(t, "Caddyfile", globalOptions(sharedThrough(t, m), strings.Replace(p.credential("shops"), "api_hosts", "share off\n api_hosts", 1)))
	if out, _ := runCommand(checkCommand(), "--config", off); strings.Contains(out, "store memory") {
		t.Errorf("the store is tested for a credential that is not shared: %s", out)
	}
}
