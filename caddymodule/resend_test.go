package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frameAPI is an HTTP/2 server made of frames. It remembers the bodies, and what trailer came with them.
type frameAPI struct {
	// answer answers the n-th request, once all of it has arrived.
	answer func(c *frameConn, n int)
	early  bool // answer is called when the header has arrived, and there is no more than that to remember

	mu     sync.Mutex
	bodies []string
}

// frameConn is one connection, and one request on it.
type frameConn struct {
	*http2.Framer
	net.Conn
	stream        uint32
	authorization string
	body, trailer string
}

// respond sends a header, and so much of a body.
func (c *frameConn) respond(status int, body string, end bool) {
	c.headers(end && body == "", ":status", fmt.Sprint(status))
	if body != "" {
		_ = c.WriteData(c.stream, end, []byte(body))
	}
}

// headers sends header fields, given as names and values in turn.
func (c *frameConn) headers(end bool, fields ...string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

func (a *frameAPI) serve(conn net.Conn) {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	c := &frameConn{Framer: http2.NewFramer(conn, conn), Conn: conn}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if c.WriteSettings() != nil {
		return
	}
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = c.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID > c.stream {
				c.stream, c.body, c.trailer, c.authorization = f.StreamID, "", "", ""
			}
			for _, field := range f.RegularFields() {
				switch field.Name {
				case "x-sum":
					c.trailer = field.Value
				case "authorization":
					c.authorization = strings.TrimPrefix(field.Value, "Bearer ")
				}
			}
			a.proceed(c, f.StreamEnded(), f.StreamID)
		case *http2.DataFrame:
			c.body += string(f.Data())
			_ = c.WriteWindowUpdate(0, max(1, f.Length))
			_ = c.WriteWindowUpdate(f.StreamID, max(1, f.Length))
			a.proceed(c, f.StreamEnded(), f.StreamID)
		}
	}
}

func (a *frameAPI) proceed(c *frameConn, ended bool, stream uint32) {
	if stream != c.stream || !ended && (!a.early || c.body != "" || c.trailer != "") {
		return
	}
	a.mu.Lock()
	a.bodies = append(a.bodies, strings.TrimSpace(c.body+" "+c.trailer))
	n := len(a.bodies)
	a.mu.Unlock()
	a.answer(c, n)
}

func (a *frameAPI) taken() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.bodies)
}

// The ways in which an upstream ends a stream.
func goAwayBefore(c *frameConn) { _ = c.WriteGoAway(c.stream-1, http2.ErrCodeNo, nil) }

func goAwayAfter(c *frameConn) {
	_ = c.WriteGoAway(c.stream, http2.ErrCodeNo, nil)
	c.Conn.Close()
}

func resetWith(code http2.ErrCode) func(*frameConn) {
	return func(c *frameConn) { _ = c.WriteRSTStream(c.stream, code) }
}

// A request of which an HTTP/2 upstream says that it has not processed it is sent again. One that may have been processed
// is not, unless it may be applied twice. This also holds net/http to the words of its errors.
func TestUnprocessed(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	tests := []struct {
		name, method, body string
		end                func(*frameConn)
		times              int // that the upstream ends the stream so; then it answers
		status, requests   int
	}{
		{"GOAWAY", "POST", "body", goAwayBefore, 1, 200, 2},
		{"GOAWAY twice", "POST", "body", goAwayBefore, 2, 200, 3},
		{"GOAWAY, larger than what is kept", "POST", large, goAwayBefore, 1, 502, 1},
		{"GOAWAY, PUT", "PUT", "body", goAwayBefore, 1, 200, 2},
		{"GOAWAY after the request", "POST", "body", goAwayAfter, 1, 502, 1},
		{"REFUSED_STREAM", "POST", "body", resetWith(http2.ErrCodeRefusedStream), 1, 200, 2},
		{"REFUSED_STREAM for ever", "POST", "body", resetWith(http2.ErrCodeRefusedStream), 100, 502, 1 + maxResends},
		{"PROTOCOL_ERROR", "POST", "body", resetWith(http2.ErrCodeProtocol), 1, 502, 1},
		{"PROTOCOL_ERROR, PATCH", "PATCH", "body", resetWith(http2.ErrCodeProtocol), 1, 502, 1},
		{"INTERNAL_ERROR", "POST", "body", resetWith(http2.ErrCodeInternal), 1, 502, 1},
		{"INTERNAL_ERROR, PUT", "PUT", "body", resetWith(http2.ErrCodeInternal), 1, 502, 1},
		{"CANCEL", "POST", "body", resetWith(http2.ErrCodeCancel), 1, 502, 1},
	}
	serveTLS := func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{
			Certificates: []tls.Certificate{serverCertificate(t, "127.0.0.1")}, NextProtos: []string{"h2"},
		})
	}
	proxied := func(t *testing.T, directive string, req *http.Request) int {
		tokens := newTokenServer(t)
		_, base := startProxy(t, tokens.credential("api"), directive)
		return ask(t, testClient(t), newRequest(t, req.Method, base, req.Body)).StatusCode
	}
	ways := map[string]func(t *testing.T, api *frameAPI, req *http.Request) (status int){
		"h2c": func(t *testing.T, api *frameAPI, req *http.Request) int {
			return proxied(t, "token_proxy api h2c://"+serveConns(t, api.serve), req)
		},
		"h2": func(t *testing.T, api *frameAPI, req *http.Request) int {
			return proxied(t, "token_proxy api https://"+serveConns(t, api.serve, serveTLS)+" {\n transport http {\n tls_insecure_skip_verify\n}\n}", req)
		},
		"net/http's own HTTP/2": func(t *testing.T, api *frameAPI, req *http.Request) int { // tokens that are bound to a certificate
			next := &http.Transport{Protocols: h2cOnly()}
			t.Cleanup(next.CloseIdleConnections)
			i := newTestInjector(t, new(numberedTokens), next)
			i.route = nil // which would take the address that asProxied names
			req.URL.Scheme, req.URL.Host = "http", serveConns(t, api.serve)
			res, err := i.RoundTrip(asProxied(t, i, req, "127.0.0.1"))
			if err != nil {
				return 502
			}
			_ = res.Body.Close()
			return res.StatusCode
		},
	}
	for way, send := range ways {
		for _, tc := range tests {
			t.Run(way+", "+tc.name, func(t *testing.T) {
				api := &frameAPI{answer: func(c *frameConn, n int) {
					if n <= tc.times {
						tc.end(c)
						return
					}
					c.respond(200, "ok", true)
				}}
				if status := send(t, api, outbound(tc.method, strings.NewReader(tc.body), 1)); status != tc.status {
					t.Errorf("got %d, want %d", status, tc.status)
				}
				got := api.taken()
				if len(got) != tc.requests || slices.ContainsFunc(got, func(b string) bool { return b != tc.body }) {
					t.Errorf("the API got %d requests %.100q, want %d", len(got), got, tc.requests)
				}
			})
		}
	}
}

// A body is still whole after both: sent again for the upstream's sake, and then for another token.
func TestUnprocessedAndRejected(t *testing.T) {
	for _, method := range []string{"POST", "PUT"} {
		t.Run(method, func(t *testing.T) {
			tokens := newTokenServer(t)
			api := &frameAPI{answer: func(c *frameConn, n int) {
				switch n {
				case 1, 3:
					goAwayBefore(c)
				case 2:
					c.respond(401, "no", true)
				default:
					c.respond(200, "ok", true)
				}
			}}
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api h2c://"+serveConns(t, api.serve))
			request := method + " / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"
			if status := sendRaw(t, base, request); status != 200 {
				t.Errorf("got %d", status)
			}
			if got := api.taken(); !slices.Equal(got, slices.Repeat([]string{"hello 42"}, 4)) {
				t.Errorf("the API got %q", got)
			}
			if n := tokens.Calls(); n != 2 {
				t.Errorf("%d token calls, want 2", n)
			}
		})
	}
}

// An upstream that goes away while the client is still sending: what has come goes to the next connection, with the rest.
func TestUnprocessedInMidAir(t *testing.T) {
	first := make(chan struct{})
	api := &frameAPI{early: true}
	api.answer = func(c *frameConn, n int) { // called at the header of each request, and at its end
		switch {
		case n == 1:
			goAwayBefore(c)
			close(first)
		case c.body == "hello world":
			c.respond(200, "ok", true)
		}
	}
	tokens := newTokenServer(t)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api h2c://"+serveConns(t, api.serve))
	conn := dialSite(t, base)
	send := func(s string) { _, _ = io.WriteString(conn, s) }
	send("POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	wantReceived(t, "the first request", first)
	send("6\r\n world\r\n0\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 200 {
		t.Errorf("got %v, %v", res, err)
	}
}

// HTTP/1.1: a connection that ends when a request has been sent on it says nothing of whether it was processed.
func TestLostConnection(t *testing.T) {
	for _, tc := range []struct {
		method, body     string
		header           []string
		status, requests int
	}{
		{"GET", "", nil, 200, 2},
		{"GET", "body", nil, 200, 2},
		{"POST", "body", nil, 502, 1},
		{"PUT", "body", nil, 502, 1}, // net/http does not send it again either
		{"POST", "body", []string{"Idempotency-Key", "1"}, 200, 2},
		{"POST", strings.Repeat("x", 100<<10), []string{"Idempotency-Key", "1"}, 502, 1},
	} {
		t.Run(fmt.Sprintf("%s, %d bytes %v", tc.method, len(tc.body), tc.header), func(t *testing.T) {
			received := new(sums)
			addr := serveConns(t, func(conn net.Conn) {
				r := bufio.NewReader(conn)
				for n := 0; ; n++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					received.take(req)
					if n == 1 {
						return
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			tokens := newTokenServer(t)
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api http://"+addr)
			get(t, base).wantStatus(t, 200)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			req := newRequest(t, tc.method, base, strings.NewReader(tc.body), tc.header...).WithContext(ctx)
			if a := ask(t, testClient(t), req); a.StatusCode != tc.status {
				t.Errorf("got %d, want %d", a.StatusCode, tc.status)
			}
			if n := len(received.taken()) - 1; n != tc.requests {
				t.Errorf("the API got %d requests, want %d", n, tc.requests)
			}
		})
	}
}
