package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// echoed is what an upstream sends back in place of an answer, or with it.
type echoed struct {
	name string
	send func(w io.Writer, token string) // over HTTP/1.1
	h2   func(c *frameConn)              // over HTTP/2
	says string                          // what the log must say; "" if the answer is a good one to net/http
}

const (
	saysEcho        = "sent back the token"
	saysUnsolicited = "Unsolicited response received on idle HTTP channel; it is not shown"
)

func raw(answer string) func(io.Writer, string) {
	return func(w io.Writer, token string) {
		_, _ = io.WriteString(w, strings.NewReplacer("TOKEN", token, "\n", "\r\n").Replace(answer))
	}
}

var echoes = []echoed{
	{name: "status line", send: raw("HTTP/1.1 TOKEN\n\n"), says: saysEcho},
	{name: "status code", send: raw("HTTP/1.1 2TOKEN OK\n\n"), says: saysEcho},
	{name: "version", send: raw("HTTP/TOKEN 200 OK\n\n"), says: saysEcho},
	{name: "no HTTP", send: raw("TOKEN\n\n"), says: saysEcho},
	{name: "header line", send: raw("HTTP/1.1 200 OK\nTOKEN\n\n"), says: saysEcho},
	{name: "header name", send: raw("HTTP/1.1 200 OK\nX (TOKEN): x\n\n"), says: saysEcho},
	{name: "folded first line", send: raw("HTTP/1.1 200 OK\n TOKEN: x\n\n"), says: saysEcho},
	{name: "length", send: raw("HTTP/1.1 200 OK\nContent-Length: TOKEN\n\n"), says: saysEcho},
	{name: "lengths", send: raw("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: TOKEN\n\n"), says: saysEcho},
	{name: "transfer encoding", send: raw("HTTP/1.1 200 OK\nTransfer-Encoding: TOKEN\n\n"), says: saysEcho},
	{name: "forbidden trailer", send: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: Content-Length, TOKEN\n\n0\n\n")},
	{name: "informational answer", send: raw("HTTP/1.1 103 Early Hints\nTOKEN\n\n"), says: saysEcho},
	{name: "trailer line", send: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nTOKEN\n\n"), says: saysEcho},
	{name: "trailer name", send: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX (TOKEN): x\n\n"), says: saysEcho},
	{name: "a part of it in a trailer line", send: func(w io.Writer, token string) {
		raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nTOKEN\n\n")(w, token[3:20])
	}, says: saysEcho},
	{name: "rejection with a trailer line", send: raw("HTTP/1.1 401 No\nTransfer-Encoding: chunked\n\n2\nok\n0\nTOKEN\n\n"), says: saysEcho},
	{name: "chunk length", send: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nTOKEN\n")},
	{name: "chunk extension", send: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2;TOKEN\nok\n0\n\n")},
	{name: "cookie", send: raw("HTTP/1.1 200 OK\nContent-Length: 2\nSet-Cookie: TOKEN; Domain=TOKEN\n\nok")},
	{name: "upgrade", send: raw("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\nTOKEN")},
	{name: "bytes nobody asked for", send: raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 TOKEN"), says: saysUnsolicited},
	{name: "bytes nobody asked for, after no body", send: raw("HTTP/1.1 204 No Content\n\nTOKEN"), says: saysUnsolicited},

	{name: "GOAWAY in place of an answer", says: saysEcho, h2: func(c *frameConn) {
		_ = c.WriteGoAway(c.stream, http2.ErrCodeInternal, []byte(c.authorization))
		c.Conn.Close()
	}},
	{name: "GOAWAY in the body", says: saysEcho, h2: func(c *frameConn) {
		c.respond(200, "begun", false)
		_ = c.WriteGoAway(c.stream, http2.ErrCodeInternal, []byte(c.authorization))
		c.Conn.Close()
	}},
	{name: "HTTP/2 header name", says: saysEcho, h2: func(c *frameConn) {
		c.headers(true, ":status", "200", "X"+c.authorization, "x")
	}},
	{name: "HTTP/2 header value", says: saysEcho, h2: func(c *frameConn) {
		c.headers(true, ":status", "200", "x-"+c.authorization, "x\n")
	}},
	{name: "HTTP/2 pseudo header", says: saysEcho, h2: func(c *frameConn) {
		c.headers(true, ":status", "200", ":"+c.authorization, "x")
	}},
	{name: "HTTP/2 status", h2: func(c *frameConn) { c.headers(true, ":status", c.authorization) }},
	{name: "HTTP/2 trailer name", says: saysEcho, h2: func(c *frameConn) {
		c.respond(200, "begun", false)
		c.headers(true, "X"+c.authorization, "x")
	}},
	{name: "HTTP/2 trailer value", says: saysEcho, h2: func(c *frameConn) {
		c.respond(200, "begun", false)
		c.headers(true, "x-"+c.authorization, "x\n")
	}},
	{name: "HTTP/2 pseudo header in a trailer", h2: func(c *frameConn) {
		c.respond(200, "begun", false)
		c.headers(true, ":"+c.authorization, "x")
	}},
	{name: "HTTP/2 data nobody asked for", h2: func(c *frameConn) {
		c.respond(200, "ok", true)
		_ = c.WriteData(c.stream, true, []byte(c.authorization))
	}},
}

// withSink makes Go's standard log go to the test's file as well.
func (s *caddyServer) withSink(root map[string]any) {
	root["logging"].(map[string]any)["sink"] = map[string]any{
		"level":  "DEBUG",
		"writer": map[string]any{"output": "file", "filename": filepath.Join(filepath.Dir(s.logFile), "sink.log"), "roll": false},
	}
}

func startWithSink(t *testing.T, config string) *caddyServer {
	t.Helper()
	s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
	if err := s.load(config, s.withSink); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return s
}

func (s *caddyServer) sink() string {
	other := caddyServer{t: s.t, logFile: filepath.Join(filepath.Dir(s.logFile), "sink.log")}
	return other.logs()
}

// An upstream that sends the token back where net/http quotes it does not bring it into the log.
func TestEchoIsNotLogged(t *testing.T) {
	for _, tc := range echoes {
		t.Run(tc.name, func(t *testing.T) {
			var sent provider.Secret
			tokens := newTokenServer(t)
			upstream := "http://" + serveConns(t, func(conn net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				sent = token.NewSecret(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
				tc.send(conn, sent.Reveal())
				_, _ = conn.Read(make([]byte, 1)) // until net/http closes it
			})
			if tc.h2 != nil {
				api := &frameAPI{answer: func(c *frameConn, _ int) {
					sent = token.NewSecret(c.authorization)
					tc.h2(c)
				}}
				upstream = "h2c://" + serveConns(t, api.serve)
			}
			addr := freeAddr(t)
			config := globalOptions(tokens.credential("api")) + siteConfig(addr, "log\ntoken_proxy api "+upstream+" {\n verbose_logs\n}")
			s := startWithSink(t, config)
			conn := dialSite(t, "http://"+addr)
			header := "Connection: close"
			if tc.name == "upgrade" {
				header = "Connection: Upgrade\r\nUpgrade: websocket"
			}
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: app\r\n"+header+"\r\n\r\n")
			if tc.name == "upgrade" {
				_, _ = conn.Read(make([]byte, 1<<10))
			} else {
				_, _ = io.Copy(io.Discard, conn)
			}
			conn.Close()
			defer func() {
				if t.Failed() {
					t.Log(s.logs())
				}
			}()
			eventually(t, "a line in the log", func() bool {
				return strings.Contains(s.logs(), `"handled request"`) && strings.Contains(s.logs()+s.sink(), tc.says)
			})
			if sent.Empty() {
				t.Error("the upstream got no token")
			}
			if sent.In(s.logs()) {
				t.Errorf("the token is in the log:\n%s", linesWith(s.logs(), sent))
			}
			if sent.In(s.sink()) {
				t.Errorf("the token is in the standard log:\n%s", linesWith(s.sink(), sent))
			}
		})
	}
}

func linesWith(text string, secret provider.Secret) string {
	var found []string
	for line := range strings.Lines(text) {
		if secret.In(line) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// Caddy sets the output anew with each configuration, and with those that it refuses then: bytes that nobody asked for do
// not show, whenever they come.
func TestStandardLogFilterSurvivesReloads(t *testing.T) {
	tokens := newTokenServer(t)
	sent, more := make(chan provider.Secret, 1), make(chan struct{})
	api := serveConns(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		value := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		sent <- token.NewSecret(value)
		<-more
		_, _ = io.WriteString(conn, value)
		_, _ = conn.Read(make([]byte, 1))
	})
	addr := freeAddr(t)
	config := globalOptions(tokens.credential("api")) + siteConfig(addr, "token_proxy api http://"+api)
	s := startWithSink(t, config)
	if !standardLogGuarded() {
		t.Error("the filter is not there before the first connection")
	}
	for n, wrong := range []string{
		`{"apps": {"nothing": {}}}`,
		`{"apps": {"token_proxy": {"replay_memory": -1}}}`,
		`{"storage": {"module": "nothing"}}`,
	} {
		get(t, "http://"+addr).wantStatus(t, 200)
		secret := wantReceived(t, "a request", sent)
		err := s.load(config, s.withSink, func(root map[string]any) { _ = json.Unmarshal([]byte(wrong), &root) })
		if err == nil {
			t.Fatalf("%s: it was loaded", wrong)
		}
		more <- struct{}{}
		eventually(t, "the line", func() bool { return strings.Count(s.sink(), saysUnsolicited) == n+1 })
		if secret.In(s.sink()) || secret.In(s.logs()) {
			t.Errorf("%s: the token is in the log", wrong)
		}
	}
}

// The filter stands once before Caddy's own writer, however often configurations are loaded.
func TestStandardLogFilter(t *testing.T) {
	var mu sync.Mutex
	var written bytes.Buffer
	before := log.Writer()
	t.Cleanup(func() { log.SetOutput(before) })
	log.SetOutput(writerFunc(func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		written.Write(p)
	}))
	for range 3 {
		guardStandardLog()
	}
	if f, ok := log.Writer().(standardLogFilter); !ok {
		t.Fatal("the filter is not there")
	} else if _, twice := f.next.(standardLogFilter); twice {
		t.Error("the filter is there twice")
	}
	flags := log.Flags()
	log.SetFlags(0)
	defer log.SetFlags(flags)
	log.Printf("Unsolicited response received on idle HTTP channel starting with %q; err=%v", "s3cret\nlines", io.EOF)
	log.Printf("http2: Transport encoding header %q = %q", "authorization", "s3cret")
	log.Printf("another line with %q", "an answer")
	want := "Unsolicited response received on idle HTTP channel; it is not shown, because a token may be in it\n" +
		"http2: Transport encoding header; it is not shown, because a token may be in it\n" +
		"another line with \"an answer\"\n"
	if got := written.String(); got != want {
		t.Errorf("the log has\n%s\nwant\n%s", got, want)
	}
}
