package caddymodule

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// tokenServer is a development token endpoint on loopback, with a client of its own.
type tokenServer struct {
	*devserver.TokenEndpoint
	tokens *devserver.Registry
	url    string
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	endpoint, url := caddytest.NewTokenEndpoint(t)
	return &tokenServer{TokenEndpoint: endpoint, tokens: endpoint.Registry, url: url}
}

// revokeAll ends all tokens issued so far.
func (s *tokenServer) revokeAll() { s.tokens.RevokeAll(s.ClientID) }

// credential is the configuration of a credential of this endpoint.
func (s *tokenServer) credential(name string, options ...string) string {
	return credentialConfig(name, s.url, s.ClientID, options...)
}

// api demands tokens of this endpoint.
func (s *tokenServer) api() *devserver.API { return &devserver.API{Registry: s.tokens} }

// startProxy boots Caddy with one credential, "api", and one site, and returns the site's base URL.
func startProxy(t *testing.T, credential, directive string) (*caddyServer, string) {
	t.Helper()
	addr := freeAddr(t)
	return startCaddy(t, globalOptions(credential)+siteConfig(addr, directive)), "http://" + addr
}

// answer is a response that has been read to its end.
type clientAnswer struct {
	*http.Response
	body string
}

func ask(t *testing.T, c *http.Client, req *http.Request) clientAnswer {
	t.Helper()
	a, err := tryAsk(c, req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return a
}

func tryAsk(c *http.Client, req *http.Request) (clientAnswer, error) {
	res, err := c.Do(req)
	if err != nil {
		return clientAnswer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return clientAnswer{res, string(body)}, err
}

// newRequest makes a client's request. Header fields are given as names and values in turn.
func newRequest(t *testing.T, method, target string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

func get(t *testing.T, target string, header ...string) clientAnswer {
	t.Helper()
	return ask(t, testClient(t), newRequest(t, http.MethodGet, target, nil, header...))
}

func (a clientAnswer) wantStatus(t *testing.T, status int) {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("got status %d with %q, want %d", a.StatusCode, a.body, status)
	}
}

// wantProblem checks one row of the status table.
func (a clientAnswer) wantProblem(t *testing.T, status int, proxyError string) {
	t.Helper()
	a.wantStatus(t, status)
	if got, want := a.Header.Values("Proxy-Status"), "token-proxy; error="+proxyError; len(got) != 1 || got[0] != want {
		t.Errorf("Proxy-Status is %q, want %q", got, want)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type is %q", got)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q: a cache could keep the failure", got)
	}
	retryAfter := a.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(retryAfter); status == http.StatusServiceUnavailable && (err != nil || seconds < 1) {
		t.Errorf("Retry-After is %q", retryAfter)
	} else if status != http.StatusServiceUnavailable && retryAfter != "" {
		t.Errorf("Retry-After is %q with status %d", retryAfter, status)
	}
	var body struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("the body is not JSON: %v: %q", err, a.body)
	}
	if _, err := url.Parse(body.Type); err != nil || body.Type == "" || body.Title == "" || body.Detail == "" {
		t.Errorf("the body lacks a member of RFC 9457: %s", a.body)
	}
	if body.Status != status {
		t.Errorf("the body says status %d, the status line %d", body.Status, status)
	}
}

// wantReceived fails if the channel is not ready in time: a real socket stands between.
func wantReceived[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for: %s", what)
		panic("unreachable")
	}
}

// canary is in everything that the failing token endpoints send. canaryCode is their error code (RFC 6749 section 5.2),
// which may be logged, but is nothing for the application.
const (
	canary     = "c4n4ry-of-the-token-endpoint"
	canaryCode = "c0de_of_the_token_endpoint"
)

// endpointTexts must not be in any answer to the application, whether they may be logged or not.
var endpointTexts = []string{
	canary, canaryCode, devserver.DefaultClientSecret,
	"invalid_client", "invalid_scope", "unauthorized_client", "slow_down", "temporarily_unavailable",
}

// hideouts are the forms in which a text could be hidden in another.
func hideouts(text string) []string {
	return []string{
		text, url.QueryEscape(text), strings.ToUpper(text),
		base64.StdEncoding.EncodeToString([]byte(text)), base64.URLEncoding.EncodeToString([]byte(text)),
	}
}

// wantNowhere fails if a text, or one of its encodings, is in any of the places.
func wantNowhere(t *testing.T, what, text string, places map[string]string) {
	t.Helper()
	for place, content := range places {
		for _, form := range hideouts(text) {
			if i := strings.Index(content, form); i >= 0 {
				t.Errorf("%s is in %s: …%s…", what, place, content[max(0, i-200):min(len(content), i+len(form)+50)])
				break
			}
		}
	}
}

// wholeAnswer is all that a client can see of an answer.
func wholeAnswer(a clientAnswer) string {
	var b strings.Builder
	b.WriteString(a.Status + "\n")
	_ = a.Header.Write(&b)
	_ = a.Trailer.Write(&b)
	return b.String() + a.body
}

// sendAnswer answers a token request, with the canary in all the text that has room for it.
func sendAnswer(status int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("WWW-Authenticate", `Bearer error="`+canary+`"`)
		w.Header().Set("X-Trace", canary)
		w.Header().Set("Proxy-Status", canary)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func oauthFailure(status int, code string, header ...string) http.HandlerFunc {
	body := fmt.Sprintf(`{"error":%q,"error_description":%q,"error_uri":"https://%s/"}`, code, canary, canary)
	return sendAnswer(status, "application/json", body, header...)
}

func goodAnswer(extra string) string {
	return `{"access_token":"a-good-token","token_type":"Bearer","expires_in":3600,"note":"` + canary + `"` + extra + `}`
}

func hang(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client goes
	<-r.Context().Done()
}

func cutOff(sent string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, sent)
	}
}

// tokenFailures are the rows of the status table that the token endpoint causes.
var tokenFailures = []struct {
	name       string
	endpoint   http.HandlerFunc // nil: nobody listens
	options    []string
	status     int
	proxyError string
	retryAfter int // what Retry-After must be; 0: whatever is true
}{
	{"connection refused", nil, nil, 503, "destination_unavailable", 0},
	{"connection cut", cutOff(""), nil, 503, "destination_unavailable", 0},
	{"not HTTP", cutOff("SSH-2.0-" + canary + "\r\n"), nil, 503, "destination_unavailable", 0},
	{"500", oauthFailure(500, canaryCode), nil, 503, "destination_unavailable", 0},
	{"500 with an HTML page", sendAnswer(500, "text/html", "<h1>"+canary+"</h1>"), nil, 503, "destination_unavailable", 0},
	{"502", sendAnswer(502, "text/plain", canary), nil, 503, "destination_unavailable", 0},
	{"503 with Retry-After", oauthFailure(503, "temporarily_unavailable", "Retry-After", "7"), nil, 503, "destination_unavailable", 7},
	{"504 without a body", sendAnswer(504, "", ""), nil, 503, "destination_unavailable", 0},
	{"408", sendAnswer(408, "text/plain", canary), nil, 503, "destination_unavailable", 0},
	{"429 with Retry-After", oauthFailure(429, "slow_down", "Retry-After", "9"), nil, 503, "destination_unavailable", 9},
	{"429 without Retry-After", oauthFailure(429, canaryCode), nil, 503, "destination_unavailable", 0},
	{"429 with Retry-After beyond reason", oauthFailure(429, canaryCode, "Retry-After", "31536000"), nil, 503, "destination_unavailable", 300},
	{"429 with a Retry-After that is nonsense", oauthFailure(429, canaryCode, "Retry-After", canary), nil, 503, "destination_unavailable", 0},
	{"temporarily_unavailable with 400", oauthFailure(400, "temporarily_unavailable"), nil, 503, "destination_unavailable", 0},
	{"hang", hang, []string{"fetch_timeout 500ms"}, 503, "destination_unavailable", 0},
	{"hang in the body", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"`+canary)
		_ = http.NewResponseController(w).Flush()
		hang(w, r)
	}, []string{"fetch_timeout 500ms"}, 503, "destination_unavailable", 0},
	{"body cut", cutOff("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + canary), nil, 503, "destination_unavailable", 0},

	{"invalid_client", oauthFailure(401, "invalid_client"), nil, 502, "proxy_configuration_error", 0},
	{"invalid_scope", oauthFailure(400, "invalid_scope"), nil, 502, "proxy_configuration_error", 0},
	{"unauthorized_client", oauthFailure(403, "unauthorized_client"), nil, 502, "proxy_configuration_error", 0},
	{"401 without a body", sendAnswer(401, "", ""), nil, 502, "proxy_configuration_error", 0},
	{"error with 200", oauthFailure(200, "invalid_client"), nil, 502, "proxy_configuration_error", 0},
	{"404", sendAnswer(404, "text/html", canary), nil, 502, "proxy_configuration_error", 0},
	{"405", sendAnswer(405, "text/html", canary), nil, 502, "proxy_configuration_error", 0},
	{"422", sendAnswer(422, "application/json", `{"errors":[{"title":"`+canary+`"}]}`), nil, 502, "proxy_configuration_error", 0},
	{"the secret repeated as the error code", oauthFailure(400, devserver.DefaultClientSecret), nil, 502, "proxy_configuration_error", 0},
	{"another token type", sendAnswer(200, "application/json", `{"access_token":"`+canary+`","token_type":"mac"}`), nil, 502, "proxy_configuration_error", 0},

	{"HTML", sendAnswer(200, "text/html", "<!doctype html><title>"+canary+"</title>"), nil, 502, "http_protocol_error", 0},
	{"no body", sendAnswer(200, "application/json", ""), nil, 502, "http_protocol_error", 0},
	{"204", sendAnswer(204, "", ""), nil, 502, "http_protocol_error", 0},
	{"not JSON", sendAnswer(200, "application/json", "access_token: "+canary), nil, 502, "http_protocol_error", 0},
	{"half of the JSON", sendAnswer(200, "application/json", `{"access_token":"`+canary), nil, 502, "http_protocol_error", 0},
	{"two JSON values", sendAnswer(200, "application/json", goodAnswer("")+goodAnswer("")), nil, 502, "http_protocol_error", 0},
	{"a JSON string", sendAnswer(200, "application/json", `"`+canary+`"`), nil, 502, "http_protocol_error", 0},
	{"null", sendAnswer(200, "application/json", "null"), nil, 502, "http_protocol_error", 0},
	{"no token", sendAnswer(200, "application/json", `{"token_type":"Bearer","note":"`+canary+`"}`), nil, 502, "http_protocol_error", 0},
	{"an empty token", sendAnswer(200, "application/json", `{"access_token":"","note":"`+canary+`"}`), nil, 502, "http_protocol_error", 0},
	{"a token that is a number", sendAnswer(200, "application/json", `{"access_token":12345678,"note":"`+canary+`"}`), nil, 502, "http_protocol_error", 0},
	{"a token with a line break", sendAnswer(200, "application/json", `{"access_token":"a\r\nX-Injected: `+canary+`"}`), nil, 502, "http_protocol_error", 0},
	{"a token with a space", sendAnswer(200, "application/json", `{"access_token":"a `+canary+`"}`), nil, 502, "http_protocol_error", 0},
	{"a token beyond ASCII", sendAnswer(200, "application/json", `{"access_token":"ä`+canary+`"}`), nil, 502, "http_protocol_error", 0},
	{"a token too long for a header", sendAnswer(200, "application/json", `{"access_token":"`+strings.Repeat("x", 17<<10)+`"}`), nil, 502, "http_protocol_error", 0},
	{"a body too large", sendAnswer(200, "application/json", goodAnswer(`,"padding":"`+strings.Repeat("x", 65<<10)+`"`)), nil, 502, "http_protocol_error", 0},
	{"a gzip bomb", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, goodAnswer(`,"padding":"`+strings.Repeat("x", 4<<20)+`"`))
		_ = z.Close()
	}, nil, 502, "http_protocol_error", 0},
	{"an encoding that was not asked for", sendAnswer(200, "application/json", "\x8b\x02\x80"+goodAnswer(""), "Content-Encoding", "br"), nil, 502, "http_protocol_error", 0},

	{"max_wait passes", hang, []string{"max_wait 2s", "fetch_timeout 1m"}, 504, "http_response_timeout", 0},
}

// Section 5 of the design: what the application gets when there is no token, always told apart from what the API says,
// always without any text of the token endpoint, and never counted against the upstream.
func TestStatusWhenThereIsNoToken(t *testing.T) {
	if apart.Run(t) {
		return
	}
	healthy := newTokenServer(t)
	credentials := []string{healthy.credential("healthy")}
	var routes strings.Builder
	apis := make([]*recordingAPI, len(tokenFailures))
	calls := make([]atomic.Int64, len(tokenFailures))
	// Everything that could make reverse_proxy count a failure or try again is on.
	const touchy = "{\n fail_duration 1m\n max_fails 1\n unhealthy_status 5xx 401\n lb_try_duration 5s\n lb_try_interval 5ms\n}\n"
	for i, tc := range tokenFailures {
		tokenURL := "http://" + freeAddr(t)
		if tc.endpoint != nil {
			tokenURL = serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls[i].Add(1)
				tc.endpoint(w, r)
			})).URL
		}
		apis[i] = newRecordingAPI(t, nil)
		name := fmt.Sprintf("failing-%d", i)
		credentials = append(credentials, credentialConfig(name, tokenURL, newClientID(), tc.options...))
		fmt.Fprintf(&routes, "token_proxy /%d %s %s %s", i, name, apis[i].URL, touchy)
		fmt.Fprintf(&routes, "token_proxy /%d/healthy healthy %s %s", i, apis[i].URL, touchy)
	}
	addr := freeAddr(t)
	s := startCaddy(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))

	// All at once, since cold fetches try more than once, with pauses between.
	type outcome struct {
		answers    [2]clientAnswer
		err        error
		start, end time.Time // of the first
		calls      int64     // after the first
	}
	outcomes := make([]outcome, len(tokenFailures))
	client := testClient(t)
	var wg sync.WaitGroup
	for i := range tokenFailures {
		o := &outcomes[i]
		req := newRequest(t, http.MethodPost, fmt.Sprintf("http://%s/%d", addr, i), strings.NewReader("a body"))
		again := newRequest(t, http.MethodGet, fmt.Sprintf("http://%s/%d", addr, i), nil)
		wg.Go(func() {
			o.start = time.Now()
			o.answers[0], o.err = tryAsk(client, req)
			o.end = time.Now()
			o.calls = calls[i].Load()
			if o.err == nil {
				o.answers[1], o.err = tryAsk(client, again)
			}
		})
	}
	wg.Wait()
	nextTries := loggedNextTries(t, s)

	for i, tc := range tokenFailures {
		t.Run(tc.name, func(t *testing.T) {
			o := outcomes[i]
			if o.err != nil {
				t.Fatal(o.err)
			}
			for _, a := range o.answers {
				a.wantProblem(t, tc.status, tc.proxyError)
				for _, text := range endpointTexts {
					wantNowhere(t, text, text, map[string]string{"the answer": wholeAnswer(a)})
				}
			}
			if tc.status == http.StatusServiceUnavailable {
				seconds, _ := strconv.Atoi(o.answers[0].Header.Get("Retry-After"))
				if tc.retryAfter != 0 && seconds != tc.retryAfter && seconds != tc.retryAfter-1 {
					t.Errorf("Retry-After is %d, want %d", seconds, tc.retryAfter)
				}
				wantTruthful(t, time.Duration(seconds)*time.Second, o.start, o.end, nextTries[fmt.Sprintf("failing-%d", i)])
			}
			if n := o.calls; tc.endpoint != nil && (n < 1 || n > 3) {
				t.Errorf("one request without a token cost %d token calls", n)
			}
			if n := len(apis[i].received()); n != 0 {
				t.Errorf("the API got %d requests", n)
			}
			if n := apis[i].connectionCount(); n != 0 {
				t.Errorf("the API was connected to %d times", n)
			}
		})
	}
	if got := s.logged("selected upstream"); len(got) != 0 {
		t.Errorf("%d requests without a token came as far as the choice of an upstream", len(got))
	}
	wantNowhere(t, "text of the token endpoint", canary, map[string]string{"the log": s.logs()})
	wantNowhere(t, "the client secret", devserver.DefaultClientSecret, map[string]string{"the log": s.logs()})

	for i, tc := range tokenFailures {
		if a := get(t, fmt.Sprintf("http://%s/%d/healthy", addr, i)); a.StatusCode != 200 {
			t.Errorf("%s: the token failure took the upstream down for others: status %d with %s", tc.name, a.StatusCode, a.body)
		}
	}
}

// loggedNextTries returns, by credential, when the next token call was due after the first failure.
func loggedNextTries(t *testing.T, s *caddyServer) map[string]time.Time {
	t.Helper()
	due := make(map[string]time.Time)
	for _, entry := range s.logged("no token") {
		name, _ := entry["credential"].(string)
		if seconds, ok := entry["next_try"].(float64); ok && due[name].IsZero() {
			due[name] = time.UnixMilli(int64(seconds * 1000))
		}
	}
	return due
}

// wantTruthful checks a Retry-After that was computed between start and end: who waits so long finds that a call is
// due, and nobody is told to wait a second longer than that.
func wantTruthful(t *testing.T, retryAfter time.Duration, start, end, due time.Time) {
	t.Helper()
	const rounding = 2 * time.Millisecond // of times in the log
	if due.IsZero() {
		t.Error("the log does not say when the next try is")
		return
	}
	if early := due.Sub(end.Add(retryAfter)); early > rounding {
		t.Errorf("who waits for Retry-After (%s) comes %s too early", retryAfter, early)
	}
	if late := start.Add(retryAfter).Sub(due); late > time.Second+rounding && retryAfter > time.Second {
		t.Errorf("who waits for Retry-After (%s) waits %s too long", retryAfter, late)
	}
}

// A 307 would pass the secret on to another host.
func TestRedirectOfTheTokenEndpointIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			elsewhere := newRecordingAPI(t, nil)
			endpoint := serveHTTP(t, sendAnswer(status, "text/html", canary, "Location", elsewhere.URL))
			api := newRecordingAPI(t, nil)
			s, base := startProxy(t, credentialConfig("api", endpoint.URL, newClientID()), "token_proxy api "+api.URL)
			get(t, base).wantProblem(t, 502, "proxy_configuration_error")
			if elsewhere.connectionCount() != 0 || api.connectionCount() != 0 {
				t.Error("the redirect was followed, or the API was called without a token")
			}
			wantNowhere(t, "the target", elsewhere.addr(), map[string]string{"the log": s.logs()})
		})
	}
}

// The client's own deadline shows as its leaving. What it started is there for the next one.
func TestClientLeavesWhileItWaitsForAToken(t *testing.T) {
	tokens := newTokenServer(t)
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		tokens.ServeHTTP(w, r)
	}))
	api := newRecordingAPI(t, tokens.api().ServeHTTP)
	s, base := startProxy(t, credentialConfig("api", endpoint.URL, tokens.ClientID),
		"log\n token_proxy api "+api.URL)

	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	req := newRequest(t, http.MethodGet, base, nil).WithContext(ctx)
	go func() {
		_, err := tryAsk(testClient(t), req)
		gone <- err
	}()
	wantReceived(t, "the token call", asked)
	cancel()
	if err := wantReceived(t, "the client", gone); !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v", err)
	}
	eventually(t, "the access log's entry", func() bool { return len(s.logged("handled request")) == 1 })
	if status := s.logged("handled request")[0]["status"]; status != float64(499) {
		t.Errorf("the request of a client that left is logged with status %v", status)
	}
	close(answer)
	get(t, base).wantStatus(t, 200)
	if n := tokens.Calls(); n != 1 {
		t.Errorf("%d token calls: the flight did not survive the client that started it", n)
	}
	if n := len(api.received()); n != 1 {
		t.Errorf("the API got %d requests", n)
	}
}

// Rules about the destination that only a request can break: the upstream has a placeholder in it.
func TestDestinationRefusedAtRunTime(t *testing.T) {
	tokens := newTokenServer(t)
	allowed, forbidden := newRecordingAPI(t, tokens.api().ServeHTTP), newRecordingAPI(t, nil)
	const touchy = "fail_duration 1m\n max_fails 1\n lb_try_duration 2s\n lb_try_interval 5ms\n"
	s, base := startProxy(t,
		tokens.credential("api", "api_hosts "+allowed.addr()+" 192.0.2.1 *.example.com", "header X-Api-Key"),
		"token_proxy api {header.X-Upstream} {\n"+touchy+"}")

	tests := []struct {
		name, upstream string
		rule           error
	}{
		{"another port of an allowed host", forbidden.addr(), errHostNotAllowed},
		{"another host", "localhost:" + portOfURL(t, allowed.URL), errHostNotAllowed},
		{"plaintext", "192.0.2.1:80", errPlaintext},
		{"plaintext to a wildcard", "api.example.com:80", errPlaintext},
		{"a unix socket", "unix//tmp/" + "api.example.com", errHostNotAllowed},
		{"loopback with a zone that looks like the domain", "[::1%.example.com]:" + portOfURL(t, forbidden.URL), errHostNotAllowed},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			get(t, base, "X-Upstream", tc.upstream).wantProblem(t, 502, "proxy_configuration_error")
		})
	}
	if forbidden.connectionCount() != 0 || allowed.connectionCount() != 0 {
		t.Error("an upstream was connected to")
	}
	refusals := s.logged("the token may not go to this upstream")
	if len(refusals) != 1 {
		t.Fatalf("%d log entries for many refusals at once, want 1", len(refusals))
	}
	if e := refusals[0]; e["level"] != "error" || e["error"] != tests[0].rule.Error() || e["upstream"] != tests[0].upstream || e["credential"] != "api" {
		t.Errorf("the entry does not say which rule forbids what: %v", e)
	}
	if n := len(s.logged("selected upstream")); n != len(tests) {
		t.Errorf("%d attempts for %d requests: reverse_proxy tried again", n, len(tests))
	}
	// All requests share the upstream's health, since its address is the placeholder.
	a := get(t, base, "X-Upstream", allowed.addr())
	if a.StatusCode == 503 || a.StatusCode == 502 {
		t.Errorf("the refusals took the upstream down for others: status %d with %s", a.StatusCode, a.body)
	}
}

// The same where the operator counts answers of 5xx as failures: they are ours, not the upstream's. Else one client
// with a wrong header could shut all others out.
func TestRefusedDestinationDoesNotCountAsUnhealthyStatus(t *testing.T) {
	tokens := newTokenServer(t)
	allowed := newRecordingAPI(t, tokens.api().ServeHTTP)
	_, base := startProxy(t, tokens.credential("api", "api_hosts "+allowed.addr()),
		"token_proxy api {header.X-Upstream} {\n fail_duration 1m\n max_fails 1\n unhealthy_status 5xx\n}")
	get(t, base, "X-Upstream", "127.0.0.1:1").wantProblem(t, 502, "proxy_configuration_error")
	get(t, base, "X-Upstream", allowed.addr()).wantStatus(t, 200)
}

// The plaintext hole of a port that is excepted from TLS: the name that a certificate would prove proves nothing there.
func TestExceptedPortDoesNotInheritTheServerName(t *testing.T) {
	tokens := newTokenServer(t)
	forbidden := newRecordingAPI(t, nil)
	_, base := startProxy(t, tokens.credential("api", "api_hosts api.example.com"),
		"token_proxy api {header.X-Upstream} {\n transport http {\n tls_server_name api.example.com\n tls_except_ports "+
			portOfURL(t, forbidden.URL)+"\n}\n}")
	get(t, base, "X-Upstream", forbidden.addr()).wantProblem(t, 502, "proxy_configuration_error")
	if n := forbidden.connectionCount(); n != 0 {
		t.Errorf("a host that is not one of api_hosts got %d connections and %v", n, forbidden.received())
	}
}

// A network proxy sees whatever is not encrypted, also what is bound for loopback.
func TestNetworkProxyNeverSeesTheTokenInTheClear(t *testing.T) {
	tests := []struct {
		name, upstream, transport string
		refused                   bool
	}{
		{"plaintext through a proxy", "http://127.0.0.1:9", "network_proxy url http://127.0.0.1:10", true},
		{"plaintext through a proxy (old option)", "http://127.0.0.1:9", "forward_proxy_url http://127.0.0.1:10", true},
		{"plaintext on an excepted port through a proxy", "127.0.0.1:9", "tls\n tls_except_ports 9\n network_proxy url http://127.0.0.1:10", true},
		{"TLS through a proxy", "https://127.0.0.1:9", "network_proxy url http://127.0.0.1:10", false},
		{"no proxy", "http://127.0.0.1:9", "network_proxy none", false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			config := globalOptions(credentialConfig("api", "http://"+freeAddr(t), newClientID())) +
				siteConfig(freeAddr(t), "token_proxy api "+tc.upstream+" {\n transport http {\n"+tc.transport+"\n}\n}")
			s := &caddyServer{t: t, logFile: t.TempDir() + "/caddy.log"}
			err := s.load(config)
			if err == nil {
				defer caddy.Stop()
			}
			if tc.refused && (err == nil || !strings.Contains(err.Error(), "network proxy")) {
				t.Errorf("got %v, want a refusal that names the network proxy", err)
			}
			if !tc.refused && err != nil {
				t.Errorf("it was refused: %v", err)
			}
		})
	}
}

func portOfURL(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestOtherRefusalsOfTheHandler(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, nil)
	s, base := startProxy(t, tokens.credential("api"), `
		token_proxy /remote api `+api.URL+` {
			clients 192.0.2.0/24
		}
		token_proxy /reject api `+api.URL+` {
			client_authorization reject
		}
		token_proxy api `+api.URL)

	for range 5 {
		get(t, base+"/remote", "X-Forwarded-For", "192.0.2.1", "Forwarded", "for=192.0.2.1").
			wantProblem(t, 403, "http_request_denied")
	}
	get(t, base+"/reject", "Authorization", "Bearer mine").wantProblem(t, 400, "http_request_denied")
	for _, method := range []string{http.MethodTrace, "TRACK", "trace", "Track"} {
		a := ask(t, testClient(t), newRequest(t, method, base, nil))
		a.wantProblem(t, 405, "http_request_denied")
		if allow := a.Header.Get("Allow"); allow == "" || strings.Contains(allow, method) { // RFC 9110 section 15.5.6
			t.Errorf("%s: Allow is %q", method, allow)
		}
	}
	if n := tokens.Calls(); n != 0 {
		t.Errorf("%d tokens were fetched for requests that get none", n)
	}
	if n := api.connectionCount(); n != 0 {
		t.Errorf("the API was connected to %d times", n)
	}
	warnings := warningsNaming(s, "clients")
	if len(warnings) != 1 {
		t.Errorf("%d warnings that name the option clients, want one for many refusals at once", len(warnings))
	}
}

// warningsNaming returns the warnings of handlers whose text has a word in it.
func warningsNaming(s *caddyServer, word string) []string {
	var found []string
	for line := range strings.Lines(s.logs()) {
		var entry struct{ Level, Logger, Msg, Remote string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "warn" && strings.Contains(entry.Msg, word) {
			found = append(found, entry.Msg)
		}
	}
	return found
}

// trusted_proxies makes Caddy believe X-Forwarded-For; who may act as the credential must not depend on it.
func TestTrustedProxiesDoNotMakeAClient(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, nil)
	addr := freeAddr(t)
	startCaddy(t, "{\n servers {\n trusted_proxies static 127.0.0.0/8\n client_ip_headers X-Forwarded-For X-Real-IP\n}\n token_proxy {\n"+
		tokens.credential("api")+"}\n}\n"+
		siteConfig(addr, `
			token_proxy /remote api `+api.URL+` {
				clients 192.0.2.0/24
				trusted_proxies 127.0.0.0/8
			}
			token_proxy /local api `+api.URL+` {
				trusted_proxies 127.0.0.0/8
			}`))
	get(t, "http://"+addr+"/remote", "X-Forwarded-For", "192.0.2.1", "X-Real-IP", "192.0.2.1").
		wantProblem(t, 403, "http_request_denied")
	if n := tokens.Calls(); n != 0 {
		t.Errorf("%d tokens were fetched for a client that may not have one", n)
	}
	get(t, "http://"+addr+"/local", "X-Forwarded-For", "192.0.2.1").wantStatus(t, 200)
}

// Pitfall 7.1: on a reload Caddy cleans the old configuration up while its requests still run.
func TestReloadDoesNotDisturbRequestsInFlight(t *testing.T) {
	tokens := newTokenServer(t)
	arrived, proceed := make(chan struct{}, 1), make(chan struct{})
	check := tokens.api()
	var held atomic.Bool
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if held.CompareAndSwap(false, true) {
			arrived <- struct{}{}
			<-proceed
		}
		check.ServeHTTP(w, r)
	})
	s, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)

	answers := make(chan clientAnswer, 1)
	req := newRequest(t, http.MethodPost, base, strings.NewReader("whole"))
	client := testClient(t)
	go func() {
		a, err := tryAsk(client, req)
		if err != nil {
			t.Errorf("the request in flight: %v", err)
		}
		answers <- a
	}()
	wantReceived(t, "the request at the API", arrived)
	// The new configuration has no use for the credential: its source is put to rest.
	if err := s.load(siteConfig(freeAddr(t), "respond ok")); err != nil {
		t.Fatal(err)
	}
	tokens.revokeAll() // and the request still needs it, to replay
	close(proceed)
	a := wantReceived(t, "the answer", answers)
	a.wantStatus(t, 200)
	var echo devserver.Echo
	if err := json.Unmarshal([]byte(a.body), &echo); err != nil || echo.BodyBytes != int64(len("whole")) {
		t.Errorf("got %s, %v", a.body, err)
	}
	if n := tokens.Calls(); n != 2 {
		t.Errorf("%d token calls, want 2", n)
	}
}
