package caddymodule

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// readinessAnswer is the body of a readiness probe.
type readinessAnswer struct {
	Ready       bool   `json:"ready"`
	Reason      string `json:"reason"`
	Credentials map[string]struct {
		Ready  bool   `json:"ready"`
		Reason string `json:"reason"`
	} `json:"credentials"`
}

func probe(t *testing.T, url string) (int, readinessAnswer) {
	t.Helper()
	a := get(t, url)
	var answer readinessAnswer
	decodeStrictly(t, a.body, &answer)
	if a.StatusCode != 200 && a.StatusCode != 503 || answer.Ready != (a.StatusCode == 200) {
		t.Errorf("status %d with %s", a.StatusCode, a.body)
	}
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", a.Header)
	}
	if first := strings.Index(a.body, `"reason"`); !answer.Ready && (first < 0 || first > strings.Index(a.body, `"credentials"`) || answer.Reason == "") {
		t.Errorf("it does not begin with the reason: %s", a.body)
	}
	if name, reason, _ := strings.Cut(answer.Reason, ": "); !answer.Ready && answer.Credentials[name].Reason != reason {
		t.Errorf("the reason %q is that of no credential: %+v", answer.Reason, answer.Credentials)
	}
	for name, one := range answer.Credentials {
		if one.Ready == (one.Reason != "") {
			t.Errorf("%s: ready is %t, the reason %q", name, one.Ready, one.Reason)
		}
		if !one.Ready && answer.Ready {
			t.Errorf("all are ready, but not %s", name)
		}
	}
	return a.StatusCode, answer
}

func TestReadiness(t *testing.T) {
	good, bad := newTokenServer(t), newTokenServer(t)
	addr := freeAddr(t)
	startCaddy(t, globalOptions(good.credential("good"), bad.credential("bad"))+siteConfig(addr, `
		token_proxy_ready /ready
		token_proxy_ready /ready/good good
		token_proxy_ready /ready/bad bad
		token_proxy_ready /ready/both bad good
		token_proxy good `+serveHTTP(t, good.api()).URL))
	url := "http://" + addr
	bad.SetFault(devserver.Fault{Error: "invalid_client"})

	if status, answer := probe(t, url+"/ready/good"); status != 503 || len(answer.Credentials) != 1 ||
		answer.Credentials["good"].Reason != "a token is being fetched" {
		t.Errorf("at first: %d %+v", status, answer)
	}
	eventually(t, "readiness", func() bool { status, _ := probe(t, url+"/ready/good"); return status == 200 })
	if good.Calls() != 1 {
		t.Errorf("%d calls, want 1", good.Calls())
	}
	if bad.Calls() != 0 {
		t.Error("a probe fetched a token that it does not ask for")
	}
	eventually(t, "the reason", func() bool {
		_, answer := probe(t, url+"/ready/bad")
		return strings.Contains(answer.Credentials["bad"].Reason, "invalid_client")
	})
	for _, path := range []string{"/ready", "/ready/both"} {
		status, answer := probe(t, url+path)
		if status != 503 || len(answer.Credentials) != 2 || !answer.Credentials["good"].Ready || answer.Credentials["bad"].Ready {
			t.Errorf("%s: %d %+v", path, status, answer)
		}
	}
	if bad.Calls() != 1 {
		t.Errorf("probes made %d calls in a cooldown", bad.Calls()-1)
	}
	get(t, url+"/ready/else").wantStatus(t, 200) // goes to the API
	if a := ask(t, testClient(t), newRequest(t, http.MethodHead, url+"/ready", nil)); a.StatusCode != 503 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.StatusCode, a.body)
	}
}

// What a reason names is for the same machine only: a secret's file, a credential, an error code. All others get the
// status, which is what a kubelet needs, and counts.
func TestReadinessTellsOthersNoDetails(t *testing.T) {
	tokens, refused := newTokenServer(t), newTokenServer(t)
	refused.SetFault(devserver.Fault{Error: "invalid_client"})
	file := secretPath(t, devserver.DefaultClientSecret)
	missing := strings.Replace(tokens.credential("missing"), devserver.DefaultClientSecret, inFile(file), 1)
	_, port, err := net.SplitHostPort(freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "ready.sock")
	startCaddy(t, globalOptions(tokens.credential("good"), refused.credential("refused"), missing)+
		"http://:"+port+" {\n token_proxy_ready /ready\n token_proxy_ready /good good\n}\n"+
		"http:// {\n bind unix/"+socket+"\n token_proxy_ready\n}\n")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	base := "http://127.0.0.1:" + port
	poll(t, "the reasons", func() bool {
		_, answer := probe(t, base+"/ready")
		return answer.Credentials["good"].Ready && strings.Contains(answer.Credentials["refused"].Reason, "invalid_client") &&
			strings.Contains(answer.Credentials["missing"].Reason, file)
	})
	client := testClient(t)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	if a := ask(t, client, newRequest(t, http.MethodGet, "http://sidecar/", nil)); !strings.Contains(a.body, file) {
		t.Errorf("on a unix socket: %s", a.body)
	}

	remote := net.JoinHostPort(otherAddress(t), port)
	for _, tc := range []struct {
		path   string
		status int
		body   string
	}{
		{"/ready", 503, `{"ready":false,"reason":"a secret or the configuration cannot be used","credentials":3,"not_ready":2}`},
		{"/good", 200, `{"ready":true,"credentials":1,"not_ready":0}`},
	} {
		a := ask(t, testClient(t), newRequest(t, http.MethodGet, "http://"+remote+tc.path, nil, "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1"))
		if a.StatusCode != tc.status || strings.TrimSpace(a.body) != tc.body || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s from %s: status %d, %s", tc.path, remote, a.StatusCode, a.body)
		}
	}
}

// otherAddress is an address of this machine that is not on loopback.
func otherAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if n, ok := addr.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP.String()
		}
	}
	t.Skip("SKIPPED: this machine has no address but loopback, so nobody can come from elsewhere")
	return ""
}

// A client elsewhere learns the kind of a reason, and no more.
func TestReadinessOutline(t *testing.T) {
	for want, err := range map[string]*token.Error{
		"a token is being fetched":                        nil,
		"a token endpoint is unavailable":                 {Kind: token.Unavailable, Status: 503, Code: "secret", Reason: "secret"},
		"a token endpoint refuses a credential":           {Kind: token.Refused, Status: 401, Code: "secret", Reason: "secret"},
		"a secret or the configuration cannot be used":    {Kind: token.Refused, Reason: "/run/secret"},
		"a token endpoint answers without a usable token": {Kind: token.Unreadable, Status: 200, Reason: "secret"},
	} {
		if got := outlineOf(err); got != want {
			t.Errorf("%+v: got %q, want %q", err, got, want)
		}
	}
}

// Whichever address it is, and whether or not a machine has one.
func TestReadinessByPeer(t *testing.T) {
	for _, tc := range []struct {
		remote, network string
		details         bool
	}{
		{"127.0.0.1:1", "tcp", true}, {"[::1]:1", "tcp", true}, {"[::ffff:127.0.0.1]:1", "tcp", true}, {"@", "unix", true},
		{"192.0.2.1:1", "tcp", false}, {"10.0.0.1:1", "tcp", false}, {"[2001:db8::1]:1", "tcp", false}, {"", "tcp", false},
	} {
		h := &Ready{checked: []*client{{name: "catalog", caller: caller{source: token.NewSource(token.Config{Fetcher: new(failingFetcher)})}}}}
		h.checked[0].source.Rest() // so that nothing is fetched
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, peerRequest(tc.remote, tc.network), nil); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(w.Body.String(), "catalog"); got != tc.details || w.Code != 503 {
			t.Errorf("%q (%s) got %d with %s", tc.remote, tc.network, w.Code, w.Body)
		}
	}
}

// It does not flap while a valid token exists, whatever the endpoint does, and says so once there is none. All at once in
// one Caddy, since much of it is waiting.
func TestReadinessInAnOutage(t *testing.T) {
	if apart.Run(t) {
		return
	}
	faults := map[string]devserver.Fault{
		"down": {Status: 503}, "limited": {Status: 429, RetryAfter: "1"}, "wrong-secret": {Error: "invalid_client"},
		"reset": {Reset: true}, "hang": {Hang: true}, "garbage": {Garbage: devserver.GarbageHTML},
	}
	servers := make(map[string]*tokenServer)
	var credentials []string
	var probes strings.Builder
	for name := range faults {
		servers[name] = newTokenServer(t)
		servers[name].Lifetime = 3 * time.Second
		credentials = append(credentials, servers[name].credential(name, "refresh_margin 1400ms", "fetch_timeout 300ms"))
		fmt.Fprintf(&probes, "token_proxy_ready /%s %s\n", name, name)
	}
	addr := freeAddr(t)
	startCaddy(t, globalOptions(credentials...)+siteConfig(addr, probes.String()))
	var group sync.WaitGroup
	for name, fault := range faults {
		group.Go(func() {
			t.Run(name, func(t *testing.T) {
				tokens, url := servers[name], "http://"+addr+"/"+name
				eventually(t, "readiness", func() bool { status, _ := probe(t, url); return status == 200 })
				expires := runningApp().clients[name].source.Status().Expires
				tokens.SetFault(fault)
				poll(t, "the token to expire", func() bool {
					status, answer := probe(t, url)
					if answered := time.Now(); status != 200 && answered.Before(expires) {
						t.Fatalf("not ready %s before the token expires: %+v", expires.Sub(answered), answer)
					}
					return status == 503
				})
				if tokens.Calls() < 2 {
					t.Error("nothing was tried before the token expired")
				}
				for range 20 {
					if _, answer := probe(t, url); answer.Credentials[name].Reason == "a token is being fetched" {
						t.Fatal("the reason is forgotten")
					}
				}
			})
		})
	}
	group.Wait()
}

// A client that is disabled together with its tokens gets 401 for every request, however long its token would be valid.
func TestReadinessWithADeadToken(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tokens := newTokenServer(t)
	name, addr := "a-"+newClientID(), freeAddr(t)
	s := startOperated(t, globalOptions(tokens.credential(name))+siteConfig(addr, "token_proxy_ready /ready\ntoken_proxy "+name+" "+serveHTTP(t, tokens.api()).URL), nil)
	url := "http://" + addr
	get(t, url).wantStatus(t, 200)
	tokens.SetFault(devserver.Fault{Error: "invalid_client"})
	tokens.revokeAll()
	get(t, url).wantStatus(t, 401)
	poll(t, "the probe to fail", func() bool { status, _ := probe(t, url+"/ready"); return status == 503 })
	if _, answer := probe(t, url+"/ready"); !strings.Contains(answer.Credentials[name].Reason, "the API rejects the token") {
		t.Errorf("the reason is %+v", answer)
	}
	if c := s.credential(name); c.Health != "failing" || strings.Contains(c.Summary, "use the present token") || !strings.Contains(c.Advice, "disabled") {
		t.Errorf("%s. %s %s", c.Health, c.Summary, c.Advice)
	}
	tokens.SetFault(devserver.Fault{})
	s.ask(http.MethodPost, "/token_proxy/credentials/"+name+"/refresh").wantStatus(t, 200)
	if status, answer := probe(t, url+"/ready"); status != 200 {
		t.Errorf("with another token: %+v", answer)
	}
	get(t, url).wantStatus(t, 200)
}

func TestReadyDirective(t *testing.T) {
	known := globalOptions(credentialConfig("a", "https://example.com/token", "a"))
	for name, tc := range map[string]struct {
		config string
		wants  []string
	}{
		"unknown":     {known + "http://:1 {\n\ttoken_proxy_ready a b\n}\n", []string{`"b"`, `"a"`}},
		"no option":   {"http://:1 {\n\ttoken_proxy_ready a\n}\n", []string{`"a"`, "token_proxy"}},
		"block":       {known + "http://:1 {\n\ttoken_proxy_ready {\n\t\tcredential a\n\t}\n}\n", []string{"block"}},
		"block after": {known + "http://:1 {\n\ttoken_proxy_ready a {\n\t\tb\n\t}\n}\n", []string{"block"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := adapt(tc.config)
			checkAdaptError(t, err, tc.wants...)
		})
	}
	if _, err := adapt(known + "http://:1 {\n\ttoken_proxy_ready\n}\n"); err != nil {
		t.Error(err)
	}
}

func TestReadyRefused(t *testing.T) {
	wantRefused(t, validateJSON(appsJSON(siteJSON(nowhere, `{"handler": "token_proxy_ready"}`))), "token_proxy")
	wantRefused(t, validateJSON(configJSON(nowhere, goodCredential, `{"handler": "token_proxy_ready", "credentials": ["nobody"]}`)), "nobody", "catalog")
	if err := validateJSON(configJSON(nowhere, goodCredential, `{"handler": "token_proxy_ready", "credentials": ["catalog"]}`)); err != nil {
		t.Error(err)
	}
}

// Without a matcher, it must come before the directives that answer everything.
func TestReadyComesFirst(t *testing.T) {
	config, err := adapt(globalOptions(credentialConfig("a", "https://example.com/token", "a")) +
		"http://:1 {\n\treverse_proxy https://example.com\n\ttoken_proxy a https://example.com\n\trespond no\n\ttoken_proxy_ready\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for _, handler := range []string{"token_proxy_ready", "static_response", "token_proxy", "reverse_proxy"} {
		i := strings.Index(string(config), `"handler":"`+handler+`"`)
		if i <= last {
			t.Errorf("%s is out of order: %s", handler, config)
		}
		last = i
	}
}
