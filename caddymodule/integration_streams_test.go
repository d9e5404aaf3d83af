package caddymodule

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// guarded lets only requests with a live token of this endpoint through to h; others get 401.
func (s *tokenServer) guarded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		values := r.Header.Values("Authorization")
		if len(values) == 1 {
			value, bearer := strings.CutPrefix(values[0], "Bearer ")
			if _, state := s.tokens.Lookup(value); bearer && state == devserver.Live {
				h(w, r)
				return
			}
		}
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// startGuardedProxy boots Caddy in front of an API that demands tokens.
func startGuardedProxy(t *testing.T, h http.HandlerFunc) (*tokenServer, *recordingAPI, string) {
	t.Helper()
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.guarded(h))
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	return tokens, api, base
}

// dialSite connects to a site.
func dialSite(t *testing.T, base string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// upgradeEcho answers a WebSocket handshake, then sends back what it gets until the client has finished.
func upgradeEcho(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Key") == "" {
			t.Errorf("the handshake arrived as %v", r.Header)
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: accepted\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}
}

// handshake opens a WebSocket and returns the connection after the 101.
func handshake(t *testing.T, base string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn := dialSite(t, base)
	fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: app\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer of-the-app\r\n\r\n")
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-Websocket-Accept") != "accepted" {
		t.Fatalf("the handshake was answered with %s %v", res.Status, res.Header)
	}
	return conn, r
}

// wantEcho sends bytes through a tunnel and wants them back.
func wantEcho(t *testing.T, conn net.Conn, r io.Reader) {
	t.Helper()
	for _, message := range []string{"\x81\x05hello", "\x00\xff binary", strings.Repeat("long ", 20_000)} {
		go io.WriteString(conn, message)
		got := make([]byte, len(message))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != message {
			t.Fatalf("the tunnel gave back %d bytes, %v", len(got), err)
		}
	}
}

func TestWebSocketPassesThrough(t *testing.T) {
	_, api, base := startGuardedProxy(t, upgradeEcho(t))
	conn, r := handshake(t, base)
	wantEcho(t, conn, r)
	api.only(t)
}

// Each event must be there before the next is sent.
func TestServerSentEventsArriveOneByOne(t *testing.T) {
	seen := make(chan struct{})
	_, _, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-seen:
			case <-r.Context().Done():
				return
			}
		}
	})
	res, err := testClient(t).Do(newRequest(t, http.MethodGet, base, nil, "Accept", "text/event-stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			if s.Text() != "" {
				lines <- s.Text()
			}
		}
	}()
	for i := range 5 {
		if got, want := wantReceived(t, "an event", lines), fmt.Sprintf("data: %d", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		seen <- struct{}{}
	}
}

// h2cOnly makes a transport, or with serveH2C a server, speak HTTP/2 without TLS.
func h2cOnly() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func serveH2C(srv *httptest.Server) {
	srv.Config.Protocols = h2cOnly()
	srv.Config.Protocols.SetHTTP1(true)
}

// h2cClient is a client that speaks HTTP/2 without TLS.
func h2cClient(t *testing.T) *http.Client {
	t.Helper()
	c := testClient(t)
	c.Transport.(*http.Transport).Protocols = h2cOnly()
	return c
}

// globalOptionsH2C is globalOptions for sites that speak HTTP/2 without TLS, too.
func globalOptionsH2C(credentials ...string) string {
	return "{\n servers {\n protocols h1 h2c\n}\n" + strings.TrimPrefix(globalOptions(credentials...), "{\n")
}

// startH2CProxy boots Caddy with HTTP/2 without TLS on both sides.
func startH2CProxy(t *testing.T, credential string, api *recordingAPI) string {
	t.Helper()
	addr := freeAddr(t)
	startCaddy(t, globalOptionsH2C(credential)+siteConfig(addr, "token_proxy api h2c://"+api.addr()))
	return "http://" + addr
}

// echoStream sends back what it gets as it comes, in capitals, and then a trailer, as a gRPC service does.
func echoStream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	buf := make([]byte, 64)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(bytes.ToUpper(buf[:n]))
		_ = http.NewResponseController(w).Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", "late "+r.Trailer.Get("X-Late"))
}

// talk holds a conversation with echoStream: each message is sent when the one before has been answered.
func talk(t *testing.T, client *http.Client, target string) {
	t.Helper()
	send, body := newPipe(t)
	req := newRequest(t, http.MethodPost, target, body, "Content-Type", "application/grpc", "Te", "trailers")
	req.Trailer = http.Header{"X-Late": nil}
	answered := make(chan *http.Response, 1)
	go func() {
		res, err := client.Do(req)
		if err != nil {
			t.Error(err)
		}
		answered <- res
	}()
	send("first ")
	res := wantReceived(t, "the answer's header while the request is open", answered)
	if res == nil {
		t.FailNow()
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("got %s", res.Status)
	}
	for _, message := range []string{"first ", "second ", "third "} {
		if message != "first " {
			send(message)
		}
		got := make([]byte, len(message))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != strings.ToUpper(message) {
			t.Fatalf("got %q, %v for %q", got, err, message)
		}
	}
	req.Trailer.Set("X-Late", "but there")
	send("")
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
		t.Errorf("got %q, %v at the end", rest, err)
	}
	if status, message := res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message"); status != "0" || message != "late but there" {
		t.Errorf("the trailer is %v", res.Trailer)
	}
}

// As gRPC does it: both sides talk at the same time on one request, and the status is in the trailer.
func TestBidirectionalStreamWithTrailers(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.guarded(echoStream), serveH2C)
	talk(t, h2cClient(t), startH2CProxy(t, tokens.credential("api"), api)+"/pkg.Service/Method")
	if got := api.only(t); got.Proto != "HTTP/2.0" || got.Header.Get("Te") != "trailers" {
		t.Errorf("the API got %+v", got)
	}
}

// newPipe returns a request body and a function that sends into it; the empty text ends it.
func newPipe(t *testing.T) (send func(string), body io.Reader) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { w.CloseWithError(io.ErrUnexpectedEOF) })
	return func(text string) {
		t.Helper()
		if text == "" {
			_ = w.Close()
			return
		}
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(w, text)
			sent <- err
		}()
		if err := wantReceived(t, "room for the body", sent); err != nil {
			t.Errorf("sending the body: %v", err)
		}
	}, r
}

func TestTrailersBothWays(t *testing.T) {
	trailers := make(chan http.Header, 1)
	_, _, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		trailers <- r.Trailer
		w.Header().Set("X-Sum", "of the response")
		w.Header().Set(http.TrailerPrefix+"X-Undeclared", "too")
	})
	conn := dialSite(t, base)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"+
		"5\r\nhello\r\n0\r\nX-Sum: of the request\r\nX-Undeclared: too\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "hello" {
		t.Errorf("got body %q, %v", body, err)
	}
	got := wantReceived(t, "the request's trailer", trailers)
	if got.Get("X-Sum") != "of the request" || got.Get("X-Undeclared") != "too" {
		t.Errorf("the request's trailer arrived as %v", got)
	}
	if res.Trailer.Get("X-Sum") != "of the response" || res.Trailer.Get("X-Undeclared") != "too" {
		t.Errorf("the response's trailer arrived as %v", res.Trailer)
	}
}

func TestExpectContinue(t *testing.T) {
	_, _, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	conn := dialSite(t, base)
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusContinue {
		t.Fatalf("got %v, %v, want 100 Continue", res, err)
	}
	fmt.Fprint(conn, "hello")
	for err == nil && res.StatusCode == http.StatusContinue { // the API's own 100 may follow that of Caddy
		res, err = http.ReadResponse(r, nil)
	}
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", res, err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" {
		t.Errorf("got body %q, %v", body, err)
	}
}

// patternReader gives size bytes that do not repeat within any buffer, and says when it has given the first part. It
// gives the rest only when it may.
type patternReader struct {
	size, given, first int
	firstGiven         func()
	mayGoOn            <-chan struct{}
}

func (p *patternReader) Read(b []byte) (int, error) {
	if p.given == p.first && p.firstGiven != nil {
		p.firstGiven()
		p.firstGiven = nil
		select {
		case <-p.mayGoOn:
		case <-time.After(20 * time.Second):
			return 0, errors.New("the first part has not come out at the other end")
		}
	}
	limit := p.size
	if p.given < p.first {
		limit = p.first
	}
	n := min(len(b), limit-p.given)
	for i := range b[:n] {
		at := p.given + i
		b[i] = byte(at ^ at>>8 ^ at>>16)
	}
	p.given += n
	if p.given == p.size && n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func patternSum(size int) string {
	h := sha256.New()
	_, _ = io.Copy(h, &patternReader{size: size})
	return hex.EncodeToString(h.Sum(nil))
}

// sumAfter hashes a stream and tells when it has seen the first part of it.
func sumAfter(r io.Reader, first int, seen func()) (sum string, n int64, err error) {
	var h hash.Hash = sha256.New()
	n, err = io.CopyN(h, r, int64(first))
	if err != nil {
		return "", n, err
	}
	seen()
	rest, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), n + rest, err
}

// 64 MiB each way. The sender sends one MiB and goes on only when half of that has come out at the other end, so that
// whoever buffers the whole would wait in vain.
func TestLargeBodiesAreStreamed(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const size, first = 64 << 20, 1 << 20
	want := patternSum(size)
	var once [2]sync.Once
	arrived := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	seen := func(i int) func() { return func() { once[i].Do(func() { close(arrived[i]) }) } }
	_, api, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			sum, n, err := sumAfter(r.Body, first/2, seen(0))
			fmt.Fprintf(w, "%s %d %v", sum, n, err)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.Copy(w, &patternReader{
			size: size, first: first, mayGoOn: arrived[1],
			firstGiven: func() { _ = http.NewResponseController(w).Flush() },
		})
	})
	client := testClient(t)

	up := newRequest(t, http.MethodPost, base, &patternReader{size: size, first: first, firstGiven: func() {}, mayGoOn: arrived[0]})
	if got := ask(t, client, up).body; got != fmt.Sprintf("%s %d <nil>", want, size) {
		t.Errorf("the upload arrived as %s", got)
	}
	res, err := client.Do(newRequest(t, http.MethodGet, base, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if sum, n, err := sumAfter(res.Body, first/2, seen(1)); sum != want || n != size || err != nil {
		t.Errorf("the download arrived as %s, %d bytes, %v", sum, n, err)
	}
	if n := len(api.received()); n != 2 {
		t.Errorf("the API got %d requests", n)
	}
}

// Messages pass as they are, whatever their method and framing.
func TestMessagesPassUnchanged(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, strings.Repeat("compressed ", 100))
	_ = z.Close()

	_, api, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Body", hex.EncodeToString(body))
		w.Header()["X-Two"] = []string{"one", "two"}
		switch r.URL.Path {
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped.Bytes())
		case "/length":
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		case "/chunked":
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "hello")
		case "/nothing":
			w.WriteHeader(http.StatusNoContent)
		case "/499":
			w.WriteHeader(499)
		case "/redirect":
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
		}
	})
	client := testClient(t)
	client.Transport.(*http.Transport).DisableCompression = true

	tests := []struct {
		name, method, target string
		header               []string
		body                 io.Reader
		status               int
		length               int64 // of the response
		want                 string
		sentLength           int64 // what the API is told
	}{
		{"GET", "GET", "/length?q=a%20b&q=c;d", nil, nil, 200, 5, "hello", 0},
		{"HEAD", "HEAD", "/length", nil, nil, 200, 5, "", 0},
		{"OPTIONS", "OPTIONS", "/length", nil, nil, 200, 5, "hello", 0},
		{"DELETE", "DELETE", "/nothing", nil, nil, 204, 0, "", 0},
		{"PATCH with a length", "PATCH", "/length", nil, strings.NewReader("patch"), 200, 5, "hello", 5},
		{"POST without a length", "POST", "/chunked", nil, struct{ io.Reader }{strings.NewReader("chunks")}, 200, -1, "hello", -1},
		{"POST without a body", "POST", "/length", nil, nil, 200, 5, "hello", 0},
		{"GET with a body", "GET", "/length", nil, strings.NewReader("query"), 200, 5, "hello", 5},
		{"a method of its own", "PROPFIND", "/chunked", nil, nil, 200, -1, "hello", 0},
		{"gzip, asked for", "GET", "/gzip", []string{"Accept-Encoding", "gzip"}, nil, 200, int64(zipped.Len()), zipped.String(), 0},
		{"gzip upload", "PUT", "/length", []string{"Content-Encoding", "gzip"}, bytes.NewReader(zipped.Bytes()), 200, 5, "hello", int64(zipped.Len())},
		{"the API's own 499", "GET", "/499", nil, nil, 499, 0, "", 0},
		{"redirect", "GET", "/redirect", nil, nil, 307, -2, "", 0},
		{"path that must not be cleaned", "GET", "/length/../x//y/%2e%2e/%2Fz", nil, nil, 200, 0, "", 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			sent := ""
			if s, ok := tc.body.(io.Seeker); ok {
				all, _ := io.ReadAll(tc.body)
				_, _ = s.Seek(0, io.SeekStart)
				sent = string(all)
			} else if tc.body != nil {
				sent = "chunks"
			}
			before := len(api.received())
			a := ask(t, client, newRequest(t, tc.method, base+tc.target, tc.body, tc.header...))
			a.wantStatus(t, tc.status)
			if tc.length != -2 && a.ContentLength != tc.length {
				t.Errorf("the response has length %d, want %d", a.ContentLength, tc.length)
			}
			if tc.want != "" && a.body != tc.want || tc.method == "HEAD" && a.body != "" {
				t.Errorf("the body is %q", a.body)
			}
			if got := a.Header.Get("X-Body"); got != hex.EncodeToString([]byte(sent)) {
				t.Errorf("the API got the body %s (hex)", got)
			}
			if two := a.Header.Values("X-Two"); !slices.Equal(two, []string{"one", "two"}) {
				t.Errorf("a repeated response field is %q", two)
			}
			if status := a.Header.Values("Proxy-Status"); len(status) != 0 {
				t.Errorf("an answer of the API's carries Proxy-Status %q", status)
			}
			got := api.received()
			if len(got) != before+1 {
				t.Fatalf("the API got %d requests", len(got)-before)
			}
			r := got[before]
			if r.Method != tc.method || r.URI != tc.target || r.ContentLength != tc.sentLength {
				t.Errorf("the API got %s %s with length %d", r.Method, r.URI, r.ContentLength)
			}
			if chunked := slices.Contains(r.TransferEncoding, "chunked"); chunked != (tc.sentLength < 0) {
				t.Errorf("the API got Transfer-Encoding %q", r.TransferEncoding)
			}
		})
	}
}

func TestEarlyHintsArriveEarly(t *testing.T) {
	hinted := make(chan textproto.MIMEHeader, 1)
	goOn := make(chan struct{})
	_, _, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "done")
	})
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints {
			hinted <- header
		}
		return nil
	}}
	answered := make(chan clientAnswer, 1)
	req := newRequest(t, http.MethodGet, base, nil)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
	client := testClient(t)
	go func() {
		a, err := tryAsk(client, req)
		if err != nil {
			t.Error(err)
		}
		answered <- a
	}()
	if hints := wantReceived(t, "the early hints", hinted); hints.Get("Link") == "" {
		t.Errorf("the hints are %v", hints)
	}
	close(goOn)
	if a := wantReceived(t, "the answer", answered); a.body != "done" {
		t.Errorf("got %q", a.body)
	}
}

func TestClientThatLeavesCancelsTheUpstream(t *testing.T) {
	arrived, cancelled := make(chan struct{}, 1), make(chan struct{}, 1)
	_, _, base := startGuardedProxy(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
		cancelled <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req := newRequest(t, http.MethodGet, base, nil).WithContext(ctx)
	client := testClient(t)
	go func() { _, _ = tryAsk(client, req) }()
	wantReceived(t, "the request", arrived)
	cancel()
	wantReceived(t, "the cancellation", cancelled)
}

// shortDir is a directory whose name leaves room for that of a unix socket (108 bytes).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestUnixSockets(t *testing.T) {
	tokens := newTokenServer(t)
	dir := shortDir(t)
	upstream, listener := filepath.Join(dir, "api.sock"), filepath.Join(dir, "proxy.sock")
	l, err := net.Listen("unix", upstream)
	if err != nil {
		t.Fatal(err)
	}
	api := newRecordingAPI(t, tokens.api().ServeHTTP, func(srv *httptest.Server) {
		_ = srv.Listener.Close()
		srv.Listener = l
	})
	addr := freeAddr(t)
	startCaddy(t, globalOptions(tokens.credential("api"))+
		siteConfig(addr, "token_proxy api unix/"+upstream)+
		"http:// {\n bind unix/"+listener+"\n token_proxy api unix/"+upstream+"\n}\n")

	get(t, "http://"+addr+"/over-tcp").wantStatus(t, 200)
	client := testClient(t)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", listener)
	}
	// A unix socket counts as loopback, and what the request says about itself does not matter.
	ask(t, client, newRequest(t, http.MethodGet, "http://app/over-unix", nil, "X-Forwarded-For", "203.0.113.9")).wantStatus(t, 200)
	if got := api.received(); len(got) != 2 || tokens.Calls() != 1 {
		t.Errorf("the API got %d requests, the token endpoint %d calls", len(got), tokens.Calls())
	}
}
