package caddymodule

import (
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

// contender serves one request, as Caddy's server would have it served.
type contender struct {
	handler caddyhttp.MiddlewareHandler
	server  *caddyhttp.Server
	body    string
}

// newContenders returns reverse_proxy with a static header and token_proxy with a fresh token, before an API that costs
// nothing: what is left is what a handler costs.
func newContenders(tb testing.TB, body string) (static, proxy *contender) {
	tb.Helper()
	return newContendersBefore(tb, body, emptyAPI{})
}

// newContendersBefore is newContenders before another API. That of encryptedAPI costs what reverse_proxy does for TLS.
func newContendersBefore(tb testing.TB, body string, api http.RoundTripper) (static, proxy *contender) {
	tb.Helper()
	parent, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(parent)
	tb.Cleanup(cancel)
	upstreams := func() reverseproxy.UpstreamPool { return reverseproxy.UpstreamPool{{Dial: "127.0.0.1:8080"}} }

	fixed := &reverseproxy.Handler{
		Upstreams: upstreams(),
		Transport: api,
		Headers: &headers.Handler{Request: &headers.HeaderOps{
			Set: http.Header{"Authorization": {"Bearer token-1"}},
		}},
	}
	if err := fixed.Provision(ctx); err != nil {
		tb.Fatal(err)
	}
	i := newTestInjector(tb, new(numberedTokens), api)
	if _, err := i.credential.acquire(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	h := &Handler{Credential: "api", credential: i.credential, logger: i.logger, clients: clientsOf("loopback")}
	i.setsHost = leaveHost(api, nil)
	h.Upstreams, h.Transport = upstreams(), i
	if err := h.Handler.Provision(ctx); err != nil {
		tb.Fatal(err)
	}
	server := new(caddyhttp.Server)
	return &contender{fixed, server, body}, &contender{h, server, body}
}

// emptyAPI is a transport that answers at once, after it has read the request.
type emptyAPI struct{}

func (emptyAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	return &http.Response{StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody}, nil
}

// encryptedAPI is emptyAPI behind a transport with TLS.
type encryptedAPI struct{ emptyAPI }

// RequestHeaderOps implements reverseproxy.RequestHeaderOpsTransport.
func (encryptedAPI) RequestHeaderOps() *headers.HeaderOps {
	return (&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}).RequestHeaderOps()
}

var loopbackConnection = testConn{remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000}}

func (c *contender) serve(tb testing.TB) {
	if err := c.tryServe(); err != nil {
		tb.Fatal(err)
	}
}

func (c *contender) tryServe() error {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/orders", nil)
	if c.body != "" {
		r = httptest.NewRequest(http.MethodPost, "http://127.0.0.1/orders", strings.NewReader(c.body))
	}
	r = r.WithContext(peer.WithSocket(r.Context(), loopbackConnection, loopbackConnection))
	r.Header.Set("User-Agent", "application")
	r.Header.Set("Accept", "application/json")
	w := discard{}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, c.server)
	return c.handler.ServeHTTP(w, r, nil)
}

// discard is a ResponseWriter.
type discard http.Header

func (d discard) Header() http.Header       { return http.Header(d) }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// bodies are the request bodies that handlers are measured with.
var bodies = map[string]string{"GET": "", "POST 1 KiB": strings.Repeat("x", 1<<10), "POST 64 KiB": strings.Repeat("x", 64<<10)}

// forEachLoad runs a test for each body, with and without TLS.
func forEachLoad(t *testing.T, run func(t *testing.T, static, proxy *contender)) {
	for scheme, api := range map[string]http.RoundTripper{"http": emptyAPI{}, "https": encryptedAPI{}} {
		for name, body := range bodies {
			t.Run(scheme+" "+name, func(t *testing.T) {
				static, proxy := newContendersBefore(t, body, api)
				run(t, static, proxy)
			})
		}
	}
}

// A request with a fresh token costs no more allocations than one with a static header.
func TestHandlerAllocations(t *testing.T) {
	forEachLoad(t, func(t *testing.T, static, proxy *contender) {
		count := func(c *contender) float64 { return testing.AllocsPerRun(1000, func() { c.serve(t) }) }
		if with, without := count(proxy), count(static); with > without {
			t.Errorf("%.0f allocations, reverse_proxy with a static header makes %.0f", with, without)
		}
	})
}

// A request with a fresh token allocates at most 1 KiB more than one with a static header, whether its body is kept or not.
func TestHandlerAllocatedBytes(t *testing.T) {
	caddytest.SkipRaceOfPools(t)
	const most = 1 << 10
	forEachLoad(t, func(t *testing.T, static, proxy *contender) {
		if with, without := allocatedBytes(t, proxy), allocatedBytes(t, static); with > without+most {
			t.Errorf("%d bytes, reverse_proxy with a static header allocates %d", with, without)
		}
	})
}

// allocatedBytes returns how many bytes a request allocates: the least of several measurements, because other goroutines
// allocate, too. The collector does not run, because it would empty the pools.
func allocatedBytes(t *testing.T, c *contender) uint64 {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const measurements, requests = 5, 500
	least := uint64(math.MaxUint64)
	for range measurements {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range requests {
			c.serve(t)
		}
		runtime.ReadMemStats(&after)
		least = min(least, (after.TotalAlloc-before.TotalAlloc)/requests)
	}
	return least
}

func BenchmarkHandler(b *testing.B) {
	for name, body := range bodies {
		b.Run(name, func(b *testing.B) {
			static, proxy := newContenders(b, body)
			b.Run("reverse_proxy", func(b *testing.B) { benchmarkContender(b, static) })
			b.Run("token_proxy", func(b *testing.B) { benchmarkContender(b, proxy) })
		})
	}
}

func benchmarkContender(b *testing.B, c *contender) {
	b.ReportAllocs()
	for b.Loop() {
		c.serve(b)
	}
}

// BenchmarkReplayBuffer is what it costs to keep a body while it is sent.
func BenchmarkReplayBuffer(b *testing.B) {
	for name, size := range map[string]int{"1 KiB": 1 << 10, "64 KiB": 64 << 10, "1 MiB, not kept": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			content, buffer := strings.Repeat("x", size), make([]byte, 32<<10)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				req := &http.Request{Body: io.NopCloser(strings.NewReader(content)), ContentLength: int64(size)}
				body := newReplayBody(req, defaultReplayBuffer)
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, body.first(), buffer)
				body.finish()
				body.discard()
			}
		})
	}
}
