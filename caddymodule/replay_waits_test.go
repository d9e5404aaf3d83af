package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gatedTokens is a token endpoint that holds one of its calls until the gate is open.
type gatedTokens struct {
	url       string
	gated     int64 // the number of that call
	calls     atomic.Int64
	fails     atomic.Bool // after the gate
	held      chan struct{}
	gate      chan struct{}
	answering func(call int64) string // members of the answer beside the token; nil for an hour
	open      func()
}

func newGatedTokens(t *testing.T, gated int64) *gatedTokens {
	t.Helper()
	g := &gatedTokens{gated: gated, held: make(chan struct{}), gate: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.gate) })
	g.url = serveHTTP(t, g).URL
	t.Cleanup(g.open)
	return g
}

// ServeHTTP implements http.Handler.
func (g *gatedTokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := g.calls.Add(1)
	if call == g.gated {
		close(g.held)
		select {
		case <-g.gate:
		case <-r.Context().Done():
		}
	}
	if call >= g.gated && g.fails.Load() {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_scope"}`)
		return
	}
	members := `"expires_in":3600`
	if g.answering != nil {
		members = g.answering(call)
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"token-%d",%s}`, call, members)
}

func (g *gatedTokens) credential(name string, options ...string) string {
	return oauth2Credential(name, "token_url "+g.url, append(options, withSecret)...)
}

// waitUntilHeld waits for the call that the gate holds.
func (g *gatedTokens) waitUntilHeld(t *testing.T) {
	t.Helper()
	select {
	case <-g.held:
	case <-time.After(time.Minute):
		t.Fatal("the token call does not come")
	}
}

// otherTokens is a token endpoint whose tokens every API of this file accepts.
func otherTokens(t *testing.T) string {
	t.Helper()
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"other","expires_in":3600}`)
	}))
	return oauth2Credential("other", "token_url "+endpoint.URL, withSecret)
}

// revocableAPI rejects the first token once that is revoked, and answers with the body of the request.
type revocableAPI struct {
	revoked atomic.Bool
	other   http.HandlerFunc // for the other credential
}

// ServeHTTP implements http.Handler.
func (a *revocableAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch credential := credentialOf(r); {
	case credential == "Bearer other" && a.other != nil:
		a.other(w, r)
	case credential == "Bearer token-1" && a.revoked.Load():
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("WWW-Authenticate", invalidToken)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "rejected")
	default:
		_, _ = io.Copy(w, r.Body)
	}
}

// inBackground sends a request and returns where its answer comes.
func inBackground(t *testing.T, req *http.Request) <-chan clientAnswer {
	t.Helper()
	answers, client := make(chan clientAnswer, 1), testClient(t)
	go func() {
		defer close(answers)
		a, err := tryAsk(client, req)
		if err != nil {
			t.Error(err)
			return
		}
		answers <- a
	}()
	return answers
}

// leaving is an option with which requests leave reverse_proxy before they wait for another token, see Handler.leaves.
const leaving = "unhealthy_request_count 1000"

// A request is no request to the upstream while it waits for a token. The upstream takes one request at a time.
func TestUpstreamIsFreeDuringTheWait(t *testing.T) {
	const options = " {\n unhealthy_request_count 1\n header_down +X-Down \"{http.request.method}\"\n}\n"
	for name, tc := range map[string]struct {
		rejected, fails, full bool
		handler               string
		status                int
		body                  string
		requests              int // to the API
	}{
		"first token":    {status: 200, body: "hello", requests: 1},
		"no first token": {fails: true, status: 502},
		"another token":  {rejected: true, status: 200, body: "hello", requests: 3},
		"no other token": {rejected: true, fails: true, status: 401, body: "rejected", requests: 2},
		"another token, and the upstream is full":  {rejected: true, full: true, status: 200, body: "hello", requests: 3},
		"no other token, and the upstream is full": {rejected: true, full: true, fails: true, status: 401, body: "rejected", requests: 2},
	} {
		t.Run(name, func(t *testing.T) {
			gated := int64(1)
			if tc.rejected {
				gated = 2
			}
			tokens, entered, left := newGatedTokens(t, gated), make(chan struct{}, 1), make(chan struct{})
			leave := sync.OnceFunc(func() { close(left) })
			state := &revocableAPI{other: func(http.ResponseWriter, *http.Request) {
				if tc.full {
					entered <- struct{}{}
					<-left
				}
			}}
			api := newRecordingAPI(t, state.ServeHTTP)
			t.Cleanup(leave)
			addr := freeAddr(t)
			startCaddy(t, globalOptions(tokens.credential("api"), otherTokens(t))+
				siteConfig(addr, "token_proxy /other other "+api.URL+options+"token_proxy api "+api.URL+options))
			base := "http://" + addr
			if tc.rejected {
				get(t, base).wantStatus(t, 200)
				state.revoked.Store(true)
			}
			waiting := inBackground(t, newRequest(t, http.MethodPost, base, strings.NewReader("hello")))
			tokens.waitUntilHeld(t)
			other := inBackground(t, newRequest(t, http.MethodGet, base+"/other", nil))
			if tc.full {
				select {
				case <-entered:
				case a := <-other:
					t.Fatalf("the other request got %v", a.Response)
				}
			} else {
				(<-other).wantStatus(t, 200)
			}
			tokens.fails.Store(tc.fails)
			tokens.open()
			a := <-waiting
			a.wantStatus(t, tc.status)
			if tc.body != "" && (a.body != tc.body || a.Header.Get("X-Down") != "POST") {
				t.Errorf("got %q with %v", a.body, a.Header)
			}
			if leave(); tc.full {
				(<-other).wantStatus(t, 200)
			}
			if n := len(api.received()) - 1; n != tc.requests {
				t.Errorf("the API got %d requests with tokens of the credential, want %d", n, tc.requests)
			}
			eventually(t, "replay_memory that is given back", func() bool { return replayMemory.used.Load() == 0 })
		})
	}
}

// A replay that has left reverse_proxy counts once for the policy, and returns to the upstream of the first attempt.
func TestReplayReturnsToItsUpstream(t *testing.T) {
	for policy, cookies := range map[string]int{"round_robin": 0, "cookie": 1} {
		t.Run(policy, func(t *testing.T) {
			tokens, state := newGatedTokens(t, 2), new(revocableAPI)
			var visited []string
			apis := make([]string, 2)
			for i := range apis {
				api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
					visited = append(visited, apis[i])
					state.ServeHTTP(w, r)
				})
				apis[i] = api.addr()
			}
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+strings.Join(apis, " ")+" {\n lb_policy "+policy+"\n "+leaving+"\n}")
			get(t, base).wantStatus(t, 200)
			state.revoked.Store(true)
			waiting := inBackground(t, newRequest(t, http.MethodGet, base, nil))
			tokens.waitUntilHeld(t)
			tokens.open()
			a := <-waiting
			a.wantStatus(t, 200)
			if n := len(a.Cookies()); n != cookies {
				t.Errorf("the answer has %d cookies, want %d", n, cookies)
			}
			get(t, base).wantStatus(t, 200)
			if len(visited) != 4 || visited[1] != visited[2] {
				t.Fatalf("the requests went to %q", visited)
			}
			if policy == "round_robin" && (visited[0] == visited[1] || visited[2] == visited[3]) {
				t.Errorf("the requests did not take turns: %q", visited)
			}
		})
	}
}

// The upstream may fail while a request waits for another token. A replay goes to another one if it can. The answer of the first
// attempt does not need one.
func TestUpstreamFailsDuringTheWait(t *testing.T) {
	const options = "{\n lb_policy first\n fail_duration 1m\n max_fails 1\n unhealthy_status 500\n " + leaving + "\n}\n"
	for name, tc := range map[string]struct {
		fails, alone     bool
		status           int
		toFirst, toOther int
	}{
		"another token":                    {false, false, 200, 3, 1},
		"another token, no other upstream": {false, true, 200, 4, 0},
		"no other token":                   {true, true, 401, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newGatedTokens(t, 2)
			state := &revocableAPI{other: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }}
			first, second := newRecordingAPI(t, state.ServeHTTP), newRecordingAPI(t, state.ServeHTTP)
			upstreams := first.URL
			if !tc.alone {
				upstreams += " " + second.URL
			}
			addr := freeAddr(t)
			startCaddy(t, globalOptions(tokens.credential("api"), otherTokens(t))+
				siteConfig(addr, "token_proxy /other other "+first.URL+" "+options+"token_proxy api "+upstreams+" "+options))
			base := "http://" + addr
			get(t, base).wantStatus(t, 200)
			state.revoked.Store(true)
			waiting := inBackground(t, newRequest(t, http.MethodGet, base, nil))
			tokens.waitUntilHeld(t)
			get(t, base+"/other").wantStatus(t, 500)
			tokens.fails.Store(tc.fails)
			tokens.open()
			(<-waiting).wantStatus(t, tc.status)
			if a, b := len(first.received()), len(second.received()); a != tc.toFirst || b != tc.toOther {
				t.Errorf("the upstreams got %d and %d requests, want %d and %d", a, b, tc.toFirst, tc.toOther)
			}
		})
	}
}

// The source of dynamic upstreams may fail while a request waits for another token, so that no upstream is known.
func TestUpstreamIsForgottenDuringTheWait(t *testing.T) {
	for name, want := range map[string]int{"another token": 200, "no other token": 401} {
		t.Run(name, func(t *testing.T) {
			tokens, state := newGatedTokens(t, 2), new(revocableAPI)
			api := newRecordingAPI(t, state.ServeHTTP)
			dns, _ := newDNS(t, map[string]string{"api.test": "127.0.0.1"})
			host := filepath.Join(t.TempDir(), "host")
			writeFile(t, host, "api.test")
			_, base := startProxy(t, tokens.credential("api", "api_hosts api.test"), "token_proxy api {\n dynamic a {file."+host+"} "+portOfURL(t, api.URL)+
				" {\n versions ipv4\n resolvers "+dns+"\n refresh 1ns\n}\n "+leaving+"\n}")
			get(t, base).wantStatus(t, 200)
			state.revoked.Store(true)
			waiting := inBackground(t, newRequest(t, http.MethodGet, base, nil))
			tokens.waitUntilHeld(t)
			writeFile(t, host, "missing.test")
			tokens.fails.Store(want == 401)
			tokens.open()
			(<-waiting).wantStatus(t, want)
		})
	}
}

// The API's answer to a request that has left reverse_proxy is delivered as any other.
func TestRejectionAfterTheWaitIsHandled(t *testing.T) {
	tokens, state := newGatedTokens(t, 2), new(revocableAPI)
	api := newRecordingAPI(t, state.ServeHTTP)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+
		" {\n @rejected status 401\n handle_response @rejected {\n header X-Handled \"{http.reverse_proxy.status_code} {http.reverse_proxy.upstream.hostport}\"\n copy_response 403\n }\n "+leaving+"\n}")
	get(t, base).wantStatus(t, 200)
	state.revoked.Store(true)
	waiting := inBackground(t, newRequest(t, http.MethodPost, base, strings.NewReader("hello")))
	tokens.waitUntilHeld(t)
	tokens.fails.Store(true)
	tokens.open()
	a := <-waiting
	a.wantStatus(t, 403)
	if got, want := a.Header.Get("X-Handled"), "401 "+api.addr(); got != want || a.body != "rejected" {
		t.Errorf("got %q with %q, want %q", got, a.body, want)
	}
	if n := len(api.received()); n != 2 {
		t.Errorf("the API got %d requests, want 2", n)
	}
}

// An expression in lb_retry_match may make reverse_proxy send a request again because of a 401. The request then has its body.
func TestRetryBecauseOfARejection(t *testing.T) {
	tokens, state := newGatedTokens(t, 2), new(revocableAPI)
	tokens.fails.Store(true)
	tokens.open()
	received := new(sums)
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			received.take(r)
		}
		state.ServeHTTP(w, r)
	})
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+
		" {\n request_buffers 1MiB\n lb_retries 1\n lb_retry_match {\n expression {rp.status_code}==401\n }\n "+leaving+"\n}")
	get(t, base).wantStatus(t, 200)
	state.revoked.Store(true)
	const size = 20 << 10
	ask(t, testClient(t), newRequest(t, http.MethodPost, base, &patternReader{size: size}))
	if got, want := received.taken(), []string{patternSum(size), patternSum(size)}; !slices.Equal(got, want) {
		t.Errorf("the API got the bodies %q, want %q", got, want)
	}
}

// In these configurations, a request may have to wait for another token while reverse_proxy counts it.
func TestWarningOfWaits(t *testing.T) {
	const (
		message = "reverse_proxy may count a request as one to the upstream while it waits for another token"
		buffers = "request_buffers 1KiB\n"
		retry   = "lb_retry_match {\n expression {rp.status_code}==503\n}\n"
	)
	for name, tc := range map[string]struct{ options, want string }{
		"no such configuration":     {"unhealthy_request_count 5", ""},
		"buffers":                   {buffers + "unhealthy_request_count 5", `"options":["unhealthy_request_count"]`},
		"an expression":             {retry + "unhealthy_request_count 5", `"options":["unhealthy_request_count"]`},
		"another matcher":           {"lb_retry_match {\n method GET\n}\n unhealthy_request_count 5", ""},
		"no replays":                {buffers + "unhealthy_request_count 5\n on_unauthorized pass", ""},
		"no limit for the upstream": {buffers + "fail_duration 10s\n max_fails 3\n unhealthy_status 5xx", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			server, _ := startProxy(t, tokens.credential("api"), "token_proxy api 127.0.0.1:1 {\n "+tc.options+"\n}")
			logs := server.logs()
			if got := strings.Contains(logs, message); got != (tc.want != "") || !strings.Contains(logs, tc.want) {
				t.Errorf("warned: %t, want %q", got, tc.want)
			}
		})
	}
}
