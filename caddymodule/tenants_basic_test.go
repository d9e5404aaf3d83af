package caddymodule

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// basicCredential is the configuration of a credential whose clients come with the requests.
func (p *tenantPlatform) basicCredential(name string, options ...string) string {
	host, _, _ := strings.Cut(p.api.addr(), ":")
	return fmt.Sprintf("credential %s {\n tenant basic {\n%s\n }\n provider elastic_path {\n token_url %s\n }\n api_hosts %s\n}\n",
		name, strings.Join(options, "\n"), p.url, host)
}

// askAs sends a request with the credentials of a client.
func (p *tenantPlatform) askAs(base, tenant, secret string) clientAnswer {
	p.t.Helper()
	return p.askWith(base, basicAuthorization(p.prefix+tenant, secret))
}

func (p *tenantPlatform) askWith(base string, authorization ...string) clientAnswer {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodGet, base+"/orders", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header["Authorization"] = authorization
	a, err := tryAsk(testClient(p.t), req)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *tenantPlatform) startBasic() (*caddyServer, string) {
	p.t.Helper()
	addr := freeAddr(p.t)
	return startCaddy(p.t, globalOptions(p.basicCredential("api"))+siteConfig(addr, "token_proxy api "+p.api.addr())), "http://" + addr
}

// The client that a request names by Authorization: Basic gets a token of its own. A wrong secret gets none, costs one call,
// and does not keep the right one from being served. A new secret works at once.
func TestBasicTenants(t *testing.T) {
	p := newTenantPlatform(t, "a", "b")
	_, base := p.startBasic()
	for range 3 {
		p.wantTenant(p.askAs(base, "a", "secret-of-a"), "a")
		p.wantTenant(p.askAs(base, "b", "secret-of-b"), "b")
	}
	if n := p.calls(); n != 2 {
		t.Errorf("%d token calls, want one for each client", n)
	}
	for range 3 {
		for _, wrong := range []string{"wrong", "secret-of-b"} {
			p.wantDenied(p.askAs(base, "a", wrong), 403, "tenant-not-allowed")
		}
		p.wantTenant(p.askAs(base, "a", "secret-of-a"), "a")
	}
	if n := p.calls(); n != 4 {
		t.Errorf("%d token calls, want one more for each wrong secret", n)
	}
	if n := runningApp().clients["api"].tenants.Count(); n != 2 {
		t.Errorf("%d clients have a place, want those with a token", n)
	}
	endpoint := p.clients[p.prefix+"a"]
	p.mu.Lock()
	endpoint.ClientSecret = "changed-secret"
	p.mu.Unlock()
	p.wantTenant(p.askAs(base, "a", "changed-secret"), "a")
	p.wantTenant(p.askAs(base, "a", "secret-of-a"), "a") // until its token expires
	if n := p.calls(); n != 5 {
		t.Errorf("%d token calls, want one more for the new secret", n)
	}
	old, ok := runningApp().clients["api"].tenants.Find(tenants.BasicName(strings.TrimPrefix(basicAuthorization(p.prefix+"a", "secret-of-a"), "Basic ")))
	if !ok {
		t.Fatal("the client has lost its place")
	}
	old.Source.Purge()
	p.wantDenied(p.askAs(base, "a", "secret-of-a"), 403, "tenant-not-allowed")
	p.wantTenant(p.askAs(base, "a", "changed-secret"), "a")
	for _, r := range p.api.received() {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || len(r.Header["Authorization"]) != 1 {
			t.Error("the API got the client's credentials")
		}
	}
}

// A request without the credentials of one client is asked for them, and costs nothing.
func TestBasicTenantIsRequired(t *testing.T) {
	p := newTenantPlatform(t, "a")
	_, base := p.startBasic()
	good := basicAuthorization(p.prefix+"a", "secret-of-a")
	encode := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	for name, values := range map[string][]string{
		"none":            nil,
		"two":             {good, good},
		"an empty one":    {"", good},
		"a list":          {good + ", " + good},
		"another scheme":  {"Bearer abc"},
		"only the scheme": {"Basic"},
		"not base64":      {"Basic !!!!"},
		"no padding":      {strings.TrimRight(encode("a:bb"), "=")},
		"another end":     {"Basic YTpiYh=="}, // its last bits are not 0
		"no colon":        {encode("ab")},
		"no id":           {encode(":b")},
		"no secret":       {encode("a:")},
		"blank secret":    {encode("a: ")},
		"control":         {encode("a:b\nc")},
		"NUL":             {encode("a\x00:b")},
		"not UTF-8":       {encode("a:b\xff")},
		"long":            {encode("a:" + strings.Repeat("b", tenants.MaxBasic))},
	} {
		a := p.askWith(base, values...)
		p.wantDenied(a, 401, "client-credentials-missing")
		if a.Header.Get("WWW-Authenticate") != `Basic realm="token-proxy", charset="UTF-8"` {
			t.Errorf("%s: the challenge is %q", name, a.Header["Www-Authenticate"])
		}
	}
	if p.calls() != 0 || len(p.api.received()) != 0 {
		t.Errorf("%d token calls, and %d requests have reached the API", p.calls(), len(p.api.received()))
	}
	p.wantTenant(p.askWith(base, "bAsIc  "+strings.TrimPrefix(good, "Basic ")), "a")
	p.wantTenant(p.askWith(base, good), "a")
	if n := p.calls(); n != 1 {
		t.Errorf("%d token calls for two spellings of the scheme, want one", n)
	}
}

// What looks like a placeholder in the credentials of a request is text.
func TestBasicTenantHasNoPlaceholders(t *testing.T) {
	p := newTenantPlatform(t)
	p.write("x", "secret", "canary-in-a-file")
	t.Setenv("TOKEN_PROXY_TEST_CANARY", "canary-in-a-variable")
	_, base := p.startBasic()
	for _, secret := range []string{"{env.TOKEN_PROXY_TEST_CANARY}", "{file." + p.folder + "/x/secret}", "{tenant}", "{http.request.host}"} {
		p.wantDenied(p.askWith(base, basicAuthorization(secret, secret)), 403, "tenant-not-allowed")
		p.mu.Lock()
		form := p.form
		p.mu.Unlock()
		if form.Get("client_secret") != secret || form.Get("client_id") != secret {
			t.Errorf("the token endpoint got %v, want %s", form, secret)
		}
	}
}

// The secret of a client is nowhere but at the token endpoint, whether it is right or wrong.
func TestBasicSecretIsNotShown(t *testing.T) {
	const right, wrong = "right-secret-4711-canary", "wrong-secret-4711-canary"
	p := newTenantPlatform(t, "a")
	p.clients[p.prefix+"a"].ClientSecret = right
	addr, downAddr := freeAddr(t), freeAddr(t)
	global := strings.Replace(globalOptions(p.basicCredential("api")), "{\n", "{\n debug\n", 1)
	s := startOperated(t, global+siteConfig(addr, "log\nlog_append seen {http.request.header.Authorization}{http.token_proxy.tenant}\ntoken_proxy api "+p.api.addr())+
		siteConfig(downAddr, "token_proxy api "+freeAddr(t)), nil)
	p.wantTenant(p.askAs("http://"+addr, "a", right), "a")
	answers := []clientAnswer{p.askAs("http://"+addr, "a", wrong), p.askAs("http://"+addr, "a", wrong), p.askAs("http://"+downAddr, "a", right)}
	p.clients[p.prefix+"a"].Registry.RevokeAll(p.prefix + "a")
	p.wantTenant(p.askAs("http://"+addr, "a", right), "a")
	for _, path := range []string{"/config/", "/metrics", "/token_proxy/credentials", "/token_proxy/credentials/api", "/debug/vars", "/debug/pprof/goroutine?debug=2"} {
		answers = append(answers, s.ask(http.MethodGet, path))
	}
	texts := []string{s.logs()}
	for _, a := range answers {
		texts = append(texts, a.body, fmt.Sprint(a.Header))
	}
	for _, r := range p.api.received() {
		texts = append(texts, fmt.Sprint(r.Header))
	}
	for _, part := range []string{"handled request", "no token for a tenant", "upstream roundtrip"} {
		if !strings.Contains(texts[0], part) {
			t.Errorf("the log is without %q", part)
		}
	}
	for _, secret := range []string{right, wrong} {
		for _, spelled := range []string{secret, base64.StdEncoding.EncodeToString([]byte(p.prefix + "a:" + secret)), base64.StdEncoding.EncodeToString([]byte(secret))[:20]} {
			for i, text := range texts {
				if strings.Contains(text, spelled) {
					t.Errorf("text %d has the secret: %s", i, text)
				}
			}
		}
	}
}

// Caddy encodes the request for the access log before any handler, so the proxy can only warn of log_credentials.
func TestBasicSecretInTheAccessLog(t *testing.T) {
	p := newTenantPlatform(t, "a")
	for _, test := range []struct {
		option, credential string
		warned             bool
	}{
		{"log_credentials", p.basicCredential("api"), true},
		{"", p.basicCredential("api"), false},
		{"log_credentials", p.credential("api"), false},
	} {
		addr := freeAddr(t)
		global := strings.Replace(globalOptions(test.credential), "{\n", "{\n servers {\n "+test.option+"\n}\n", 1)
		s := startCaddy(t, global+siteConfig(addr, "log\ntoken_proxy api "+p.api.addr()))
		if warned := strings.Contains(s.logs(), "log_credentials writes the id and the secret"); warned != test.warned {
			t.Errorf("%q: warned %t:\n%s", test.option, warned, s.logs())
		}
		if test.warned {
			p.wantTenant(p.askAs("http://"+addr, "a", "secret-of-a"), "a")
			logged := base64.StdEncoding.EncodeToString([]byte(p.prefix + "a:secret-of-a"))
			eventually(t, "the secret in the access log", func() bool { return strings.Contains(s.logs(), logged) })
		}
	}
}

// In handle_response and handle_errors, the client is still known, but only to the credential that it was sent to.
func TestBasicTenantOfSecondHandler(t *testing.T) {
	p, other := newTenantPlatform(t, "a"), newTenantPlatform(t)
	down := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, routes := range []string{
		"token_proxy api " + down.Listener.Addr().String() + " {\n @teapot status 418\n handle_response @teapot {\n token_proxy SECOND\n}\n}",
		"token_proxy api " + freeAddr(t) + "\n handle_errors {\n token_proxy SECOND\n}",
	} {
		for _, second := range []string{"api", "other"} {
			addr := freeAddr(t)
			startCaddy(t, globalOptions(p.basicCredential("api")+other.basicCredential("other"))+
				siteConfig(addr, strings.ReplaceAll(routes, "SECOND", second+" "+p.api.addr())))
			a := p.askAs("http://"+addr, "a", "secret-of-a")
			if second == "api" {
				p.wantTenant(a, "a")
			} else {
				p.wantDenied(a, 401, "client-credentials-missing")
			}
		}
	}
	if other.calls() != 0 {
		t.Error("another token endpoint got the secret")
	}
}

const basicJSON = `{"provider": {"name": "elastic_path"}, "api_hosts": ["127.0.0.1"], "tenant": {"name": "basic" %s}}`

// newBasicClients provisions a credential for clients of requests, whose tokens come from fetch by id and secret.
func newBasicClients(t testing.TB, options string, fetch func(id, secret string) (provider.Issued, error)) *client {
	t.Helper()
	if _, err := tenants.Vault(); err != nil { // its goroutines live as long as the process
		t.Fatal(err)
	}
	c := provisionTenantCredential(t, fmt.Sprintf(basicJSON, options))
	c.fetchTenants(func(of *tenants.Tenant) (provider.Issued, error) {
		id, secret, _ := of.Client()
		return fetch(id.Reveal(), secret.Reveal())
	})
	t.Cleanup(c.start())
	return c
}

func (c *client) leaseAs(id, secret string) (token.Lease, error) {
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(id, secret)
	of, err := c.tenantOf(r, c.Tenant.basicIn(r))
	if err != nil {
		return token.Lease{}, err
	}
	lease, _, err := c.serveFor(r, of)
	return lease, of.failed(err)
}

// basicEndpoint issues tokens to clients whose secret is "right".
type basicEndpoint struct{ *tenantCalls }

func (e basicEndpoint) fetch(id, secret string) (provider.Issued, error) {
	if secret != "right" {
		e.mu.Lock()
		e.fails[id+":"+secret] = &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "refused"}
		e.mu.Unlock()
	}
	return e.tenantCalls.fetch(id + ":" + secret)
}

func inBasicBubble(t *testing.T, options string, f func(c *client, e basicEndpoint)) {
	t.Helper()
	e := basicEndpoint{newTenantCalls()}
	c := newBasicClients(t, options, e.fetch)
	inBubbleOf(t, c, func(*testing.T) { f(c, e) })
}

// While a file of the operator is away, a client without a token gets the answer of a wrong configuration. It is served as soon
// as the file is back, because the token endpoint has not refused its secret.
func TestBasicTenantWhileAFileIsAway(t *testing.T) {
	p := newTenantPlatform(t, "a", "b")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serverCertificate(t, "x").Certificate[0]})
	write := func() {
		if err := os.WriteFile(ca, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	addr := freeAddr(t)
	credential := strings.TrimSuffix(p.basicCredential("api"), "}\n") + " transport {\n ca {file." + ca + "}\n }\n}\n"
	startCaddy(t, globalOptions(credential)+siteConfig(addr, "token_proxy api "+p.api.addr()))
	base := "http://" + addr
	p.wantTenant(p.askAs(base, "b", "secret-of-b"), "b")
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	p.wantDenied(p.askAs(base, "a", "secret-of-a"), 502, "token-refused")
	p.wantTenant(p.askAs(base, "b", "secret-of-b"), "b")
	write()
	poll(t, "the client to be served", func() bool { return p.askAs(base, "a", "secret-of-a").StatusCode == 200 })
	if n := p.calls(); n != 2 {
		t.Errorf("%d token calls, want one for each client", n)
	}
}

// At most 5 secrets of one client are tried in a minute. A client with a token is not affected, and neither is another one.
func TestBasicAttempts(t *testing.T) {
	inBasicBubble(t, "", func(c *client, e basicEndpoint) {
		if _, err := c.leaseAs("a", "right"); err != nil {
			t.Fatal(err)
		}
		limited := 0
		for i := range 100 {
			_, err := c.leaseAs("a", fmt.Sprint("wrong", i))
			if denialOf(err) == "limited" {
				limited++
				if at := err.(*tenants.Denial).RetryAt; !at.After(time.Now()) || time.Until(at) > tenants.AttemptTime {
					t.Errorf("to be tried again in %s", time.Until(at))
				}
			} else if err == nil {
				t.Fatal("a wrong secret has a token")
			}
		}
		if n := e.all() - 1; n != tenants.BasicAttempts || limited != 100-tenants.BasicAttempts {
			t.Errorf("%d wrong secrets were tried, and %d denied", n, limited)
		}
		if _, err := c.leaseAs("a", "right"); err != nil {
			t.Errorf("the client with a token: %v", err)
		}
		if _, err := c.leaseAs("b", "right"); err != nil {
			t.Errorf("another client: %v", err)
		}
		advanceTenants(tenants.AttemptTime)
		if _, err := c.leaseAs("a", "wrong50"); denialOf(err) == "limited" || err == nil {
			t.Errorf("after a minute: %v", err)
		}
		if n := e.all() - 2; n != tenants.BasicAttempts+1 {
			t.Errorf("%d wrong secrets were tried", n)
		}
	})
}

// A refused pair is not tried again for 30 s.
func TestRefusedBasicClientIsRemembered(t *testing.T) {
	inBasicBubble(t, "", func(c *client, e basicEndpoint) {
		for range 100 {
			if _, err := c.leaseAs("a", "wrong"); err == nil {
				t.Fatal("a wrong secret has a token")
			}
		}
		advanceTenants(tenants.RefusedMemory - time.Millisecond)
		if _, err := c.leaseAs("a", "wrong"); denialOf(err) != "unknown" {
			t.Errorf("got %v", err)
		}
		if e.all() != 1 {
			t.Errorf("%d calls within %s, want one", e.all(), tenants.RefusedMemory)
		}
		advanceTenants(time.Millisecond)
		if _, err := c.leaseAs("a", "wrong"); err == nil || e.all() != 2 {
			t.Errorf("afterwards: %v, %d calls", err, e.all())
		}
	})
}

// Random pairs cost at most the calls of new_rate and leave no place taken. A client with a token notices nothing.
func TestBasicFlood(t *testing.T) {
	const rate = 20
	inBasicBubble(t, fmt.Sprintf(`,"max": 50, "new_rate": %d`, rate), func(c *client, e basicEndpoint) {
		if _, err := c.leaseAs("known", "right"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range 20_000 {
			if _, err := c.leaseAs(fmt.Sprint("nobody", i), fmt.Sprint(i)); err == nil {
				t.Fatal("a wrong secret has a token")
			}
			if i%1000 == 0 {
				time.Sleep(100 * time.Millisecond)
				if _, err := c.leaseAs("known", "right"); err != nil {
					t.Fatalf("the known client: %v", err)
				}
			}
		}
		if limit := 1 + 2*rate + int(rate*time.Since(began).Seconds()); e.all() > limit {
			t.Errorf("%d calls, want %d at most", e.all(), limit)
		}
		if n := c.tenants.Count(); n != 1 {
			t.Errorf("%d clients have a place, want the one with a token", n)
		}
	})
}
