package caddymodule

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// startQuietly is startCaddy without the debug log, of which much traffic makes too much.
func startQuietly(t *testing.T, caddyfile string) *caddyServer {
	t.Helper()
	s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
	if err := s.loadQuietly(caddyfile); err != nil {
		t.Fatalf("loading the configuration: %v", err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return s
}

func (s *caddyServer) loadQuietly(caddyfile string) error {
	return s.load(caddyfile, func(root map[string]any) { s.logTo(root, "INFO") })
}

// outcomesOf counts what the log says of a credential's token calls: those with a token, and those without.
func (s *caddyServer) outcomesOf(credential string) (obtained, failed int) {
	for line := range strings.Lines(s.logs()) {
		switch {
		case !strings.Contains(line, `"credential":"`+credential+`"`):
		case strings.Contains(line, `"msg":"token obtained"`):
			obtained++
		case strings.Contains(line, `"msg":"no token"`):
			failed++
		}
	}
	return obtained, failed
}

// portServer is a token endpoint whose port can be closed and opened again.
type portServer struct {
	*tokenServer
	t      *testing.T
	addr   string
	server *http.Server
}

func newPortServer(t *testing.T) *portServer {
	t.Helper()
	p := &portServer{t: t, addr: freeAddr(t), tokenServer: &tokenServer{tokens: devserver.NewRegistry()}}
	p.TokenEndpoint = &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), Registry: p.tokens}
	p.url = "http://" + p.addr + "/oauth/token"
	p.open()
	t.Cleanup(p.close)
	return p
}

func (p *portServer) open() {
	var l net.Listener
	eventually(p.t, "the port to be free", func() bool {
		var err error
		l, err = net.Listen("tcp", p.addr)
		return err == nil
	})
	p.server = &http.Server{Handler: p.TokenEndpoint}
	go func() { _ = p.server.Serve(l) }()
}

func (p *portServer) close() { _ = p.server.Close() }

// outages are the ways in which a token endpoint can be out of order.
var outages = []struct {
	name       string
	fault      devserver.Fault // none: its port is closed
	status     int             // what the application gets when there is no token any more
	proxyError string
}{
	{"500", devserver.Fault{Status: 500}, 503, "destination_unavailable"},
	{"503 with Retry-After", devserver.Fault{Status: 503, RetryAfter: "1"}, 503, "destination_unavailable"},
	{"429", devserver.Fault{Status: 429}, 503, "destination_unavailable"},
	{"invalid_token_reuse", devserver.Fault{Error: "invalid_token_reuse"}, 503, "destination_unavailable"},
	{"hang", devserver.Fault{Hang: true}, 503, "destination_unavailable"},
	{"reset", devserver.Fault{Reset: true}, 503, "destination_unavailable"},
	{"connection refused", devserver.Fault{}, 503, "destination_unavailable"},
	{"HTML", devserver.Fault{Garbage: devserver.GarbageHTML}, 502, "http_protocol_error"},
	{"half an answer", devserver.Fault{Garbage: devserver.GarbageTruncated}, 502, "http_protocol_error"},
}

// outage is one of outages as it happens to one credential.
type outage struct {
	*portServer
	name  string // of the credential
	fault devserver.Fault
	api   *devserver.API
	caddy *caddyServer
	base  string

	mu    sync.Mutex
	calls []time.Time
}

// called is a devserver.TokenEndpoint.OnRequest.
func (o *outage) called(*http.Request, []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, time.Now())
}

// calledBetween reports whether a token call came between two times.
func (o *outage) calledBetween(start, end time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.calls, func(call time.Time) bool { return call.After(start) && call.Before(end) })
}

func (o *outage) begin(calls int) {
	if o.fault == (devserver.Fault{}) {
		o.close()
		return
	}
	f := o.fault
	f.Count = calls
	o.SetFault(f)
}

func (o *outage) end() {
	o.SetFault(devserver.Fault{})
	if o.fault == (devserver.Fault{}) {
		o.open()
	}
}

// eachOutage runs a test for each of outages, all at once in one Caddy, since much of it is waiting.
func eachOutage(t *testing.T, lifetime time.Duration, options string, test func(t *testing.T, i int, o *outage)) {
	t.Helper()
	all := make([]*outage, len(outages))
	var credentials []string
	var routes strings.Builder
	for i, tc := range outages {
		o := &outage{portServer: newPortServer(t), name: "outage-" + strconv.Itoa(i), fault: tc.fault}
		o.Lifetime = lifetime
		o.OnRequest = o.called
		o.api = o.tokenServer.api()
		// A call that takes a while makes a token a while older for the proxy than it is: so it can never be said that
		// it ended on its way to the API.
		o.SetFault(devserver.Fault{Latency: 100 * time.Millisecond, Count: 1})
		timeout := "fetch_timeout 10s"
		if tc.fault.Hang {
			timeout = "fetch_timeout 500ms"
		}
		credentials = append(credentials, o.credential(o.name, options, timeout))
		fmt.Fprintf(&routes, "token_proxy /%d %s %s\n", i, o.name, serveHTTP(t, o.api).URL)
		all[i] = o
	}
	addr := freeAddr(t)
	s := startQuietly(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))
	var group sync.WaitGroup
	for i, o := range all {
		o.caddy, o.base = s, fmt.Sprintf("http://%s/%d", addr, i)
		group.Go(func() {
			t.Run(outages[i].name, func(t *testing.T) {
				o.t = t
				get(t, o.base).wantStatus(t, 200)
				test(t, i, o)
			})
		})
	}
	group.Wait()
	s.wantNoPanic()
}

// Section 6 of the design: background failures are invisible while the token is valid.
func TestOutageWithinTheLifetimeIsInvisible(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const lifetime = 6 * time.Second
	// The refresh is due when 2.2 to 3 s have passed, and tried again after another second at most.
	eachOutage(t, lifetime, "refresh_margin 3s", func(t *testing.T, _ int, o *outage) {
		o.begin(1)
		f := &traffic{url: o.base, pace: 100 * time.Millisecond, judge: served(t)}
		f.start(1)
		t.Cleanup(f.stop)
		poll(t, "the refresh to fail", func() bool { _, failed := o.caddy.outcomesOf(o.name); return failed > 0 })
		o.end()
		poll(t, "the token to be refreshed", func() bool { obtained, _ := o.caddy.outcomesOf(o.name); return obtained > 1 })
		f.await(t, 8)
		if n := o.api.Unauthorized(); n != 0 {
			t.Errorf("%d requests came to the API without a valid token", n)
		}
		f.stop()
		obtained, failed := o.caddy.outcomesOf(o.name)
		if most := obtained + failed + 1; failed > 3 || o.Calls() > most { // one may be under way
			t.Errorf("%d token calls, of which %d brought a token and %d failed", o.Calls(), obtained, failed)
		}
	})
}

// poll is eventually for what takes a while.
func poll(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	eventually(t, what, func() bool {
		<-tick.C
		return condition()
	})
}

// journal remembers exchanges.
type journal struct {
	mu        sync.Mutex
	exchanges []exchange
}

func (j *journal) add(x exchange) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.exchanges = append(j.exchanges, x)
}

func (j *journal) all() []exchange {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.exchanges[:len(j.exchanges):len(j.exchanges)]
}

// count counts those with this status.
func (j *journal) count(status int) (n int) {
	for _, x := range j.all() {
		if x.err == nil && x.answer.StatusCode == status {
			n++
		}
	}
	return n
}

// Section 5 of the design: without a token the application is told at once, and told when to come back; who comes back
// then is served.
func TestOutageBeyondTheLifetimeIsTold(t *testing.T) {
	if apart.Run(t) {
		return
	}
	eachOutage(t, time.Second, "", func(t *testing.T, i int, o *outage) {
		want := outages[i]
		o.begin(0)
		var j journal
		f := &traffic{url: o.base, pace: 100 * time.Millisecond, judge: j.add}
		f.start(1)
		poll(t, "the token to end", func() bool { return j.count(want.status) >= 24 })
		failing := o.Calls()
		o.end()
		ended := time.Now()
		served := j.count(200)
		poll(t, "the API to be reached again", func() bool { return j.count(200) > served+8 })
		f.stop()

		if most := j.count(want.status) / 2; failing > most {
			t.Errorf("%d token calls for %d requests that were told at once", failing, 2*most)
		}
		if n := o.MaxInFlight(); n > 1 && !o.fault.Hang { // a server learns late that the client of a call has gone
			t.Errorf("%d token calls at the same time", n)
		}
		if n := o.api.SeenExpired(); n > 2 { // a token can end on the way, once before and once after the outage
			t.Errorf("%d requests came to the API with a token that had ended", n)
		}
		if obtained, _ := o.caddy.outcomesOf(o.name); obtained > 3+int(time.Since(ended)/(700*time.Millisecond)) {
			t.Errorf("%d tokens obtained in all: everybody who came back asked for one", obtained)
		}
		all, onTheWay := j.all(), o.api.SeenExpired()
		for _, x := range all {
			if x.err == nil && x.answer.StatusCode == http.StatusUnauthorized && onTheWay > 0 {
				onTheWay-- // its token has ended on the way, and there is no other one
				continue
			}
			if x.err != nil || x.answer.StatusCode != 200 && x.answer.StatusCode != want.status {
				t.Error(x.failure())
			}
			if x.err == nil && x.answer.StatusCode == want.status {
				x.answer.wantProblem(t, want.status, want.proxyError)
				o.wantPromiseKept(t, x, all, ended)
			}
		}
	})
}

// wantPromiseKept checks the Retry-After of one who got no token. Whoever comes back then is served, or at least has the
// endpoint called again; and it is not called again a second and more before that.
func (o *outage) wantPromiseKept(t *testing.T, told exchange, all []exchange, ended time.Time) {
	t.Helper()
	seconds, err := strconv.Atoi(told.answer.Header.Get("Retry-After"))
	if err != nil || o.fault == (devserver.Fault{}) && told.start.Before(ended) {
		return // nothing is promised; or nobody can count the calls of a closed port
	}
	back := told.end.Add(time.Duration(seconds) * time.Second)
	for _, x := range all {
		if x.start.After(back) && x.answer.StatusCode != 200 && !o.calledBetween(told.start, x.end) {
			t.Errorf("who came back after %d s, as told, found that nobody had asked for a token meanwhile: %s", seconds, x.failure())
			return
		}
	}
	if early := told.start.Add(time.Duration(seconds-1) * time.Second); seconds > 1 && o.calledBetween(told.end, early) {
		t.Errorf("told to come back after %d s, but there was a token call more than a second before that", seconds)
	}
}

// refreshCase is a way in which the token endpoint answers while it is under load.
type refreshCase struct {
	name     string
	mode     devserver.Mode
	lifetime time.Duration
	periods  int64
	options  string
	latency  time.Duration
	// hold is called when a token has been issued by the nth call, and returns when its answer may go. The API had refused
	// so many requests before.
	hold func(r *http.Request, n, refused int, c *refreshRun)
	// check is called in the end.
	check func(t *testing.T, c *refreshRun)
}

// refreshRun is one refreshCase as it runs.
type refreshRun struct {
	*tokenServer
	api     *devserver.API
	journal journal
	calls   atomic.Int64
}

// ServeHTTP is the token endpoint: it issues a token, and may hold back the answer.
func (c *refreshRun) serve(tc refreshCase) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, refused := int(c.calls.Add(1)), c.api.Unauthorized()
		recorder := httptest.NewRecorder()
		c.TokenEndpoint.ServeHTTP(recorder, r)
		if tc.hold != nil {
			tc.hold(r, n, refused, c)
		}
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	})
}

// until waits for a condition while the client of a token call is there.
func until(r *http.Request, condition func() bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

var refreshCases = []refreshCase{
	{
		// The answer to a refresh is held back until requests that began after the call have been answered. If they
		// waited for the refresh, that would never be. The margin is long enough for these requests on a busy machine.
		name: "nobody waits", lifetime: 6 * time.Second, periods: 2, options: "refresh_margin 3s", latency: 300 * time.Millisecond,
		hold: func(r *http.Request, n, _ int, c *refreshRun) {
			if n == 1 {
				return
			}
			called := time.Now()
			until(r, func() bool {
				answered := 0
				for _, x := range c.journal.all() {
					if x.start.After(called) {
						answered++
					}
				}
				return answered >= 20
			})
		},
		check: func(t *testing.T, c *refreshRun) {
			if n := c.api.Unauthorized(); n != 0 {
				t.Errorf("%d requests came to the API without a valid token", n)
			}
		},
	},
	{
		name: "the default margin", lifetime: 2 * time.Second, periods: 2, latency: 300 * time.Millisecond,
		check: func(t *testing.T, c *refreshRun) {
			if n := c.api.Unauthorized(); n != 0 {
				t.Errorf("%d requests came to the API without a valid token", n)
			}
		},
	},
	{
		// The old token ends when the new one is issued, which is before the proxy has the new one: the answer is
		// held back until the API has refused a request for it. That request must be sent again.
		name: "revoke_previous", mode: devserver.ModeRevokePrevious, lifetime: 2 * time.Second, periods: 3,
		options: "refresh_margin 1s",
		hold: func(r *http.Request, n, refused int, c *refreshRun) {
			if n > 1 {
				until(r, func() bool { return c.api.Unauthorized() > refused })
			}
		},
	},
	{
		// The last half second of a token is answered with a lifetime of zero.
		name: "reuse", mode: devserver.ModeReuse, lifetime: 2 * time.Second, periods: 3, latency: 50 * time.Millisecond,
	},
}

// Pitfalls 5.10 to 5.12, and section 6 of the design: whatever a refresh does to the tokens, no request fails for it,
// and there is about one call for each lifetime.
func TestRefreshUnderLoadIsInvisible(t *testing.T) {
	if apart.Run(t) {
		return
	}
	var credentials []string
	var routes strings.Builder
	runs := make([]*refreshRun, len(refreshCases))
	for i, tc := range refreshCases {
		c := &refreshRun{tokenServer: newTokenServer(t)}
		c.Mode, c.Lifetime = tc.mode, tc.lifetime
		c.SetFault(devserver.Fault{Latency: tc.latency})
		c.api = c.tokenServer.api()
		name := fmt.Sprint("refresh-", i)
		credentials = append(credentials, credentialConfig(name, serveHTTP(t, c.serve(tc)).URL, c.ClientID, tc.options))
		fmt.Fprintf(&routes, "token_proxy /%d %s %s\n", i, name, serveHTTP(t, c.api).URL)
		runs[i] = c
	}
	addr := freeAddr(t)
	s := startQuietly(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))
	var group sync.WaitGroup
	for i, tc := range refreshCases {
		c := runs[i]
		group.Go(func() {
			t.Run(tc.name, func(t *testing.T) {
				f := &traffic{url: fmt.Sprintf("http://%s/%d", addr, i), pace: 10 * time.Millisecond, judge: c.journal.add}
				start := time.Now()
				f.start(1)
				poll(t, "some lifetimes to pass", func() bool { return c.calls.Load() > tc.periods })
				f.await(t, 8)
				f.stop()
				failures := 0
				for _, x := range c.journal.all() {
					if why := x.failure(); why != "" {
						if failures++; failures <= 3 {
							t.Error(why)
						}
					}
				}
				if failures > 0 {
					t.Errorf("%d of %d requests failed", failures, f.sent.Load())
				}
				if n := c.MaxInFlight(); n != 1 {
					t.Errorf("%d token calls at the same time", n)
				}
				if n, most := c.calls.Load(), 4+2*time.Since(start)/tc.lifetime; n > int64(most) {
					t.Errorf("%d token calls in %s", n, time.Since(start))
				}
				if tc.check != nil {
					tc.check(t, c)
				}
				t.Logf("%d requests, %d token calls in %s, %d refused by the API", f.sent.Load(), c.calls.Load(), time.Since(start), c.api.Unauthorized())
			})
		})
	}
	group.Wait()
	s.wantNoPanic()
}

// Pitfall 5.25 bounds how often a token may be dropped, and section 6 of the design lets the interval grow while fresh
// tokens keep being rejected. A token that has served until it was revoked is another matter: each time, the request
// that finds out is sent again with a new one.
func TestEachRevocationIsHealed(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const times, apart = 3, 1100 * time.Millisecond // the interval begins at a second
	tokens := newTokenServer(t)
	api := tokens.api()
	s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, api).URL)
	s.start(t)
	var revoked time.Time
	for n := range times {
		poll(t, "the interval to pass, with requests that are served", func() bool {
			get(t, s.url()).wantStatus(t, 200)
			return time.Since(revoked) > apart
		})
		tokens.revokeAll()
		revoked = time.Now()
		get(t, s.url()).wantStatus(t, 200)
		if got := tokens.Calls(); got != n+2 {
			t.Errorf("%d token calls after %d revocations", got, n+1)
		}
	}
	if n := api.Unauthorized(); n != times {
		t.Errorf("the API refused %d requests, want one for each revocation", n)
	}
}

// fileOfSecret is where a client secret is kept.
type fileOfSecret struct {
	path  string // as configured
	write func(secret string) error
}

// secretFiles are the ways in which a secret in a file is replaced.
var secretFiles = []struct {
	name   string
	create func(dir string) fileOfSecret
}{
	{"written in place", func(dir string) fileOfSecret {
		path := filepath.Join(dir, "secret")
		return fileOfSecret{path, func(secret string) error { return os.WriteFile(path, []byte(secret), 0o600) }}
	}},
	{"renamed onto", func(dir string) fileOfSecret {
		path := filepath.Join(dir, "secret")
		return fileOfSecret{path, func(secret string) error {
			if err := os.WriteFile(path+".new", []byte(secret+"\n"), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}}
	}},
	{"swapped by a symlink, as in Kubernetes", func(dir string) fileOfSecret {
		n := 0
		return fileOfSecret{filepath.Join(dir, "..data", "secret"), func(secret string) error {
			n++
			version := filepath.Join(dir, fmt.Sprint("..version", n))
			if err := os.Mkdir(version, 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(version, "secret"), []byte(secret), 0o600); err != nil {
				return err
			}
			if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
		}}
	}},
	{"removed and written again", func(dir string) fileOfSecret {
		path := filepath.Join(dir, "secret")
		return fileOfSecret{path, func(secret string) error {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				return err
			}
			return os.WriteFile(path, []byte(secret), 0o600)
		}}
	}},
}

// Sections 4 and 6 of the design: a secret that is refused is not sent again and again, and one that replaces it in
// its file is sent at once, without a reload.
func TestWrongSecretUntilItsFileChanges(t *testing.T) {
	for _, tc := range secretFiles {
		t.Run(tc.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			file := tc.create(t.TempDir())
			if err := file.write("a wrong secret"); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
			s.secret = "{file." + file.path + "}"
			s.start(t)
			for range 50 {
				get(t, s.url()).wantProblem(t, 502, "proxy_configuration_error")
			}
			if n := tokens.Calls(); n != 1 {
				t.Errorf("%d token calls with a secret that is refused, want 1", n)
			}
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			changed := time.Now()
			eventually(t, "to be served", func() bool { return get(t, s.url()).StatusCode == 200 })
			if d := time.Since(changed); d > 10*time.Second {
				t.Errorf("served %s after the file changed", d)
			}
			if n := tokens.Calls(); n != 2 {
				t.Errorf("%d token calls, want one for each secret", n)
			}
		})
	}
}

// Section 4 of the design: a secret that goes missing makes the fetch fail, as permanent, until it is back.
func TestSecretFileThatGoesMissing(t *testing.T) {
	for _, spoil := range []struct {
		name string
		do   func(path string) error
	}{
		{"removed", os.Remove},
		{"emptied", func(path string) error { return os.WriteFile(path, []byte(" \n"), 0o600) }},
		{"two lines", func(path string) error { return os.WriteFile(path, []byte("a\nb"), 0o600) }},
	} {
		t.Run(spoil.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			file := secretFiles[0].create(t.TempDir())
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
			s.secret = "{file." + file.path + "}"
			s.start(t)
			if err := spoil.do(file.path); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				get(t, s.url()).wantProblem(t, 502, "proxy_configuration_error")
			}
			if n := tokens.Calls(); n != 0 {
				t.Errorf("%d token calls without a secret", n)
			}
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			eventually(t, "to be served", func() bool { return get(t, s.url()).StatusCode == 200 })
			if d := time.Since(back); d > 10*time.Second {
				t.Errorf("served %s after the secret was back", d)
			}
		})
	}
}

// A secret is rotated: the endpoint takes only the new one, and some time later the file has it. While the old token
// lives, nobody notices.
func TestSecretRotationIsInvisible(t *testing.T) {
	if apart.Run(t) {
		return
	}
	registry := devserver.NewRegistry()
	id := newClientID()
	before := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: id, Registry: registry, Lifetime: 3 * time.Second}
	after := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: id, Registry: registry, ClientSecret: "the new secret"}
	var current atomic.Pointer[devserver.TokenEndpoint]
	current.Store(before)
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { current.Load().ServeHTTP(w, r) }))
	file := secretFiles[0].create(t.TempDir())
	if err := file.write(devserver.DefaultClientSecret); err != nil {
		t.Fatal(err)
	}
	api := &devserver.API{Registry: registry}
	s := newSite(t, endpoint.URL, id, serveHTTP(t, api).URL)
	s.secret = "{file." + file.path + "}"
	s.caddyServer = startQuietly(t, s.config("refresh_margin 2s", "")) // at most half of the lifetime
	get(t, s.url()).wantStatus(t, 200)
	current.Store(after)
	f := &traffic{url: s.url(), pace: 10 * time.Millisecond, judge: served(t)}
	f.start(1)
	if err := after.WaitCalls(t.Context(), 1); err != nil { // which is refused
		t.Fatal(err)
	}
	f.await(t, 40)
	if n := after.Calls(); n != 1 {
		t.Errorf("%d token calls with the old secret, want 1", n)
	}
	if err := file.write("the new secret"); err != nil {
		t.Fatal(err)
	}
	if err := after.WaitCalls(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	f.await(t, 40)
	f.stop()
	if n := before.Calls() + after.Calls(); n != 3 {
		t.Errorf("%d token calls, want 3", n)
	}
	if n := api.Unauthorized(); n != 0 {
		t.Errorf("%d requests came to the API without a valid token", n)
	}
}

// Pitfalls 1.5 and 5.4: whatever stands in expires_in, requests are served; and unless it says that the token has no
// life left, one call serves them all.
func TestExpiresInVariants(t *testing.T) {
	tests := []struct {
		expiresIn string // JSON
		kept      bool
	}{
		{`3600`, true},
		{`"3600"`, true}, // Azure
		{`3600.0`, true},
		{`"3600.5"`, true},
		{`3.6e3`, true},
		{`90000`, true},
		{`1e10`, true},
		{`18446744074`, true}, // in nanoseconds it wraps to 290 ms
		{`99999999999999999999999`, true},
		{`1e400`, true},
		{devserver.ExpiresInMissing, true},
		{`null`, true},
		{`""`, true},
		{`"soon"`, true},
		{`true`, true},
		{`[3600]`, true},
		{`{"seconds":3600}`, true},
		{`0`, false},
		{`"0"`, false},
		{`0.0`, false},
		{`-1`, false},
		{`-1e400`, false},
	}
	const each = 3
	var credentials []string
	var routes strings.Builder
	endpoints, apis := make([]*tokenServer, len(tests)), make([]*devserver.API, len(tests))
	for i, tc := range tests {
		tokens := newTokenServer(t)
		tokens.SetFault(devserver.Fault{ExpiresIn: tc.expiresIn})
		endpoints[i], apis[i] = tokens, tokens.api()
		name := fmt.Sprint("variant-", i)
		credentials = append(credentials, tokens.credential(name))
		fmt.Fprintf(&routes, "token_proxy /%d %s %s\n", i, name, serveHTTP(t, apis[i]).URL)
	}
	addr := freeAddr(t)
	s := startQuietly(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))
	var group sync.WaitGroup
	for i, tc := range tests {
		test := func(t *testing.T) {
			client := testClient(t)
			for range each {
				wantServed(t, exchanges(client, fmt.Sprintf("http://%s/%d", addr, i), 4), 4)
			}
			n := endpoints[i].Calls()
			if tc.kept && n != 1 {
				t.Errorf("%d token calls, want 1", n)
			}
			if !tc.kept && (n < each || n > 4*each) {
				t.Errorf("%d token calls for %d times 4 requests, want at least %d", n, each, each)
			}
			if n := apis[i].Unauthorized(); n != 0 {
				t.Errorf("%d requests came to the API without a valid token", n)
			}
		}
		group.Go(func() { t.Run(tc.expiresIn, test) })
	}
	group.Wait()
	s.wantNoPanic()
}
