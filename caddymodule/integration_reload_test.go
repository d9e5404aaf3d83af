package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func init() {
	caddy.RegisterModule(failingApp{})
}

// failingApp is another app that spoils a configuration, as late as can be: Caddy starts apps in no particular order,
// so that token_proxy may have been started before.
type failingApp struct{}

func (failingApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "fails_to_start", New: func() caddy.Module { return new(failingApp) }}
}

func (failingApp) Start() error { return errors.New("this app never starts") }
func (failingApp) Stop() error  { return nil }

// exchange is one request of an application and what came of it.
type exchange struct {
	id, method string
	body       int // bytes
	start, end time.Time
	answer     clientAnswer
	err        error
}

// failure says why an exchange is not what the application wanted, or nothing.
func (x exchange) failure() string {
	switch {
	case x.err != nil:
		return fmt.Sprintf("%s %s: %v", x.method, x.id, x.err)
	case x.answer.StatusCode != http.StatusOK:
		return fmt.Sprintf("%s %s: status %d, Proxy-Status %q, %s",
			x.method, x.id, x.answer.StatusCode, x.answer.Header.Get("Proxy-Status"), x.answer.body)
	}
	var echo devserver.Echo
	if err := json.Unmarshal([]byte(x.answer.body), &echo); err != nil || echo.Method != x.method || echo.BodyBytes != int64(x.body) {
		return fmt.Sprintf("%s %s with %d bytes: the API got %+v, %v", x.method, x.id, x.body, echo, err)
	}
	return ""
}

// traffic is applications that send one request after the other: some over a connection that they keep, some over a
// new one each time, some with a body.
type traffic struct {
	url    string
	bodies []int          // their sizes; 0: none. Default: one without, one of 1000 bytes
	pace   time.Duration  // between two requests of one application; 0: none
	judge  func(exchange) // called by many goroutines

	sent   atomic.Int64
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// start sends requests until stop is called, from n applications of each kind.
func (f *traffic) start(n int) {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(context.Background())
	bodies := f.bodies
	if bodies == nil {
		bodies = []int{0, 1000}
	}
	for range n {
		for _, fresh := range []bool{false, true} {
			for _, body := range bodies {
				f.group.Go(func() { f.send(ctx, fresh, body) })
			}
		}
	}
}

// stop lets the requests that are under way end.
func (f *traffic) stop() {
	f.cancel()
	f.group.Wait()
}

// await waits until n more requests have been answered, so that some were under way all the time.
func (f *traffic) await(t *testing.T, n int64) {
	t.Helper()
	n += f.sent.Load()
	eventually(t, "the traffic to go on", func() bool { return f.sent.Load() >= n })
}

func (f *traffic) send(ctx context.Context, fresh bool, body int) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: fresh}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		f.judge(f.once(client, body))
		f.sent.Add(1)
		if f.pace > 0 {
			select {
			case <-time.After(f.pace):
			case <-ctx.Done():
			}
		}
	}
}

// exchangeNumber makes the names of requests unique.
var exchangeNumber atomic.Int64

// once sends one request. If its connection breaks it is sent again, since Caddy's reload breaks some: the kernel
// resets what waits at the listener that is closed, and net/http drops a request that it has read when it has been told
// to shut down. No handler has seen those; whether one has can be told at the API, to which each may come but once.
func (f *traffic) once(client *http.Client, body int) exchange {
	x := exchange{id: fmt.Sprint(exchangeNumber.Add(1)), method: http.MethodGet, body: body, start: time.Now()}
	for tries := 1; ; tries++ {
		var content io.Reader
		if body > 0 {
			x.method, content = http.MethodPost, strings.NewReader(strings.Repeat("x", body))
		}
		req, err := http.NewRequest(x.method, f.url, content)
		if err != nil {
			panic(err)
		}
		req.Header.Set("X-Request-Id", x.id)
		req.Header.Set("X-Request-Start", strconv.FormatInt(time.Now().UnixNano(), 10))
		x.answer, x.err = tryAsk(client, req)
		if !connectionBroke(x.err) || tries == 10 {
			x.end = time.Now()
			return x
		}
	}
}

// connectionBroke reports whether there was no answer because there was no connection any more. What begins and does
// not end is not meant: a part of an answer has come from a handler.
func connectionBroke(err error) bool {
	failed, ok := errors.AsType[*url.Error](err)
	if !ok {
		return false
	}
	if strings.HasSuffix(failed.Error(), "server closed idle connection") { // net/http does not export it
		return true
	}
	return slices.ContainsFunc([]error{io.EOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE}, func(broken error) bool {
		return errors.Is(failed, broken)
	})
}

// onceAPI counts how often each request arrives.
type onceAPI struct {
	*devserver.API
	mu       sync.Mutex
	arrivals map[string]int
}

func newOnceAPI(r *devserver.Registry) *onceAPI {
	return &onceAPI{API: &devserver.API{Registry: r}, arrivals: make(map[string]int)}
}

func (a *onceAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.arrivals[r.Header.Get("X-Request-Id")]++
	a.mu.Unlock()
	a.API.ServeHTTP(w, r)
}

// check fails the test unless all requests of the traffic have arrived, and none of them twice.
func (a *onceAPI) check(t *testing.T, f *traffic) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if int64(len(a.arrivals)) != f.sent.Load() {
		t.Errorf("%d requests were sent, and %d arrived", f.sent.Load(), len(a.arrivals))
	}
	for id, n := range a.arrivals {
		if n != 1 {
			t.Errorf("request %q arrived %d times", id, n)
		}
	}
}

// wantNoPanic fails if the log tells of a panic: net/http survives those of handlers.
func (s *caddyServer) wantNoPanic() {
	s.t.Helper()
	if i := strings.Index(s.logs(), "panic"); i >= 0 {
		s.t.Errorf("the log tells of a panic: …%.2000s", s.logs()[i:])
	}
}

// served makes every exchange that fails fail the test, up to ten of them.
func served(t *testing.T) func(exchange) {
	var failures atomic.Int64
	return func(x exchange) {
		if why := x.failure(); why != "" && failures.Add(1) <= 10 {
			t.Error(why)
		}
	}
}

// poolReferences returns how often the loaded configurations use each source.
func poolReferences() map[string]int {
	var keys []token.Key
	sources.Range(func(key, _ any) bool {
		keys = append(keys, key.(token.Key))
		return true
	})
	references := make(map[string]int)
	for _, key := range keys {
		references[fmt.Sprintf("%.8x", key)], _ = sources.References(key)
	}
	return references
}

// footprint is what a leak would make grow.
type footprint struct {
	goroutines int
	heap       uint64
}

// measure collects garbage, and then looks at what is left.
func measure() footprint {
	runtime.GC()
	runtime.GC() // what finalizers held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{runtime.NumGoroutine(), m.HeapAlloc}
}

// wantBackTo fails if goroutines or heap do not come back to what they were.
func wantBackTo(t *testing.T, before footprint, goroutines int, heap uint64) {
	t.Helper()
	var after footprint
	poll(t, "goroutines and heap to come back", func() bool {
		after = measure()
		return after.goroutines <= before.goroutines+goroutines && after.heap <= before.heap+heap
	})
	t.Logf("before %+v, after %+v", before, after)
}

// site is a site with one credential, "api". A copy of it can be changed and loaded.
type site struct {
	*caddyServer
	addr     string
	api      string // base URL of the upstream
	tokenURL string
	id       string // of the client
	secret   string
	busy     string // an address where Caddy cannot listen
}

func newSite(t *testing.T, tokenURL, clientID, api string) site {
	t.Helper()
	busy, err := net.Listen("tcp", "127.0.0.1:0") // without SO_REUSEPORT
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Close() })
	return site{
		addr: freeAddr(t), api: api, tokenURL: tokenURL, id: clientID, secret: devserver.DefaultClientSecret,
		busy: busy.Addr().String(),
	}
}

func (s *site) url() string { return "http://" + s.addr }

// start boots Caddy with the site.
func (s *site) start(t *testing.T) {
	t.Helper()
	s.caddyServer = startCaddy(t, s.config("", ""))
}

// config is the site's configuration, with these options in the credential, and these sites beside it.
func (s *site) config(options, sites string) string {
	credential := credentialConfig("api", s.tokenURL, s.id, options)
	credential = strings.Replace(credential, devserver.DefaultClientSecret, s.secret, 1)
	return globalOptions(credential) + siteConfig(s.addr, "token_proxy api "+s.api) + sites
}

// hostile is a policy under which no request gets a token in time.
const hostile = "max_wait 1ms\n fetch_timeout 1ms\n refresh_margin 1ms"

// reloads are what can happen to a configuration. Those with a text must fail with it; they are the ways in which a
// configuration can be broken, from the first to the last thing that Caddy does with it.
var reloads = []struct {
	name string
	load func(site) error
	want string
}{
	{"the same", with("", ""), ""},
	{"another site", with("", siteConfig("127.0.0.1:0", "respond ok")), ""},
	{"another policy", with(hostile, ""), ""},
	{"prefetch", with("prefetch on", ""), ""},
	{"another secret", func(s site) error { s.secret = "another-secret"; return s.load(s.config("", "")) }, ""},
	{"another client id", func(s site) error { s.id += "-other"; return s.load(s.config("", "")) }, ""},
	{"another token_url", func(s site) error { s.tokenURL += "?other"; return s.load(s.config("", "")) }, ""},
	{"the credential removed", func(s site) error { return s.load(siteConfig(s.addr, "respond ok")) }, ""},
	{"everything removed", func(s site) error { return s.loadJSON([]byte("{}")) }, ""},

	{"an unknown credential", edited(`"credential":"api"`, `"credential":"nobody"`), "unknown credential"},
	{"a missing secret file", edited(`"client_secret":"dev-secret"`, `"client_secret":"{file./does/not/exist}"`), "client_secret"},
	{"a provider that refuses its options", edited(`"name":"optoro"`, `"name":"optoro","environment":"mars"`), "environment"},
	{"a provider that does not exist", edited(`"name":"optoro"`, `"name":"nobody"`), "nobody"},
	{"a negative duration", edited(`"max_wait":1000000`, `"max_wait":-1`), "max_wait"},
	{"an upstream that is not allowed", edited(`"handler":"token_proxy"`, `"handler":"token_proxy","dynamic_upstreams":{"source":"a"}`), "api_hosts"},
	{"a port in use", func(s site) error { return with(hostile, siteConfig(s.busy, "respond ok"))(s) }, "listening on"},
	{"another app that does not start", edited(`"apps":{`, `"apps":{"fails_to_start":{},`), "never starts"},
}

func with(options, sites string) func(site) error {
	return func(s site) error { return s.load(s.config(options, sites)) }
}

// edited loads the configuration with a text replaced in its JSON, and with a hostile policy: should it come into
// force, requests show it.
func edited(old, replacement string) func(site) error {
	return func(s site) error {
		config, err := adapt(s.config(hostile, ""))
		if err != nil {
			return fmt.Errorf("adapting: %w", err)
		}
		if !bytes.Contains(config, []byte(old)) {
			return fmt.Errorf("there is no %s in %s", old, config)
		}
		return s.loadJSON(bytes.Replace(config, []byte(old), []byte(replacement), 1))
	}
}

// reload loads one of reloads, and checks whether it fails.
func (s site) reload(t *testing.T, i int) {
	t.Helper()
	r := reloads[i]
	err := r.load(s)
	if r.want == "" && err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	if r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want)) {
		t.Fatalf("%s: got %v, want an error with %q", r.name, err, r.want)
	}
}

// serveClients is one token endpoint with several clients, or with several secrets of one.
func serveClients(t *testing.T, clients ...*devserver.TokenEndpoint) (tokenURL string) {
	t.Helper()
	return serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var sent struct {
			ID     string `json:"client_id"`
			Secret string `json:"client_secret"`
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &sent)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		for _, c := range clients {
			if c.ClientID == sent.ID && cmp.Or(c.ClientSecret, devserver.DefaultClientSecret) == sent.Secret {
				c.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, "unknown client", http.StatusUnauthorized)
	})).URL + "/oauth/token"
}

// Pitfalls 7.1 to 7.5, and section 6 of the design: however often the configuration changes, an unchanged credential
// costs one token call, no request that a handler has seen is lost, and nothing is left behind.
func TestReloadUnderTraffic(t *testing.T) {
	if apart.Run(t) {
		return
	}
	registry := devserver.NewRegistry()
	id := newClientID()
	client := func(id, secret string) *devserver.TokenEndpoint {
		return &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: id, ClientSecret: secret, Registry: registry}
	}
	clients := map[string]*devserver.TokenEndpoint{
		"the credential":        client(id, ""),
		"with another secret":   client(id, "another-secret"),
		"with another id":       client(id+"-other", ""),
		"with another endpoint": client(id, ""),
	}
	tokenURL := serveClients(t, clients["the credential"], clients["with another secret"], clients["with another id"])
	elsewhere := serveClients(t, clients["with another endpoint"])
	once := newOnceAPI(registry)
	api := serveHTTP(t, once)
	s := newSite(t, tokenURL, id, api.URL)
	s.start(t)

	references := poolReferences()
	f := &traffic{url: s.url(), judge: served(t)}
	n := 0
	reload := func(times int) {
		f.start(1)
		for until := n + times; n < until; n++ {
			i := n % len(reloads)
			switch reloads[i].name {
			case "another policy", "the credential removed", "everything removed":
				continue // requests that come then cannot be served; those under way have tests of their own
			case "another token_url":
				s := s
				s.tokenURL = elsewhere
				if err := s.load(s.config("", "")); err != nil {
					t.Fatal(err)
				}
			default:
				s.reload(t, i)
			}
			f.await(t, 4)
			if err := s.load(s.config("refresh_margin 10m\n max_wait 10s", "")); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.load(s.config("", "")); err != nil {
			t.Fatal(err)
		}
		f.stop()
		api.CloseClientConnections() // those that a configuration which is gone still keeps, for two minutes
	}
	reload(2 * len(reloads))
	before := measure()
	reload(8 * len(reloads))
	// A configuration, its servers and its logger that are kept hold some 100 KiB and one or more goroutines, and more
	// than 100 were loaded. What differs otherwise is connections that are just being closed.
	wantBackTo(t, before, 10, 2<<20)
	if got := poolReferences(); !maps.Equal(got, references) {
		t.Errorf("the pool's references are %v, want %v as at the beginning", got, references)
	}
	for name, e := range clients {
		if calls := e.Calls(); calls != 1 {
			t.Errorf("%s: %d token calls in %d rounds of reloads, want 1", name, calls, n)
		}
	}
	once.check(t, f)
	s.wantNoPanic()
	t.Logf("%d rounds of reloads, %d requests", n, f.sent.Load())
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	if got := poolReferences(); len(got) != 0 {
		t.Errorf("after the end, the pool's references are %v", got)
	}
}

// A socket that stays the same over a reload resets no connection that waits at it: a unix socket, and one that the process
// was given. What is left is in net/http, which closes a connection without an answer if it reads the first request only
// after it was told to stop.
func TestReloadOnASocketThatStays(t *testing.T) {
	if apart.Run(t) {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	given, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	givenSockets = append(givenSockets, given)
	socket := filepath.Join(shortDir(t), "s")
	for _, kind := range []struct{ name, bind, network, addr string }{
		{"given", fmt.Sprint("fd/", given.Fd()), "tcp", l.Addr().String()},
		{"unix", "unix/" + socket, "unix", socket},
	} {
		t.Run(kind.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			config := globalOptions(tokens.credential("api")) +
				"http:// {\n bind " + kind.bind + "\n token_proxy api " + serveHTTP(t, tokens.api()).URL + "\n}\n"
			s := startCaddy(t, config)
			loop := startOpenLoop(t, kind.network, kind.addr)
			for range 40 {
				loop.await(t, 10)
				if err := s.load(config); err != nil {
					t.Error(err)
				}
			}
			loop.stop()
			t.Logf("%d answers; %d connections were closed without one", loop.answers.Load(), loop.closed.Load())
		})
	}
}

// givenSockets are open as long as the process: Caddy remembers the numbers of such files.
var givenSockets []*os.File

// openLoop sends a request over a new connection every two milliseconds, whatever becomes of the others. Some connections
// are closed without an answer; nothing else may go wrong.
type openLoop struct {
	answers, closed atomic.Int64
	requests        sync.WaitGroup
	done            chan struct{}
}

func startOpenLoop(t *testing.T, network, addr string) *openLoop {
	client := testClient(t)
	transport := client.Transport.(*http.Transport)
	transport.DisableKeepAlives = true
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	o := &openLoop{done: make(chan struct{})}
	o.requests.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.requests.Go(func() { o.send(t, client) })
			case <-o.done:
				return
			}
		}
	})
	return o
}

func (o *openLoop) send(t *testing.T, client *http.Client) {
	switch a, err := tryAsk(client, newRequest(t, http.MethodGet, "http://api.test/", nil)); {
	case errors.Is(err, io.EOF):
		o.closed.Add(1)
	case err != nil:
		t.Error(err)
	case a.StatusCode != http.StatusOK:
		t.Errorf("status %d", a.StatusCode)
	default:
		o.answers.Add(1)
	}
}

// await waits for n more answers.
func (o *openLoop) await(t *testing.T, n int64) {
	t.Helper()
	n += o.answers.Load()
	eventually(t, "answers", func() bool { return o.answers.Load() >= n })
}

// stop lets the requests that are under way end.
func (o *openLoop) stop() {
	close(o.done)
	o.requests.Wait()
}

// A configuration that fails must not change what runs, even if it fails only after token_proxy has been started.
func TestFailedReloadLeavesTheRunningConfigurationAlone(t *testing.T) {
	for i, r := range reloads {
		if r.want == "" {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			tokens.SetFault(devserver.Fault{Latency: 50 * time.Millisecond}) // too long for the hostile policy
			s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
			s.start(t)
			references := poolReferences()
			for range 12 { // Caddy starts apps in random order
				s.reload(t, i)
			}
			awaitServers(t, 1)
			if got := poolReferences(); !maps.Equal(got, references) {
				t.Errorf("the pool's references are %v, want %v", got, references)
			}
			get(t, s.url()).wantStatus(t, 200)
			if n := tokens.Calls(); n != 1 {
				t.Errorf("%d token calls, want 1", n)
			}
		})
	}
}

// gate holds up whoever comes, until it is opened.
type gate struct {
	arrived chan struct{}
	opened  chan struct{}
	once    sync.Once
}

func newGate() *gate {
	return &gate{arrived: make(chan struct{}, 1000), opened: make(chan struct{})}
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// pass tells that a request has arrived, and reports whether the gate was opened before the client went.
func (g *gate) pass(r *http.Request) bool {
	g.arrived <- struct{}{}
	select {
	case <-g.opened:
		return true
	case <-r.Context().Done():
		return false
	}
}

// before puts the gate before a handler. It reads the body first: only then does a server notice that the client goes.
func (g *gate) before(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if g.pass(r) && err == nil {
			h.ServeHTTP(w, r)
		}
	})
}

// stacks shows what all goroutines do.
func stacks() string {
	for size := 1 << 20; ; size *= 2 {
		text := make([]byte, size)
		if n := runtime.Stack(text, true); n < size {
			return string(text[:n])
		}
	}
}

// goroutinesIn counts the goroutines that are in a function.
func goroutinesIn(function string) int { return strings.Count(stacks(), function+"(") }

// awaitServers waits until Caddy serves on n addresses. A load returns while the servers of the configuration that goes,
// or of the one that failed, may still accept a last connection.
func awaitServers(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d servers", n), func() bool {
		return strings.Count(stacks(), "created by github.com/caddyserver/caddy/v2/modules/caddyhttp.(*App).Start in") == n
	})
}

// awaitWaiting waits until n requests are waiting for a token.
func awaitWaiting(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d requests to wait for a token", n), func() bool {
		return goroutinesIn("token.(*Source).wait") == n
	})
}

// exchanges sends n requests at once, every other with a body, and returns where their outcomes come.
func exchanges(client *http.Client, url string, n int) <-chan exchange {
	f := &traffic{url: url}
	outcomes := make(chan exchange, n)
	for i := range n {
		go func() { outcomes <- f.once(client, i%2*1000) }()
	}
	return outcomes
}

// wantServed waits for the outcomes of n requests.
func wantServed(t *testing.T, outcomes <-chan exchange, n int) {
	t.Helper()
	for range n {
		if why := wantReceived(t, "an answer", outcomes).failure(); why != "" {
			t.Error(why)
		}
	}
}

// Pitfalls 2.1 and 7.1: a request that waits for its token, and the flight that it waits for, belong to no
// configuration.
func TestReloadWhileRequestsWaitForAToken(t *testing.T) {
	const requests = 4
	for i, r := range reloads {
		t.Run(r.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			g := newGate()
			endpoint := serveHTTP(t, g.before(tokens))
			s := newSite(t, endpoint.URL, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
			s.start(t)
			outcomes := exchanges(testClient(t), s.url(), requests)
			awaitWaiting(t, requests)
			s.reload(t, i)
			g.open()
			wantServed(t, outcomes, requests)
			if r.name == "prefetch" {
				return // it may ask again, before it knows of the flight
			}
			if n := tokens.Calls(); n != 1 {
				t.Errorf("%d token calls, want 1", n)
			}
			s.wantNoPanic()
		})
	}
}

// firstRead is a body that tells when it is read.
type firstRead struct {
	io.ReadCloser
	once sync.Once
	do   func()
}

func (f *firstRead) Read(p []byte) (int, error) {
	f.once.Do(f.do)
	return f.ReadCloser.Read(p)
}

// Pitfall 7.1: an exchange with the API ends as it would have, whatever happens to the configuration meanwhile.
func TestReloadWhileTheAPIAnswers(t *testing.T) {
	const half = 100 << 10 // more than buffers hold
	text := strings.Repeat("x", half)
	for i, r := range reloads {
		t.Run(r.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			g := newGate()
			check := tokens.api()
			s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.Method {
				case http.MethodPost:
					r.Body = &firstRead{ReadCloser: r.Body, do: func() { g.arrived <- struct{}{} }}
					check.ServeHTTP(w, r) // which looks at the token before it reads
				case http.MethodPut:
					g.before(check).ServeHTTP(w, r)
				default:
					_, _ = io.WriteString(w, text)
					_ = http.NewResponseController(w).Flush()
					if g.pass(r) {
						_, _ = io.WriteString(w, text)
					}
				}
			})).URL)
			s.start(t)

			send := func(method string, body io.Reader, size int) <-chan exchange {
				req := newRequest(t, method, s.url(), body)
				client := testClient(t)
				outcome := make(chan exchange, 1)
				go func() {
					x := exchange{method: method, body: size}
					x.answer, x.err = tryAsk(client, req)
					outcome <- x
				}()
				return outcome
			}
			body, more := io.Pipe()
			upload := send(http.MethodPost, body, 2*half)
			if _, err := io.WriteString(more, text); err != nil {
				t.Fatal(err)
			}
			download := send(http.MethodGet, nil, 0)
			refused := send(http.MethodPut, strings.NewReader("whole"), len("whole"))
			for range 3 {
				wantReceived(t, "the requests at the API", g.arrived)
			}
			s.reload(t, i)
			tokens.revokeAll() // so that the API refuses what it has not answered yet, and it must be sent again
			g.open()
			if _, err := io.WriteString(more, text); err != nil {
				t.Error(err)
			}
			_ = more.Close()
			if why := wantReceived(t, "the answer to the upload", upload).failure(); why != "" {
				t.Error(why)
			}
			if x := wantReceived(t, "the download", download); x.err != nil || x.answer.StatusCode != 200 || x.answer.body != text+text {
				t.Errorf("the download: %v, status %d, %d bytes, want %d", x.err, x.answer.StatusCode, len(x.answer.body), 2*half)
			}
			if x := wantReceived(t, "the answer to what was refused", refused); x.failure() != "" && r.name != "another policy" {
				t.Error(x.failure()) // that policy gives a token call no time
			}
			if n := tokens.Calls(); n != 2 && r.name != "another policy" {
				t.Errorf("%d token calls, want the first and one after the revocation", n)
			}
			s.wantNoPanic()
		})
	}
}

// The policy of the latest configuration counts, also for a flight that is under way.
func TestReloadPutsThePolicyIntoForce(t *testing.T) {
	tokens := newTokenServer(t)
	g := newGate()
	endpoint := serveHTTP(t, g.before(tokens))
	s := newSite(t, endpoint.URL, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
	s.start(t)
	first := exchanges(testClient(t), s.url(), 1)
	awaitWaiting(t, 1)
	if err := s.load(s.config("max_wait 50ms", "")); err != nil {
		t.Fatal(err)
	}
	awaitServers(t, 1)
	impatient := testClient(t)
	impatient.Timeout = 10 * time.Second // less than the max_wait of the configuration before
	second := wantReceived(t, "the answer of those who do not wait long", exchanges(impatient, s.url(), 1))
	if second.err != nil {
		t.Fatal(second.err)
	}
	second.answer.wantProblem(t, 504, "http_response_timeout")
	if err := s.load(s.config("", "")); err != nil {
		t.Fatal(err)
	}
	awaitServers(t, 1)
	third := exchanges(testClient(t), s.url(), 1)
	awaitWaiting(t, 2)
	g.open()
	wantServed(t, first, 1)
	wantServed(t, third, 1)
	if n := tokens.Calls(); n != 1 {
		t.Errorf("%d token calls, want 1", n)
	}
}

// A credential that the token endpoint refuses, or an endpoint that cannot be reached, is waited for only as long as
// the configuration stays the same (section 6 of the design).
func TestReloadEndsTheWaitOfAWrongCredential(t *testing.T) {
	tokens := newTokenServer(t)
	right := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
	for _, tc := range []struct {
		name   string
		wrong  func(*site)
		status int
		calls  int
	}{
		{"secret", func(s *site) { s.secret = "wrong" }, 502, 2}, // and the only one for the right credential, in the first test
		{"client id", func(s *site) { s.id = newClientID() }, 502, 2},
		{"path of the token_url", func(s *site) { s.tokenURL += "s" }, 502, 6}, // three at once and then at pauses, as in an outage
		{"host of the token_url", func(s *site) { s.tokenURL = "http://" + freeAddr(t) }, 503, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := tokens.Calls()
			wrong := right
			tc.wrong(&wrong)
			wrong.start(t)
			get(t, wrong.url()).wantStatus(t, tc.status)
			right := right
			right.caddyServer = wrong.caddyServer
			if err := right.load(right.config("", "")); err != nil {
				t.Fatal(err)
			}
			awaitServers(t, 1)
			get(t, right.url()).wantStatus(t, 200)
			if err := wrong.load(wrong.config("", "")); err != nil {
				t.Fatal(err)
			}
			awaitServers(t, 1)
			get(t, right.url()).wantStatus(t, tc.status) // and the wrong one's token is not the right one's
			if n := tokens.Calls() - before; n > tc.calls {
				t.Errorf("%d token calls, want at most %d", n, tc.calls)
			}
		})
	}
}

// A credential that no configuration names is at rest: it makes no calls. One that comes back goes on with the token
// it had, if that is still good.
func TestCredentialRemovedAndAddedBack(t *testing.T) {
	if apart.Run(t) {
		return
	}
	long, short, failing, clock := newTokenServer(t), newTokenServer(t), newTokenServer(t), newTokenServer(t)
	short.Lifetime, clock.Lifetime = time.Second, time.Second
	failing.SetFault(devserver.Fault{Status: 500})
	addr := freeAddr(t)
	route := func(s *tokenServer, name string) string {
		return "token_proxy /" + name + " " + name + " " + serveHTTP(t, s.api()).URL + "\n"
	}
	clockCredential, clockRoute := clock.credential("clock", "prefetch on"), route(clock, "clock")
	without := globalOptions(clockCredential) + siteConfig(addr, clockRoute)
	all := globalOptions(clockCredential, long.credential("long"), short.credential("short"),
		failing.credential("failing", "prefetch on")) +
		siteConfig(addr, clockRoute+route(long, "long")+route(short, "short")+route(failing, "failing"))
	s := startCaddy(t, all)
	load := func(config string) {
		t.Helper()
		if err := s.load(config); err != nil {
			t.Fatal(err)
		}
		awaitServers(t, 1)
	}
	for range 10 {
		get(t, "http://"+addr+"/long").wantStatus(t, 200)
		load(without)
		load(all)
	}
	get(t, "http://"+addr+"/short").wantStatus(t, 200)
	ended := time.Now().Add(short.Lifetime) // at the latest
	eventually(t, "the first failure", func() bool { return failing.Calls() > 0 })
	load(without)
	eventually(t, "the flights that were under way to end", func() bool { return goroutinesIn("token.(*Source).flight") == 0 })
	asleep := []int{short.Calls(), failing.Calls()}
	// The clock's token lives as long as the short one: when it has been refreshed twice, the short one would have
	// been, and the failing one, which backs off for a second at most.
	if err := clock.WaitCalls(t.Context(), clock.Calls()+2); err != nil {
		t.Fatal(err)
	}
	if got := []int{short.Calls(), failing.Calls()}; !slices.Equal(got, asleep) {
		t.Errorf("credentials that are not configured made calls: %v, after %v", got, asleep)
	}
	poll(t, "the short token to end", func() bool { return time.Now().After(ended) }) // two refreshes can take less
	load(all)
	get(t, "http://"+addr+"/short").wantStatus(t, 200)
	if n := short.Calls(); n != asleep[0]+1 {
		t.Errorf("%d token calls of the credential that came back after its token had ended, want %d", n, asleep[0]+1)
	}
	get(t, "http://"+addr+"/long").wantStatus(t, 200)
	if n := long.Calls(); n != 1 {
		t.Errorf("%d token calls of the credential that came back while its token was good, want 1", n)
	}
}

// When Caddy stops, everything that is under way ends, and nothing goes on.
func TestStopWhileRequestsWaitForAToken(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const requests = 6
	// The times are long, so that all requests have come before the first of them ends, on a busy machine as well.
	for _, tc := range []struct {
		name    string
		options string
		opens   bool // the endpoint answers in the end
		status  int
	}{
		{"the token comes", "", true, 200},
		{"the token does not come in time for the requests", "max_wait 2s\n fetch_timeout 4s", false, 504},
		{"the token does not come in time for the flight", "fetch_timeout 2s", false, 503},
		{"the same with prefetch", "fetch_timeout 2s\n prefetch on", false, 503},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			g := newGate()
			endpoint := serveHTTP(t, g.before(tokens))
			api := serveHTTP(t, tokens.api())
			s := newSite(t, endpoint.URL, tokens.ClientID, api.URL)
			s.start(t) // once, for what Caddy starts once in a process
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			awaitServers(t, 0)
			before := measure()

			if err := s.load(s.config(tc.options, "")); err != nil {
				t.Fatal(err)
			}
			client := testClient(t)
			outcomes := exchanges(client, s.url(), requests)
			awaitWaiting(t, requests)
			stopped := make(chan error, 1)
			go func() { stopped <- caddy.Stop() }()
			if err := wantReceived(t, "Caddy to stop", stopped); err != nil {
				t.Fatal(err)
			}
			if got := poolReferences(); len(got) != 0 {
				t.Errorf("the pool's references are %v", got)
			}
			if tc.opens {
				g.open()
			}
			for range requests {
				x := wantReceived(t, "an answer", outcomes)
				if x.err != nil {
					t.Errorf("a request that was waiting: %v", x.err)
				} else if x.answer.StatusCode != tc.status {
					t.Errorf("a request that was waiting got %d, want %d", x.answer.StatusCode, tc.status)
				}
			}
			client.CloseIdleConnections()
			api.CloseClientConnections()
			wantBackTo(t, before, 2, 2<<20) // two that the runtime or a timer may just have started
			if n := len(g.arrived); n != 1 {
				t.Errorf("%d token calls, want 1", n)
			}
			s.wantNoPanic()
		})
	}
}

// A credential that is no longer configured is remembered with its token, but not with the configuration that it came
// from: a process that loads many must not grow by each.
func TestReloadLetsGoOfTheConfiguration(t *testing.T) {
	tokens := newTokenServer(t)
	s := startCaddy(t, globalOptions(tokens.credential("api", "prefetch on")))
	source := runningApp().clients["api"].source
	eventually(t, "the token", func() bool { return source.Status().State == token.StateFresh })
	old := weak.Make(runningApp())
	if err := s.load(globalOptions(newTokenServer(t).credential("api"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old configuration to be gone", func() bool {
		runtime.GC()
		return old.Value() == nil
	})
	runtime.KeepAlive(source) // as the vault does
}
