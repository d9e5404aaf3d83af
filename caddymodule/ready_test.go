package caddymodule

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// readinessAnswer is the body of a readiness probe.
type readinessAnswer struct {
	Ready       bool `json:"ready"`
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

// It does not flap while a valid token exists, whatever the endpoint does, and says so once there is none.
func TestReadinessInAnOutage(t *testing.T) {
	for name, fault := range map[string]devserver.Fault{
		"down": {Status: 503}, "limited": {Status: 429, RetryAfter: "1"}, "wrong secret": {Error: "invalid_client"},
		"reset": {Reset: true}, "hang": {Hang: true}, "garbage": {Garbage: devserver.GarbageHTML},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			tokens.Lifetime = 3 * time.Second
			addr := freeAddr(t)
			startCaddy(t, globalOptions(tokens.credential("api", "refresh_margin 1400ms", "fetch_timeout 300ms"))+siteConfig(addr, "token_proxy_ready"))
			eventually(t, "readiness", func() bool { status, _ := probe(t, "http://"+addr); return status == 200 })
			expires := runningApp().Credentials["api"].source.Status().Expires
			tokens.SetFault(fault)
			poll(t, "the token to expire", func() bool {
				status, answer := probe(t, "http://"+addr)
				if answered := time.Now(); status != 200 && answered.Before(expires) {
					t.Fatalf("not ready %s before the token expires: %+v", expires.Sub(answered), answer)
				}
				return status == 503
			})
			if tokens.Calls() < 2 {
				t.Error("nothing was tried before the token expired")
			}
			for range 20 {
				if _, answer := probe(t, "http://"+addr); answer.Credentials["api"].Reason == "a token is being fetched" {
					t.Fatal("the reason is forgotten")
				}
			}
		})
	}
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
