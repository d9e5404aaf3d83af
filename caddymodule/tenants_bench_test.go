package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// crowdConfig is a credential for tenants without files.
func crowdConfig(t testing.TB, options string) string {
	t.Setenv("TOKEN_PROXY_TEST_SECRET", "a secret of tests")
	return fmt.Sprintf(`{"provider": {"name": "elastic_path"}, "client_id": "%s-{tenant}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}",
		"api_hosts": ["127.0.0.1"], "tenant": {"name": "{http.request.header.X-Tenant}", "max": 1000000 %s}}`, newClientID(), options)
}

// newCrowd returns a credential with so many tenants that have a token of 900 bytes.
func newCrowd(t testing.TB, n int, config string) *client {
	t.Helper()
	c := provisionTenantCredential(t, config)
	end := c.start()
	t.Cleanup(func() {
		end()
		removeTenants(c) // the vault would be full for other tests
	})
	fill(t, c, 0, n)
	return c
}

func fill(t testing.TB, c *client, from, to int) {
	t.Helper()
	c.fetchTenants(func(of *tenants.Tenant) (provider.Issued, error) {
		issued := provider.NewSecret(of.Name + strings.Repeat("x", 900-len(of.Name)))
		of.Issued.Store(&issued)
		return provider.Issued{Token: issued, Lifetime: time.Hour}, nil
	})
	c.tenants.Calls.SetLimit(rate.Inf)
	for i := from; i < to; i++ {
		of, err := c.tenants.Place(numberedTenant(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := of.Current().Source.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // frees what the first one only finds unreachable
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A tenant with a token of 900 bytes takes 2.3 KiB at most, all in.
func TestTenantsAreSmall(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const count, most = 5_000, 2.3 * 1024
	c := newCrowd(t, 100, crowdConfig(t, ""))
	before := heapInUse()
	fill(t, c, 100, 100+count)
	per := float64(heapInUse()-before) / count
	t.Logf("%.0f bytes for each of %d tenants", per, count)
	if per > most {
		t.Errorf("%.0f bytes for each tenant, want %.0f at most", per, most)
	}
	runtime.KeepAlive(c)
}

// A reload touches no tenant, however many there are, and costs no call. BenchmarkTenantReload measures it.
func TestReloadWithManyTenants(t *testing.T) {
	const count = 10_000
	config := crowdConfig(t, "")
	c := newCrowd(t, count, config)
	calls := new(atomic.Int64)
	reloaded := reloadTenants(t, config, 999_999)
	countCalls(reloaded, calls)
	if reloaded.tenants != c.tenants || reloaded.tenants.Count() != count {
		t.Fatalf("%d tenants are there after the reload", reloaded.tenants.Count())
	}
	for of := range c.tenants.All {
		if of.UpToDate() {
			t.Fatalf("the reload has touched tenant %s", of.Name)
		}
	}
	for _, i := range []int{0, 1, count / 2, count - 1} {
		lease, err := reloaded.leaseFor(numberedTenant(i))
		if err != nil || !strings.HasPrefix(lease.Value().Reveal(), numberedTenant(i)+"x") {
			t.Errorf("tenant %d: %v", i, err)
		}
		of, _ := reloaded.tenants.Find(numberedTenant(i))
		if !of.UpToDate() {
			t.Errorf("tenant %d has not taken up the configuration", i)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls, want none", n)
	}
}

// countCalls counts the token calls of tenants from here on, all of which fail.
func countCalls(c *client, calls *atomic.Int64) {
	c.fetchTenants(func(*tenants.Tenant) (provider.Issued, error) {
		calls.Add(1)
		return provider.Issued{}, &token.Error{Kind: token.Unavailable}
	})
}

// reloadTenants loads the configuration of a crowd with another max.
func reloadTenants(t testing.TB, config string, most int) *client {
	t.Helper()
	reloaded, err := tryTenantCredential(t, strings.Replace(config, `"max": 1000000`, fmt.Sprintf(`"max": %d`, most), 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reloaded.start())
	return reloaded
}

// BenchmarkTenantReload measures a reload with 100,000 tenants, and the calls of all tenants that follow it.
func BenchmarkTenantReload(b *testing.B) {
	const count = 100_000
	config := crowdConfig(b, "")
	c := newCrowd(b, count, config)
	calls := new(atomic.Int64)
	n := 0
	for b.Loop() {
		n++
		countCalls(reloadTenants(b, config, 999_999-n), calls)
	}
	b.StopTimer()
	for i := range count {
		if _, err := c.leaseFor(numberedTenant(i)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(calls.Load()), "calls")
}

// BenchmarkTenantMemory measures the memory of 100,000 tenants with tokens of 900 bytes.
func BenchmarkTenantMemory(b *testing.B) {
	const count = 100_000
	c := newCrowd(b, 100, crowdConfig(b, ""))
	n := 100
	var per float64
	for b.Loop() {
		before := heapInUse()
		fill(b, c, n, n+count)
		n += count
		per = float64(heapInUse()-before) / count
	}
	b.ReportMetric(per, "B/tenant")
	runtime.KeepAlive(c)
}

// BenchmarkUnknownTenants measures requests with random names of tenants that do not exist.
func BenchmarkUnknownTenants(b *testing.B) {
	c := newCrowd(b, 1000, filesConfig(b, tenantFolder(b, 1000), `,"max": 1000000`)) // so that there are look-ups
	calls := new(atomic.Int64)
	countCalls(c, calls)
	before, n := heapInUse(), 0
	for b.Loop() {
		n++
		if _, err := c.tenants.Get(fmt.Sprintf("nobody-%d", n)); err == nil {
			b.Fatal("a tenant without files is there")
		}
	}
	b.ReportMetric(float64(calls.Load()), "calls")
	b.ReportMetric(float64(int64(heapInUse())-int64(before))/1024, "KiB-more")
}

// newTenantContenders returns token_proxy with a fresh token, without tenants and with 1000.
func newTenantContenders(tb testing.TB) (plain, ofTenant *contender) {
	tb.Helper()
	_, plain = newContenders(tb, "")
	_, ofTenant = newContenders(tb, "")
	h := ofTenant.handler.(*Handler)
	h.credential = newCrowd(tb, 1000, crowdConfig(tb, ""))
	h.Handler.Transport.(*injector).credential = h.credential
	ofTenant.handler = &namingTenant{h}
	return plain, ofTenant
}

// namingTenant is a handler whose requests name a tenant, as those of an application do.
type namingTenant struct{ *Handler }

func (n *namingTenant) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.Header["X-Tenant"] = oneTenant
	return n.Handler.ServeHTTP(w, r, next)
}

// newBasicContender is a handler of a credential with `tenant basic`, whose client has a token.
func newBasicContender(tb testing.TB) *contender {
	tb.Helper()
	_, c := newContenders(tb, "")
	h := c.handler.(*Handler)
	h.credential = newBasicClients(tb, "", func(id, _ string) (provider.Issued, error) {
		return provider.Issued{Token: provider.NewSecret("token of " + id), Lifetime: time.Hour}, nil
	})
	h.Handler.Transport.(*injector).credential = h.credential
	c.handler = &asClient{h}
	return c
}

// asClient makes each request name the same client.
type asClient struct{ *Handler }

func (a *asClient) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.Header["Authorization"] = oneClient
	return a.Handler.ServeHTTP(w, r, next)
}

var oneClient = []string{basicAuthorization("a-client", "its secret")}

var oneTenant = []string{numberedTenant(500)}

// A request of a known tenant with a fresh token costs 2 allocations more than one of a plain credential, at most.
func TestTenantAllocations(t *testing.T) {
	plain, ofTenant := newTenantContenders(t)
	count := func(c *contender) float64 { return testing.AllocsPerRun(1000, func() { c.serve(t) }) }
	with, without := count(ofTenant), count(plain)
	t.Logf("%.0f and %.0f allocations", with, without)
	if with > without+2 {
		t.Errorf("%.0f allocations, and %.0f without tenants", with, without)
	}
}

func BenchmarkTenantHandler(b *testing.B) {
	plain, ofTenant := newTenantContenders(b)
	b.Run("plain", func(b *testing.B) { benchmarkContender(b, plain) })
	b.Run("tenant", func(b *testing.B) { benchmarkContender(b, ofTenant) })
	b.Run("basic", func(b *testing.B) { benchmarkContender(b, newBasicContender(b)) })
}

// BenchmarkTenantFlood is a request of a known tenant, alone and among 100,000 random names a second.
func BenchmarkTenantFlood(b *testing.B) {
	c := newCrowd(b, 1000, filesConfig(b, tenantFolder(b, 1000), `,"max": 1000000`)) // so that there are look-ups
	for _, flood := range []bool{false, true} {
		b.Run(fmt.Sprintf("flood=%t", flood), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for n := 0; flood && ctx.Err() == nil; n++ {
					if n%1000 == 0 {
						time.Sleep(10 * time.Millisecond)
					}
					_, _ = c.tenants.Get(fmt.Sprintf("nobody-%d", n))
				}
			}()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			var took []time.Duration
			for b.Loop() {
				r.Header["X-Tenant"] = oneTenant
				began := time.Now()
				of, err := c.tenantOf(r, "")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := of.Source.Acquire(ctx); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			cancel()
			<-done
		})
	}
}
