package caddymodule

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// heldAPI answers requests at once, except the first for /held, which it answers after release is closed.
type heldAPI struct {
	held    chan provider.Secret // the token of the request for /held
	release chan struct{}
}

func (a *heldAPI) serve(conn net.Conn, answer func(w io.Writer, target, value string)) {
	for br := bufio.NewReader(conn); ; {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if r.URL.Path != "/held" {
			raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")(conn, "")
			continue
		}
		value := r.URL.Query().Get("access_token") + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		a.held <- token.NewSecret(value)
		<-a.release
		answer(conn, r.RequestURI, value)
		conn.Close()
		return
	}
}

// A token that comes back after many others were sent, those of other tenants or later ones of the client, is seen as little as one that
// comes back at once.
func TestLateEchoIsNotSeen(t *testing.T) {
	for name, tc := range map[string]struct {
		option string
		answer func(w io.Writer, target, value string)
	}{
		"status line": {"", func(w io.Writer, _, value string) { raw("HTTP/1.1 TOKEN\n\n")(w, value) }},
		"body": {"", func(w io.Writer, _, value string) {
			raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nTOKEN\n\n")(w, value)
		}},
		"redirect": {"header query:access_token", func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 307 Moved\nLocation: TOKEN\nContent-Length: 0\n\n")(w, target)
		}},
		"trailer": {"header query:access_token", func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Next: TOKEN\n\n")(w, target)
		}},
		"early hints": {"header query:access_token", func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 103 Early Hints\nLink: <TOKEN>\n\nHTTP/1.1 204 No Content\n\n")(w, target)
		}},
	} {
		for _, others := range []string{"tenants", "refreshes"} {
			t.Run(name+", "+others, func(t *testing.T) {
				api := &heldAPI{make(chan provider.Secret, 1), make(chan struct{})}
				upstream := serveConns(t, func(conn net.Conn) { api.serve(conn, tc.answer) })
				addr := freeAddr(t)
				p := newTenantPlatform(t, "a", "b", "c", "d")
				config := strings.Replace(p.credential("api"), " api_hosts", tc.option+"\n api_hosts", 1)
				if others == "refreshes" {
					config = newTokenServer(t).credential("api", tc.option)
				}
				s := startCaddy(t, globalOptions(config)+siteConfig(addr, "log\n token_proxy api "+upstream))
				received := make(chan string, 1)
				go func() {
					conn, err := net.Dial("tcp", addr)
					if err != nil {
						received <- err.Error()
						return
					}
					defer conn.Close()
					_, _ = io.WriteString(conn, "GET /held HTTP/1.1\r\nHost: app\r\nX-Tenant: a\r\nConnection: close\r\n\r\n")
					all, _ := io.ReadAll(conn)
					received <- string(all)
				}()
				sent := wantReceived(t, "a request", api.held)
				for _, other := range []string{"b", "c", "d"} {
					if others == "refreshes" {
						if err := runningApp().clients["api"].source.Refresh(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					get(t, "http://"+addr, "X-Tenant", other).wantStatus(t, 200)
				}
				close(api.release)
				got := wantReceived(t, "an answer", received)
				eventually(t, "four lines in the log", func() bool { return strings.Count(s.logs(), `"handled request"`) == 4 })
				if sent.Empty() {
					t.Error("the upstream got no token")
				}
				if sent.In(got) {
					t.Errorf("the application got\n%s", got)
				}
				if sent.In(s.logs()) {
					t.Errorf("the token is in the log:\n%s", linesWith(s.logs(), sent))
				}
			})
		}
	}
}

// An upstream that closes a connection with the token of one tenant does not bring it into the log with the requests of others.
func TestEchoOnASharedConnection(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	p := newTenantPlatform(t, names...)
	sent, first := make(chan struct{}, len(names)), ""
	api := &frameAPI{answer: func(c *frameConn, n int) {
		if n == 1 {
			first = c.authorization
		}
		if sent <- struct{}{}; n == len(names) {
			_ = c.WriteGoAway(c.stream, http2.ErrCodeInternal, []byte("rejected "+first))
			c.Conn.Close()
		}
	}}
	addr := freeAddr(t)
	s := startCaddy(t, globalOptions(p.credential("api"))+siteConfig(addr, "token_proxy api h2c://"+serveConns(t, api.serve)))
	answers := make(chan clientAnswer, len(names))
	for _, name := range names {
		req := newRequest(t, http.MethodPost, "http://"+addr, nil, "X-Tenant", name)
		go func() {
			a, err := tryAsk(testClient(t), req)
			if err != nil {
				t.Error(err)
			}
			answers <- a
		}()
		wantReceived(t, "a request", sent)
	}
	for range names {
		wantReceived(t, "an answer", answers).wantStatus(t, 502)
	}
	eventually(t, "a line for each request", func() bool { return strings.Count(s.logs(), `"logger":"http.log.error"`) == len(names) })
	if token := provider.NewSecret(first); first == "" || token.In(s.logs()) {
		t.Errorf("the token %q is in the log:\n%s", first, linesWith(s.logs(), token))
	}
}

// Errors about a connection that tenants share keep their meaning, but not what they quote.
func TestWithoutQuotes(t *testing.T) {
	timeout := &net.OpError{Op: "read", Err: errors.New(`"a timeout"`)}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{io.ErrUnexpectedEOF, "unexpected EOF"},
		{timeout, `read: "a timeout"`},
		{fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", fmt.Errorf("malformed HTTP response %q", "T0\"K\\EN\n")),
			"net/http: HTTP/1.x transport connection broken: malformed HTTP response REDACTED"},
		{fmt.Errorf("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=%q", `T0"K"EN`),
			"http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=REDACTED"},
		{errors.New(`two: "T0" and "KEN", and no more`), "two: REDACTED and REDACTED, and no more"},
		{errors.New("Application error 0x100 (remote): T0KEN"), "Application error 0x100 REDACTED"},
		{errors.New("Application error 0x10c (remote): rejected\nT0KEN"), "Application error 0x10c REDACTED"},
		{errors.New("PROTOCOL_VIOLATION (remote) (frame type: 0x6): T0KEN"), "PROTOCOL_VIOLATION REDACTED"},
		{errors.New("H3_NO_ERROR: T0KEN"), "REDACTED"},
		{errors.New("http3: invalid response: unknown pseudo header: :T0KEN"), "REDACTED"},
		{errors.New("header field is not lower-case: T0KEN"), "header field is REDACTED"},
	} {
		got := withoutQuotes(tc.err)
		if got.Error() != tc.want || !errors.Is(got, tc.err) {
			t.Errorf("%v: got %v, want %s", tc.err, got, tc.want)
		}
	}
}

// Neither a request with the application's own credentials nor a health check shows the token of another request, which may have
// used the same connection.
func TestInjectorHidesTokensOfOtherRequests(t *testing.T) {
	quote, answers := "", false
	i := newTestInjector(t, &numberedTokens{long: true}, roundTrip(func(r *http.Request) (*http.Response, error) {
		if quote = cmp.Or(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), quote); answers {
			return &http.Response{StatusCode: 200, Body: brokenBody{quote}}, nil
		}
		return nil, fmt.Errorf("malformed HTTP response %q", quote)
	}))
	own := dialing(&proxied{Context: t.Context(), keeps: true}, "127.0.0.1")
	for name, ctx := range map[string]context.Context{"own credentials": own, "health check": dialing(t.Context(), "127.0.0.1")} {
		answers = false
		if _, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1")); err != errEcho || quote == "" {
			t.Fatalf("%s: got %v", quote, err)
		}
		if _, err := i.RoundTrip(outbound(http.MethodGet, nil, 1).WithContext(ctx)); err != errEcho {
			t.Errorf("%s: got %v", name, err)
		}
		answers = true
		res, err := i.RoundTrip(outbound(http.MethodGet, nil, 1).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := res.Body.Read(make([]byte, 1)); err != errEcho {
			t.Errorf("%s: reading ended with %v", name, err)
		}
		if err := res.Body.Close(); err != errEcho {
			t.Errorf("%s: closing ended with %v", name, err)
		}
	}
}

// An API that quotes the token that it has rejected, in what it demands of the next one, does not bring it into the log or a report.
// Other requests have sent other tokens in between.
func TestDemandWithTheRejectedToken(t *testing.T) {
	var url string
	others := func(ctx context.Context) {
		for range 3 {
			if err := runningApp().clients["api"].source.Refresh(ctx); err != nil {
				t.Error(err)
			}
			if a, err := tryAsk(testClient(t), newRequest(t, http.MethodGet, url+"/other", nil)); err != nil || a.StatusCode != 200 {
				t.Errorf("another request got %d, %v", a.StatusCode, err)
			}
		}
	}
	var rejected provider.Secret
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/other":
			return
		case rejected.Empty():
			rejected = token.NewSecret(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			others(r.Context())
			unauthorized(w, "invalid_token")
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_scope", scope="more than %s", resource_metadata="https://api.example.com/%[1]s"`, rejected.Reveal()))
		w.WriteHeader(http.StatusForbidden)
	})
	var s *caddyServer
	s, url = startProxy(t, newTokenServer(t).credential("api"), "token_proxy api "+api.URL)
	get(t, url).wantStatus(t, 403)
	lines := s.logged("the API demands more than the token has")
	if len(lines) != 1 || lines[0]["demand"] != "a token with more rights" {
		t.Errorf("the log has %v", lines)
	}
	report, err := json.Marshal(runningApp().clients["api"].status.Report())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(report), "a token with more rights") || rejected.In(string(report)) || rejected.In(fmt.Sprint(lines)) {
		t.Errorf("the report is %s", report)
	}
}
