package caddymodule

import (
	"bufio"
	"context"
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
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// hardCoded is the host in the code of the applications of examples/unchangeable-apps.
const hardCoded = "catalogs.sandbox.optiturn.com"

// unchangeable is an example of examples/unchangeable-apps between servers on this machine. The sidecar keeps Caddy's
// internal authority in a folder of its own, and asks only a DNS server that leads all names to loopback: to the API, or
// to the sidecar itself, by their ports.
type unchangeable struct {
	config  string
	addr    string // the sidecar's
	storage string
	tokens  *tokenServer
	api     *recordingAPI
	server  *caddyServer
}

func newUnchangeable(t *testing.T, example string) *unchangeable {
	t.Helper()
	u := &unchangeable{addr: freeAddr(t), storage: t.TempDir(), tokens: newTokenServer(t)}
	u.api = newRecordingAPI(t, u.tokens.api().ServeHTTP, func(srv *httptest.Server) {
		srv.EnableHTTP2 = true
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{serverCertificate(t, hardCoded)}}
	})
	config := readExample(t, "../examples/unchangeable-apps/"+example)
	config = strings.Replace(config, "{\n", "{\n storage file_system "+u.storage+"\n", 1)
	config = strings.Replace(config, "provider optoro sandbox", "provider optoro {\n token_url "+u.tokens.url+"\n}", 1)
	config = strings.Replace(config, "{env.OPTORO_CLIENT_ID}", u.tokens.ClientID, 1)
	config = strings.ReplaceAll(config, "\nhttps://"+hardCoded+" {", "\nhttps://"+hardCoded+":"+portNumber(u.addr)+" {")
	u.config = strings.ReplaceAll(withFiles(t, config), ":8080", ":"+portNumber(u.addr))
	return u
}

// to is the example with the upstream's port in the place of 443, and transport options.
func (u *unchangeable) to(port string, transport ...string) string {
	upstream := regexp.MustCompile(`(?m)^(\ttoken_proxy catalog https://` + regexp.QuoteMeta(hardCoded) + `)$`)
	return upstream.ReplaceAllString(u.config, "${1}:"+port+" {\n transport http {\n "+strings.Join(transport, "\n ")+"\n}\n}")
}

// application is a client that resolves the API's name to the sidecar and trusts the sidecar's authority alone.
func (u *unchangeable) application(t *testing.T) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(readExample(t, u.authority()))) {
		t.Fatal("the authority has no certificate")
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != hardCoded+":443" {
				return nil, fmt.Errorf("the application asks for %s", addr)
			}
			return new(net.Dialer).DialContext(ctx, network, u.addr)
		},
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func (u *unchangeable) authority() string {
	return filepath.Join(u.storage, "pki/authorities/local/root.crt")
}

// start runs the sidecar, and waits until its authority has made a certificate.
func (u *unchangeable) start(t *testing.T, config string) {
	t.Helper()
	caddytest.SkipRaceOfCertificates(t)
	u.server = startCaddy(t, config)
	eventually(t, "a certificate", func() bool {
		conn, err := tls.Dial("tcp", u.addr, &tls.Config{ServerName: hardCoded, InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// wantOrders checks that the application's request gets to the API, with a token and under its own name.
func (u *unchangeable) wantOrders(t *testing.T) {
	t.Helper()
	for range 2 {
		echo := echoOf(t, ask(t, u.application(t), newRequest(t, http.MethodGet, "https://"+hardCoded+"/orders", nil)))
		if host, _, _ := strings.Cut(echo.Host, ":"); host != hardCoded || echo.Path != "/orders" || echo.Client != u.tokens.ClientID {
			t.Errorf("the API saw %+v", echo)
		}
	}
	wantCalls(t, u.tokens.TokenEndpoint, 1)
}

// TestHTTPSProxy is an application with HTTPS_PROXY in its environment. It asks for no other address.
func TestHTTPSProxy(t *testing.T) {
	u := newUnchangeable(t, "https-proxy.caddyfile")
	u.config = strings.ReplaceAll(u.config, ":3128", ":"+portNumber(u.addr))
	u.start(t, u.to(portOfURL(t, u.api.URL), "resolvers "+loopbackDNS(t), u.trustAPI(t)))

	application := u.application(t)
	transport := application.Transport.(*http.Transport)
	transport.DialContext = nil
	transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: u.addr})
	for _, target := range []string{"https://" + hardCoded, "http://" + hardCoded} {
		echo := echoOf(t, ask(t, application, newRequest(t, http.MethodGet, target+"/orders", nil)))
		if host, _, _ := strings.Cut(echo.Host, ":"); host != hardCoded || echo.Path != "/orders" || echo.Client != u.tokens.ClientID {
			t.Errorf("%s: the API saw %+v", target, echo)
		}
	}
	wantCalls(t, u.tokens.TokenEndpoint, 1)
	if got := statusOf(t, u.addr, "CONNECT other.example.com:443 HTTP/1.1\r\nHost: other.example.com:443"); got != http.StatusForbidden {
		t.Errorf("another host: status %d", got)
	}
}

func TestHardCodedURL(t *testing.T) {
	u := newUnchangeable(t, "hard-coded-url.caddyfile")
	u.start(t, u.to(portOfURL(t, u.api.URL), "resolvers "+loopbackDNS(t), u.trustAPI(t)))
	u.wantOrders(t)
	if _, err := testClient(t).Get("https://" + u.addr + "/"); err == nil {
		t.Error("an application that does not trust the authority is content")
	}
}

func TestHardCodedURLByAddress(t *testing.T) {
	u := newUnchangeable(t, "hard-coded-url-by-address.caddyfile")
	config := strings.Replace(u.config, "https://203.0.113.10 https://203.0.113.11 {",
		"https://"+freeAddr(t)+" https://"+u.api.addr()+" {\n lb_policy first", 1) // where nobody listens, first
	config = strings.Replace(config, "transport http {", "transport http {\n "+u.trustAPI(t), 1)
	u.start(t, config)
	u.wantOrders(t)

	t.Run("a server that has the address, but not the name", func(t *testing.T) {
		if err := u.server.load(strings.Replace(config, "tls_server_name "+hardCoded, "tls_server_name other.example.com", 1)); err != nil {
			t.Fatal(err)
		}
		before := len(u.api.received())
		ask(t, u.application(t), newRequest(t, http.MethodGet, "https://"+hardCoded+"/", nil)).wantStatus(t, http.StatusBadGateway)
		if len(u.api.received()) != before {
			t.Error("it got a request")
		}
	})
}

// TestHardCodedURLLoops is the recipe without what README.md says: the sidecar finds itself behind the name.
func TestHardCodedURLLoops(t *testing.T) {
	u := newUnchangeable(t, "hard-coded-url.caddyfile")
	dns := "resolvers " + loopbackDNS(t)
	request := func() *http.Request { return newRequest(t, http.MethodGet, "https://"+hardCoded+"/orders", nil) }

	// It does not trust its own authority, so the token goes nowhere.
	u.start(t, u.to(portNumber(u.addr), dns))
	ask(t, u.application(t), request()).wantStatus(t, http.StatusBadGateway)
	if logs := u.server.logs(); !strings.Contains(logs, "certificate signed by unknown authority") {
		t.Errorf("the log does not say why: %s", logs)
	}

	if err := u.server.load(u.to(portNumber(u.addr), dns, "tls_trust_pool file "+u.authority())); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ask(t, u.application(t), request()).wantProblem(t, http.StatusBadGateway, "proxy_loop_detected")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(u.server.logs(), "keeps coming back") {
		t.Error("the log does not say why")
	}
	if n := len(u.api.received()); n != 0 {
		t.Errorf("the API got %d requests", n)
	}
}

func TestHTTPProxy(t *testing.T) {
	u := newUnchangeable(t, "http-proxy.caddyfile")
	u.server = startCaddy(t, u.to(portOfURL(t, u.api.URL), "resolvers "+loopbackDNS(t), u.trustAPI(t)))
	others := newRecordingAPI(t, nil) // what must not be reached

	application := testClient(t)
	application.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: u.addr})
	for _, target := range []string{"http://" + hardCoded, "http://" + hardCoded + ":80", "http://" + strings.ToUpper(hardCoded)} {
		echo := echoOf(t, ask(t, application, newRequest(t, http.MethodGet, target+"/orders?page=2", nil)))
		if echo.Path != "/orders" || echo.Query != "page=2" || echo.Client != u.tokens.ClientID {
			t.Errorf("%s: the API saw %+v", target, echo)
		}
	}
	wantCalls(t, u.tokens.TokenEndpoint, 1)
	for _, r := range u.api.received() {
		if host, _, _ := strings.Cut(r.Host, ":"); !r.TLS || host != hardCoded {
			t.Errorf("the API got a request for %q, TLS: %v", r.Host, r.TLS)
		}
	}

	api, other := len(u.api.received()), others.addr()
	for request, want := range map[string]int{
		"GET http://" + other + "/ HTTP/1.1\r\nHost: " + other:                             http.StatusForbidden,
		"GET http://" + other + "/ HTTP/1.1\r\nHost: " + hardCoded:                         http.StatusForbidden, // RFC 9112 section 3.2.2: the URL counts
		"POST http://" + other + "/ HTTP/1.1\r\nContent-Length: 0\r\nHost: " + other:       http.StatusForbidden,
		"GET http://" + hardCoded + ".example.com/ HTTP/1.1\r\nHost: a":                    http.StatusForbidden,
		"GET http://" + hardCoded + "@" + other + "/ HTTP/1.1\r\nHost: " + hardCoded:       http.StatusForbidden,
		"GET / HTTP/1.1\r\nHost: " + other:                                                 http.StatusForbidden,
		"CONNECT " + other + " HTTP/1.1\r\nHost: " + other:                                 http.StatusForbidden,
		"CONNECT " + hardCoded + ":443 HTTP/1.1\r\nHost: " + hardCoded + ":443":            http.StatusMethodNotAllowed,
		"TRACE http://" + hardCoded + "/ HTTP/1.1\r\nHost: " + hardCoded:                   http.StatusMethodNotAllowed,
		"GET https://" + other + "/ HTTP/1.1\r\nHost: " + other:                            http.StatusForbidden,
		"GET ftp://" + other + "/ HTTP/1.1\r\nHost: " + other:                              http.StatusForbidden,
		"GET http://" + hardCoded + "/ HTTP/1.1\r\nHost: " + hardCoded + "\r\nHost: other": http.StatusBadRequest,
	} {
		if got := statusOf(t, u.addr, request); got != want {
			t.Errorf("%q: status %d, want %d", request, got, want)
		}
	}
	if n := others.connectionCount(); n != 0 {
		t.Errorf("another host got %d connections", n)
	}
	if n := len(u.api.received()); n != api {
		t.Errorf("the API got %d requests that are refused", n-api)
	}
}

// statusOf sends the head of a request as it is.
func statusOf(t *testing.T, addr, head string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, head+"\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

// serverCertificate makes a certificate for a name, which is its own authority.
func serverCertificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{name},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// trustAPI is the option of a transport that trusts the API's certificate.
func (u *unchangeable) trustAPI(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "api.pem")
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: u.api.Certificate().Raw})))
	return "tls_trust_pool file " + file
}
