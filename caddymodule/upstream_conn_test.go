package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// serveConns runs a server on loopback that gives each connection to serve, and closes it then, or when the test ends.
func serveConns(t *testing.T, serve func(net.Conn), wrap ...func(net.Listener) net.Listener) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	for _, w := range wrap {
		l = w(l)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		end()
		wg.Wait()
	})
	return l.Addr().String()
}

// rejectAndClose is an API that answers 401 as soon as it has read the header of a request whose token is not live, and
// then closes the connection. What it has not read by then makes the system reset the connection.
func rejectAndClose(tokens *tokenServer, received *sums) func(net.Conn) {
	return func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReaderSize(conn, 16))
		if err != nil {
			return
		}
		_, state := tokens.tokens.Lookup(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if state != devserver.Live {
			_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: "+invalidToken+"\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			return
		}
		received.take(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nwelcome")
	}
}

// Of 1,000 such answers, net/http by itself makes some 10 to 20 an error of writing.
func TestEarlyRejectionIsSeen(t *testing.T) {
	if apart.Run(t) {
		return
	}
	configureTLS := func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{serverCertificate(t, "127.0.0.1")}})
	}
	for name, tc := range map[string]struct {
		scheme, options string
		listen          func(net.Listener) net.Listener
	}{
		"in the clear": {"http", "", func(l net.Listener) net.Listener { return l }},
		"TLS":          {"https", "transport http {\n tls_insecure_skip_verify\n}", configureTLS},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			addr := serveConns(t, rejectAndClose(tokens, new(sums)), tc.listen)
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+tc.scheme+"://"+addr+" {\n"+tc.options+"\n}")
			client := testClient(t)
			for range 400 {
				tokens.revokeAll() // a token call for each would be too many: most answers are 401
				a := ask(t, client, newRequest(t, http.MethodPost, base, &patternReader{size: 64 << 10}))
				if a.StatusCode != 401 && a.StatusCode != 200 {
					t.Fatalf("got %d", a.StatusCode)
				}
			}
		})
	}
}

// The request whose early rejection is seen is sent again, whole.
func TestEarlyRejectionIsReplayed(t *testing.T) {
	const rounds, size = 50, 60 << 10
	all, received := newTokenServer(t), new(sums)
	addr := serveConns(t, rejectAndClose(all, received))
	var credentials []string
	var routes strings.Builder
	servers := make([]*tokenServer, rounds)
	for i := range rounds { // since rejections of one credential are limited in time
		servers[i] = all.sibling(t)
		credentials = append(credentials, servers[i].credential(fmt.Sprintf("c%d", i)))
		fmt.Fprintf(&routes, "token_proxy /%d c%d http://%s\n", i, i, addr)
	}
	site := freeAddr(t)
	startCaddy(t, globalOptions(credentials...)+siteConfig(site, routes.String()))
	client := testClient(t)
	for i, s := range servers {
		target := fmt.Sprintf("http://%s/%d", site, i)
		get(t, target).wantStatus(t, 200)
		s.revokeAll()
		ask(t, client, newRequest(t, http.MethodPost, target, &patternReader{size: size})).wantStatus(t, 200)
		if sums := received.taken(); sums[len(sums)-1] != patternSum(size) {
			t.Fatalf("the API got the body %s", sums[len(sums)-1])
		}
		if n := s.Calls(); n != 2 {
			t.Errorf("%d token calls, want 2", n)
		}
	}
}

// resetAfter returns both ends of a connection of which the server has written an answer and has then reset it.
func resetAfter(t *testing.T, answer string) *upstreamConn {
	t.Helper()
	done := make(chan struct{})
	addr := serveConns(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, answer)
		conn.Close() // what is unread makes it a reset
		close(done)
	})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &upstreamConn{Conn: conn, ended: make(chan struct{})}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	wantReceived(t, "the reset", done)
	return c
}

// failingWrite writes until it fails.
func failingWrite(c net.Conn) <-chan error {
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				failed <- err
				return
			}
		}
	}()
	return failed
}

func TestWriteFailsAfterTheAnswer(t *testing.T) {
	t.Run("read to the end", func(t *testing.T) {
		c := resetAfter(t, "answer")
		noticed := &noticedConn{Conn: c.Conn, failed: make(chan struct{})}
		c.Conn = noticed
		failed := failingWrite(c)
		wantReceived(t, "the failure", noticed.failed)
		if got := readSome(t, c, 6); got != "answer" {
			t.Errorf("got %q", got)
		}
		select {
		case err := <-failed:
			t.Errorf("the write failed with %v before all was read", err)
		default:
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("a read gave %d, %v", n, err)
		}
		wantReceived(t, "the write's error", failed)
	})
	t.Run("closed", func(t *testing.T) {
		c := resetAfter(t, "answer")
		failed := failingWrite(c)
		c.Close()
		wantReceived(t, "the write's error", failed)
	})
	t.Run("never read", func(t *testing.T) {
		wantReceived(t, "the write's error", failingWrite(resetAfter(t, "answer")))
	})
	t.Run("a deadline", func(t *testing.T) {
		c := &upstreamConn{Conn: blockedConn{}, ended: make(chan struct{})}
		began := time.Now()
		if _, err := c.Write(nil); !isTimeout(err) || time.Since(began) >= lastWords {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

// noticedConn is a connection that tells when a write has failed.
type noticedConn struct {
	net.Conn
	failed chan struct{}
}

func (c *noticedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		close(c.failed)
	}
	return n, err
}

// blockedConn is a connection whose writes time out.
type blockedConn struct{ net.Conn }

func (blockedConn) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// pieces is a body that arrives in pieces of these sizes. It records how much of it each read asked for.
type pieces struct {
	sizes, asked []int
}

func (p *pieces) Read(b []byte) (int, error) {
	p.asked = append(p.asked, len(b))
	if len(p.sizes) == 0 {
		return 0, io.EOF
	}
	n := min(p.sizes[0], len(b))
	if p.sizes[0] -= n; p.sizes[0] == 0 {
		p.sizes = p.sizes[1:]
	}
	for i := range b[:n] {
		b[i] = byte(len(p.asked))
	}
	return n, nil
}

// writtenConn is a connection that records what is written.
type writtenConn struct {
	net.Conn
	sizes []int
	limit int // the write that fails
}

func (c *writtenConn) Write(p []byte) (int, error) {
	if len(c.sizes) == c.limit {
		return 1, os.ErrDeadlineExceeded
	}
	if i := slices.IndexFunc(p, func(b byte) bool { return b != p[0] }); i >= 0 {
		return 0, fmt.Errorf("byte %d is of another read", i)
	}
	c.sizes = append(c.sizes, len(p))
	return len(p), nil
}

// A body that arrives fast is sent in large pieces. While a slow one is awaited, it holds no large buffer.
func TestBodyPieces(t *testing.T) {
	const small, large = chunkSize, 32 << 10
	for name, tc := range map[string]struct {
		sizes, asked, written []int
	}{
		"none":             {nil, []int{small}, nil},
		"fast":             {[]int{60 << 10}, []int{small, large, large, large}, []int{small, large, 24 << 10}},
		"after a bit":      {[]int{50, 60 << 10}, []int{small, small, large, large, large}, []int{50, small, large, 24 << 10}},
		"slow":             {[]int{100, 4000, 1}, []int{small, small, small, small}, []int{100, 4000, 1}},
		"slow after a lot": {[]int{8 << 10, 100, 100}, []int{small, large, large, small, small}, []int{small, small, 100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			body, conn := &pieces{sizes: tc.sizes}, &writtenConn{limit: -1}
			size := 0
			for _, n := range tc.sizes {
				size += n
			}
			n, err := (&upstreamConn{Conn: conn}).ReadFrom(body)
			if err != nil || n != int64(size) {
				t.Errorf("sent %d of %d bytes, %v", n, size, err)
			}
			if !slices.Equal(body.asked, tc.asked) || !slices.Equal(conn.sizes, tc.written) {
				t.Errorf("reads of %d, writes of %d", body.asked, conn.sizes)
			}
		})
	}
	t.Run("a failed write", func(t *testing.T) {
		n, err := (&upstreamConn{Conn: &writtenConn{limit: 1}}).ReadFrom(&pieces{sizes: []int{60 << 10}})
		if n != small+1 || !isTimeout(err) {
			t.Errorf("sent %d bytes, %v", n, err)
		}
	})
	t.Run("a failed read", func(t *testing.T) {
		n, err := (&upstreamConn{Conn: &writtenConn{limit: -1}}).ReadFrom(iotest.TimeoutReader(&pieces{sizes: []int{60 << 10}}))
		if n != small || err != iotest.ErrTimeout {
			t.Errorf("sent %d bytes, %v", n, err)
		}
	})
}
