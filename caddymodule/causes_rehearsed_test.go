package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rehearsed is a failure against real sockets, with the sentence that explains it, or its beginning, and a part of the advice.
type rehearsed struct {
	name      string
	provider  string // the options of provider oauth2
	transport string
	summary   string
	advice    string
}

// `tokens check` names the cause of each failure, and the party: the token endpoint, the issuer or the network proxy.
func TestEachCauseIsNamed(t *testing.T) {
	t.Parallel()
	r := newRehearsal(t)
	cases := r.cases()
	var credentials []string
	for i, c := range cases {
		secret := "client_secret {env.REHEARSED_SECRET}"
		if strings.Contains(c.provider, "tls_client_auth") {
			secret = ""
		}
		credentials = append(credentials, fmt.Sprintf(
			"credential c%02d {\n provider oauth2 {\n %s\n }\n client_id x\n %s\n fetch_timeout 1s\n transport {\n ca {file.%s}\n %s\n }\n}\n",
			i, c.provider, secret, r.trusted.file, c.transport))
	}
	config := writeConfig(t, "Caddyfile", globalOptions(credentials...))
	environment := []string{"REHEARSED_SECRET=" + canary, "HTTPS_PROXY=", "HTTP_PROXY=", "https_proxy=", "http_proxy="}
	out, stderr, status := runBinaryWith(t, environment, "tokens", "check", "--json", "--config", config)
	var results []checkResult
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != len(cases) {
		t.Fatalf("%v: exit status %d, %s\n%s", err, status, out, stderr)
	}
	if status == 0 {
		t.Error("the exit status is 0")
	}
	for i, c := range cases {
		got := results[i]
		t.Logf("| %s | %s | %s |", c.name, got.Summary, got.Advice)
		whole := strings.HasSuffix(c.summary, ".") // the others depend on the machine or on a port
		if whole && got.Summary != c.summary || !strings.HasPrefix(got.Summary, c.summary) || !strings.Contains(got.Advice, c.advice) {
			t.Errorf("%s: got %q and %q, want %q and %q", c.name, got.Summary, got.Advice, c.summary, c.advice)
		}
		if strings.Contains(got.Summary+got.Advice, "c4n4ry") {
			t.Errorf("%s shows a text of the server or the secret", c.name)
		}
	}
}

// rehearsal has what the cases need.
type rehearsal struct {
	t                *testing.T
	trusted, unknown *rehearsedAuthority
	client           string // the options of a client certificate of the authority unknown
}

func newRehearsal(t *testing.T) *rehearsal {
	r := &rehearsal{t: t, trusted: newRehearsedAuthority(t), unknown: newRehearsedAuthority(t)}
	issued := r.unknown.issue(func(*x509.Certificate) {})
	r.client = fmt.Sprintf("client_certificate {file.%s}\n client_certificate_key {file.%s}", issued.certificateFile, issued.keyFile)
	return r
}

func (r *rehearsal) cases() []rehearsed {
	token := func(url string) string { return "token_url " + url + "/token" }
	const login = "token_url https://login.invalid/token"
	tunnel := r.proxy(nil)
	all := []rehearsed{
		// the network
		{"name", login, "proxy none", "The host name of the token endpoint", "DNS server"},
		{"refused connection", token("https://" + freeAddr(r.t)), "", "The token endpoint refused the connection.", "whether the token endpoint is running"},
		{"silence after connecting", token("https://" + r.raw(nil)), "", "The token endpoint did not complete the TLS handshake in time.", "Check the port"},
		{"no answer", token(r.tls(nil, nil, func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body) // net/http notices only then that the client has left
			<-req.Context().Done()
		})), "", "The token endpoint did not answer completely within fetch_timeout.", "longer fetch_timeout"},
		{"closed", token("http://" + r.raw([]byte{})), "", "The token endpoint closed the connection before the answer was complete.", "load balancer"},
		{"no HTTP", token("http://" + r.raw([]byte("SSH-2.0-c4n4ry\r\n"))), "", "The answer of the token endpoint is not HTTP/1.1, or has a header larger than 64 KiB.", "scheme and the port"},
		{"TLS on a plain URL", token("http" + strings.TrimPrefix(r.tls(nil, nil, nil), "https")), "", "The token endpoint refused the request (status 400).", "token URL"},
		// its certificate
		{"unknown authority", token(r.tlsOf(r.unknown, nil, nil, nil)), "", "The certificate of the token endpoint is signed by an authority that is not trusted here.", "option ca of transport"},
		{"another host", token(r.tls(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"c4n4ry.example"} }, nil, nil)), "", "The certificate of the token endpoint is for another host.", "server_name"},
		{"no names", token(r.tls(func(c *x509.Certificate) { c.IPAddresses = nil }, nil, nil)), "", "The certificate of the token endpoint names no host in its field subjectAltName.", "must replace the certificate"},
		{"expired", token(r.tls(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil, nil)), "", "The certificate of the token endpoint, or of its authority, has expired by the clock of this machine.", "must renew"},
		{"not valid yet", token(r.tls(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }, nil, nil)), "", "The certificate of the token endpoint, or of its authority, is not valid yet by the clock of this machine.", "clock"},
		{"for clients", token(r.tls(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, nil, nil)), "", "The certificate of the token endpoint is not one for servers.", "must replace the certificate"},
		// the handshake
		{"no TLS", token("https://" + r.raw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))), "", "The token endpoint does not speak TLS on this port.", "without TLS"},
		{"TLS 1.1", token(r.tls(nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, nil)), "", "The token endpoint supports no version of TLS from 1.2 on.", "enable TLS 1.2"},
		{"TLS 1.0 of old", token("https://" + r.raw(oldServerHello())), "", "The token endpoint supports no version of TLS from 1.2 on.", "enable TLS 1.2"},
		{"cipher", token(r.tls(nil, func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA256}
		}, nil)), "", "The token endpoint found no cipher or other TLS parameters in common.", "ECDHE with AES-GCM"},
		{"unrecognized name", token("https://" + r.raw([]byte{21, 3, 3, 0, 2, 2, 112})), "", "The token endpoint knows no host with the name in the TLS handshake.", "server_name"},
		{"internal error", token("https://" + r.raw([]byte{21, 3, 3, 0, 2, 2, 80})), "", "The token endpoint broke off the TLS handshake.", "log of the token endpoint"},
		{"closed in the handshake", token("https://" + r.raw([]byte{})), "", "The token endpoint closed the connection during the TLS handshake.", "log of the token endpoint"},
		{"client certificate, TLS 1.2", token(r.tls(nil, func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 }, nil)), "", "The token endpoint requires a client certificate, and the credential has none.", "client_certificate_key of provider oauth2"},
		{"client certificate of another authority", token(r.tls(nil, func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAndVerifyClientCert, tls.VersionTLS12 }, nil)) + "\n client_auth tls_client_auth\n " + r.client, "", "The token endpoint refused the client certificate, because it does not know its authority.", "that the service has registered"},
		{"client certificate, as nginx", token(r.tls(nil, func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, sendAnswer(400, "text/html", "c4n4ry"))), "", "The token endpoint refused the request, after it had asked for a client certificate and got none (status 400).", "client_certificate_key of provider oauth2"},
		// the network proxy
		{"proxy down", login, "proxy http://" + freeAddr(r.t), "The network proxy refused the connection.", "whether the network proxy is running"},
		{"SOCKS proxy down", login, "proxy socks5://" + freeAddr(r.t), "The network proxy refused the connection.", "option proxy of transport"},
		{"name of the proxy", login, "proxy http://proxy.invalid:3128", "The host name of the network proxy", "option proxy of transport"},
		{"proxy wants a login", login, "proxy " + r.proxy(sendAnswer(407, "text/html", "c4n4ry", "Proxy-Authenticate", "Basic realm=c4n4ry")), "The network proxy requires a user name and a password, and its URL has none (status 407).", "http://user:password@"},
		{"proxy refuses the login", login, "proxy " + strings.Replace(r.proxy(nil), "http://", "http://user:wrong@", 1), "The network proxy refused the user name and the password in its URL (status 407).", "right user name and password"},
		{"proxy wants Kerberos", login, "proxy " + r.proxy(sendAnswer(407, "text/html", "c4n4ry", "Proxy-Authenticate", "Negotiate")), "The network proxy requires a login other than Basic, which is not supported (status 407).", "local forwarder"},
		{"proxy denies", login, "proxy " + r.proxy(sendAnswer(403, "text/html", "c4n4ry")), "The network proxy does not permit this connection (status 403).", "NO_PROXY"},
		{"proxy cannot connect", login, "proxy " + withLogin(tunnel), "The network proxy could not open a connection to the host (status 502).", "resolve and reach"},
		{"not a proxy", login, "proxy " + r.proxy(sendAnswer(405, "text/html", "c4n4ry")), "The network proxy did not open a connection (status 405).", "permits CONNECT"},
		{"not an HTTP proxy", login, "proxy http://" + r.raw([]byte("SSH-2.0-c4n4ry\r\n")), "The network proxy did not answer as an HTTP proxy.", "scheme and the port"},
		{"not a SOCKS proxy", login, "proxy socks5://" + r.raw([]byte("SSH-2.0-c4n4ry\r\n")), "The network proxy did not open a connection with SOCKS 5.", "user name and password are right"},
		{"proxy closes", login, "proxy http://" + r.raw([]byte{}), "The network proxy closed the connection without an answer.", "option proxy of transport"},
		{"proxy hangs", login, "proxy http://" + r.raw(nil), "The network proxy did not answer within fetch_timeout.", "overloaded"},
		{"proxy without TLS", login, "proxy https" + strings.TrimPrefix(r.proxy(nil), "http"), "The network proxy does not speak TLS on this port.", "http:// instead of https://"},
		{"certificate of the proxy", login, "proxy " + r.tlsOf(r.unknown, nil, nil, nil), "The certificate of the network proxy is signed by an authority that is not trusted here.", "option ca of transport"},
		{"unknown authority behind a proxy", "token_url https://login.test:" + portOfURL(r.t, r.tlsOf(r.unknown, func(c *x509.Certificate) { c.DNSNames = []string{"login.test"} }, nil, nil)) + "/token", "proxy " + withLogin(tunnel), "The certificate of the token endpoint is signed by an authority that is not trusted here.", "option ca of transport"},
		{"client certificate behind a proxy", "token_url https://login.test:" + portOfURL(r.t, r.tls(func(c *x509.Certificate) { c.DNSNames = []string{"login.test"} }, func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 }, nil)) + "/token", "proxy " + withLogin(tunnel), "The token endpoint requires a client certificate, and the credential has none.", "client_certificate_key"},
		// the answer of the token endpoint
		{"redirect", token(r.http(sendAnswer(302, "text/html", "c4n4ry", "Location", "/c4n4ry"))), "", "The token endpoint redirects, and the proxy does not follow because the secret would go to another URL (status 302).", "Set token_url"},
		{"not found", token(r.http(sendAnswer(404, "text/html", "c4n4ry"))), "", "The server has no token endpoint at this URL (status 404).", "path of the token URL"},
		{"no POST", token(r.http(sendAnswer(405, "text/html", "c4n4ry"))), "", "This URL does not accept POST, which token endpoints require (status 405).", "authorization endpoint"},
		{"page of a firewall", token(r.http(sendAnswer(403, "text/html", "<html>c4n4ry"))), "", "The answer does not come from a token endpoint, because it is neither JSON nor a form (status 403).", "a firewall or another service"},
		{"login page", token(r.http(sendAnswer(200, "text/html", "<html>c4n4ry"))), "", "The answer is neither JSON nor a form (status 200).", "login page"},
		{"no token", token(r.http(sendAnswer(200, "application/json", `{"id":"c4n4ry"}`))), "", "The answer holds no token (status 200).", "block response"},
		{"too large", token(r.http(sendAnswer(200, "application/json", strings.Repeat(" ", 1<<17)))), "", "The answer of the token endpoint is larger than 64 KiB (status 200).", "login page"},
		{"damaged gzip", token(r.http(sendAnswer(200, "application/json", "\x1f\x8bc4n4ry-c4n4ry-c4n4ry"))), "", "The compressed answer of the token endpoint is damaged (status 200).", "gateway"},
		{"token type", token(r.http(sendAnswer(200, "application/json", `{"access_token":"t0k3n","token_type":"DPoP"}`))), "", "The token is of type DPoP, not Bearer; the option token_type of response can accept other types (status 200).", "ask the service for Bearer"},
		{"down", token(r.http(sendAnswer(503, "text/html", "c4n4ry"))), "", "The token endpoint 127.0.0.1:", "status page"},
		// discovery
		{"issuer down", "issuer https://" + freeAddr(r.t), "", "The issuer refused the connection.", "option issuer"},
		{"issuer of an unknown authority", "issuer " + r.tlsOf(r.unknown, nil, nil, nil), "", "The certificate of the issuer is signed by an authority that is not trusted here.", "option ca of transport"},
		{"issuer behind a proxy that is down", "issuer https://login.invalid", "proxy http://" + freeAddr(r.t), "The network proxy refused the connection.", "network proxy is running"},
		{"no metadata", "issuer " + r.http(sendAnswer(404, "text/html", "c4n4ry")), "", "The issuer has no metadata at either of its well-known URLs (status 404).", "set token_url instead"},
		{"metadata for members only", "issuer " + r.http(sendAnswer(403, "text/html", "c4n4ry")), "", "The issuer answered the request for its metadata without them (status 403).", "set token_url instead"},
		{"metadata moved", "issuer " + r.http(sendAnswer(302, "text/html", "c4n4ry", "Location", "/c4n4ry")), "", "The issuer redirects the request for its metadata, and the proxy does not follow (status 302).", "redirect leads to"},
		{"issuer overloaded", "issuer " + r.http(sendAnswer(503, "text/html", "c4n4ry")), "", "The issuer 127.0.0.1:", "status page"},
		{"metadata not JSON", "issuer " + r.http(sendAnswer(200, "text/html", "<html>c4n4ry")), "", "The metadata of the issuer are not a JSON object.", "login page"},
		{"metadata too large", "issuer " + r.http(sendAnswer(200, "application/json", strings.Repeat(" ", 1<<17))), "", "The answer of the issuer is larger than 64 KiB (status 200).", "option issuer"},
		{"metadata of another issuer", "issuer " + r.metadata(`{"issuer":"https://c4n4ry.example"}`), "", "The metadata name another issuer than the option issuer.", "member issuer"},
		{"metadata of no issuer", "issuer " + r.metadata(`{}`), "", "The metadata of the issuer do not name their issuer.", "RFC 8414"},
		{"slash", "issuer " + r.metadata(`{"issuer":"ISSUER/"}`), "", "The issuer in the metadata ends in a slash, and the option issuer does not.", "exactly as in the metadata"},
		{"metadata without an endpoint", "issuer " + r.metadata(`{"issuer":"ISSUER"}`), "", "The metadata of the issuer name no token endpoint.", "Set token_url instead"},
		{"metadata with an odd endpoint", "issuer " + r.metadata(`{"issuer":"ISSUER","token_endpoint":"/c4n4ry"}`), "", "The token endpoint in the metadata of the issuer is not a valid URL of a token endpoint.", "If you trust"},
		{"metadata in the clear", "issuer " + r.metadata(`{"issuer":"ISSUER","token_endpoint":"http://127.0.0.1/c4n4ry"}`), "", "The token endpoint in the metadata of the issuer does not use https.", "If you trust"},
	}
	return append(all, r.openssl()...)
}

// openssl has the failures of servers that use another library than crypto/tls.
func (r *rehearsal) openssl() (all []rehearsed) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		r.t.Log("SKIPPED: the failures of openssl are not rehearsed, because it is not installed")
		return nil
	}
	issued := r.trusted.issue(func(*x509.Certificate) {})
	serve := func(args ...string) string {
		addr := freeAddr(r.t)
		server := exec.Command(path, append([]string{"s_server", "-www", "-accept", addr, "-cert", issued.certificateFile, "-key", issued.keyFile}, args...)...)
		if err := server.Start(); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() {
			_ = server.Process.Kill()
			_ = server.Wait()
		})
		eventually(r.t, "openssl listens", func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		return "token_url https://" + addr + "/token"
	}
	return []rehearsed{
		{"openssl, TLS 1.1", serve("-tls1_1", "-cipher", "ALL@SECLEVEL=0"), "", "The token endpoint supports no version of TLS from 1.2 on.", "enable TLS 1.2"},
		{"openssl, cipher", serve("-tls1_2", "-cipher", "ECDHE-ECDSA-CAMELLIA128-SHA256"), "", "The token endpoint found no cipher or other TLS parameters in common.", "ECDHE with AES-GCM"},
		{"openssl, client certificate, TLS 1.2", serve("-tls1_2", "-Verify", "1"), "", "The token endpoint requires a client certificate, and the credential has none.", "client_certificate_key"},
		{"openssl, client certificate, TLS 1.3", serve("-tls1_3", "-Verify", "1"), "", "The token endpoint ", "client_certificate_key"},
		{"openssl, unknown client certificate", serve("-tls1_2", "-Verify", "1", "-verify_return_error", "-CAfile", r.trusted.file) + "\n client_auth tls_client_auth\n " + r.client, "", "The token endpoint refused the client certificate, because it does not know its authority.", "that the service has registered"},
	}
}

func withLogin(proxy string) string {
	return strings.Replace(proxy, "http://", "http://user:right@", 1)
}

func (r *rehearsal) http(h http.HandlerFunc) string { return serveHTTP(r.t, h).URL }

// metadata serves metadata with TLS. ISSUER stands for the issuer.
func (r *rehearsal) metadata(body string) (issuer string) {
	issuer = r.tls(nil, nil, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "ISSUER", issuer))
	})
	return issuer
}

// proxy serves a network proxy that requires a login, and whose tunnels to login.test lead to loopback. answer replaces it.
func (r *rehearsal) proxy(answer http.HandlerFunc) string {
	if answer != nil {
		return r.http(answer)
	}
	login := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:right"))
	return r.http(func(w http.ResponseWriter, req *http.Request) {
		host, port, _ := net.SplitHostPort(req.Host)
		switch {
		case req.Header.Get("Proxy-Authorization") != login:
			w.Header().Set("Proxy-Authenticate", "Basic realm=c4n4ry")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		case host != "login.test":
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		target, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer target.Close()
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(target, client)
			target.Close()
		}()
		_, _ = io.Copy(client, target)
	})
}

// raw returns the address of a server that answers the first bytes of each connection with others. nil: it stays silent.
func (r *rehearsal) raw(answer []byte) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1<<14))
				_, _ = conn.Write(answer)
				if len(answer) != 0 || answer == nil {
					_, _ = io.Copy(io.Discard, conn)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// oldServerHello is how a server from before TLS 1.2 answers (RFC 2246 section 7.4.1.3).
func oldServerHello() []byte {
	hello := append([]byte{22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1}, make([]byte, 32)...)
	return append(hello, 0, 0xc0, 0x13, 0)
}

func (r *rehearsal) tls(template func(*x509.Certificate), config func(*tls.Config), h http.HandlerFunc) string {
	return r.tlsOf(r.trusted, template, config, h)
}

// tlsOf serves TLS with a certificate of the authority.
func (r *rehearsal) tlsOf(a *rehearsedAuthority, template func(*x509.Certificate), config func(*tls.Config), h http.HandlerFunc) string {
	if template == nil {
		template = func(*x509.Certificate) {}
	}
	if h == nil {
		h = func(http.ResponseWriter, *http.Request) { r.t.Error("a request has arrived") }
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{a.issue(template).certificate}}
	if config != nil {
		config(srv.TLS)
	}
	if srv.TLS.ClientAuth == tls.RequireAndVerifyClientCert {
		srv.TLS.ClientCAs = r.trusted.pool
	}
	srv.StartTLS()
	r.t.Cleanup(srv.Close)
	return srv.URL
}

// rehearsedAuthority is a certificate authority.
type rehearsedAuthority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
	file        string
}

// rehearsedCertificate is a certificate of it, also in files.
type rehearsedCertificate struct {
	certificate              tls.Certificate
	certificateFile, keyFile string
}

func newRehearsedAuthority(t *testing.T) *rehearsedAuthority {
	a := &rehearsedAuthority{t: t, pool: x509.NewCertPool()}
	issued := a.issue(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.Subject.CommonName = "the authority " + newClientID()
	})
	a.certificate, a.key, a.file = issued.certificate.Leaf, issued.certificate.PrivateKey.(*ecdsa.PrivateKey), issued.certificateFile
	a.pool.AddCert(a.certificate)
	return a
}

func (a *rehearsedAuthority) issue(change func(*x509.Certificate)) rehearsedCertificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "c4n4ry"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	change(template)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	folder := a.t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			a.t.Fatal(err)
		}
		return path
	}
	return rehearsedCertificate{
		tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		file("certificate.pem", "CERTIFICATE", der), file("key.pem", "PRIVATE KEY", pkcs8),
	}
}
