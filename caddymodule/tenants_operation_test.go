package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// The number of series does not depend on the number of tenants, and no series has the name of one.
func TestTenantMetrics(t *testing.T) {
	const many = 60
	name := newClientID() // the counts of a name outlive its configuration
	p := newTenantPlatform(t)
	for i := range many {
		p.add(numberedTenant(i))
	}
	addr := freeAddr(t)
	s := startOperated(t, globalOptions(p.credential(name, "new_rate 1000"))+siteConfig(addr, "token_proxy "+name+" "+p.api.addr()), nil)
	seriesOf := func() (n int) {
		for series := range s.readMetrics().series {
			if strings.Contains(series, "shop-") {
				t.Errorf("a series has the name of a tenant: %s", series)
			}
			if strings.Contains(series, fmt.Sprintf("credential=%q", name)) {
				n++
			}
		}
		return n
	}
	p.wantTenant(p.ask("http://"+addr, numberedTenant(0)), numberedTenant(0))
	one := seriesOf()
	for i := range many {
		p.wantTenant(p.ask("http://"+addr, numberedTenant(i)), numberedTenant(i))
	}
	p.ask("http://"+addr, "nobody")
	p.ask("http://"+addr, "NOT-A-NAME")
	if n := seriesOf(); n != one {
		t.Errorf("%d series with %d tenants, %d with one", n, many, one)
	}
	e := s.readMetrics()
	e.want(t, many, "tenants", "credential", name)
	e.want(t, 1, "tenant_refusals_total", "credential", name, "reason", "unknown")
	e.want(t, 1, "tenant_refusals_total", "credential", name, "reason", "invalid")
	e.want(t, 0, "tenant_refusals_total", "credential", name, "reason", "full")
	e.want(t, 0, "tenant_refusals_total", "credential", name, "reason", "limited")
	e.want(t, 0, "tenant_evictions_total", "credential", name)
	e.want(t, many, "calls_total", "code", "", "credential", name, "outcome", "obtained")
	e.wantNone(t, "token_remaining_seconds", name)
	e.wantNone(t, "last_success_age_seconds", name)
}

// A credential with tenants is ready, and its purge forgets the tokens of all tenants.
func TestTenantsOperated(t *testing.T) {
	p := newTenantPlatform(t, "a", "b")
	addr := freeAddr(t)
	s := startOperated(t, globalOptions(p.credential("shops"))+siteConfig(addr, "token_proxy_ready /ready\ntoken_proxy shops "+p.api.addr()), nil)
	if a := ask(t, testClient(t), mustRequest(t, "http://"+addr+"/ready")); a.StatusCode != 200 {
		t.Errorf("not ready: %d %s", a.StatusCode, a.body)
	}
	both := func() {
		t.Helper()
		p.wantTenant(p.ask("http://"+addr, "a"), "a")
		p.wantTenant(p.ask("http://"+addr, "b"), "b")
	}
	both()
	a := s.ask(http.MethodGet, "/token_proxy/credentials/shops")
	for _, part := range []string{`"tenants":{"count":2,"max":10000`, `"health":"ok"`} {
		if !strings.Contains(a.body, part) {
			t.Errorf("the report is without %s: %s", part, a.body)
		}
	}
	if a := s.ask(http.MethodPost, "/token_proxy/credentials/shops/refresh"); a.StatusCode/100 == 2 || !strings.Contains(a.body, "tenant") {
		t.Errorf("a refresh without a tenant: %d %s", a.StatusCode, a.body)
	}
	if a := s.ask(http.MethodPost, "/token_proxy/credentials/shops/purge"); a.StatusCode != 200 {
		t.Errorf("purge: %d %s", a.StatusCode, a.body)
	}
	both()
	if n := p.calls(); n != 4 {
		t.Errorf("%d token calls, want two of each tenant", n)
	}
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// The events of a tenant's source name the tenant.
func TestTenantEvents(t *testing.T) {
	recordEvents(t, nil)
	p := newTenantPlatform(t, "acme")
	addr := freeAddr(t)
	startOperated(t, globalOptions(p.credential("shops"))+siteConfig(addr, "token_proxy shops "+p.api.addr()), subscription())
	p.wantTenant(p.ask("http://"+addr, "acme"), "acme")
	eventually(t, "the event", func() bool { return len(eventsRecorded()) > 0 })
	if data := eventsRecorded()[0].Data; data["tenant"] != "acme" || data["credential"] != "shops" {
		t.Errorf("got %v", data)
	}
}

// Warnings of one kind about tenants come at most once in 10 s, with the number of the others.
func TestTenantLog(t *testing.T) {
	inTenantBubble(t, 50, `,"new_rate": 100`, func(t *testing.T, c *client, e *tenantCalls) {
		core, logged := observer.New(zapcore.InfoLevel)
		c.status.LogTo(zap.New(core))
		for i := range 50 {
			e.fails[numberedTenant(i)] = &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "refused"}
			_, _ = c.leaseFor(numberedTenant(i))
		}
		advanceTenants(11 * time.Second)
		e.fails[numberedTenant(1)] = &token.Error{Kind: token.Unavailable, Reason: "down", Status: 429}
		c.tenants.Purge(t.Context(), false)
		for i := range 2 {
			_, _ = c.leaseFor(numberedTenant(i))
			_, _ = c.leaseFor(fmt.Sprint("unknown-", i))
		}
		lines := logged.All()
		if len(lines) != 4 {
			t.Fatalf("got %d lines: %v", len(lines), lines)
		}
		for i, want := range []struct {
			tenant, kind, reason string
			others               uint64
		}{{numberedTenant(0), "refused", "", 0}, {numberedTenant(0), "refused", "", 49}, {"unknown-0", "", "unknown", 0}, {numberedTenant(1), "unavailable", "", 0}} {
			fields := lines[i].ContextMap()
			kind, _ := fields["kind"].(string)
			reason, _ := fields["reason"].(string)
			if fields["tenant"] != want.tenant || kind != want.kind || reason != want.reason || fields["others"] != want.others {
				t.Errorf("line %d: %s %v", i, lines[i].Message, fields)
			}
		}
	})
}

// The warnings of a provider are logged when the configuration is loaded, and not again for each tenant.
func TestTenantWarningsAreNotRepeated(t *testing.T) {
	p := newTenantPlatform(t, "a", "b")
	addr := freeAddr(t)
	credential := fmt.Sprintf("credential api {\n tenant {http.request.header.X-Tenant}\n provider oauth2 {\n token_url %s\n client_auth client_secret_post\n encoding query\n }\n"+
		" client_id {file.%s/{tenant}/client_id}\n client_secret {file.%[2]s/{tenant}/client_secret}\n api_hosts 127.0.0.1\n}\n", p.url, p.folder)
	s := startCaddy(t, globalOptions(credential)+siteConfig(addr, "token_proxy api "+p.api.addr()))
	for _, tenant := range []string{"a", "b", "a"} {
		p.ask("http://"+addr, tenant)
	}
	if n := strings.Count(s.logs(), "encoding query puts the client secret into the URL"); n != 1 {
		t.Errorf("the warning is there %d times, want once", n)
	}
}

// A mistake that only the whole configuration shows is an error when it is loaded.
func TestTenantMistakes(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_SECRET", "a secret")
	t.Setenv("TOKEN_PROXY_TEST_BASE", "https://login.example/token?x=")
	const tenant = `"tenant": {"name": "{http.request.header.X-Tenant}"}`
	for want, config := range map[string]string{
		"{tenant} changes more than the path of the token URL": `{"provider": {"name": "oauth2", "token_url": "{env.TOKEN_PROXY_TEST_BASE}/{tenant}"},
			"client_id": "a", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", "api_hosts": ["a.example"], ` + tenant + `}`,
		"api_hosts is missing": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", ` + tenant + `}`,
		"prefetch: it is not possible with tenant": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
			"api_hosts": ["a.example"], "prefetch": true, ` + tenant + `}`,
		"client_id: {tenant} needs the option tenant": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}"}`,
		"tenant: max": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
			"api_hosts": ["a.example"], "tenant": {"name": "{http.request.header.X-Tenant}", "max": -1}}`,
		"/nowhere/key.pem": `{"provider": {"name": "oauth2", "token_url": "https://login.example/{tenant}", "client_auth": "private_key_jwt",
			"signing_key": "{file./nowhere/key.pem}"}, "client_id": "a", "api_hosts": ["a.example"], ` + tenant + `}`,
		"tenant: the field X-Token cannot name the tenant": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
			"api_hosts": ["a.example"], "header": {"name": "x-token"}, "tenant": {"name": "{http.request.header.X-Token}"}}`,
		"tenant: the field Authorization cannot name the tenant": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
			"api_hosts": ["a.example"], "tenant": {"name": "{http.request.header.authorization}"}}`,
		"client_id: remove it": `{"provider": {"name": "elastic_path"}, "client_id": "a", "api_hosts": ["a.example"], "tenant": {"name": "basic"}}`,
		"client_secret: remove it": `{"provider": {"name": "elastic_path"}, "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", "api_hosts": ["a.example"],
			"tenant": {"name": "basic"}}`,
		"`tenant basic` is for clients with a secret": `{"provider": {"name": "elastic_path", "grant": "implicit"}, "api_hosts": ["a.example"],
			"tenant": {"name": "basic"}}`,
		"client_secret is missing": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "api_hosts": ["a.example"], ` + tenant + `}`,
		"unknown region": `{"provider": {"name": "elastic_path", "region": "mars"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
			"api_hosts": ["a.example"], ` + tenant + `}`,
		"provider is missing": `{"client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", "api_hosts": ["a.example"], ` + tenant + `}`,
		"TOKEN_PROXY_TEST_NONE": `{"provider": {"name": "elastic_path"}, "client_id": "{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_NONE}",
			"api_hosts": ["a.example"], ` + tenant + `}`,
	} {
		if _, err := tryTenantCredential(t, config); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `credential "test"`) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	inJSON := `{"provider": {"name": "oauth2", "token_url": "https://login.example/token", "params": {"claims": "{\"store\": {\"id\":\"{tenant}\"}}"}},
		"client_id": "a", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", "api_hosts": ["a.example"], ` + tenant + `}`
	if _, err := tryTenantCredential(t, inJSON); err != nil {
		t.Errorf("a tenant in JSON: %v", err)
	}
	p := newTenantPlatform(t)
	addr := freeAddr(t)
	s := startCaddy(t, globalOptions(p.credential("api"))+siteConfig(addr, "token_proxy api "+p.api.addr()))
	err := s.load(globalOptions(p.credential("api")) + siteConfig(addr, "token_proxy api "+p.api.addr()+" {\n token_stub\n}"))
	if err == nil || !strings.Contains(err.Error(), "token_stub: it is not possible with a credential that has tenants") {
		t.Errorf("token_stub: %v", err)
	}
	share := fmt.Sprintf("{\n token_proxy {\n share {\n store storage file_system %s\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n %s}\n}\n", t.TempDir(), p.credential("api"))
	t.Setenv("TOKEN_PROXY_TEST_KEY", strings.Repeat("k", 32))
	err = s.load(share + siteConfig(addr, "token_proxy api "+p.api.addr()))
	if err == nil || !strings.Contains(err.Error(), "tenant: the store of shared tokens keeps what it has for ever") {
		t.Errorf("share storage: %v", err)
	}
	basic := "{\n token_proxy {\n share {\n store redis {\n address 127.0.0.1:1\n }\n key {env.TOKEN_PROXY_TEST_KEY}\n }\n " + p.basicCredential("api") + "}\n}\n"
	err = s.load(basic + siteConfig(addr, "token_proxy api "+p.api.addr()))
	if err == nil || !strings.Contains(err.Error(), "replicas cannot share the tokens of `tenant basic`") {
		t.Errorf("share with tenant basic: %v", err)
	}
	for _, choice := range []string{"keep", "reject"} {
		err = s.load(globalOptions(p.basicCredential("api")) + siteConfig(addr, "token_proxy api "+p.api.addr()+" {\n client_authorization "+choice+"\n}"))
		if err == nil || !strings.Contains(err.Error(), "client_authorization: with `tenant basic` it must be replace") {
			t.Errorf("client_authorization %s: %v", choice, err)
		}
	}
	off := strings.Replace(share, "api_hosts", "share off\n api_hosts", 1)
	if err := s.load(off + siteConfig(addr, "token_proxy api "+p.api.addr())); err != nil {
		t.Errorf("share off: %v", err)
	}
}

// A provider that panics for one tenant is a failure of that tenant's call.
func TestTenantFetchPanics(t *testing.T) {
	inTenantBubble(t, 2, "", func(t *testing.T, c *client, e *tenantCalls) {
		c.fetchTenants(func(of *tenants.Tenant) (provider.Issued, error) {
			if of.Name == numberedTenant(0) {
				panic("a provider")
			}
			return e.fetch(of.Name)
		})
		if _, err := c.leaseFor(numberedTenant(0)); !isTokenError(err) {
			t.Errorf("got %v", err)
		}
		if _, err := c.leaseFor(numberedTenant(1)); err != nil {
			t.Errorf("the other tenant: %v", err)
		}
	})
}

func isTokenError(err error) bool {
	_, ok := errors.AsType[*token.Error](err)
	return ok
}
