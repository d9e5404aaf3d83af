package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// numberedTokens is a token.Fetcher that issues token-1, token-2, ….
type numberedTokens struct {
	calls    atomic.Int64
	lifetime time.Duration                             // default: 1 h
	long     bool                                      // 1111…, 2222…, instead
	before   func(ctx context.Context, call int) error // may fail the call
	prover   token.Prover                              // of the key that they are bound to; nil: they are not
}

func (n *numberedTokens) Fetch(ctx context.Context) (token.Issued, error) {
	call := int(n.calls.Add(1))
	if n.before != nil {
		if err := n.before(ctx, call); err != nil {
			return token.Issued{}, err
		}
	}
	lifetime := n.lifetime
	if lifetime == 0 {
		lifetime = time.Hour
	}
	value := fmt.Sprintf("token-%d", call)
	if n.long {
		value = strings.Repeat(fmt.Sprint(call), 20)
	}
	return token.Issued{Token: token.NewSecret(value), Lifetime: lifetime, DPoP: n.prover != nil, Prover: n.prover}, nil
}

func (n *numberedTokens) Prepare() token.Call {
	return token.Call{Proof: token.NewSecret(n.Proof()), Fetch: n.Fetch}
}

func (n *numberedTokens) Proof() string { return "" }

// roundTrip is a transport made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// apiResponse is a response of an API. Header fields are given as names and values in turn.
func apiResponse(status int, body string, header ...string) *http.Response {
	h := make(http.Header)
	for i := 0; i+1 < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

// newTestInjector is an injector around next, to 127.0.0.1:8080 only, with the default options.
func newTestInjector(t testing.TB, f token.Fetcher, next http.RoundTripper) *injector {
	t.Helper()
	c := &client{caller: caller{Credential: new(Credential), source: token.NewSource(token.Config{Fetcher: f})}, name: "api", logger: zap.NewNop(),
		status: status.New("api", nil, zap.NewNop())}
	if err := c.header.provision(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.source.Rest)
	d := &destinations{hosts: hostpattern.List{{Host: "127.0.0.1", Port: "8080"}}}
	return &injector{
		next:         next,
		destinations: d,
		route:        &route{destinations: d},
		credential:   c,
		rejected:     []int{http.StatusUnauthorized},
		replay:       true,
		replayBuffer: defaultReplayBuffer,
		logger:       zap.NewNop(),
	}
}

// asProxied gives a request what reverse_proxy and the handler give it: a dial address and a lease.
func asProxied(t testing.TB, i *injector, req *http.Request, host string) *http.Request {
	t.Helper()
	lease, err := i.credential.source.Acquire(req.Context())
	if err != nil {
		t.Fatal(err)
	}
	return req.WithContext(dialing(&proxied{Context: req.Context(), lease: lease}, host))
}

// dialing is the context in which reverse_proxy's transport dials host, on port 8080.
func dialing(ctx context.Context, host string) context.Context {
	di := reverseproxy.DialInfo{Network: "tcp", Address: net.JoinHostPort(host, "8080"), Host: host, Port: "8080"}
	return context.WithValue(ctx, caddy.CtxKey("reverse_proxy.dial_info"), di)
}

// outbound is a request as reverse_proxy makes it, with so many header fields.
func outbound(method string, body io.Reader, fields int) *http.Request {
	req := httptest.NewRequest(method, "/orders?page=2", body)
	req.RequestURI = ""
	req.Header = make(http.Header)
	for i := range fields {
		req.Header.Set(fmt.Sprintf("X-Field-%d", i), "value")
	}
	return req
}

func credentialOf(req *http.Request) string {
	return strings.Join(req.Header.Values("Authorization"), " and ")
}

func TestInjectorPutsTheTokenOnACopy(t *testing.T) {
	var sent *http.Request
	i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
		sent = req
		return apiResponse(200, "ok"), nil
	}))
	req := asProxied(t, i, outbound(http.MethodGet, nil, 3), "127.0.0.1")
	req.Header.Set("Authorization", "Bearer of-the-operator")
	before := maps.Clone(req.Header)
	if _, err := i.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if got := credentialOf(sent); got != "Bearer token-1" {
		t.Errorf("the transport got the credential %q", got)
	}
	if !reflect.DeepEqual(req.Header, before) {
		t.Errorf("the request itself was changed: %v", req.Header)
	}
	sent.Header.Set("X-Later", "by the transport")
	sent.Header.Del("X-Field-1")
	if !reflect.DeepEqual(req.Header, before) {
		t.Error("the copy shares its header map with the request")
	}
	want := *req.URL
	want.Scheme, want.Host = "http", "127.0.0.1:8080"
	if *sent.URL != want || sent.Context() != req.Context() || sent.Method != req.Method {
		t.Error("the copy differs in more than its header")
	}
}

// Health checks: they may go elsewhere than tokens, but the connection that they leave is known by where it goes.
func TestInjectorSendsHealthChecksWithoutAToken(t *testing.T) {
	var sent *http.Request
	tokens := new(numberedTokens)
	i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
		sent = req
		return apiResponse(401, "no", "WWW-Authenticate", `Bearer error="invalid_token"`), nil
	}))
	req := outbound(http.MethodGet, nil, 3).WithContext(dialing(t.Context(), "elsewhere.example"))
	res, err := i.RoundTrip(req)
	if err != nil || res.StatusCode != 401 {
		t.Fatalf("got %v, %v", res, err)
	}
	if !reflect.DeepEqual(sent.Header, req.Header) || len(req.Header) != 3 || sent.URL.Host != "elsewhere.example:8080" {
		t.Errorf("the request was changed: %s %v", sent.URL, sent.Header)
	}
	if n := tokens.calls.Load(); n != 0 {
		t.Errorf("%d token calls", n)
	}
}

func TestInjectorSendsNoHealthCheckInADatagram(t *testing.T) {
	i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
		t.Errorf("the transport got %s", req.URL)
		return apiResponse(200, ""), nil
	}))
	di := reverseproxy.DialInfo{Network: "udp", Address: "127.0.0.1:8080", Host: "127.0.0.1", Port: "8080"}
	ctx := context.WithValue(t.Context(), caddy.CtxKey("reverse_proxy.dial_info"), di)
	if _, err := i.RoundTrip(outbound(http.MethodGet, nil, 0).WithContext(ctx)); !errors.Is(err, errNetwork) {
		t.Errorf("got %v", err)
	}
}

// A request that keeps the application's own credential gets no token, and may go where a token may go.
func TestInjectorJudgesRequestsThatKeepTheirCredentials(t *testing.T) {
	var sent *http.Request
	tokens := new(numberedTokens)
	i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
		sent = req
		return apiResponse(401, "no", "WWW-Authenticate", `Bearer error="invalid_token"`), nil
	}))
	keeping := func(host string) *http.Request {
		req := outbound(http.MethodGet, nil, 0)
		req.Header.Set("Authorization", "Bearer of-the-application")
		return req.WithContext(dialing(&proxied{Context: t.Context(), keeps: true}, host))
	}
	wantRefusal(t, i, keeping("elsewhere.example"), 502)
	if sent != nil {
		t.Errorf("the transport got %s", sent.URL)
	}
	res, err := i.RoundTrip(keeping("127.0.0.1"))
	if err != nil || res.StatusCode != 401 || credentialOf(sent) != "Bearer of-the-application" {
		t.Errorf("got %v, %v and sent %v", res, err, sent.Header)
	}
	if n := tokens.calls.Load(); n != 0 {
		t.Errorf("%d token calls", n)
	}
}

// refusalOf is the status of the problem that the injector has left for the handler; 0 if there is none.
func refusalOf(req *http.Request) int {
	if denial := req.Context().Value(proxiedKey{}).(*proxied).denial; denial != nil {
		return denial.status
	}
	return 0
}

// wantRefusal calls the injector with a request that it must refuse. reverse_proxy does not count context.Canceled as
// a failure of the upstream, and does not try again after it.
func wantRefusal(t *testing.T, i *injector, req *http.Request, status int) {
	t.Helper()
	res, err := i.RoundTrip(req)
	if res != nil || !errors.Is(err, context.Canceled) || refusalOf(req) != status {
		t.Errorf("%s: got %v, %v and the refusal %d, want %d", req.Method, res, err, refusalOf(req), status)
	}
}

func TestInjectorRefusesWithoutTheTransport(t *testing.T) {
	i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
		t.Errorf("the transport got %s to %s", req.Method, req.URL)
		return nil, errors.New("never")
	}))
	for _, tc := range []struct {
		method, host string
		status       int
	}{
		{http.MethodPost, "elsewhere.example", 502},
		{http.MethodPost, "127.0.0.2", 502},
		{http.MethodTrace, "127.0.0.1", 405},
		{http.MethodConnect, "127.0.0.1", 405},
	} {
		body := &closeCounter{Reader: strings.NewReader("body")}
		wantRefusal(t, i, asProxied(t, i, outbound(tc.method, body, 1), tc.host), tc.status)
		if body.closed.Load() == 0 { // as http.RoundTripper demands
			t.Errorf("%s to %s: the body was not closed", tc.method, tc.host)
		}
	}
	// Without any dial address there is nothing that could be allowed.
	req := asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1")
	bare := context.WithValue(context.Background(), proxiedKey{}, req.Context().Value(proxiedKey{}))
	wantRefusal(t, i, req.WithContext(bare), 502)
}

// What was refused once, such as a placeholder's first upstream, says nothing about the next attempt.
func TestRefusalDoesNotOutliveItsAttempt(t *testing.T) {
	i := newTestInjector(t, new(numberedTokens), roundTrip(func(*http.Request) (*http.Response, error) {
		return apiResponse(200, ""), nil
	}))
	req := asProxied(t, i, outbound(http.MethodGet, nil, 1), "elsewhere.example")
	wantRefusal(t, i, req, 502)
	req = req.WithContext(dialing(req.Context(), "127.0.0.1"))
	if res, err := i.RoundTrip(req); err != nil || res.StatusCode != 200 || refusalOf(req) != 0 {
		t.Errorf("got %v, %v and the refusal %d", res, err, refusalOf(req))
	}
}

type closeCounter struct {
	io.Reader
	closed atomic.Int64
}

func (c *closeCounter) Close() error {
	c.closed.Add(1)
	return nil
}

func TestInjectorPassesErrorsOn(t *testing.T) {
	failure := errors.New("the transport's own")
	tokens := new(numberedTokens)
	i := newTestInjector(t, tokens, roundTrip(func(*http.Request) (*http.Response, error) { return nil, failure }))
	req := asProxied(t, i, outbound(http.MethodPost, strings.NewReader("x"), 1), "127.0.0.1")
	if res, err := i.RoundTrip(req); res != nil || err != failure {
		t.Errorf("got %v, %v", res, err)
	}
	if n := tokens.calls.Load(); n != 1 {
		t.Errorf("%d token calls", n)
	}
}

// The header field is made once for a token and shared: it must never be another token's.
func TestInjectorKeepsTokensApart(t *testing.T) {
	var wrong atomic.Int64
	i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
		if credentialOf(req) != "Bearer "+req.Header.Get("X-Want") {
			wrong.Add(1)
		}
		return apiResponse(200, ""), nil
	}))
	var leases []token.Lease
	for range 3 {
		lease, err := token.NewSource(token.Config{Fetcher: &numberedTokens{}}).Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease)
	}
	first, err := i.credential.source.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first.Rejected(token.Certain)
	second, ok := first.Another(t.Context())
	if !ok {
		t.Fatal("no second token")
	}
	leases = append(leases, first, second) // all but the last have the same text
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := range 50 {
				lease := leases[(worker+n)%len(leases)]
				ctx := &proxied{Context: dialing(t.Context(), "127.0.0.1"), lease: lease}
				req := outbound(http.MethodGet, nil, 1).WithContext(ctx)
				req.Header.Set("X-Want", lease.Value().Reveal())
				if _, err := i.RoundTrip(req); err != nil {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d requests carried another token than their own", n)
	}
}

// reverse_proxy calls the transport again while it tries upstreams, which may outlast the token.
func TestRetryOfReverseProxyGetsALiveToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		dialError := errors.New("connection refused")
		tokens := &numberedTokens{lifetime: 10 * time.Second}
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, credentialOf(req))
			return nil, dialError
		}))
		req := asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1")
		for _, wait := range []time.Duration{0, 5 * time.Second, 6 * time.Second, time.Second} {
			<-time.After(wait)
			beginAttempt(i, req)
			if _, err := i.RoundTrip(req); err != dialError {
				t.Fatal(err)
			}
		}
		if want := []string{"Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2"}; !reflect.DeepEqual(sent, want) {
			t.Errorf("sent %q, want %q", sent, want)
		}
	})
}

// beginAttempt does what reverse_proxy does before each attempt.
func beginAttempt(i *injector, req *http.Request) {
	(&attempts{credential: i.credential}).begin(req.Context().Value(proxiedKey{}).(*proxied), req)
}

// When there is no other token by then, the answer is the same as if there had been none in the first place.
func TestRetryOfReverseProxyWithoutALiveToken(t *testing.T) {
	for _, tc := range []struct {
		kind   token.Kind
		status int
	}{
		{token.Unavailable, 503}, {token.Refused, 502}, {token.Unreadable, 502},
	} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			tokens := &numberedTokens{lifetime: 10 * time.Second, before: func(_ context.Context, call int) error {
				if call > 1 {
					return &token.Error{Kind: tc.kind, Reason: "test"}
				}
				return nil
			}}
			i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
				attempts++
				return nil, errors.New("connection refused")
			}))
			req := asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1")
			beginAttempt(i, req)
			_, _ = i.RoundTrip(req)
			<-time.After(time.Minute)
			beginAttempt(i, req)
			wantRefusal(t, i, req, tc.status)
			if attempts != 1 {
				t.Errorf("%s: %d attempts: an expired token was sent", tc.kind, attempts)
			}
		})
	}
}

// A token with no life left serves the request that waited for it (a Doorkeeper server answers so).
func TestFirstTryUsesTheTokenJustAcquired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		tokens := &numberedTokens{lifetime: time.Nanosecond}
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, credentialOf(req))
			return apiResponse(200, ""), nil
		}))
		req := asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1")
		<-time.After(time.Microsecond)
		beginAttempt(i, req)
		if _, err := i.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if len(sent) != 1 || sent[0] != "Bearer token-1" {
			t.Errorf("sent %q", sent)
		}
	})
}

// askable is a transport with all that reverse_proxy asks a transport at run time.
type askable struct {
	roundTrip
	ops *headers.HeaderOps
}

func (a askable) RequestHeaderOps() *headers.HeaderOps { return a.ops }
func (askable) ProxyProtocolEnabled() bool             { return true }
func (askable) RequiresContentLength() bool            { return true }
func (askable) OverrideHealthCheckScheme(base *url.URL, port string) {
	base.Scheme = "scheme-for-" + port
}

func TestInjectorHandsOptionalInterfacesOn(t *testing.T) {
	ops := &headers.HeaderOps{Set: http.Header{"Host": {"x"}}}
	u := &url.URL{Scheme: "http"}
	i := &injector{next: askable{ops: ops}}
	i.OverrideHealthCheckScheme(u, "8443")
	if i.RequestHeaderOps() != ops || !i.ProxyProtocolEnabled() || !i.RequiresContentLength() || u.Scheme != "scheme-for-8443" {
		t.Errorf("the transport was not asked: %v %t %t %s", i.RequestHeaderOps(), i.ProxyProtocolEnabled(), i.RequiresContentLength(), u.Scheme)
	}
	u = &url.URL{Scheme: "http"}
	i = &injector{next: roundTrip(nil)}
	i.OverrideHealthCheckScheme(u, "8443")
	if i.RequestHeaderOps() != nil || i.ProxyProtocolEnabled() || i.RequiresContentLength() || u.Scheme != "http" {
		t.Error("a transport that cannot be asked has answered")
	}
}

// The handler's own answers, by cause, where only a unit test can bring the cause about.
func TestHandlerAnswersForTheRequestsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := &numberedTokens{before: func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return &token.Error{Kind: token.Unavailable, Reason: "test"}
		}}
		i := newTestInjector(t, waiting, roundTrip(nil))
		h := &Handler{Credential: "api", credential: i.credential, clients: clientsOf("any"), logger: zap.NewNop()}

		deadline, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(deadline), nil); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusGatewayTimeout || w.Header().Get("Proxy-Status") != "token-proxy; error=http_response_timeout" {
			t.Errorf("after the request's own deadline: %d %v", w.Code, w.Header())
		}

		gone, leave := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, leave)
		w = httptest.NewRecorder()
		if err := h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(gone), nil); err != nil {
			t.Fatal(err)
		}
		if w.Code != 499 || w.Body.Len() != 0 {
			t.Errorf("for a client that has left: %d %s", w.Code, w.Body)
		}
		synctest.Wait()
		if n := waiting.calls.Load(); n != 1 {
			t.Errorf("%d token calls: the flight ended with the request that started it", n)
		}
		<-time.After(time.Minute) // the flight's own end
	})
}

// The peer's address decides, before anything is fetched; one warning a minute names the option.
func TestHandlerRefusesRemoteClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(numberedTokens)
		i := newTestInjector(t, tokens, roundTrip(nil))
		var warnings []string
		logger := zap.NewNop().WithOptions(zap.WrapCore(func(zapcore.Core) zapcore.Core {
			return zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(writerFunc(func(line []byte) {
				warnings = append(warnings, string(line))
			})), zapcore.WarnLevel)
		}))
		h := &Handler{
			Credential: "api", credential: i.credential, clients: clientsOf("loopback"),
			logger: logger, warnings: newWarnings(logger, "api"),
		}
		refuse := func() {
			t.Helper()
			r := peerRequest("203.0.113.9:4711", "tcp")
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
			w := httptest.NewRecorder()
			if err := h.ServeHTTP(w, r, nil); err != nil || w.Code != http.StatusForbidden {
				t.Errorf("got %d, %v", w.Code, err)
			}
		}
		for range 100 {
			refuse()
		}
		if n := len(warnings); n != 1 || !strings.Contains(warnings[0], "clients") {
			t.Errorf("100 refusals gave the warnings %q", warnings)
		}
		<-time.After(warnInterval + time.Second)
		refuse()
		if n := len(warnings); n != 2 {
			t.Errorf("%d warnings after a minute, want 2", n)
		}
		if n := tokens.calls.Load(); n != 0 {
			t.Errorf("%d tokens were fetched for clients that may not have one", n)
		}
	})
}

// writerFunc is a writer made of a function.
type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// serveHTTPS is a configuration for serveHTTP: TLS with HTTP/2.
func serveHTTPS(srv *httptest.Server) {
	srv.EnableHTTP2 = true
	srv.TLS = new(tls.Config)
}

// trusting is a transport block that trusts the server's certificate.
func trusting(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return "transport http {\n tls\n tls_trust_pool file " + file + "\n}\n"
}

// Pitfall 5.23: active health checks use the same transport, and go wherever the operator sends them.
func TestActiveHealthChecksCarryNoToken(t *testing.T) {
	tests := []struct {
		name      string
		configure func(*httptest.Server)
		proto     string
		elsewhere string // "port" or "upstream": a server of its own gets the checks
	}{
		{"HTTP/1.1", func(*httptest.Server) {}, "HTTP/1.1", ""},
		{"h2c", serveH2C, "HTTP/2.0", ""},
		{"HTTPS with HTTP/2", serveHTTPS, "HTTP/2.0", ""},
		{"unix socket", onSocket(t, filepath.Join(t.TempDir(), "api.sock")), "HTTP/1.1", ""},
		{"health_port", func(*httptest.Server) {}, "HTTP/1.1", "port"},
		{"health_upstream", func(*httptest.Server) {}, "HTTP/1.1", "upstream"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			api := newRecordingAPI(t, nil, tc.configure)
			checked := api
			options := "health_uri /health\n health_interval 5ms\n"
			if tc.elsewhere != "" {
				checked = newRecordingAPI(t, nil)
				options += "health_" + tc.elsewhere + " " + map[string]string{
					"port": portOfURL(t, checked.URL), "upstream": checked.addr()}[tc.elsewhere] + "\n"
			}
			upstream := api.URL
			switch tc.name {
			case "h2c":
				upstream = "h2c://" + api.addr()
			case "unix socket":
				upstream = "unix/" + api.addr()
			}
			if api.TLS != nil {
				options += trusting(t, api.Server)
			}
			_, base := startProxy(t, tokens.credential("api", "header X-Api-Key"), "token_proxy api "+upstream+" {\n"+options+"}")

			checks := func() (n int) {
				for _, r := range checked.received() {
					if r.URI == "/health" {
						n++
					}
				}
				return n
			}
			eventually(t, "a health check", func() bool { return checks() > 0 })
			if n := tokens.Calls(); n != 0 {
				t.Errorf("health checks cost %d token calls", n)
			}
			get(t, base+"/order").wantStatus(t, 200)
			before := checks()
			eventually(t, "health checks while there is a token", func() bool { return checks() > before+1 })
			orders := 0
			for _, r := range append(api.received(), checked.received()...) {
				carries := r.Header.Get("X-Api-Key") != "" || r.Header.Get("Authorization") != ""
				switch r.URI {
				case "/health":
					if carries {
						t.Fatalf("a health check carries a credential: %v", r.Header)
					}
				case "/order":
					orders++
					if !carries {
						t.Errorf("the request carries no token: %v", r.Header)
					}
				}
				if r.Proto != tc.proto || r.TLS != (api.TLS != nil) {
					t.Errorf("%s came over %s, TLS %t", r.URI, r.Proto, r.TLS)
				}
			}
			if orders == 0 {
				t.Error("the request did not arrive")
			}
		})
	}
}

// For an https upstream, reverse_proxy sets Host to the upstream's by default: the transport must be asked for that.
func TestHostOfHTTPSUpstream(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP, serveHTTPS)
	transport := trusting(t, api.Server)
	_, base := startProxy(t, tokens.credential("api"),
		"token_proxy /default api "+api.URL+" {\n"+transport+"}\n"+
			"token_proxy /client api "+api.URL+" {\n"+transport+"header_up Host {host}\n}\n")
	get(t, base+"/default").wantStatus(t, 200)
	req := newRequest(t, http.MethodGet, base+"/client", nil)
	req.Host = "app.example"
	ask(t, testClient(t), req).wantStatus(t, 200)
	got := api.received()
	if got[0].Host != api.addr() || got[1].Host != "app.example" {
		t.Errorf("the API got the hosts %q and %q, want %q and app.example", got[0].Host, got[1].Host, api.addr())
	}
}

// A certificate that does not prove the host ends the matter: nothing is sent.
func TestHTTPSUpstreamThatCannotProveItsName(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, nil, serveHTTPS)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	if a := get(t, base); a.StatusCode != 502 || a.Header.Get("Proxy-Status") != "" {
		t.Errorf("got %d %v: this is the upstream's failure, not ours", a.StatusCode, a.Header)
	}
	if n := len(api.received()); n != 0 {
		t.Errorf("an upstream that is not trusted got %d requests", n)
	}
}

// With proxy_protocol, reverse_proxy keeps a connection for each client apart: it must learn that it is on.
func TestProxyProtocolReachesTheUpstream(t *testing.T) {
	tokens := newTokenServer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type arrival struct{ line, credential string }
	arrived := make(chan arrival, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // keeps the connection open, so that another client's request could take it
				defer conn.Close()
				r := bufio.NewReader(conn)
				line, _ := r.ReadString('\n')
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					arrived <- arrival{strings.TrimSpace(line), credentialOf(req)}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			}()
		}
	}()
	_, base := startProxy(t, tokens.credential("api"),
		"token_proxy api "+l.Addr().String()+" {\n transport http {\n proxy_protocol v1\n}\n}")
	for _, client := range []string{"127.0.0.1", "127.0.0.2"} {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
		conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v, %v", res, err)
		}
		got := wantReceived(t, "the request", arrived)
		if !strings.HasPrefix(got.line, "PROXY TCP4 "+client+" ") {
			t.Errorf("the upstream was told %q of the client %s", got.line, client)
		}
		if !strings.HasPrefix(got.credential, "Bearer ") {
			t.Errorf("the upstream got the credential %q", got.credential)
		}
	}
}

// Pitfall 6.1: the fastcgi transport logs the header that it sends, so that a token cannot go through it.
func TestFastCGITransportIsRefused(t *testing.T) {
	s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
	err := s.load(globalOptions(credentialConfig("api", "http://"+freeAddr(t), newClientID())) +
		siteConfig(freeAddr(t), "token_proxy api 127.0.0.1:9000 {\n transport fastcgi\n}"))
	if err == nil {
		defer caddy.Stop()
	}
	if err == nil || !strings.Contains(err.Error(), "fastcgi") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// Whatever is turned on, the token shows nowhere but at the API. (Caddy redacts Authorization unless log_credentials
// is on, and never a custom header.)
func TestTokenShowsNowhere(t *testing.T) {
	for _, header := range []string{"Authorization", "X-Api-Key"} {
		t.Run(header, func(t *testing.T) {
			tokens := newTokenServer(t)
			var refuse atomic.Bool
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if refuse.CompareAndSwap(true, false) {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("Content-Type", "text/html")
				_ = http.NewResponseController(w).Flush() // without a length, since handlers replace the body
				_, _ = io.WriteString(w, `{{.Req.Header}} {{.Req.Trailer}} {{placeholder "http.request.header.`+header+`"}} {{placeholder "http.vars.token"}}`)
			})
			const nosy = `"{http.request.header.Authorization} {http.request.header.X-Api-Key} {http.vars.token} {http.token_proxy.token} {http.reverse_proxy.header.Authorization} {rp.header.X-Api-Key} {http.request.orig_header.Authorization} {args}"`
			addr := freeAddr(t)
			s := startCaddy(t, "{\n debug\n servers {\n log_credentials\n}\n token_proxy {\n"+tokens.credential("api", "header "+header)+"}\n}\n"+
				siteConfig(addr, `
					log
					log_append leak `+nosy+`
					route /template {
						templates
						token_proxy api `+api.URL+`
					}
					route /handle {
						token_proxy api `+api.URL+` {
							handle_response {
								header X-Leak `+nosy+`
								respond `+nosy+`
							}
						}
					}
					route /intercept {
						intercept {
							handle_response {
								respond `+nosy+`
							}
						}
						token_proxy api `+api.URL+`
					}
					token_proxy /down api 127.0.0.1:1 {
						lb_retries 1
					}
					token_proxy api `+api.URL+` {
						header_up X-Leak `+nosy+`
						header_down X-Leak `+nosy+`
						verbose_logs
					}`))
			places := make(map[string]string)
			for _, path := range []string{"/", "/template", "/handle", "/intercept", "/down", "/replayed"} {
				refuse.Store(path == "/replayed")
				places["the answer to "+path] = wholeAnswer(get(t, "http://"+addr+path))
			}
			eventually(t, "the access log", func() bool { return len(s.logged("handled request")) == 6 })
			places["the log"] = s.logs()
			if n := tokens.Calls(); n != 2 {
				t.Errorf("%d token calls: the replay did not get another token", n)
			}
			seen := make(map[string]bool)
			for _, r := range api.received() {
				value := strings.TrimPrefix(r.Header.Get(header), "Bearer ")
				if leak := r.Header.Get("X-Leak"); strings.Contains(leak, value) {
					t.Errorf("header_up could see the token: %s", leak)
				}
				seen[value] = true
			}
			if len(seen) != 2 || seen[""] {
				t.Fatalf("the API saw %d tokens", len(seen))
			}
			for value := range seen {
				wantNowhere(t, "a token", value, places)
			}
			var roundtrips int
			for _, entry := range s.logged("upstream roundtrip") {
				request, _ := json.Marshal(entry["request"])
				if strings.Contains(string(request), `"headers"`) {
					roundtrips++
				}
			}
			if roundtrips < 6 {
				t.Errorf("only %d round trips were logged: this test does not see what it should", roundtrips)
			}
		})
	}
}

// The API's answers go through the operator's response handlers as with reverse_proxy, after the replay.
func TestResponseHandlersSeeTheLastAnswer(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.guarded(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, "from the API")
	}))
	_, base := startProxy(t, tokens.credential("api"), `
		token_proxy api `+api.URL+` {
			@missing status 404
			handle_response @missing {
				respond "not there" 410
			}
			@unauthorized status 401
			handle_response @unauthorized {
				respond "refused" 418
			}
		}`)
	get(t, base).wantStatus(t, 200)
	tokens.revokeAll()
	a := get(t, base)
	if a.wantStatus(t, 200); a.body != "from the API" {
		t.Errorf("got %q", a.body)
	}
	if a := get(t, base+"/missing"); a.StatusCode != 410 || a.body != "not there" {
		t.Errorf("got %d %q", a.StatusCode, a.body)
	}
	if n := len(api.received()); n != 4 {
		t.Errorf("the API got %d requests, want 4", n)
	}
}

// benchmarkRequest returns an injector around a transport that does nothing, and a request for it.
func benchmarkRequest(tb testing.TB, fields int, body bool) (i *injector, bare http.RoundTripper, req *http.Request) {
	response := &http.Response{StatusCode: 200, Body: http.NoBody}
	bare = roundTrip(func(*http.Request) (*http.Response, error) { return response, nil })
	i = newTestInjector(tb, new(numberedTokens), bare)
	method, content := http.MethodGet, io.Reader(nil)
	if body {
		method, content = http.MethodPost, io.NopCloser(strings.NewReader("{}"))
	}
	return i, bare, asProxied(tb, i, outbound(method, content, fields), "127.0.0.1")
}

// The price of the token on a request of 7 fields, beyond the bare transport: the request, its header map, and that
// map's storage.
func TestInjectionAllocations(t *testing.T) {
	i, bare, req := benchmarkRequest(t, 7, false)
	count := func(rt http.RoundTripper) float64 {
		return testing.AllocsPerRun(1000, func() {
			if _, err := rt.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		})
	}
	if extra := count(i) - count(bare); extra > 3 {
		t.Errorf("the injection costs %.0f allocations, want 3 at most", extra)
	}
}

func BenchmarkInjection(b *testing.B) {
	for _, bench := range []struct {
		name   string
		fields int
		body   bool
	}{
		{"7 fields", 7, false}, {"12 fields", 12, false}, {"20 fields", 20, false}, {"7 fields and a body", 7, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			i, bare, req := benchmarkRequest(b, bench.fields, bench.body)
			b.Run("bare", func(b *testing.B) { benchmarkRoundTrip(b, bare, req) })
			b.Run("injected", func(b *testing.B) { benchmarkRoundTrip(b, i, req) })
		})
	}
}

// BenchmarkInjectionOfBoundToken is what a proof adds to BenchmarkInjection: its signature, most of all.
func BenchmarkInjectionOfBoundToken(b *testing.B) {
	key, err := dpop.Generate(dpop.DefaultAlg)
	if err != nil {
		b.Fatal(err)
	}
	bare := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	i := newTestInjector(b, &numberedTokens{prover: new(dpop.Client).ForAPI(key)}, bare)
	benchmarkRoundTrip(b, i, asProxied(b, i, outbound(http.MethodGet, nil, 7), "127.0.0.1"))
}

func benchmarkRoundTrip(b *testing.B, rt http.RoundTripper, req *http.Request) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rt.RoundTrip(req); err != nil {
			b.Fatal(err)
		}
	}
}

// brokenBody is the body of an answer that quotes something in its errors.
type brokenBody struct{ quote string }

func (b brokenBody) Read([]byte) (int, error) { return 0, fmt.Errorf("malformed trailer %q", b.quote) }
func (b brokenBody) Close() error             { return fmt.Errorf("malformed trailer %q", b.quote) }

// Errors that quote the token are replaced wherever they come up, and so are those with the token of an earlier request,
// which the upstream may send back late. Others stay.
func TestInjectorHidesTokensInErrors(t *testing.T) {
	quote := ""
	i := newTestInjector(t, &numberedTokens{long: true}, roundTrip(func(*http.Request) (*http.Response, error) {
		res := apiResponse(200, "")
		res.Body = brokenBody{quote}
		return res, nil
	}))
	send := func() error {
		t.Helper()
		res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = res.Body.Read(make([]byte, 1))
		if closing := res.Body.Close(); closing == nil || (closing == errEcho) != (err == errEcho) {
			t.Errorf("reading ended with %v, closing with %v", err, closing)
		}
		return err
	}
	quote = "an answer"
	if err := send(); err == nil || !strings.Contains(err.Error(), quote) {
		t.Errorf("got %v, want the transport's own", err)
	}
	first, err := i.credential.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	quote = "in front of " + first.Value().Reveal()
	if err := send(); err != errEcho {
		t.Errorf("got %v", err)
	}
	first.Rejected(token.Certain)
	if _, ok := first.Another(t.Context()); !ok {
		t.Fatal("no second token")
	}
	if err := send(); err != errEcho {
		t.Errorf("got %v, with the token before", err)
	}
}

// A connection that a WebSocket has taken over is handed on as it is.
func TestInjectorLeavesConnectionsAlone(t *testing.T) {
	conn := struct {
		io.ReadWriteCloser
	}{}
	for name, body := range map[string]io.ReadCloser{"connection": conn, "no body": http.NoBody} {
		i := newTestInjector(t, new(numberedTokens), roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 101, Body: body}, nil
		}))
		res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1"))
		if err != nil || res.Body != body {
			t.Errorf("%s: got %v, %v", name, res, err)
		}
	}
}

// The injector's own denial of a method is counted, as the handler's is.
func TestInjectorCountsDeniedMethods(t *testing.T) {
	i := newTestInjector(t, new(numberedTokens), emptyAPI{})
	before := i.credential.status.CountDenied(status.DeniedMethod)
	wantRefusal(t, i, asProxied(t, i, outbound(http.MethodTrace, nil, 1), "127.0.0.1"), 405)
	if n := i.credential.status.CountDenied(status.DeniedMethod) - before; n != 1 {
		t.Errorf("%d denials are counted, want 1", n)
	}
}
