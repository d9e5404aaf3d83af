package httpsproxy_test

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// An application that obeys HTTPS_PROXY gets tokens, over HTTP/1.1 and HTTP/2, with one connection for its requests.
func TestSite(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2 ", h2), func(t *testing.T) {
			p := startProxy(t, parts{})
			application := p.application(t, h2)
			requests, denied := difference(t, func() {
				for range 3 {
					res, err := application.Get("https://" + apiHost + "/orders")
					p.wantToken(t, res, err)
					if h2 != (res.ProtoMajor == 2) {
						t.Errorf("it came over %s", res.Proto)
					}
				}
			})
			if !maps.Equal(requests, map[string]uint64{"site": 1}) || len(denied) > 0 {
				t.Errorf("counted %v, denied %v", requests, denied)
			}
			for _, r := range p.api.Received() {
				if r.Host != apiHost || r.URI != "/orders" {
					t.Errorf("the API got %s for %s", r.URI, r.Host)
				}
			}
		})
	}
}

// The names of sites match as they do for Caddy.
func TestSiteNames(t *testing.T) {
	t.Setenv("HTTPS_PROXY_TEST_HOST", "b.wild.example.com")
	p := startProxy(t, parts{sites: `
https://a.wild.example.com:PORT, https://{$HTTPS_PROXY_TEST_HOST}:PORT {
	bind BIND
	tls CERTS
	respond sites
}
https://*.wild.example.com:PORT {
	bind BIND
	tls CERTS
	respond wildcard
}`})
	for host, want := range map[string]string{
		"a.wild.example.com": "sites", "b.wild.example.com": "sites", "c.wild.example.com": "wildcard", "C.Wild.Example.COM": "wildcard",
	} {
		conn, status := p.connect(t, host+":443")
		if status != http.StatusOK {
			t.Errorf("CONNECT %s: status %d", host, status)
			continue
		}
		tlsConn, err := p.handshake(conn, host)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if _, body := get(t, tlsConn, host); body != want {
			t.Errorf("%s: %q, want %q", host, body, want)
		}
	}
	for _, host := range []string{"wild.example.com", "a.b.wild.example.com", "xapi.example.com", "api.example.com.evil.example"} {
		if _, status := p.connect(t, host+":443"); status != http.StatusForbidden {
			t.Errorf("CONNECT %s: status %d", host, status)
		}
	}
	if res, err := p.application(t, true).Get("https://API.Example.COM/orders"); true {
		p.wantToken(t, res, err)
	}
}

// Without CONNECT, TLS on the same port works as if the wrapper were not there.
func TestDirectTLS(t *testing.T) {
	p := startProxy(t, parts{})
	requests, denied := difference(t, func() {
		conn, err := p.handshake(p.dial(t), apiHost)
		if err != nil {
			t.Fatal(err)
		}
		if status, body := get(t, conn, apiHost); status != http.StatusOK || !strings.Contains(body, p.tokens.ClientID) {
			t.Errorf("status %d, %s", status, body)
		}
	})
	if len(requests)+len(denied) > 0 {
		t.Errorf("counted %v, denied %v", requests, denied)
	}
}

// A client may send its ClientHello without waiting for the answer to its CONNECT.
func TestHelloWithConnect(t *testing.T) {
	p := startProxy(t, parts{})
	client, err := p.handshake(&eager{Conn: p.dial(t), head: "CONNECT " + apiHost + ":443 HTTP/1.1\r\nHost: " + apiHost + "\r\n\r\n"}, apiHost)
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, client, apiHost); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

// eager sends a head in one piece with the first bytes that are written, and skips the answer to it.
type eager struct {
	net.Conn
	head    string
	skipped bool
}

func (e *eager) Write(p []byte) (int, error) {
	head := e.head
	e.head = ""
	n, err := e.Conn.Write(append([]byte(head), p...))
	return n - len(head), err
}

func (e *eager) Read(p []byte) (int, error) {
	if !e.skipped {
		e.skipped = true
		res, err := http.ReadResponse(bufio.NewReader(onebyte{e.Conn}), &http.Request{Method: http.MethodConnect})
		if err != nil || res.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("the answer to CONNECT is %v, %w", res, err)
		}
	}
	return e.Conn.Read(p)
}

// A large upload passes whole, also in HTTP/2, and so does a large answer.
func TestLargeBodies(t *testing.T) {
	const size = 8 << 20
	p := startProxy(t, parts{api: func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		w.Header().Set("X-Received", fmt.Sprintf("%d %x %v", n, sum.Sum(nil), err))
		_, _ = io.CopyN(w, new(pattern), size)
	}})
	sum := sha256.New()
	_, _ = io.CopyN(sum, new(pattern), size)
	for _, h2 := range []bool{false, true} {
		res, err := p.application(t, h2).Post("https://"+apiHost+"/", "application/octet-stream", io.LimitReader(new(pattern), size))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := res.Header.Get("X-Received"), fmt.Sprintf("%d %x <nil>", size, sum.Sum(nil)); got != want {
			t.Errorf("HTTP/2 %t: the API received %s, want %s", h2, got, want)
		}
		back := sha256.New()
		if n, err := io.Copy(back, res.Body); n != size || err != nil || string(back.Sum(nil)) != string(sum.Sum(nil)) {
			t.Errorf("HTTP/2 %t: the application received %d bytes, %v", h2, n, err)
		}
		res.Body.Close()
	}
}

// pattern is an endless body whose period fits no buffer.
type pattern struct{ at int }

var period = func() []byte {
	block := make([]byte, 65_537)
	_, _ = rand.Read(block)
	return block
}()

func (b *pattern) Read(p []byte) (int, error) {
	n := copy(p, period[b.at:])
	b.at = (b.at + n) % len(period)
	return n, nil
}

// A WebSocket works inside, with its token.
func TestWebSocket(t *testing.T) {
	p := startProxy(t, parts{api: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" || r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	}})
	raw, status := p.connect(t, apiHost+":443")
	if status != http.StatusOK {
		t.Fatal(status)
	}
	conn, err := p.handshake(raw, apiHost)
	if err != nil {
		t.Fatal(err)
	}
	res := send(t, conn, "GET / HTTP/1.1\r\nHost: "+apiHost+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", res.Status)
	}
	for _, word := range []string{"hello", "again"} {
		if _, err := io.WriteString(conn, word); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(word))
		if _, err := io.ReadFull(conn, back); err != nil || string(back) != word {
			t.Errorf("got %q, %v", back, err)
		}
	}
}

// Requests in absolute form are served as in examples/unchangeable-apps/http-proxy.caddyfile. On one connection, each request
// is judged for itself, and a CONNECT may follow.
func TestPlainRequests(t *testing.T) {
	p := startProxy(t, parts{})
	application := p.application(t, false)
	for _, target := range []string{"http://" + apiHost, "http://" + apiHost + ":80", "http://API.example.com"} {
		res, err := application.Get(target + "/orders?page=2")
		p.wantToken(t, res, err)
	}
	for _, r := range p.api.Received() {
		if !strings.HasPrefix(strings.ToLower(r.Host), apiHost) || r.URI != "/orders?page=2" {
			t.Errorf("the API got %s for %s", r.URI, r.Host)
		}
	}

	conn := p.dial(t)
	head := func(uri, host string) string { return "GET " + uri + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	before := len(p.api.Received())
	for _, step := range []struct {
		request string
		want    int
	}{
		{head("http://"+apiHost+"/orders", apiHost), http.StatusOK},
		{head("http://other.example.com/orders", apiHost), http.StatusForbidden}, // RFC 9112 section 3.2.2: the URL counts
		{head("/orders", apiHost), http.StatusBadRequest},
		{head("http://"+apiHost+":8080/orders", apiHost), http.StatusForbidden},
		{head("http://"+apiHost+":"+strings.Repeat("8", 1000)+"/orders", apiHost), http.StatusBadRequest}, // not into the log
		{head("http://"+apiHost+"./orders", apiHost), http.StatusForbidden},
		{head("http://user@"+apiHost+"/orders", apiHost), http.StatusBadRequest},
		{head("https://"+apiHost+"/orders", apiHost), http.StatusBadRequest},
		{head("ftp://"+apiHost+"/orders", apiHost), http.StatusBadRequest},
		{"OPTIONS * HTTP/1.1\r\nHost: " + apiHost + "\r\n\r\n", http.StatusBadRequest},
		{"CONNECT other.example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusForbidden},
		{head("http://"+apiHost+"/orders", apiHost), http.StatusOK},
		{"CONNECT " + apiHost + ":443 HTTP/1.1\r\nHost: a\r\n\r\n", http.StatusOK},
	} {
		if res := send(t, conn, step.request); res.StatusCode != step.want {
			t.Errorf("%.60q: status %s, want %d", step.request, res.Status, step.want)
		}
	}
	tlsConn, err := p.handshake(conn, apiHost)
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, tlsConn, apiHost); status != http.StatusOK {
		t.Errorf("after CONNECT: status %d", status)
	}
	if n := len(p.api.Received()) - before; n != 3 {
		t.Errorf("the API got %d requests, want 3", n)
	}
}

// A request without TLS does not evade the client certificates that a site demands, in any of the ways to demand them.
func TestPlainRequestsDoNotEvadeClientCertificates(t *testing.T) {
	for name, demand := range map[string]string{
		"mode":       "mode require",
		"trust_pool": "trust_pool file {\n pem_file CERT\n}",
		"verifier":   "verifier leaf file CERT",
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, parts{})
			certFile, _, _ := strings.Cut(p.certs, " ")
			demand = strings.ReplaceAll(demand, "CERT", certFile)
			p.config = strings.Replace(p.config, "tls "+p.certs+"\n", "tls "+p.certs+" {\n client_auth {\n "+demand+"\n}\n}\n", 1)
			p.start(t)
			if res, err := p.application(t, false).Get("https://" + apiHost + "/orders"); err == nil {
				res.Body.Close()
				t.Errorf("with TLS and without a certificate: status %d", res.StatusCode)
			}
			res, err := p.application(t, false).Get("http://" + apiHost + "/orders")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusForbidden || p.api.ConnectionCount() != 0 {
				t.Errorf("status %d, the API got %d connections", res.StatusCode, p.api.ConnectionCount())
			}
		})
	}
}

// A wrapper before https_proxy, such as proxy_protocol, works as for other listeners.
func TestBehindProxyProtocol(t *testing.T) {
	p := newProxy(t, parts{})
	p.config = strings.Replace(p.config, "https_proxy {", "proxy_protocol {\n allow 127.0.0.0/8\n}\nhttps_proxy {", 1)
	p.start(t)
	for claimed, want := range map[string]int{"127.0.0.1": http.StatusOK, "203.0.113.9": http.StatusForbidden} {
		conn := p.dial(t)
		if _, err := io.WriteString(conn, "PROXY TCP4 "+claimed+" 127.0.0.1 4711 443\r\n"); err != nil {
			t.Fatal(err)
		}
		res := send(t, conn, "CONNECT "+apiHost+":443 HTTP/1.1\r\nHost: a\r\n\r\n")
		if res.StatusCode != want {
			t.Errorf("a client at %s: status %d, want %d", claimed, res.StatusCode, want)
		}
	}
}

// curl, unchanged, with a certificate of Caddy's own authority.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("SKIPPED: curl is not installed")
	}
	caddytest.SkipRaceOfCertificates(t)
	p := newProxy(t, parts{})
	p.config = strings.Replace(p.config, "tls "+p.certs, "tls internal", 1)
	p.start(t)
	_, storage, _ := strings.Cut(p.config, "storage file_system ")
	storage, _, _ = strings.Cut(storage, "\n")
	root := storage + "/pki/authorities/local/root.crt"
	caddytest.Eventually(t, "a certificate", func() bool {
		conn, err := tls.Dial("tcp", p.addr, &tls.Config{ServerName: apiHost, InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), curl, append([]string{"--silent", "--show-error", "--fail"}, args...)...)
		cmd.Env = append(os.Environ(), "HTTPS_PROXY=http://"+p.addr, "http_proxy=http://"+p.addr, "CURL_CA_BUNDLE="+root, "NO_PROXY=", "no_proxy=")
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return string(exit.Stderr), err
		}
		return string(out), err
	}
	for _, args := range [][]string{{"https://" + apiHost + "/orders"}, {"--http1.1", "https://" + apiHost + "/orders"}, {"http://" + apiHost + "/orders"}} {
		if out, err := run(args...); err != nil || !strings.Contains(out, p.tokens.ClientID) {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
	if out, err := run("https://other.example.com/"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("another host: %v, %s", err, out)
	}
}

// A client that is not one of clients is denied, whatever it asks for.
func TestClients(t *testing.T) {
	address := caddytest.MachineAddr(t)
	for wrapper, want := range map[string]int{"": http.StatusForbidden, "clients any": http.StatusOK} {
		t.Run(wrapper, func(t *testing.T) {
			p := startProxy(t, parts{bind: address, wrapper: wrapper, site: "clients any"})
			if _, status := p.connect(t, apiHost+":443"); status != want {
				t.Errorf("CONNECT: status %d, want %d", status, want)
			}
			res, err := p.application(t, false).Get("http://" + apiHost + "/orders")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("GET: status %d, want %d", res.StatusCode, want)
			}
			if want == http.StatusForbidden && len(p.Logged("denied a request to https_proxy: the client is not allowed, because every client that reaches this listener could act as the credentials of its sites; bind the sites to loopback, or allow the client with the option clients of https_proxy")) != 1 {
				t.Errorf("the log: %s", p.Logs())
			}
		})
	}
	t.Run("clients of the site", func(t *testing.T) {
		p := startProxy(t, parts{bind: address, wrapper: "clients any"})
		res, err := p.application(t, true).Get("https://" + apiHost + "/orders")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden || len(p.api.Received()) > 0 {
			t.Errorf("status %d, the API got %d requests", res.StatusCode, len(p.api.Received()))
		}
	})
}
