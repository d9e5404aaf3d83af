package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// operatedTenants is Caddy with its admin endpoint, and the credential "shops" with tenants.
type operatedTenants struct {
	*operatedServer
	*tenantPlatform
	site string
}

func startTenants(t *testing.T, tenants ...string) *operatedTenants {
	t.Helper()
	p := newTenantPlatform(t, tenants...)
	addr := freeAddr(t)
	s := startOperated(t, globalOptions(p.credential("shops", "new_rate 1000"), newTokenServer(t).credential("plain"))+
		siteConfig(addr, "token_proxy shops "+p.api.addr()), nil)
	return &operatedTenants{s, p, "http://" + addr}
}

// serve sends a request for each tenant.
func (o *operatedTenants) serve(t *testing.T, tenants ...string) {
	t.Helper()
	for _, tenant := range tenants {
		o.wantTenant(o.tenantPlatform.ask(o.site, tenant), tenant)
	}
}

// admin asks the admin API about the tenants of "shops", and fails the test if the answer has a secret or a token.
func (o *operatedTenants) admin(t *testing.T, method, path string, header ...string) clientAnswer {
	t.Helper()
	a := o.operatedServer.ask(method, "/token_proxy/credentials/shops/tenants"+path, header...)
	if strings.Contains(a.body, "secret-of-") {
		t.Errorf("%s %s shows a secret: %s", method, path, a.body)
	}
	for of := range runningApp().clients["shops"].tenants.All {
		if s := of.Source.Status(); s.State != token.StateNone && strings.Contains(a.body, s.Token.Reveal()) {
			t.Errorf("%s %s shows a token: %s", method, path, a.body)
		}
	}
	return a
}

// page reads a page of the list, and the names in it.
func (o *operatedTenants) page(t *testing.T, query string) (contractTenantPage, string) {
	t.Helper()
	a := o.admin(t, http.MethodGet, query)
	a.wantStatus(t, 200)
	var page contractTenantPage
	decodeStrictly(t, a.body, &page)
	if page.Now.IsZero() || page.Tenants == nil {
		t.Errorf("got %s", a.body)
	}
	var names []string
	for _, of := range page.Tenants {
		names = append(names, of.Name)
	}
	return page, strings.Join(names, " ")
}

// one reads one tenant.
func readTenant(t *testing.T, a clientAnswer) contractTenant {
	t.Helper()
	a.wantStatus(t, 200)
	var of contractTenant
	decodeStrictly(t, a.body, &of)
	caddytest.WantSentences(t, of.Summary, false)
	caddytest.WantSentences(t, of.Advice, of.Health == "ok" || of.Health == "idle")
	return of
}

func TestAdminTenantList(t *testing.T) {
	o := startTenants(t, "a", "b", "c", "d", "e")
	if page, _ := o.page(t, ""); len(page.Tenants) != 0 || page.Next != "" {
		t.Errorf("before any request: %+v", page)
	}
	o.serve(t, "c", "e", "a", "d", "b")
	page, names := o.page(t, "")
	if names != "a b c d e" || page.Next != "" {
		t.Errorf("got %s, then %q", names, page.Next)
	}
	for _, of := range page.Tenants {
		if of.Credential != "shops" || of.State != "fresh" || of.Health != "ok" || of.Fingerprint == "" || of.Issued == nil || of.Expires == nil || of.LastError != nil {
			t.Errorf("got %+v", of)
		}
	}
	o.admin(t, http.MethodPost, "/c/purge").wantStatus(t, 200)
	for query, want := range map[string][2]string{
		"?limit=2":                      {"a b", "b"},
		"?limit=2&after=b":              {"c d", "d"},
		"?limit=2&after=d":              {"e", ""},
		"?limit=5":                      {"a b c d e", ""},
		"?limit=1000&after=bb":          {"c d e", ""},
		"?after=zzz":                    {"", ""},
		"?state=none":                   {"c", ""},
		"?state=fresh&limit=2":          {"a b", "b"},
		"?state=fresh&limit=2&after=b":  {"d e", ""},
		"?state=expired":                {"", ""},
		"?state=expired&limit=1&after=": {"", ""},
		"/":                             {"a b c d e", ""},
	} {
		if page, names := o.page(t, query); names != want[0] || page.Next != want[1] {
			t.Errorf("%s: got %q, then %q; want %q", query, names, page.Next, want)
		}
	}
	for query, part := range map[string]string{
		"?limit=0": "limit", "?limit=-1": "limit", "?limit=1001": "1000", "?limit=many": "limit", "?limit=1e3": "limit", "?limit=99999999999999999999": "limit",
		"?after=..": "after", "?after=A": "after", "?after=a%2Fb": "after", "?after=a%00": "after", "?after=" + strings.Repeat("a", 65): "after",
		"?state=good": `"expired"`, "?state=FRESH": `"fresh"`,
	} {
		o.admin(t, http.MethodGet, query).wantAdminError(t, 400, part)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		a := o.admin(t, method, "")
		if a.wantAdminError(t, 405, "GET"); a.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("Allow is %q", a.Header.Get("Allow"))
		}
	}
	if a := o.admin(t, http.MethodHead, ""); a.StatusCode != 200 || a.body != "" {
		t.Errorf("HEAD: status %d, %q", a.StatusCode, a.body)
	}
	o.admin(t, http.MethodGet, "", "Sec-Fetch-Site", "cross-site").wantAdminError(t, 403, "another site")
	o.operatedServer.ask(http.MethodGet, "/token_proxy/credentials/plain/tenants").wantAdminError(t, 404, `"plain" has no tenants`)
	o.operatedServer.ask(http.MethodPost, "/token_proxy/credentials/plain/tenants/a/purge").wantAdminError(t, 404, `"plain" has no tenants`)
	o.operatedServer.ask(http.MethodGet, "/token_proxy/credentials/plain/tenantsabc").wantAdminError(t, 404, "unknown action")
}

func TestAdminTenant(t *testing.T) {
	o := startTenants(t, "a", "b")
	o.serve(t, "a", "b")
	before, other := readTenant(t, o.admin(t, http.MethodGet, "/a")), readTenant(t, o.admin(t, http.MethodGet, "/b"))
	if before.Name != "a" || before.State != "fresh" || before.Fingerprint == other.Fingerprint {
		t.Errorf("got %+v and %+v", before, other)
	}
	after := readTenant(t, o.admin(t, http.MethodPost, "/a/refresh"))
	if after.State != "fresh" || after.Fingerprint == before.Fingerprint || o.calls() != 3 {
		t.Errorf("after a refresh: %+v, %d calls", after, o.calls())
	}
	if purged := readTenant(t, o.admin(t, http.MethodPost, "/a/purge")); purged.State != "none" || purged.Health != "idle" || purged.Fingerprint != "" || o.calls() != 3 {
		t.Errorf("after a purge: %+v, %d calls", purged, o.calls())
	}
	if of := readTenant(t, o.admin(t, http.MethodGet, "/b")); of.Fingerprint != other.Fingerprint {
		t.Errorf("another tenant has lost its token: %+v", of)
	}
	o.serve(t, "a", "b")
	if o.calls() != 4 {
		t.Errorf("%d calls, want one more, for the tenant without a token", o.calls())
	}

	t.Run("unknown", func(t *testing.T) {
		o.add("later") // has files, and no place yet
		for _, name := range []string{"nobody", "later"} {
			for path, method := range map[string]string{"": http.MethodGet, "/refresh": http.MethodPost, "/purge": http.MethodPost} {
				o.admin(t, method, "/"+name+path).wantAdminError(t, 404, `"`+name+`"`, `"shops"`, "first request")
			}
		}
		for _, name := range []string{"A", "a..b", "%2e%2e", "-a", "a.", "a%20", "a%00", "%C3%A4", "a%5Cb", strings.Repeat("a", 65)} {
			for path, method := range map[string]string{"": http.MethodGet, "/refresh": http.MethodPost, "/purge": http.MethodPost} {
				a := o.admin(t, method, "/"+name+path)
				if a.wantAdminError(t, 400, "name of a tenant"); strings.Contains(a.body, name) && len(name) > 2 {
					t.Errorf("%s: the answer repeats the name: %s", name, a.body)
				}
			}
		}
		if n := runningApp().clients["shops"].tenants.Count(); n != 2 || o.calls() != 4 {
			t.Errorf("%d tenants and %d calls", n, o.calls())
		}
	})
	t.Run("requests", func(t *testing.T) {
		for path, allowed := range map[string]string{"/a": "GET, HEAD", "/a/refresh": "POST", "/a/purge": "POST"} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				if slices.Contains(strings.Split(allowed, ", "), method) {
					continue
				}
				a := o.admin(t, method, path)
				if a.wantAdminError(t, 405, "method"); a.Header.Get("Allow") != allowed {
					t.Errorf("%s %s: Allow is %q", method, path, a.Header.Get("Allow"))
				}
			}
		}
		o.admin(t, http.MethodPost, "/a/delete").wantAdminError(t, 404, `"delete"`, "refresh and purge")
		o.admin(t, http.MethodPost, "/a/purge?fleet=true").wantAdminError(t, 400, "without fleet")
		o.admin(t, http.MethodPost, "/a/purge?fleet=yes").wantAdminError(t, 400, "true or false")
		o.admin(t, http.MethodPost, "/a/purge", "Origin", "null").wantStatus(t, 400)
		o.operatedServer.ask(http.MethodPost, "/token_proxy/credentials/shops/refresh").wantAdminError(t, 400, "has tenants")
		if of := readTenant(t, o.admin(t, http.MethodGet, "/a")); of.State != "fresh" || o.calls() != 4 {
			t.Errorf("one of them had an effect: %+v, %d calls", of, o.calls())
		}
	})
}

// A refresh explains why a tenant gets no token, and the credential has the failure under the tenant's name.
func TestAdminTenantFailures(t *testing.T) {
	o := startTenants(t, "a", "b")
	o.serve(t, "a", "b")
	o.clients[o.prefix+"a"].SetFault(devserver.Fault{Error: "invalid_client"})
	o.admin(t, http.MethodPost, "/a/refresh").wantAdminError(t, 502, "invalid_client", "Compare client_id")
	if of := readTenant(t, o.admin(t, http.MethodGet, "/a")); of.State != "fresh" || of.Health != "degraded" || of.NextTry == nil ||
		of.LastError == nil || of.LastError.Code != "invalid_client" || !of.LastError.At.IsZero() {
		t.Errorf("with a token that is good: %+v", of)
	}
	o.admin(t, http.MethodPost, "/a/purge").wantStatus(t, 200)
	o.admin(t, http.MethodPost, "/a/refresh").wantAdminError(t, 502, "invalid_client")
	if of := readTenant(t, o.admin(t, http.MethodGet, "/a")); of.State != "none" || of.Health != "failing" {
		t.Errorf("without a token: %+v", of)
	}
	if of := readTenant(t, o.admin(t, http.MethodGet, "/b")); of.Health != "ok" || of.LastError != nil {
		t.Errorf("another tenant: %+v", of)
	}
	c := o.operatedServer.credential("shops")
	if c.Health != "degraded" || !strings.HasPrefix(c.Summary, "The last token call of tenant a failed. The token endpoint refuses the credential") ||
		c.Tenants.Failing != 1 || c.Tenants.States["fresh"] != 1 || c.Tenants.States["none"] != 1 || len(c.Tenants.States) != 5 {
		t.Errorf("the credential: %+v, %+v", c, c.Tenants)
	}
	if f := c.Tenants.Failures; len(f) != 1 || f[0].Tenant != "a" || f[0].Code != "invalid_client" || f[0].Over || c.Recent[len(c.Recent)-1].Tenant != "a" {
		t.Errorf("failures: %+v", c.Tenants.Failures)
	}
	o.clients[o.prefix+"a"].SetFault(devserver.Fault{})
	o.admin(t, http.MethodPost, "/a/refresh").wantStatus(t, 200)
	if c := o.operatedServer.credential("shops"); c.Health != "ok" || c.Tenants.Failing != 0 || !c.Tenants.Failures[0].Over {
		t.Errorf("after the recovery: %+v, %+v", c, c.Tenants)
	}

	if err := os.RemoveAll(filepath.Join(o.folder, "a")); err != nil {
		t.Fatal(err)
	}
	o.admin(t, http.MethodPost, "/a/refresh").wantAdminError(t, 404, `tenant "a"`, "no files any more")
	o.admin(t, http.MethodGet, "/a").wantAdminError(t, 404, "first request")
	if c := o.operatedServer.credential("shops"); c.Tenants.Count != 1 || c.Health != "ok" {
		t.Errorf("after a tenant was removed: %+v, %+v", c, c.Tenants)
	}
}

// A page has at most limit tenants, however many there are, and the pages together have each of them once.
func TestAdminTenantPages(t *testing.T) {
	const many = 2345
	c := provisionTenants(t, tenantFolder(t, 0), "", nil)
	ts := c.tenants
	for i := range many {
		if _, err := ts.Place(numberedTenant(i)); err != nil {
			t.Fatal(err)
		}
	}
	page := func(query string) (p contractTenantPage) {
		t.Helper()
		w := httptest.NewRecorder()
		if err := serveTenants(w, httptest.NewRequest(http.MethodGet, "/token_proxy/credentials/test/tenants?"+query, nil), c, ""); err != nil {
			t.Fatal(err)
		}
		decodeStrictly(t, w.Body.String(), &p)
		return p
	}
	for query, want := range map[string]int{"": defaultTenantPage, "limit=1": 1, "limit=1000": 1000, "state=none": defaultTenantPage, "state=fresh": 0} {
		if p := page(query); len(p.Tenants) != want || (p.Next == "") != (want == 0) {
			t.Errorf("%s: %d tenants, then %q", query, len(p.Tenants), p.Next)
		}
	}
	var seen []string
	for after := ""; ; {
		p := page("limit=1000&state=none&after=" + after)
		for _, of := range p.Tenants {
			seen = append(seen, of.Name)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if len(seen) != many || !slices.IsSorted(seen) || len(slices.Compact(seen)) != many {
		t.Errorf("%d tenants, want %d, each once and in order", len(seen), many)
	}
	if fmt.Sprint(seen[:2]) != "[shop-0 shop-1]" {
		t.Errorf("the first are %q", seen[:2])
	}
}

// The purge of one tenant reaches the store, and leaves the records of the others alone.
func TestAdminPurgeOfASharedTenant(t *testing.T) {
	s, p, name, site, m := sharedTenantServer(t)
	path := "/token_proxy/credentials/" + name + "/tenants/a/purge"
	purge := func(query, store string, records int) {
		t.Helper()
		a := s.ask(http.MethodPost, path+query)
		a.wantStatus(t, 200)
		var answer struct {
			contractTenant
			Purge *contractPurge `json:"purge"`
		}
		if decodeStrictly(t, a.body, &answer); answer.State != "none" || answer.Purge == nil || answer.Purge.Store != store || len(m.records()) != records {
			t.Errorf("%s: the answer is %s; the store has %q", query, a.body, m.records())
		}
	}
	purge("", "deleted", 1)
	purge("?fleet=true", "marked", 2)
	m.fail(errors.New(canary))
	purge("", "failed", 2)
	out, err := runCommand(purgeCommand(), name, "--tenant", "a", "--fleet", "--address", s.admin)
	wantError(t, err, "in this process only")
	wantText(t, out, name+", tenant a: The other replicas are not told")
	m.fail(nil)
	calls := p.calls()
	p.wantTenant(p.ask(site, "b"), "b")
	if p.calls() != calls {
		t.Error("another tenant has lost its token")
	}
}

// Operators see the clients of `tenant basic` by a digest. Neither id nor secret is in an answer.
func TestOperatorsSeeNoBasicCredentials(t *testing.T) {
	p := newTenantPlatform(t, "a")
	addr := freeAddr(t)
	config := globalOptions(p.basicCredential("shops")) + siteConfig(addr, "token_proxy shops "+p.api.addr())
	o := &operatedTenants{startOperated(t, config, nil), p, "http://" + addr}
	p.wantTenant(p.askAs(o.site, "a", "secret-of-a"), "a")
	p.wantDenied(p.askAs(o.site, "a", "secret-of-nobody"), 403, "tenant-not-allowed")
	digest := tenants.BasicName(strings.TrimPrefix(basicAuthorization(p.prefix+"a", "secret-of-a"), "Basic "))
	if _, names := o.page(t, ""); names != digest {
		t.Errorf("got %q, want the digest", names)
	}
	for path, method := range map[string]string{"": http.MethodGet, "/" + digest: http.MethodGet, "/" + digest + "/refresh": http.MethodPost, "/" + digest + "/purge": http.MethodPost} {
		a := o.admin(t, method, path)
		if a.wantStatus(t, 200); strings.Contains(a.body, p.prefix) {
			t.Errorf("%s shows the client id: %s", path, a.body)
		}
	}
	a := o.operatedServer.ask(http.MethodGet, "/token_proxy/credentials/shops")
	if !strings.Contains(a.body, `"failures":[{`) || strings.Contains(a.body, p.prefix) || strings.Contains(a.body, "secret-of-") {
		t.Errorf("got %s", a.body)
	}
	if logs := o.logs(); strings.Contains(logs, p.prefix) || strings.Contains(logs, "secret-of-") {
		t.Error("the log shows the client")
	}
	file := writeConfig(t, "Caddyfile", config)
	for _, args := range [][]string{{"shops"}, {"shops", "--tenant", digest}} {
		_, err := runCommand(checkCommand(), append(args, "--config", file)...)
		wantError(t, err, "tenant basic")
	}
	_, err := runCommand(checkCommand(), "--tenant", digest, "--config", file)
	wantError(t, err, "no credential has tenants")
	if out, err := runCommand(checkCommand(), "--config", file); err != nil || !strings.Contains(out, "- shops: no token was fetched, because requests bring their clients with them") {
		t.Errorf("%v: %s", err, out)
	}
}

// A credential with tenants is ready, as a readiness probe reports it, because its tokens come with the requests.
func TestTenantsAreReady(t *testing.T) {
	p := newTenantPlatform(t, "acme")
	s := startOperated(t, globalOptions(p.credential("shops")), nil)
	if out, err := runCommand(listCommand(), "--ready", "--address", s.admin); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if c := s.credential("shops"); !c.Ready || c.Health != "idle" {
		t.Errorf("after the probe: ready %v, %s. %s", c.Ready, c.Health, c.Summary)
	}
	if p.calls() > 0 {
		t.Error("the probe called the token endpoint")
	}
}
