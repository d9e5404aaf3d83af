package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// movingAPI has two instances. The tokens that are issued after move are for the second one, and only with the value that came
// with them.
type movingAPI struct {
	moved         atomic.Bool
	calls         atomic.Int64
	expires       bool          // the tokens of the second instance live for a second, and it rejects them later
	early         bool          // the first instance rejects before it has read the body
	reads         chan struct{} // until it is closed, the first instance does not read
	before, after *recordingAPI
	received      sums
	trailer       atomic.Value
	site          string
}

func newMovingAPI(t *testing.T, early bool, options string) *movingAPI {
	t.Helper()
	m := &movingAPI{early: early}
	m.before = newRecordingAPI(t, m.instance(false), serveH2C)
	m.after = newRecordingAPI(t, m.instance(true), serveH2C)
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]any{"access_token": fmt.Sprintf("token-%d", m.calls.Add(1)), "expires_in": 3600, "instance_url": m.before.URL, "value": "first", "docs": "http://docs.example"}
		if m.moved.Load() {
			answer["instance_url"], answer["value"], answer["docs"] = m.after.URL, "second", "none"
			if m.expires {
				answer["expires_in"] = 1
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}))
	credential := oauth2Credential("api", "token_url "+endpoint.URL+"\n response {\n keep instance_url instance_url\n keep docs docs\n keep value value\n }",
		withSecret, "api_hosts "+m.before.addr()+" "+m.after.addr())
	_, m.site = startProxy(t, credential, "token_proxy api {http.token_proxy.instance_url.hostport} {\n "+
		"header_up X-Value \"{http.token_proxy.value}\"\n header_up X-Docs \"{http.token_proxy.docs.hostport}\"\n "+options+"\n}")
	get(t, m.site).wantStatus(t, 200)
	m.moved.Store(true)
	return m
}

func (m *movingAPI) instance(second bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value := r.Header.Get("X-Value")
		ours := second == m.moved.Load() && (!second || credentialOf(r) == "Bearer token-2" && value == "second" && r.Header.Get("X-Docs") != "docs.example:80")
		switch {
		case ours:
			m.received.take(r)
			m.trailer.Store(r.Trailer.Get("X-Sum"))
			_, _ = io.WriteString(w, "welcome")
		case m.reads != nil:
			c := http.NewResponseController(w)
			_ = c.EnableFullDuplex()
			w.Header().Set("WWW-Authenticate", invalidToken)
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(http.StatusUnauthorized)
			_ = c.Flush()
			<-m.reads
		case m.early:
			refuseEarly(w, r)
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			if m.expires && second {
				time.Sleep(1100 * time.Millisecond)
			}
			w.Header().Set("WWW-Authenticate", invalidToken)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
}

// A request with a rejected token was made with the values of that token. The replay is made anew with those of the next token,
// and goes where these lead.
func TestKeptValuesChange(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		early   bool
		size    int
		trailer string
		replays bool
	}{
		"no body":                        {"", false, 0, "", true},
		"body":                           {"", false, 20 << 10, "", true},
		"trailer":                        {"", false, 20 << 10, "X-Sum", true},
		"the client still sends":         {"", true, 1 << 20, "", true},
		"buffered":                       {"request_buffers 100KiB", false, 20 << 10, "", true},
		"buffered, trailer":              {"request_buffers 100KiB", false, 20 << 10, "X-Sum", true},
		"buffered less than the body":    {"request_buffers 1KiB", false, 20 << 10, "", true},
		"more attempts":                  {"lb_try_duration 5s", false, 20 << 10, "", true},
		"the body is more than is kept":  {"", false, 1 << 20, "", false},
		"the latency counts":             {"fail_duration 10s\n unhealthy_latency 10s", false, 20 << 10, "", true},
		"header fields of the proxy too": {"forwarded on", false, 20 << 10, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMovingAPI(t, tc.early, tc.options)
			goOn := make(chan struct{})
			body := &patternReader{size: tc.size}
			if tc.early {
				body.first, body.firstGiven, body.mayGoOn = 1<<10, func() {}, goOn
				go func() {
					for m.calls.Load() < 2 && t.Context().Err() == nil { // the 401 has arrived
						time.Sleep(time.Millisecond)
					}
					close(goOn)
				}()
			}
			req := newRequest(t, http.MethodPost, m.site, body)
			if tc.size == 0 {
				req.Body = http.NoBody
			}
			if tc.trailer != "" {
				req.Trailer = http.Header{tc.trailer: {"42"}}
			}
			a := ask(t, testClient(t), req)
			want, requests := 200, 1
			if !tc.replays {
				want, requests = 401, 0
			}
			if a.StatusCode != want || tc.replays && a.body != "welcome" {
				t.Errorf("got %d with %q, want %d", a.StatusCode, a.body, want)
			}
			if got := m.received.taken(); tc.replays && got[len(got)-1] != patternSum(tc.size) {
				t.Errorf("the API got the body %s", got[len(got)-1])
			}
			if got := m.trailer.Load(); tc.trailer != "" && got != "42" {
				t.Errorf("the API got the trailer %q", got)
			}
			if b, a := len(m.before.received()), len(m.after.received()); b != 2 || a != requests {
				t.Errorf("the instances got %d and %d requests, want 2 and %d", b, a, requests)
			}
			get(t, m.site).wantStatus(t, 200)
			if n := m.calls.Load(); n != 2 {
				t.Errorf("%d token calls, want 2", n)
			}
			eventually(t, "replay_memory that is given back", func() bool { return replayMemory.used.Load() == 0 })
		})
	}
}

// The wait for another token is not the latency of the upstream.
func TestWaitIsNoLatency(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.guarded(func(http.ResponseWriter, *http.Request) {}))
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n fail_duration 1m\n max_fails 1\n unhealthy_latency 2s\n}")
	get(t, base).wantStatus(t, 200)
	tokens.revokeAll()
	tokens.SetFault(devserver.Fault{Latency: 2500 * time.Millisecond})
	get(t, base).wantStatus(t, 200)
	get(t, base).wantStatus(t, 200)
	if n := tokens.Calls(); n != 2 {
		t.Errorf("%d token calls, want 2", n)
	}
}

// A second run of reverse_proxy is the last one, even if a further token can be had because the other one has expired meanwhile.
func TestSecondRunIsRejectedToo(t *testing.T) {
	if apart.Run(t) {
		return
	}
	m := newMovingAPI(t, false, "header_up X-Value other")
	m.expires = true
	a := ask(t, testClient(t), newRequest(t, http.MethodPost, m.site, strings.NewReader("hello")))
	a.wantStatus401(t)
	if b, a := len(m.before.received()), len(m.after.received()); b != 2 || a != 1 {
		t.Errorf("the instances got %d and %d requests, want 2 and 1", b, a)
	}
}

// net/http fills in the trailer of the request during the last read of its body, which may be a late one of the first run.
func TestSecondRunHasATrailerOfItsOwn(t *testing.T) {
	p := newMovingRequest(t)
	trailer := http.Header{"X-Sum": nil}
	b := keptForTest(t, &http.Request{Body: newClosedBody("hello"), ContentLength: -1, Trailer: trailer}, 10)
	readSome(t, b.first(), 5)
	rest, _ := b.again()
	p.second = &secondRun{rejected: p.lease, rest: rest.(*bodyAttempt)}
	p.body = b
	r := (&http.Request{Trailer: trailer}).WithContext(p)
	again := p.startOver(r, status.New("api", nil, zap.NewNop()))
	again.Trailer.Set("X-Sum", "42")
	if trailer.Get("X-Sum") != "" || r.Body != nil || again.Body != rest {
		t.Errorf("the runs share the trailer %q, or the body %v", trailer, r.Body)
	}
	if b.kept.list == nil {
		t.Fatal("the body is not kept")
	}
	if p.end(); b.kept.list != nil {
		t.Error("what the first run has kept is not freed")
	}
}

// If no other token comes, the first attempt goes on with its body, at whose end net/http fills in the trailer. The second run must
// not read that trailer meanwhile. It renews no token for the answer that it brings, and closes that answer if it could not.
func TestAttemptGoesOnWithoutAnotherToken(t *testing.T) {
	p := newMovingRequest(t)
	p.late = true
	p.body = keptForTest(t, unsized(newClosedBody("hello")), 10)
	p.body.first()
	p.body.hold()
	answer, body := apiResponse(401, ""), new(closeCounter)
	answer.Body = body
	p.second = &secondRun{rejected: p.lease, answer: answer}
	r := (&http.Request{Trailer: http.Header{"X-Sum": nil}}).WithContext(p)
	if again := p.startOver(r, status.New("api", nil, zap.NewNop())); again.Trailer != nil || r.Trailer == nil {
		t.Errorf("the second run has the trailer %v of the first one, %v", again.Trailer, r.Trailer)
	}
	if !p.second.bringsAnswer() || p.second.kept.held || !p.second.kept.settled {
		t.Errorf("the second run brings the answer: %t; the body is on hold: %t", p.second.bringsAnswer(), p.second.kept.held)
	}
	if p.late {
		t.Error("the second run may renew the token")
	}
	if p.end(); body.closed.Load() != 1 {
		t.Errorf("the answer was closed %d times", body.closed.Load())
	}
}

// newMovingRequest is a request with a token and placeholders.
func newMovingRequest(t *testing.T) *proxied {
	t.Helper()
	i := newTestInjector(t, new(numberedTokens), nil)
	lease, err := i.credential.source.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &proxied{Context: context.WithValue(t.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()), lease: lease}
}

// reverse_proxy reuses the buffer of request_buffers after the first run. So the second run must not read from it.
func TestBufferedBodyIsNotReadAfterTheFirstRun(t *testing.T) {
	m := newMovingAPI(t, true, "request_buffers 32MiB\n replay_buffer 32MiB")
	m.reads = make(chan struct{})
	defer close(m.reads)
	const size = 16 << 20 // more than the buffers of the connection hold
	a := ask(t, testClient(t), newRequest(t, http.MethodPost, m.site, &patternReader{size: size}))
	a.wantStatus401(t)
	get(t, m.site).wantStatus(t, 200)
	if n := m.calls.Load(); n != 2 {
		t.Errorf("%d token calls, want 2", n)
	}
}

// TestSecondRunKeepsItsToken replays with a token whose lifetime is zero. No other one can be had.
func TestSecondRunKeepsItsToken(t *testing.T) {
	for name, tc := range map[string]struct{ provider, handler string }{
		"in the first run":    {"", ""},
		"the duration counts": {"", "lb_try_duration 5s"},
		"other kept values":   {"response {\n keep value value\n }", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n := calls.Add(1)
				if n > 2 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":0,"value":"%d"}`, n, n)
			}))
			api := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if credentialOf(r) != "Bearer token-2" {
					w.Header().Set("WWW-Authenticate", invalidToken)
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			_, url := startProxy(t, oauth2Credential("api", "token_url "+endpoint.URL+"\n "+tc.provider, withSecret),
				"token_proxy api "+api.URL+" {\n "+tc.handler+"\n}")
			get(t, url).wantStatus(t, 200)
			if n := calls.Load(); n != 2 {
				t.Errorf("%d token calls, want 2", n)
			}
		})
	}
}
