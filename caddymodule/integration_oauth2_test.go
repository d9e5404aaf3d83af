package caddymodule

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// oauth2Credential is the Caddyfile of a credential of provider oauth2. Its client is a new one, so that no other test
// has its token.
func oauth2Credential(name, provider string, options ...string) string {
	return fmt.Sprintf("credential %s {\n provider oauth2 {\n%s\n }\n client_id %s\n%s\n}\n", name, provider, newClientID(), strings.Join(options, "\n"))
}

const withSecret = "client_secret a-secret"

// What the token's answer says of where the API is can be the upstream, within api_hosts.
func TestOAuth2KeptUpstream(t *testing.T) {
	api := newRecordingAPI(t, nil)
	elsewhere := newRecordingAPI(t, nil)
	port := strings.TrimPrefix(api.addr(), "127.0.0.1")
	for name, tc := range map[string]struct {
		instance string // JSON
		status   int
	}{
		"its URL":                        {quote(api.URL), 200},
		"its URL with a path":            {quote(api.URL + "/base?x=y"), 200},
		"another host":                   {quote(elsewhere.URL), 502},
		"another name of this machine":   {quote("http://localhost" + port), 502},
		"another host, by a user name":   {quote("http://" + api.addr() + "@" + elsewhere.addr() + "/"), 502},
		"this host, with a user name":    {quote("http://" + elsewhere.addr() + "@" + api.addr() + "/"), 200},
		"another port":                   {quote("http://127.0.0.1"), 502},
		"no URL":                         {quote(elsewhere.addr()), 502},
		"a URL of another kind":          {quote("ftp://" + api.addr()), 502},
		"a unix socket":                  {quote("unix//run/api.sock"), 502},
		"a placeholder":                  {quote("http://{http.request.header.X-Host}/"), 502},
		"several":                        {quote(api.URL + "," + elsewhere.URL), 502},
		"a port range":                   {quote("http://127.0.0.1:1-65535"), 502},
		"a list":                         {`["` + api.URL + `"]`, 502},
		"nothing":                        {`null`, 502},
		"what no header field can carry": {`"` + api.URL + `/\u0000"`, 502},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"T0KEN","expires_in":3600,"instance_url":`+tc.instance+`}`))
			before, other := len(api.received()), elsewhere.connectionCount()
			_, url := startProxy(t, oauth2Credential("api", "token_url "+endpoint.URL+"\n response {\n keep instance_url instance_url\n }", withSecret, "api_hosts "+api.addr()),
				"token_proxy api {http.token_proxy.instance_url.hostport}")
			a := get(t, url+"/x", "X-Host", elsewhere.addr())
			a.wantStatus(t, tc.status)
			got := api.received()[before:]
			if tc.status == 200 {
				if len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer T0KEN" {
					t.Errorf("the API got %+v", got)
				}
			} else if len(got) != 0 {
				t.Errorf("the API got %+v", got)
			}
			if elsewhere.connectionCount() != other {
				t.Error("another server was connected to")
			}
			wantNowhere(t, "the token", "T0KEN", map[string]string{"the answer": wholeAnswer(a)})
		})
	}
	t.Run("what is kept is there for other handlers, of this credential alone", func(t *testing.T) {
		endpoint := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"T0KEN","expires_in":3600,"instance_url":"https://a.example","id":7,"six":"http://[::1]/"}`))
		_, url := startProxy(t, oauth2Credential("api", "token_url "+endpoint.URL+"\n response {\n keep instance_url instance_url\n keep id id\n keep six six\n }", withSecret)+
			oauth2Credential("other", "token_url "+endpoint.URL, withSecret),
			"token_proxy /other* other "+api.URL+" {\n header_up X-Kept \"{http.token_proxy.id}\"\n}\n token_proxy api "+api.URL+
				" {\n header_up X-Kept \"{http.token_proxy.instance_url}|{http.token_proxy.instance_url.hostport}|{http.token_proxy.id}|{http.token_proxy.id.hostport}|{http.token_proxy.six.hostport}|{http.token_proxy.token}\"\n}")
		for path, want := range map[string]string{"/x": "https://a.example|a.example:443|7|{http.token_proxy.id.hostport}|[::1]:80|{http.token_proxy.token}", "/other": "{http.token_proxy.id}"} {
			get(t, url+path).wantStatus(t, 200)
			all := api.received()
			if got := all[len(all)-1].Header.Get("X-Kept"); got != want {
				t.Errorf("%s: got %q, want %q", path, got, want)
			}
		}
	})
	t.Run("a parameter that is a URL is no secret", func(t *testing.T) {
		t.Setenv("TOKEN_PROXY_TEST_AUDIENCE", api.URL)
		endpoint := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"T0KEN","expires_in":3600,"instance_url":`+quote(api.URL)+`}`))
		_, url := startProxy(t, oauth2Credential("api", "token_url "+endpoint.URL+"\n param instance {env.TOKEN_PROXY_TEST_AUDIENCE}\n response {\n keep instance_url instance_url\n }", withSecret, "api_hosts "+api.addr()),
			"token_proxy api {http.token_proxy.instance_url.hostport}")
		get(t, url).wantStatus(t, 200)
	})
	t.Run("without api_hosts it is refused", func(t *testing.T) {
		s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
		err := s.load(globalOptions(oauth2Credential("api", "token_url https://login.example", withSecret)) +
			siteConfig(freeAddr(t), "token_proxy api {http.token_proxy.instance_url.hostport}"))
		wantRefused(t, err, "api_hosts")
	})
}

// boundServers are a token endpoint and an API that know which certificate a token is bound to (RFC 8705 section 3).
type boundServers struct {
	tokens, api *httptest.Server
	lifetime    atomic.Int64 // seconds
	authority   string       // a file

	mu       sync.Mutex
	bound    map[string][sha256.Size]byte // by token
	seen     map[[sha256.Size]byte]int    // requests to the API, by certificate
	mistakes []string
	protocol string
}

func newBoundServers(t *testing.T, http2 bool) *boundServers {
	t.Helper()
	b := &boundServers{bound: make(map[string][sha256.Size]byte), seen: make(map[[sha256.Size]byte]int)}
	b.lifetime.Store(3600)
	withTLS := func(srv *httptest.Server) {
		srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
		srv.EnableHTTP2 = http2
	}
	b.tokens = serveHTTP(t, http.HandlerFunc(b.serveToken), withTLS)
	b.api = serveHTTP(t, http.HandlerFunc(b.serveAPI), withTLS)
	b.authority = secretPath(t, pemText("CERTIFICATE", b.api.Certificate().Raw, nil)) // httptest has one certificate for all
	return b
}

func (b *boundServers) serveToken(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	value := fmt.Sprintf("token-%d", len(b.bound))
	b.bound[value] = sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": value, "token_type": "Bearer", "expires_in": b.lifetime.Load()})
}

func (b *boundServers) serveAPI(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	certificate := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	value := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if bound, ok := b.bound[value]; !ok || bound != certificate {
		b.mistakes = append(b.mistakes, fmt.Sprintf("token %q with another certificate than its own (known: %t)", value, ok))
		w.WriteHeader(http.StatusForbidden) // not 401: a replay would hide the mistake
		return
	}
	b.seen[certificate]++
	b.protocol = r.Proto
}

func (b *boundServers) requestsWith(c testCertificate) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[c.thumbprint]
}

// certificateDir is a folder whose certificate and key are replaced at one stroke, as Kubernetes does it.
type certificateDir struct {
	name string
	n    int
}

func (d *certificateDir) put(t *testing.T, c testCertificate) {
	t.Helper()
	d.n++
	version := filepath.Join(d.name, fmt.Sprintf("..%d", d.n))
	if err := os.Mkdir(version, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(version, "cert.pem"), c.certificate)
	writeFile(t, filepath.Join(version, "key.pem"), c.key)
	next := filepath.Join(d.name, "..next")
	if err := os.Symlink(version, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(d.name, "..data")); err != nil {
		t.Fatal(err)
	}
}

func (d *certificateDir) options() string {
	return "client_auth tls_client_auth\n client_certificate {file." + d.name + "/..data/cert.pem}\n client_certificate_key {file." + d.name + "/..data/key.pem}"
}

// A token that is bound to a certificate travels with it: also when the certificate is replaced under traffic, and the
// old token is in use while the new one is there.
func TestOAuth2CertificateBoundTokens(t *testing.T) {
	if apart.Run(t) {
		return
	}
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			first, second := newTestCertificate(t, signingKeyOf("P-256"), 30*time.Hour), newTestCertificate(t, anotherKeyOf("P-256"), 30*time.Hour)
			b := newBoundServers(t, http2)
			dir := &certificateDir{name: t.TempDir()}
			dir.put(t, first)
			s, url := startProxy(t,
				oauth2Credential("api", "token_url "+b.tokens.URL+"/token\n "+dir.options(), "transport {\n ca {file."+b.authority+"}\n}"),
				"token_proxy api "+b.api.URL+" {\n transport http {\n tls_trust_pool file "+b.authority+"\n}\n}")
			b.lifetime.Store(1) // so that the new certificate is used soon
			var failed atomic.Value
			stop := make(chan struct{})
			var workers sync.WaitGroup
			for range 4 {
				client := testClient(t)
				workers.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						a, err := tryAsk(client, newRequest(t, http.MethodGet, url, nil))
						if err != nil || a.StatusCode != http.StatusOK {
							failed.CompareAndSwap(nil, fmt.Sprintf("%v, %v", a.Response, err))
							return
						}
					}
				})
			}
			eventually(t, "requests with the first certificate", func() bool { return b.requestsWith(first) > 3 || failed.Load() != nil })
			dir.put(t, second)
			eventually(t, "requests with the second certificate", func() bool { return b.requestsWith(second) > 3 || failed.Load() != nil })
			close(stop)
			workers.Wait()
			if failed.Load() != nil {
				t.Errorf("a request failed: %s", failed.Load())
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.mistakes) > 0 {
				t.Errorf("%d mistakes: %s", len(b.mistakes), b.mistakes[0])
			}
			if want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]; b.protocol != want {
				t.Errorf("the API was asked by %s, want %s", b.protocol, want)
			}
			if n := len(s.logged("no token")); n > 0 {
				t.Errorf("%d token calls failed", n)
			}
		})
	}
}

// Where the certificate cannot be shown, or another one is, a warning says so.
func TestOAuth2CertificateThatIsNotShown(t *testing.T) {
	first, second := newTestCertificate(t, signingKeyOf("P-256"), 30*time.Hour), newTestCertificate(t, anotherKeyOf("P-256"), 30*time.Hour)
	b := newBoundServers(t, false)
	dir := &certificateDir{name: t.TempDir()}
	dir.put(t, first)
	plain := newRecordingAPI(t, nil)
	certificate, key := secretPath(t, second.certificate), secretPath(t, second.key)
	for name, tc := range map[string]struct {
		provider, upstream string
		warned             bool
		status             int
	}{
		"shown":                  {dir.options(), b.api.URL + " {\n transport http {\n tls_trust_pool file " + b.authority + "\n}\n}", false, 200},
		"the transport's own":    {dir.options(), b.api.URL + " {\n transport http {\n tls_trust_pool file " + b.authority + "\n tls_client_auth " + certificate + " " + key + "\n}\n}", true, 403},
		"an API without TLS":     {dir.options(), plain.URL, true, 200},
		"HTTP/3":                 {dir.options(), b.api.URL + " {\n transport http {\n tls_trust_pool file " + b.authority + "\n versions 3\n}\n}", true, 502},
		"no certificate to show": {"", plain.URL, false, 503},
	} {
		t.Run(name, func(t *testing.T) {
			options := []string{"transport {\n ca {file." + b.authority + "}\n}"}
			if tc.provider == "" {
				options = append(options, withSecret)
			}
			s, url := startProxy(t, oauth2Credential("api", "token_url "+b.tokens.URL+"/token\n "+tc.provider, options...), "token_proxy api "+tc.upstream)
			if got := len(warningsNaming(s, "client_certificate is not shown")) > 0; got != tc.warned {
				t.Errorf("warned: %t, want %t", got, tc.warned)
			}
			if name != "HTTP/3" { // whose server does not exist
				get(t, url).wantStatus(t, tc.status)
			}
		})
	}
}

// How token requests travel is the credential's matter, and not the API's transport.
func TestOAuth2TransportOfTokenRequests(t *testing.T) {
	s := newOAuth2Server(t, true, "an-id", "a-secret", devserver.Demands{})
	authority := secretPath(t, pemText("CERTIFICATE", s.Certificate().Raw, nil))
	api := newRecordingAPI(t, nil)
	for name, tc := range map[string]struct {
		transport string
		status    int
	}{
		"own authority and name": {"ca {file." + authority + "}\n server_name example.com\n dial_timeout 5s\n proxy none", 200},
		"own authority":          {"ca {file." + authority + "}", 200},
		"wrong name":             {"ca {file." + authority + "}\n server_name example.net", 503},
		"the system's authority": {"", 503},
	} {
		t.Run(name, func(t *testing.T) {
			credential := strings.Replace(oauth2Credential("api", "token_url "+s.URL+"/token", withSecret, "transport {\n"+tc.transport+"\n}"), "client_id ", "client_id an-id #", 1)
			_, url := startProxy(t, credential, "token_proxy api "+api.URL)
			get(t, url).wantStatus(t, tc.status)
		})
	}
}

func TestOAuth2OwnHeader(t *testing.T) {
	s := newOAuth2Server(t, false, "an-id", "a-secret", devserver.Demands{Headers: fields("X-Api-Key", "of the endpoint")})
	api := newRecordingAPI(t, nil)
	credential := strings.Replace(oauth2Credential("api", "token_url "+s.URL+"/token\n header X-Api-Key \"of the endpoint\"", withSecret, "header X-Api-Key"), "client_id ", "client_id an-id #", 1)
	_, url := startProxy(t, credential, "token_proxy api "+api.URL)
	get(t, url, "X-Api-Key", "the application's", "Authorization", "Bearer of-the-application").wantStatus(t, 200)
	got := api.only(t).Header
	value := got.Values("X-Api-Key")
	if len(value) != 1 || len(got.Values("Authorization")) != 0 {
		t.Fatalf("the API got %v", got)
	}
	if _, state := s.endpoint.Registry.Lookup(value[0]); state != devserver.Live {
		t.Error("the API did not get the token")
	}
}

// What the application gets when there is no token.
func TestOAuth2ErrorStatuses(t *testing.T) {
	key := inFile(secretPath(t, pkcs8(signingKeyOf("P-256"))))
	demanding := func(d devserver.Demands) string {
		return newOAuth2Server(t, false, "an-id", "a-secret", d).URL + "/token"
	}
	answering := func(status int, body string, header ...string) string {
		return serveHTTP(t, sendAnswer(status, "application/json", body, header...)).URL
	}
	tests := map[string]struct {
		provider string
		secret   bool
		status   int
		said     string
	}{
		"wrong secret":              {"token_url " + demanding(devserver.Demands{}), true, 502, "proxy_configuration_error"},
		"wrong key":                 {"token_url " + demanding(devserver.Demands{ClientAuth: "private_key_jwt", ClientKey: publicPEM(anotherKeyOf("P-256"))}) + "\n client_auth private_key_jwt\n signing_key " + key, false, 502, "proxy_configuration_error"},
		"scope refused":             {"token_url " + answering(400, `{"error":"invalid_scope"}`), true, 502, "proxy_configuration_error"},
		"redirect":                  {"token_url " + answering(307, ``, "Location", "https://elsewhere.example"), true, 502, "proxy_configuration_error"},
		"no token in the answer":    {"token_url " + answering(200, `{}`), true, 502, ""},
		"unavailable":               {"token_url " + answering(503, `{}`), true, 503, ""},
		"busy, as it is configured": {"token_url " + answering(400, `{"error":"quota"}`) + "\n response {\n retry quota\n}", true, 503, ""},
		"busy, which is not":        {"token_url " + answering(400, `{"error":"quota"}`), true, 502, ""},
		"no such issuer":            {"issuer " + answering(404, ``), true, 502, ""},
		"another issuer":            {"issuer " + answering(200, `{"issuer":"https://evil.example","token_endpoint":"https://evil.example"}`), true, 502, ""},
		"issuer that is down":       {"issuer " + answering(502, ``), true, 503, ""},
		"nobody listens":            {"token_url http://" + freeAddr(t), true, 503, ""},
	}
	// One Caddy for all, which ask at once, since cold fetches try more than once, with pauses between.
	type visit struct {
		path   string
		api    *recordingAPI
		answer clientAnswer
	}
	visits := make(map[string]*visit)
	var credentials []string
	var routes strings.Builder
	for name, tc := range tests {
		var options []string
		if tc.secret {
			options = append(options, "client_secret an-0ther-secret")
		}
		v := &visit{path: fmt.Sprint("/", len(visits)), api: newRecordingAPI(t, nil)}
		visits[name] = v
		credentials = append(credentials, oauth2Credential("api-"+v.path[1:], tc.provider, options...))
		fmt.Fprintf(&routes, "token_proxy %s api-%s %s\n", v.path, v.path[1:], v.api.URL)
	}
	addr := freeAddr(t)
	startCaddy(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))
	var group sync.WaitGroup
	for _, v := range visits {
		group.Go(func() { v.answer = get(t, "http://"+addr+v.path) })
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a := visits[name].answer
			a.wantStatus(t, tc.status)
			if tc.said != "" {
				a.wantProblem(t, tc.status, tc.said)
			}
			if (a.Header.Get("Retry-After") != "") != (tc.status == 503) {
				t.Errorf("Retry-After is %q", a.Header.Get("Retry-After"))
			}
			if visits[name].api.connectionCount() != 0 {
				t.Error("the API was connected to")
			}
			for _, secret := range []string{"an-0ther-secret", strings.Split(pkcs8(signingKeyOf("P-256")), "\n")[1]} {
				wantNowhere(t, "a secret", secret, map[string]string{"the answer": wholeAnswer(a)})
			}
		})
	}
}

// boundAPI is an API that answers with the thumbprint of the client certificate, and a boundTransport to it.
type boundAPI struct {
	t              *testing.T
	url            string
	bound          *boundTransport
	opened, closed atomic.Int64 // connections
}

func newBoundAPI(t *testing.T) *boundAPI {
	t.Helper()
	a := &boundAPI{t: t}
	a.url = serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%x", sha256.Sum256(r.TLS.PeerCertificates[0].Raw))
	}), func(srv *httptest.Server) {
		// It names an authority that has issued none of the certificates, as servers do whatever they accept.
		srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, ClientCAs: x509.NewCertPool()}
		srv.TLS.ClientCAs.AddCert(&x509.Certificate{Raw: []byte("no"), RawSubject: []byte{0x30, 0}})
		srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				a.opened.Add(1)
			case http.StateClosed:
				a.closed.Add(1)
			}
		}
	}).URL
	base := &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{InsecureSkipVerify: true}}
	if err := base.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	a.bound = newBoundTransport(base)
	return a
}

// send sends a request for a tenant with a certificate, and fails the test if another one was shown.
func (a *boundAPI) send(tenant string, c testCertificate) {
	a.t.Helper()
	pair, err := tls.X509KeyPair([]byte(c.certificate), []byte(c.key)) // anew, as for each token
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := a.bound.with(tenant, &pair).RoundTrip(newRequest(a.t, http.MethodGet, a.url, nil))
	if err != nil {
		a.t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if string(body) != fmt.Sprintf("%x", c.thumbprint) {
		a.t.Errorf("tenant %q: another certificate was shown", tenant)
	}
}

// wantConnections waits for the numbers of connections that were opened and closed.
func (a *boundAPI) wantConnections(opened, closed int64) {
	a.t.Helper()
	if n := a.opened.Load(); n != opened {
		a.t.Errorf("%d connections were opened, want %d", n, opened)
	}
	eventually(a.t, fmt.Sprintf("the end of %d connections", closed), func() bool { return a.closed.Load() == closed })
}

// Requests with one certificate share their connections, and those of an earlier certificate are closed.
func TestBoundTransportKeepsConnections(t *testing.T) {
	first, second := newTestCertificate(t, signingKeyOf("P-256"), time.Hour), newTestCertificate(t, anotherKeyOf("P-256"), time.Hour)
	api := newBoundAPI(t)
	for range 3 {
		api.send("", first)
	}
	api.wantConnections(1, 0)
	api.send("", second)
	api.wantConnections(2, 1)
	api.bound.close()
	api.wantConnections(2, 2)
	if api.bound.base.Transport.TLSClientConfig.Certificates != nil {
		t.Error("requests without a token show the certificate")
	}
}

// Tenants that send requests in turn each keep their connections. A new certificate ends those of its own tenant, and what a
// tenant has not used for a while goes.
func TestBoundTransportOfTenants(t *testing.T) {
	first, second := newTestCertificate(t, signingKeyOf("P-256"), time.Hour), newTestCertificate(t, anotherKeyOf("P-256"), time.Hour)
	api := newBoundAPI(t)
	for range 5 {
		api.send("a", first)
		api.send("b", second)
		api.send("c", first) // tenants share no connection, even if they share a certificate
	}
	api.wantConnections(3, 0)
	api.send("a", second)
	api.send("b", second)
	api.send("c", first)
	api.wantConnections(4, 1)

	api.bound.began = api.bound.began.Add(-unusedTransport) // b and c have been unused for so long
	api.send("a", second)
	api.send("d", first)
	api.wantConnections(5, 3)
	api.bound.close()
	api.wantConnections(5, 5)
}

func TestHostPortOf(t *testing.T) {
	for value, want := range map[string]string{
		"https://a.example": "a.example:443", "http://a.example/b?c#d": "a.example:80", "https://a.example:8443": "a.example:8443",
		"https://u:p@a.example": "a.example:443", "https://[::1]:1/": "[::1]:1", "HTTPS://A.example": "A.example:443",
		"https:///path": "", "https:": "", "https:a.example": "", "//a.example": "", "a.example:443": "", "ftp://a.example": "", "wss://a.example": "",
		"": "", "7": "", "https://a b": "", "https://a.example:b": "", "https://%zz": "", "https://:443": "",
	} {
		if got, ok := hostPortOf(value); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t", value, got, ok)
		}
	}
}

// A transport that cannot show the certificate is told from one that can.
func TestBoundTransportOfOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		transport *reverseproxy.HTTPTransport
		want      bool
	}{
		"TLS":                     {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}, true},
		"no TLS":                  {&reverseproxy.HTTPTransport{}, false},
		"a server name by proxy":  {&reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ServerName: "{http.request.host}"}}, false},
		"the proxy protocol":      {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig), ProxyProtocol: "v1"}, false},
		"HTTP/3":                  {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig), Versions: []string{"3"}}, false},
		"its own certificate":     {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}, false},
		"an automatic one":        {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig)}, false},
		"a fixed server name":     {&reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ServerName: "a.example"}}, true},
		"HTTP/1.1 and no other":   {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig), Versions: []string{"1.1"}}, true},
		"HTTP/2 among the others": {&reverseproxy.HTTPTransport{TLS: new(reverseproxy.TLSConfig), Versions: []string{"1.1", "2"}}, true},
	} {
		if err := tc.transport.Provision(caddy.Context{Context: t.Context()}); err != nil {
			t.Fatal(err)
		}
		switch name { // whose files, and whose app, would be needed before
		case "its own certificate":
			tc.transport.TLS.ClientCertificateFile = "/cert.pem"
		case "an automatic one":
			tc.transport.TLS.ClientCertificateAutomate = "a.example"
		}
		if got := newBoundTransport(tc.transport) != nil; got != tc.want {
			t.Errorf("%s: bound: %t, want %t", name, got, tc.want)
		}
		if err := tc.transport.Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if newBoundTransport(roundTrip(nil)) != nil {
		t.Error("somebody else's transport is bound")
	}
}

// A reload must not forget where the token endpoint is: the issuer may not be there to ask.
func TestOAuth2ReloadKeepsWhatDiscoveryFound(t *testing.T) {
	if apart.Run(t) {
		return
	}
	var gone atomic.Bool
	tokens := &devserver.TokenEndpoint{Dialect: devserver.OAuth2, Lifetime: time.Second, Registry: devserver.NewRegistry()}
	var base string
	srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.Contains(r.URL.Path, "/.well-known/"):
			tokens.ServeHTTP(w, r)
		case gone.Load():
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprintf(w, `{"issuer": %q, "token_endpoint": %q}`, base, base+"/token")
		}
	}))
	base = srv.URL
	api := serveHTTP(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	addr := freeAddr(t)
	config := func(comment string) string {
		return globalOptions("credential api {\n provider oauth2 {\n issuer "+base+"\n}\n client_id dev-client\n client_secret dev-secret\n}\n") +
			siteConfig(addr, "header X-Comment "+comment+"\n token_proxy api "+api.URL)
	}
	s := startCaddy(t, config("first"))
	get(t, "http://"+addr).wantStatus(t, http.StatusOK)
	gone.Store(true)
	if err := s.load(config("second")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second token", func() bool {
		get(t, "http://"+addr).wantStatus(t, http.StatusOK)
		return tokens.Calls() > 1
	})
}
