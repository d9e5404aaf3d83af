package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tenantCalls is a token endpoint that counts the calls of each tenant.
type tenantCalls struct {
	mu       sync.Mutex
	lifetime time.Duration
	fails    map[string]*token.Error
	at       map[string][]time.Time
}

func newTenantCalls() *tenantCalls {
	return &tenantCalls{lifetime: time.Hour, fails: make(map[string]*token.Error), at: make(map[string][]time.Time)}
}

func (e *tenantCalls) fetch(tenant string) (provider.Issued, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at[tenant] = append(e.at[tenant], time.Now())
	if err := e.fails[tenant]; err != nil {
		return provider.Issued{}, err
	}
	return provider.Issued{Token: provider.NewSecret(fmt.Sprintf("token %d of %s", len(e.at[tenant]), tenant)), Lifetime: e.lifetime}, nil
}

func (e *tenantCalls) all() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, at := range e.at {
		n += len(at)
	}
	return n
}

func (e *tenantCalls) of(tenant string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.at[tenant])
}

// tenantFolder has the files of so many tenants, which numberedTenant names.
func tenantFolder(t testing.TB, n int) string {
	t.Helper()
	folder, id := t.TempDir(), newClientID() // the vault would have the tokens of another test
	for i := range n {
		dir := filepath.Join(folder, numberedTenant(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "client_id"), []byte(id+numberedTenant(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func numberedTenant(i int) string { return fmt.Sprintf("shop-%d", i) }

// lease gets a lease as a request of the tenant does.
func (c *client) leaseFor(name string) (token.Lease, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Tenant", name)
	of, err := c.tenantOf(r, "")
	if err != nil {
		return token.Lease{}, err
	}
	lease, _, err := c.serveFor(r, of)
	return lease, of.failed(err)
}

// denialOf returns why a tenant was denied, in the word of the metric, or "".
func denialOf(err error) string {
	if d, ok := errors.AsType[*tenants.Denial](err); ok {
		return d.Why.String()
	}
	return ""
}

// inTenantBubble runs f on a virtual clock, with a credential whose tenants have files and tokens.
func inTenantBubble(t *testing.T, n int, options string, f func(t *testing.T, c *client, e *tenantCalls)) {
	t.Helper()
	folder := tenantFolder(t, n)
	if _, err := tenants.Vault(); err != nil { // its goroutines live as long as the process
		t.Fatal(err)
	}
	e := newTenantCalls()
	c := provisionTenants(t, folder, options, e.fetch) // outside, because the process keeps some of it
	inBubbleOf(t, c, func(t *testing.T) { f(t, c, e) })
}

// inBubbleOf runs a test in virtual time with a client from outside, and lets its tenants fall asleep at the end.
func inBubbleOf(t *testing.T, c *client, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer func() { // also if the test fails, or a timer of the bubble would be touched outside
			removeTenants(c)
			advanceTenants(time.Minute) // until each flight has ended
		}()
		f(t)
	})
}

func removeTenants(c *client) {
	for of := range c.tenants.All {
		c.tenants.Remove(of)
	}
}

func advanceTenants(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// An unknown tenant is not looked up again for a while, and then it is.
func TestUnknownTenantIsRemembered(t *testing.T) {
	inTenantBubble(t, 1, "", func(t *testing.T, c *client, e *tenantCalls) {
		for range 1000 {
			if _, err := c.leaseFor("later"); denialOf(err) != "unknown" {
				t.Fatalf("got %v, want an unknown tenant without a look-up", err)
			}
		}
		if err := os.CopyFS(filepath.Join(folderOf(c), "later"), os.DirFS(filepath.Join(folderOf(c), numberedTenant(0)))); err != nil {
			t.Fatal(err)
		}
		advanceTenants(tenants.UnknownMemory - time.Second)
		if _, err := c.leaseFor("later"); denialOf(err) != "unknown" {
			t.Errorf("got %v before the time", err)
		}
		advanceTenants(time.Second)
		if _, err := c.leaseFor("later"); err != nil {
			t.Errorf("after the time: %v", err)
		}
	})
}

// More tenants than have room do not cost calls without end. The tenants with a place keep it.
func TestMoreTenantsThanRoom(t *testing.T) {
	const most, rate, rounds = 50, 20, 20
	inTenantBubble(t, most*12/10, fmt.Sprintf(`,"max": %d, "new_rate": %d`, most, rate), func(t *testing.T, c *client, e *tenantCalls) {
		began := time.Now()
		served := make(map[int]int)
		for range rounds {
			for i := range most * 12 / 10 {
				time.Sleep(50 * time.Millisecond)
				_, err := c.leaseFor(numberedTenant(i))
				switch {
				case err == nil:
					served[i]++
				case denialOf(err) != "full":
					t.Fatalf("tenant %d: %v", i, err)
				}
			}
		}
		if limit := most*12/10 + int(rate*time.Since(began).Seconds()); e.all() > limit || e.all() != most {
			t.Errorf("%d calls, want %d, and never more than %d", e.all(), most, limit)
		}
		for i, n := range served {
			if n != rounds {
				t.Errorf("tenant %d was served %d times, want always", i, n)
			}
		}
	})
}

// Tenants whose token was not used for a lifetime make room. Those that are used do not.
func TestUnusedTenantsMakeRoom(t *testing.T) {
	inTenantBubble(t, 4, `,"max": 2`, func(t *testing.T, c *client, e *tenantCalls) {
		used, unused, next, last := numberedTenant(0), numberedTenant(1), numberedTenant(2), numberedTenant(3)
		want := func(name, denial string) {
			t.Helper()
			if _, err := c.leaseFor(name); denialOf(err) != denial || err != nil && denial == "" {
				t.Errorf("%s: got %v, want %q", name, err, denial)
			}
		}
		want(used, "")
		want(unused, "")
		want(next, "full")
		for range 40 {
			advanceTenants(3 * time.Minute)
			want(used, "")
		}
		want(next, "")
		want(last, "full")
		want(unused, "full")                             // which has lost its place
		if c.tenants.Count() != 2 || e.of(unused) != 2 { // the first token, and the one that was not used
			t.Errorf("%d tenants have a place; the unused one called %d times", c.tenants.Count(), e.of(unused))
		}
		if n := c.status.CountTenantsEvicted(); n != 1 {
			t.Errorf("%d evictions, want one", n)
		}
	})
}

// The calls of tenants without a token are limited together, and those of each tenant. 503 names the time.
func TestNewTenantsAreLimited(t *testing.T) {
	inTenantBubble(t, 30, `,"new_rate": 5`, func(t *testing.T, c *client, e *tenantCalls) {
		denied := 0
		for i := range 30 {
			_, err := c.leaseFor(numberedTenant(i))
			if d, ok := errors.AsType[*tenants.Denial](err); ok {
				denied++
				p := c.problemOf(err)
				if d.Why != status.TenantLimited || p.status != http.StatusServiceUnavailable || !d.RetryAt.After(time.Now()) || p.header().Get("Retry-After") == "" {
					t.Errorf("got %+v", p)
				}
			}
		}
		if e.all() != 10 || denied != 20 {
			t.Errorf("%d calls and %d denied, want the calls of two seconds", e.all(), denied)
		}
		for range 5 { // a request that is denied does not count against its tenant
			for i := range 30 {
				_, _ = c.leaseFor(numberedTenant(i))
			}
		}
		advanceTenants(time.Second)
		for i := range 30 {
			_, _ = c.leaseFor(numberedTenant(i))
		}
		if e.all() != 15 {
			t.Errorf("%d calls after a second, want 5 more", e.all())
		}
	})
	inTenantBubble(t, 1, "", func(t *testing.T, c *client, e *tenantCalls) { // one tenant, whose tokens live for a second
		e.lifetime = time.Second
		for range 600 {
			_, _ = c.leaseFor(numberedTenant(0))
			advanceTenants(1100 * time.Millisecond)
			c.tenants.Purge(t.Context(), false) // so that no refresh in the background hides it
		}
		if n := e.of(numberedTenant(0)); n > 2*(3+660/10) { // each new token is refreshed once
			t.Errorf("%d calls in 11 minutes, want one new token each 10 s", n)
		}
	})
}

// New tenants that are denied at the same time take nothing from those that come later.
func TestDeniedTenantsCostNothing(t *testing.T) {
	c := provisionTenants(t, tenantFolder(t, 0), `,"new_rate": 1`, nil)
	var admitted atomic.Int64
	began := time.Now()
	var group sync.WaitGroup
	for i := range 1000 {
		of := c.tenants.Unplaced(numberedTenant(i))
		group.Go(func() {
			for range 100 {
				if of.Admit() == nil {
					admitted.Add(1)
				}
			}
		})
	}
	group.Wait()
	if n, most := admitted.Load(), int64(3+time.Since(began).Seconds()); n < 2 || n > most {
		t.Errorf("%d calls, want those of two seconds, and at most %d", n, most)
	}
	if left := c.tenants.Calls.Tokens(); left < -1 {
		t.Errorf("the limiter has %.0f calls left: no new tenant is served for this many seconds", left)
	}
}

// Requests of one new tenant that come together are one look-up and one call, and so count once against the limits.
func TestNewTenantHerd(t *testing.T) {
	e := newTenantCalls()
	c := provisionTenants(t, tenantFolder(t, 20), `,"new_rate": 10`, e.fetch) // 20 at once
	for i := range 20 {
		var group sync.WaitGroup
		start := make(chan struct{})
		for range 100 {
			group.Go(func() {
				<-start
				if _, err := c.leaseFor(numberedTenant(i)); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		group.Wait()
	}
	if e.all() != 20 || c.tenants.Count() != 20 || c.tenants.Lookups.Tokens() < tenants.LookupRate-25 {
		t.Errorf("%d calls, %d places, and %.0f look-ups left; want one of each for each tenant", e.all(), c.tenants.Count(), c.tenants.Lookups.Tokens())
	}
}

// A tenant whose credentials are refused costs a call in 30 s, and disturbs no other.
func TestBrokenTenant(t *testing.T) {
	inTenantBubble(t, 2, "", func(t *testing.T, c *client, e *tenantCalls) {
		broken, other := numberedTenant(0), numberedTenant(1)
		e.fails[broken] = &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client", Reason: "refused"}
		began := time.Now()
		for range 100 {
			for range 1000 {
				_, err := c.leaseFor(broken)
				if p := c.problemOf(err); p.slug != problemTenant.slug {
					t.Fatalf("got %+v", p)
				}
			}
			if _, err := c.leaseFor(other); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if limit := 1 + int(time.Since(began)/(30*time.Second)); e.of(broken) > limit || e.of(other) != 1 {
			t.Errorf("%d calls of the broken tenant, want %d at most; %d of the other", e.of(broken), limit, e.of(other))
		}
	})
}

// Tenants whose tokens expire in the same second are refreshed at different times, and the limit for new tenants does not
// touch them.
func TestTenantsExpireTogether(t *testing.T) {
	const n = 200
	inTenantBubble(t, n, `,"new_rate": 100`, func(t *testing.T, c *client, e *tenantCalls) {
		for i := range n {
			if _, err := c.leaseFor(numberedTenant(i)); err != nil {
				t.Fatal(err)
			}
		}
		c.tenants.Calls.SetLimit(0) // from here on, no tenant without a token gets one
		for range 59 {
			advanceTenants(time.Minute)
			for i := range n {
				if _, err := c.leaseFor(numberedTenant(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		advanceTenants(2 * time.Minute)
		for i := range n {
			if _, err := c.leaseFor(numberedTenant(i)); err != nil {
				t.Fatalf("after the expiry of the first token: %v", err)
			}
		}
		if e.all() != 2*n {
			t.Errorf("%d calls, want two for each tenant", e.all())
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		seconds := make(map[int64]int)
		for _, at := range e.at {
			seconds[at[1].Unix()]++
		}
		if len(seconds) < n/4 {
			t.Errorf("the refreshes of %d tenants fall into %d seconds", n, len(seconds))
		}
	})
}

// Each field of a tenant is in its key for itself: names and values that give the same text together are different.
func TestTenantKeys(t *testing.T) {
	keys := make(map[token.Key]string)
	add := func(credential, tenantName, store string) {
		t.Helper()
		what := fmt.Sprintf("%q %q %q", credential, tenantName, store)
		t.Setenv("TOKEN_PROXY_TEST_SECRET", "a secret")
		c := provisionTenantCredential(t, `{"provider": {"name": "elastic_path", "store": `+quote(store)+`}, "client_id": "c-{tenant}",
			"client_secret": "{env.TOKEN_PROXY_TEST_SECRET}", "api_hosts": ["127.0.0.1"], "tenant": {"name": "{http.request.header.X-Tenant}"}}`)
		c.name = credential
		key, identity, _, err := c.tenantConfig.Caller.Identify(c.tenants.Unplaced(tenantName))
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := keys[key]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		keys[key] = what
		if other, ok := keys[token.Key(identity.Reveal())]; ok {
			t.Errorf("%s has the identity of %s", what, other)
		}
		keys[token.Key(identity.Reveal())] = what
	}
	alike := provisionTenants(t, tenantFolder(t, 2), "", nil) // two tenants that differ in nothing but their names
	if err := os.CopyFS(filepath.Join(folderOf(alike), "twin"), os.DirFS(filepath.Join(folderOf(alike), numberedTenant(0)))); err != nil {
		t.Fatal(err)
	}
	one, _, _, err := alike.tenantConfig.Caller.Identify(alike.tenants.Unplaced(numberedTenant(0)))
	other, _, _, err2 := alike.tenantConfig.Caller.Identify(alike.tenants.Unplaced("twin"))
	if err != nil || err2 != nil || one == other {
		t.Errorf("tenants with the same files have the same key: %v, %v", err, err2)
	}
	add("a", "b.c", "x{tenant}")
	add("a.b", "c", "x{tenant}")
	add("a", "b", "xb") // a literal that is the value for the tenant …
	add("a", "c", "xb") // … of another
	add("a", "b1", "1{tenant}")
	add("a", "b", "1{tenant}1")
	add("ab", "1", "1{tenant}")
	add("a", "11", "{tenant}")
	add("a", "1", "1{tenant}")
}

// folderOf returns the folder of the tenants.
func folderOf(c *client) string {
	folder, _, _ := strings.Cut(strings.TrimPrefix(c.ClientID, "{file."), "/{tenant}")
	return folder
}
