package httpsproxy_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// apiHost is the host of the site, which is in the code of the application.
const apiHost = "api.example.com"

// patience is the deadline of what must happen. No test waits for it to pass.
const patience = 2 * time.Minute

// authority issues certificates.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	roots *x509.CertPool
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{key: newKey(tb), roots: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = a.sign(tb, template, template, a.key)
	a.roots.AddCert(a.cert)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func (a *authority) sign(tb testing.TB, template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func (a *authority) certificate(tb testing.TB, names ...string) tls.Certificate {
	tb.Helper()
	key := newKey(tb)
	cert := a.sign(tb, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names,
	}, a.cert, key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// files writes a certificate as the files that the directive tls takes.
func (a *authority) files(tb testing.TB, names ...string) string {
	tb.Helper()
	c := a.certificate(tb, names...)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	folder := tb.TempDir()
	certFile, keyFile := filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: c.Leaf.Raw}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return certFile + " " + keyFile
}

// proxy is Caddy with https_proxy and a site for apiHost, whose token_proxy leads to api.
type proxy struct {
	caddytest.Server
	*authority
	addr   string
	tokens *devserver.TokenEndpoint
	api    *caddytest.RecordingAPI
	certs  string
	config string
}

// parts are what a test adds to the configuration.
type parts struct {
	global, server, wrapper, site, sites, bind string
	api                                        http.HandlerFunc
}

func newProxy(t *testing.T, with parts) *proxy {
	t.Helper()
	p := &proxy{Server: caddytest.NewServer(t), authority: newAuthority(t), addr: caddytest.FreeAddr(t)}
	var tokenURL string
	p.tokens, tokenURL = caddytest.NewTokenEndpoint(t)
	handler := (&devserver.API{Registry: p.tokens.Registry}).ServeHTTP
	if with.api != nil {
		handler = with.api
	}
	p.api = caddytest.NewRecordingAPI(t, handler)
	p.certs = p.files(t, apiHost, "*.wild.example.com")
	host, port, _ := net.SplitHostPort(p.addr)
	if with.bind != "" {
		host = with.bind
		p.addr = net.JoinHostPort(host, port)
	}
	p.config = fmt.Sprintf(`{
	auto_https disable_redirects
	skip_install_trust
	storage file_system %s
	metrics
	%s
	servers %s:%s {
		%s
		listener_wrappers {
			https_proxy {
				%s
			}
			tls
		}
	}
	token_proxy {
		%s
	}
}
https://%s:%[4]s {
	bind %[3]s
	tls %[9]s
	token_proxy api %[10]s {
		%[11]s
	}
}
%[12]s
`, t.TempDir(), with.global, host, port, with.server, with.wrapper,
		caddytest.CredentialConfig("api", tokenURL, p.tokens.ClientID), apiHost, p.certs, p.api.URL, with.site,
		strings.NewReplacer("PORT", port, "BIND", host, "CERTS", p.certs).Replace(with.sites))
	return p
}

func startProxy(t *testing.T, with parts) *proxy {
	t.Helper()
	p := newProxy(t, with)
	p.start(t)
	return p
}

func (p *proxy) start(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { caddytest.Eventually(t, "the proxy to end", hasEnded) })
	caddytest.StopAtEnd(p.Server)
	if err := p.Load(p.config); err != nil {
		t.Fatalf("loading the configuration: %v\n%s", err, p.config)
	}
}

// hasEnded reports whether no goroutine of the package is left.
func hasEnded() bool {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return !bytes.Contains(stacks, []byte("caddymodule/httpsproxy.("))
}

// application is an HTTP client that obeys HTTPS_PROXY and HTTP_PROXY.
func (p *proxy) application(t testing.TB, h2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr}),
		TLSClientConfig:   &tls.Config{RootCAs: p.roots},
		ForceAttemptHTTP2: h2,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// dial connects to the proxy.
func (p *proxy) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// connect sends a CONNECT, and returns the connection and the status.
func (p *proxy) connect(t testing.TB, target string) (*net.TCPConn, int) {
	t.Helper()
	conn := p.dial(t)
	return conn, send(t, conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n").StatusCode
}

// send sends a request, and returns the answer. It reads no byte of what comes after a 200 to CONNECT.
func send(t testing.TB, conn net.Conn, request string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(onebyte{conn}), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	if method != http.MethodConnect || res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		res.Status += " " + string(body)
	}
	return res
}

// onebyte reads one byte at a time, so that a bufio.Reader takes nothing that comes after an answer.
type onebyte struct{ io.Reader }

func (r onebyte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// handshake begins TLS for a host over a connection.
func (p *proxy) handshake(conn net.Conn, host string) (*tls.Conn, error) {
	c := tls.Client(conn, &tls.Config{RootCAs: p.roots, ServerName: host})
	return c, c.Handshake()
}

// get sends a request over a connection.
func get(t testing.TB, conn net.Conn, host string) (status int, body string) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET /orders HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(content)
}

// wantToken checks that a request reached the API with a token.
func (p *proxy) wantToken(t testing.TB, res *http.Response, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(body), p.tokens.ClientID) {
		t.Fatalf("status %d, error %v, %s", res.StatusCode, err, body)
	}
}

// difference returns what a function adds to the counters.
func difference(t *testing.T, f func()) (requests, denied map[string]uint64) {
	t.Helper()
	before := httpsproxy.CurrentStatus()
	f()
	after := httpsproxy.CurrentStatus()
	return minus(after.Requests, before.Requests), minus(after.Denied, before.Denied)
}

func minus(a, b map[string]uint64) map[string]uint64 {
	d := make(map[string]uint64)
	for key := range a {
		if a[key] != b[key] {
			d[key] = a[key] - b[key]
		}
	}
	return d
}
