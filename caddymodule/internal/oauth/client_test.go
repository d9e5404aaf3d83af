package oauth

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const goodAnswer = `{"access_token":"T","token_type":"Bearer","expires_in":3600}`

// patience limits what must end at once. It is long for slow machines. A successful test never waits for it.
const patience = 5 * time.Second

// post sends a token request with a query that no error may show.
func post(ctx context.Context, c *Client, base string) (*Answer, error) {
	req, err := NewFormRequest(ctx, base+"/token?tenant="+canary, url.Values{"client_secret": {canary}})
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// postInTime is post for servers that may keep the client waiting for ever.
func postInTime(t *testing.T, ctx context.Context, base string) (*Answer, error) {
	t.Helper()
	type result struct {
		answer *Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := post(ctx, NewClient(Options{}), base)
		done <- result{answer, err}
	}()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-time.After(patience):
		t.Fatal("the exchange did not end with its context")
		return nil, nil
	}
}

// rawServer is a server that can break HTTP. For each connection, it reads one request, calls serve and closes the
// connection. It counts connections.
type rawServer struct {
	url         string
	connections atomic.Int32
}

func newRawServer(t *testing.T, serve func(conn net.Conn)) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{url: "http://" + l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			running.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					serve(conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		running.Wait()
	})
	return s
}

// untilClosed blocks until the client has closed its end.
func untilClosed(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// endlessly writes chunk until the client has closed its end.
func endlessly(conn net.Conn, chunk string) {
	for {
		if _, err := io.WriteString(conn, chunk); err != nil {
			return
		}
	}
}

func TestClientReadsAnswer(t *testing.T) {
	var arrived time.Time
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived = time.Now()
		if !r.Close {
			t.Error("the client keeps the connection, but net/http does not repeat a POST on a connection that the server has closed")
		}
		w.Header().Set("X-Test", "value")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, goodAnswer)
	}))
	defer srv.Close()
	before := time.Now()
	a, err := post(t.Context(), NewClient(Options{}), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != http.StatusCreated || a.Header.Get("X-Test") != "value" || string(a.Body) != goodAnswer {
		t.Errorf("got %+v", a)
	}
	// The server counts the lifetime from some time after the request arrived. The client must not count from a later time.
	if a.Sent.Before(before) || a.Sent.After(arrived) {
		t.Errorf("got Sent %s, but the call began at %s and the request arrived at %s", a.Sent, before, arrived)
	}
}

// The client decodes gzip, because net/http requests it. The limit applies to the decoded body.
func TestClientBodyLimit(t *testing.T) {
	for _, zipped := range []bool{false, true} {
		for size, want := range map[int]token.Kind{len(goodAnswer): "", 64 << 10: "", 64<<10 + 1: token.Unreadable} {
			t.Run(fmt.Sprintf("%d bytes, gzip %v", size, zipped), func(t *testing.T) {
				body := goodAnswer + strings.Repeat(" ", size-len(goodAnswer))
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if zipped {
						w.Header().Set("Content-Encoding", "gzip")
						body = zip(body)
					}
					_, _ = io.WriteString(w, body)
				}))
				defer srv.Close()
				a, err := post(t.Context(), NewClient(Options{}), srv.URL)
				if want != "" {
					wantError(t, err, want)
					return
				}
				if err != nil || len(a.Body) != size {
					t.Fatalf("got %+v, %v", a, err)
				}
				if issued, err := a.Read(both); err != nil || issued.Token.Reveal() != "T" {
					t.Errorf("got %v, %v", issued, err)
				}
			})
		}
	}
}

// Content-Encoding is a hint. The client reads plain JSON and gzip, whatever the label says.
func TestContentEncodingIsAHint(t *testing.T) {
	for _, label := range []string{
		"", "identity", "Identity", "IDENTITY", "UTF-8", "utf8", "none", "plain", "binary", "8bit", "application/json", "gzip", "GZIP", "x-gzip",
		"deflate", "br", "zstd", "gzip, deflate", "identity, gzip", ",", "é",
	} {
		for what, body := range map[string]string{"plain": goodAnswer, "gzip": zip(goodAnswer), "with a BOM": "\xef\xbb\xbf" + goodAnswer} {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept-Encoding") != "gzip" {
					t.Errorf("the request accepts %q", r.Header.Get("Accept-Encoding"))
				}
				w.Header()["Content-Encoding"] = []string{label}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, body)
			}))
			a, err := post(t.Context(), NewClient(Options{}), srv.URL)
			srv.Close()
			if err != nil {
				t.Errorf("%q, %s: %v", label, what, err)
				continue
			}
			if issued, err := a.Read(both); err != nil || issued.Token.Reveal() != "T" {
				t.Errorf("%q, %s: got %v, %v", label, what, issued, err)
			}
		}
	}
}

func zip(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

// zeros returns a gzip stream that inflates to 10 MiB.
var zeros = sync.OnceValue(func() string { return zip(strings.Repeat("0", 10<<20)) })

// A hostile token endpoint can send any bytes. Each of these answers must end in an error at once, after one connection. The
// error must not quote the answer.
func TestClientHostileServer(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Canary: c4n4ry\r\n"
	for name, tc := range map[string]struct {
		serve func(net.Conn)
		kind  token.Kind
		want  string // in the reason
	}{
		"10 MB": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Content-Length: 10000000\r\n\r\n")
			_, _ = io.CopyN(c, strings.NewReader(strings.Repeat(canary+"1234", 1_000_000)), 10_000_000)
		}, token.Unreadable, "larger than 64 KiB"},
		"a body without end": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"\r\n")
			endlessly(c, strings.Repeat(canary, 100))
		}, token.Unreadable, "larger than 64 KiB"},
		"chunks without end": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\n")
			endlessly(c, "6\r\nc4n4ry\r\n")
		}, token.Unreadable, "larger than 64 KiB"},
		"a gzip bomb": {func(c net.Conn) {
			fmt.Fprintf(c, ok+"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(zeros()), zeros())
		}, token.Unreadable, "larger than 64 KiB"},
		"gzip without end": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Content-Encoding: gzip\r\n\r\n")
			endlessly(c, zeros())
		}, token.Unreadable, "larger than 64 KiB"},
		"a huge header field": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"X-Huge: "+strings.Repeat(canary, 20_000)+"\r\n\r\n"+goodAnswer)
		}, token.Unavailable, "is not HTTP/1.1"},
		"header fields without end": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok)
			endlessly(c, "X-More: c4n4ry\r\n")
		}, token.Unavailable, "is not HTTP/1.1"},
		"a status line without end": {func(c net.Conn) { endlessly(c, "HTTP/1.1 200 c4n4ry") }, token.Unavailable, "is not HTTP/1.1"},
		"interim answers without end": {func(c net.Conn) {
			endlessly(c, "HTTP/1.1 103 c4n4ry\r\nLink: <https://c4n4ry.example/>\r\n\r\n")
		}, token.Unavailable, "is not HTTP/1.1"},
		"no HTTP": {func(c net.Conn) { _, _ = io.WriteString(c, "c4n4ry\r\nc4n4ry\r\n\r\n") }, token.Unavailable, "is not HTTP/1.1"},
		"a broken header": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"c4n4ry c4n4ry\r\n\r\n")
		}, token.Unavailable, "is not HTTP/1.1"},
		"two lengths": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Content-Length: 1\r\nContent-Length: 2\r\n\r\nc4n4ry")
		}, token.Unavailable, "is not HTTP/1.1"},
		"an invalid length": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Content-Length: c4n4ry\r\n\r\n")
		}, token.Unavailable, "is not HTTP/1.1"},
		"an unknown transfer encoding": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Transfer-Encoding: c4n4ry\r\n\r\n")
		}, token.Unavailable, "is not HTTP/1.1"},
		"a broken chunk": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\nc4n4ry\r\n")
		}, token.Unavailable, "is not HTTP/1.1"},
		"no answer":         {func(net.Conn) {}, token.Unavailable, "closed the connection"},
		"half a header":     {func(c net.Conn) { _, _ = io.WriteString(c, ok) }, token.Unavailable, "closed the connection"},
		"a cut body":        {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Length: 100\r\n\r\n"+goodAnswer) }, token.Unavailable, "closed the connection"},
		"a cut chunk":       {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\nff\r\n"+goodAnswer) }, token.Unavailable, "closed the connection"},
		"no last chunk":     {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n") }, token.Unavailable, "closed the connection"},
		"a reset":           {reset, token.Unavailable, "closed the connection"},
		"a reset in a body": {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Length: 100\r\n\r\n{"); reset(c) }, token.Unavailable, "closed the connection"},
		"invalid gzip":      {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Encoding: gzip\r\n\r\n\x1f\x8bc4n4ry c4n4ry") }, token.Unreadable, "damaged"},
		"gzip that is cut":  {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Encoding: gzip\r\n\r\n"+zip(goodAnswer)[:20]) }, token.Unavailable, "closed the connection"},
		"br":                {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Encoding: br\r\n\r\n\x8b\x02\x80"+goodAnswer) }, token.Unreadable, "did not request"},
		"deflate":           {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Encoding: deflate\r\n\r\n\x78\x9c"+goodAnswer) }, token.Unreadable, "did not request"},
		"gzip twice": {func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Content-Encoding: gzip, gzip\r\n\r\n"+zip(zip(goodAnswer)))
		}, token.Unreadable, "did not request"},
		"an unknown coding": {func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Encoding: c4n4ry\r\n\r\n\xff"+goodAnswer) }, token.Unreadable, "did not request"},
		"unexpected TLS":    {func(c net.Conn) { _, _ = io.WriteString(c, "\x16\x03\x01\x00\x05c4n4ry") }, token.Unavailable, "is not HTTP/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newRawServer(t, tc.serve)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := postInTime(t, ctx, srv.url)
			e := wantError(t, err, tc.kind)
			if !strings.Contains(e.Reason, tc.want) {
				t.Errorf("got reason %q, want one with %q", e.Reason, tc.want)
			}
			if ctx.Err() != nil {
				t.Error("only the deadline ended the exchange")
			}
			if n := srv.connections.Load(); n != 1 {
				t.Errorf("the server saw %d connections", n)
			}
		})
	}
}

// reset closes the connection with a TCP reset.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// Wherever a token endpoint stalls, the context of the request ends the exchange. Otherwise the only flight of a credential
// would never end, and all requests would wait for it.
func TestClientContextEndsExchange(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, serve := range map[string]func(c net.Conn){
		"no answer":          untilClosed,
		"half a status line": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 2"); untilClosed(c) },
		"half a header":      func(c net.Conn) { _, _ = io.WriteString(c, ok+"X-Canary: c4n4ry"); untilClosed(c) },
		"no body":            func(c net.Conn) { _, _ = io.WriteString(c, ok+"Content-Length: 100\r\n\r\n"); untilClosed(c) },
		"half a body":        func(c net.Conn) { _, _ = io.WriteString(c, ok+"\r\n{"); untilClosed(c) },
		"half a chunk": func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\n5\r\n{")
			untilClosed(c)
		},
		"no last chunk": func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
			untilClosed(c)
		},
		"half of gzip": func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"Content-Encoding: gzip\r\n\r\n"+zip(goodAnswer)[:15])
			untilClosed(c)
		},
		"half a failure": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n<html>")
			untilClosed(c)
		},
		"an interim answer alone": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); untilClosed(c) },
		"another protocol": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: c4n4ry\r\n\r\n")
			untilClosed(c)
		},
		"a drip": func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"\r\n{")
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(c, " "); err != nil {
					return
				}
			}
		},
		"a dripping header": func(c net.Conn) {
			_, _ = io.WriteString(c, ok+"X-Canary: ")
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newRawServer(t, serve)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			a, err := postInTime(t, ctx, srv.url)
			if err == nil { // the client returns a failure without its body
				_, err = a.Read(both)
			}
			wantError(t, err, token.Unavailable)
			if n := srv.connections.Load(); n != 1 {
				t.Errorf("the server saw %d connections", n)
			}
		})
	}

	t.Run("a handshake", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts the connection, and the test does not answer
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = postInTime(t, ctx, "https://"+l.Addr().String())
		wantError(t, err, token.Unavailable)
	})

	t.Run("a context that has already ended", func(t *testing.T) {
		srv := newRawServer(t, untilClosed)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := postInTime(t, ctx, srv.url)
		wantError(t, err, token.Unavailable)
		if n := srv.connections.Load(); n != 0 {
			t.Errorf("the server saw %d connections", n)
		}
	})
}

// The status of a failure decides, even if its body is unreadable. The error page of a gateway may be large, or may have a
// content encoding that the client did not request.
func TestClientFailureWithOddBody(t *testing.T) {
	for name, write := range map[string]func(w http.ResponseWriter, status int){
		"empty": func(w http.ResponseWriter, status int) { w.WriteHeader(status) },
		"65 KiB": func(w http.ResponseWriter, status int) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, strings.Repeat("x", 65<<10))
		},
		"cut": func(w http.ResponseWriter, status int) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>")
		},
		"br": func(w http.ResponseWriter, status int) {
			w.Header().Set("Content-Encoding", "br")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "\x0b\x02\x80c4n4ry\x03")
		},
	} {
		for status, want := range map[int]token.Kind{
			503: token.Unavailable, 502: token.Unavailable, 429: token.Unavailable,
			401: token.Refused, 307: token.Refused, 404: token.Refused,
		} {
			t.Run(fmt.Sprintf("%d %s", status, name), func(t *testing.T) {
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Retry-After", "7")
					write(w, status)
				}))
				defer srv.Close()
				a, err := post(t.Context(), NewClient(Options{}), srv.URL)
				if err == nil {
					_, err = a.Read(both)
				}
				e := wantError(t, err, want)
				if e.Status != status {
					t.Errorf("got status %d", e.Status)
				}
				if want == token.Unavailable && e.RetryAfter != 7*time.Second {
					t.Errorf("got Retry-After %s", e.RetryAfter)
				}
			})
		}
	}
}

// The client follows no redirect. It would send the secret to another host after 307 and 308, and a GET without the
// parameters after 301 to 303.
func TestClientFollowsNoRedirect(t *testing.T) {
	var visits atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		_, _ = io.WriteString(w, goodAnswer)
	}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, location := range []string{other.URL + "/" + canary, "/" + canary, "//" + strings.TrimPrefix(other.URL, "http://"), "", ":c4n4ry"} {
			var calls atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				w.Header().Set("Location", location)
				w.Header().Set("Refresh", "0; url="+other.URL)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, goodAnswer) // the client ignores a token in a redirect
			}))
			a, err := post(t.Context(), NewClient(Options{}), srv.URL)
			if err == nil {
				_, err = a.Read(both)
			}
			if e := wantError(t, err, token.Refused); e.Status != status || !strings.Contains(e.Reason, "redirects") {
				t.Errorf("%d to %q: got %+v", status, location, e)
			}
			if n := calls.Load(); n != 1 {
				t.Errorf("%d to %q: the token endpoint got %d calls", status, location, n)
			}
			srv.Close()
		}
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("the other server got %d requests", n)
	}
}

// The client does not send a cookie of an answer with the next request.
func TestClientKeepsNothing(t *testing.T) {
	var opened atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Cookie"]) > 0 {
			t.Errorf("got a cookie: %v", r.Header["Cookie"])
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: canary})
		_, _ = io.WriteString(w, goodAnswer)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	c := NewClient(Options{})
	for range 3 {
		if _, err := post(t.Context(), c, srv.URL); err != nil {
			t.Error(err)
		}
	}
	if n := opened.Load(); n != 3 {
		t.Errorf("3 requests came over %d connections", n)
	}
}

func TestClientConnectionRefused(t *testing.T) {
	srv := httptest.NewServer(nil)
	srv.Close()
	_, err := post(t.Context(), NewClient(Options{}), srv.URL)
	if e := wantError(t, err, token.Unavailable); !strings.Contains(e.Reason, "the token endpoint refused the connection") {
		t.Errorf("got reason %q", e.Reason)
	}
}

// TestClientProxyEnvironment runs itself in another process, because net/http reads the environment once for each process.
func TestClientProxyEnvironment(t *testing.T) {
	const variable = "TEST_TOKEN_ENDPOINTS"
	if endpoints, ok := os.LookupEnv(variable); ok {
		for endpoint := range strings.SplitSeq(endpoints, " ") {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := post(ctx, NewClient(Options{AllowPlaintext: true}), endpoint)
			t.Logf("%s: %v", endpoint, err)
			_, err = post(ctx, NewClient(Options{AllowPlaintext: true, NoProxy: true}), strings.Replace(endpoint, "elsewhere", "direct", 1))
			t.Logf("%s without a proxy: %v", endpoint, err)
			cancel()
		}
		return
	}

	var mu sync.Mutex
	asked := make(map[string]bool) // the hosts of the requests to the proxy
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Host] = true
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	endpoint := httptest.NewServer(http.NotFoundHandler())
	defer endpoint.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(endpoint.URL, "http://"))

	// The client may use plaintext for loopback, so such a request must not go through a proxy.
	var endpoints []string
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost", "[::1]", "[::ffff:127.0.0.1]", "LOCALHOST", "localhost."} {
		if IsLoopback(host) {
			endpoints = append(endpoints, "http://"+host+":"+port, "https://"+host+":"+port)
		}
	}
	endpoints = append(endpoints, "http://elsewhere.invalid", "https://elsewhere.invalid") // these must use the proxy

	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestClientProxyEnvironment$", "-test.v")
	child.Env = append(os.Environ(), variable+"="+strings.Join(endpoints, " "), "NO_PROXY=", "no_proxy=")
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		child.Env = append(child.Env, name+"="+proxy.URL)
	}
	output, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, host := range []string{"elsewhere.invalid", "elsewhere.invalid:443"} {
		if !asked[host] {
			t.Errorf("the request for %s did not use the proxy of the environment", host)
		}
		delete(asked, host)
	}
	for host := range asked {
		t.Errorf("the proxy of the environment saw a request for %s", host)
	}
	if t.Failed() {
		t.Logf("%s", output)
	}
}

// recordingProxy records all requests and answers them with 502.
type recordingProxy struct {
	mu    sync.Mutex
	asked []string
}

func (p *recordingProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	user, password, _ := basicCredentials(r.Header.Get("Proxy-Authorization"))
	p.asked = append(p.asked, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+user+" "+password))
	w.WriteHeader(http.StatusBadGateway)
}

func basicCredentials(header string) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": {header}}}).BasicAuth()
}

// The client uses the configured proxy for all hosts except loopback. Of an https request, the proxy sees only the host.
func TestClientProxy(t *testing.T) {
	recorder := new(recordingProxy)
	proxy := httptest.NewServer(recorder)
	defer proxy.Close()
	var direct atomic.Int32
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		direct.Add(1)
		_, _ = io.WriteString(w, goodAnswer)
	}))
	defer endpoint.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(endpoint.URL, "http://"))
	proxyURL := must(url.Parse(strings.Replace(proxy.URL, "http://", "http://user:p%40ss@", 1)))

	for _, tc := range []struct {
		options Options
		base    string
		asked   string // the request to the proxy
		direct  int32  // the number of requests without the proxy
	}{
		{Options{Proxy: proxyURL, AllowPlaintext: true}, "http://elsewhere.invalid", "POST http://elsewhere.invalid/token?tenant=c4n4ry user p@ss", 0},
		{Options{Proxy: proxyURL}, "https://elsewhere.invalid", "CONNECT elsewhere.invalid:443 user p@ss", 0},
		{Options{Proxy: proxyURL}, "http://127.0.0.1:" + port, "", 1},
		{Options{Proxy: proxyURL}, "http://localhost:" + port, "", 1},
		{Options{Proxy: proxyURL}, "https://127.0.0.1:" + port, "", 0},
		{Options{Proxy: proxyURL, NoProxy: true}, "http://127.0.0.1:" + port, "", 1},
		{Options{Proxy: proxyURL, NoProxy: true}, "https://elsewhere.invalid", "", 0},
	} {
		recorder.asked = nil
		direct.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		a, err := post(ctx, NewClient(tc.options), tc.base)
		cancel()
		if err == nil && tc.direct == 0 {
			_, err = a.Read(both)
		}
		if tc.direct == 0 {
			wantError(t, err, token.Unavailable)
		} else if err != nil {
			t.Errorf("%s: %v", tc.base, err)
		}
		recorder.mu.Lock()
		if got := strings.Join(recorder.asked, "; "); got != tc.asked {
			t.Errorf("%s: the proxy got the request %q, want %q", tc.base, got, tc.asked)
		}
		recorder.mu.Unlock()
		if n := direct.Load(); n != tc.direct {
			t.Errorf("%s: %d requests came without the proxy, want %d", tc.base, n, tc.direct)
		}
	}

	proxy.Close()
	gone := must(url.Parse(strings.Replace(proxy.URL, "http://", "http://c4n4ry:c4n4ry@", 1)))
	_, err := post(t.Context(), NewClient(Options{Proxy: gone}), "https://elsewhere.invalid")
	wantError(t, err, token.Unavailable) // the error must not show the password
}

// The client sends secrets over plaintext only to this machine, unless the configuration sets allow_plaintext. RFC 6749
// section 3.2 requires TLS.
func TestClientPlaintext(t *testing.T) {
	recorder := new(recordingProxy)
	proxy := httptest.NewServer(recorder) // sees every request that goes out
	defer proxy.Close()
	proxyURL := must(url.Parse(proxy.URL))
	for _, base := range []string{
		"http://elsewhere.invalid", "HTTP://elsewhere.invalid", "http://192.0.2.1", "http://[2001:db8::1]", "http://10.0.0.1",
		"http://localhost.elsewhere.invalid", "http://127.0.0.1.elsewhere.invalid", "http://0.0.0.0", "http://localhost@elsewhere.invalid",
		"http://LOCALHOST.", "ftp://elsewhere.invalid", "ws://elsewhere.invalid", "//elsewhere.invalid",
	} {
		_, err := post(t.Context(), NewClient(Options{Proxy: proxyURL}), base)
		if e := wantError(t, err, token.Refused); !strings.Contains(e.Reason, "allow_plaintext") {
			t.Errorf("%s: got reason %q", base, e.Reason)
		}
	}
	if len(recorder.asked) > 0 {
		t.Errorf("the client sent %q", recorder.asked)
	}
	if _, err := post(t.Context(), NewClient(Options{Proxy: proxyURL, AllowPlaintext: true}), "http://elsewhere.invalid"); err != nil {
		t.Error(err)
	}
	if len(recorder.asked) != 1 {
		t.Errorf("with allow_plaintext, the client sent %q", recorder.asked)
	}
}

func TestClientDialTimeout(t *testing.T) {
	srv := newRawServer(t, func(net.Conn) {})
	_, err := post(t.Context(), NewClient(Options{DialTimeout: time.Nanosecond}), srv.url)
	if e := wantError(t, err, token.Unavailable); !strings.Contains(e.Reason, "did not accept a connection in time") {
		t.Errorf("got reason %q", e.Reason)
	}
	if n := srv.connections.Load(); n != 0 {
		t.Errorf("the server saw %d connections", n)
	}
}
