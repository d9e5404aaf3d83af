package caddymodule

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// onSocket makes a test server listen on a unix socket.
func onSocket(t *testing.T, path string) func(*httptest.Server) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return func(srv *httptest.Server) {
		srv.Listener.Close()
		srv.Listener = l
	}
}

// A datagram goes out whether anybody listens or not, and its address can be one that api_hosts allow.
func TestTokenIsNotSentInADatagram(t *testing.T) {
	dir := t.TempDir()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gram, err := net.ListenPacket("unixgram", filepath.Join(dir, "gram.sock"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := newTokenServer(t)
	s, base := startProxy(t, tokens.credential("api", "api_hosts "+udp.LocalAddr().String()+" unix/"+gram.LocalAddr().String(), "allow_plaintext"),
		"token_proxy api {header.X-Up} {\n client_authorization keep\n}")
	for _, upstream := range []string{
		"udp/" + udp.LocalAddr().String(), "UDP/" + udp.LocalAddr().String(), "udp4/" + udp.LocalAddr().String(),
		"unixgram/" + gram.LocalAddr().String(), "unixpacket/" + gram.LocalAddr().String(),
		"unix+h2c/" + gram.LocalAddr().String(), "ip4:udp/127.0.0.1", "fd/3", "fdgram/3", "x/" + udp.LocalAddr().String(),
	} {
		get(t, base, "X-Up", upstream).wantProblem(t, 502, "proxy_configuration_error")
		get(t, base, "X-Up", upstream, "Authorization", "Bearer mine").wantProblem(t, 502, "proxy_configuration_error")
	}
	if e := s.logged("the token may not go to this upstream"); len(e) != 1 || e[0]["error"] != errNetwork.Error() {
		t.Errorf("the log does not say which rule: %v", e)
	}
	for _, l := range []net.PacketConn{udp, gram} {
		_ = l.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // what has been sent on this machine is there
		buffer := make([]byte, 4096)
		if n, _, err := l.ReadFrom(buffer); err == nil {
			t.Errorf("%s got %q", l.LocalAddr(), buffer[:n])
		}
		l.Close()
	}
}

// net/http keeps connections by the URL's host, which says nothing of the network: a socket can have the path of an
// address.
func TestConnectionsOfNetworksAreKeptApart(t *testing.T) {
	for name, configure := range map[string]func(*httptest.Server){"HTTP/1.1": func(*httptest.Server) {}, "h2c": serveH2C} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			tokens := newTokenServer(t)
			tcp := newRecordingAPI(t, tokens.api().ServeHTTP, configure)
			unix := newRecordingAPI(t, tokens.api().ServeHTTP, onSocket(t, tcp.addr()), configure)
			transport := ""
			if name == "h2c" {
				transport = "transport http {\n versions h2c 2\n}"
			}
			_, base := startProxy(t, tokens.credential("api", "api_hosts "+tcp.addr()+" unix/"+tcp.addr()),
				"token_proxy api {header.X-Up} {\n client_authorization keep\n"+transport+"\n}")
			for range 3 {
				for i, upstream := range []string{"unix/" + tcp.addr(), tcp.addr()} {
					gotTCP, gotUnix := len(tcp.received()), len(unix.received())
					get(t, base, "X-Up", upstream).wantStatus(t, 200)
					get(t, base, "X-Up", upstream, "Authorization", "Bearer mine").wantStatus(t, 401)
					gotTCP, gotUnix = len(tcp.received())-gotTCP, len(unix.received())-gotUnix
					if want := 2 * i; gotTCP != want || gotUnix != 2-want {
						t.Errorf("two requests for %s: %d came over TCP and %d over the socket", upstream, gotTCP, gotUnix)
					}
				}
			}
			if tcp.connectionCount() != 1 || unix.connectionCount() != 1 {
				t.Errorf("%d and %d connections, want one of each", tcp.connectionCount(), unix.connectionCount())
			}
			for _, r := range unix.received() {
				if !strings.HasPrefix(r.Host, "127.0.0.1:") { // the site's, as the client wrote it
					t.Errorf("the server on the socket got the host %q", r.Host)
				}
			}
		})
	}
}

// A request that keeps its own credential leaves its connection to the next: it goes nowhere where a token may not go.
func TestKeptCredentialOpensNoOtherConnection(t *testing.T) {
	t.Chdir(t.TempDir())
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP)
	socket, elsewhere := newRecordingAPI(t, nil, onSocket(t, api.addr())), newRecordingAPI(t, nil)
	_, base := startProxy(t, tokens.credential("api", "api_hosts "+api.addr()),
		"token_proxy api {header.X-Up} {\n client_authorization keep\n}")
	for _, upstream := range []string{"unix/" + api.addr(), elsewhere.addr()} {
		a := get(t, base, "X-Up", upstream, "Authorization", "Bearer mine")
		a.wantProblem(t, 502, "proxy_configuration_error")
		get(t, base, "X-Up", api.addr()).wantStatus(t, 200)
	}
	if socket.connectionCount() != 0 || elsewhere.connectionCount() != 0 {
		t.Errorf("the others got %v and %v", socket.received(), elsewhere.received())
	}
}

// reverse_proxy keeps the scheme of an upstream that failed for the next one.
func TestRetryEncryptsForItsOwnPort(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP, serveHTTPS)
	dead := freeAddr(t)
	_, deadPort, _ := net.SplitHostPort(dead)
	transport := strings.Replace(trusting(t, api.Server), "transport http {\n", "transport http {\n tls_except_ports "+deadPort+"\n", 1)
	_, base := startProxy(t, tokens.credential("api"),
		"token_proxy api "+dead+" "+api.addr()+" {\n lb_policy first\n lb_retries 1\n fail_duration 1m\n"+transport+"}")
	get(t, base).wantStatus(t, 200)
	if r := api.only(t); !r.TLS {
		t.Errorf("the token came in the clear: %+v", r)
	}
}

// A proxy that is configured is judged for what it would be used for, also where only the request tells.
func TestNetworkProxyIsJudgedForEachRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		option string
		status int
	}{
		"in the clear":          {"", 502},
		"in the clear, allowed": {"allow_plaintext", 200},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			api, proxy := newRecordingAPI(t, nil), newRecordingAPI(t, nil)
			s, base := startProxy(t, tokens.credential("api", "api_hosts "+api.addr(), tc.option),
				"token_proxy api {header.X-Up} {\n client_authorization keep\n transport http {\n network_proxy url "+proxy.URL+"\n}\n}")
			for _, header := range [][]string{{"X-Up", api.addr()}, {"X-Up", api.addr(), "Authorization", "Bearer mine"}} {
				a := get(t, base, header...)
				if tc.status != 502 {
					a.wantStatus(t, tc.status)
					continue
				}
				a.wantProblem(t, 502, "proxy_configuration_error")
			}
			if n := proxy.connectionCount(); (n == 0) != (tc.status == 502) {
				t.Errorf("the proxy got %v", proxy.received())
			}
			if e := s.logged("the token may not go to this upstream"); tc.status == 502 && (len(e) != 1 || e[0]["error"] != errNetworkProxy.Error()) {
				t.Errorf("the log does not say which rule: %v", e)
			}
		})
	}
}

// A health check that dials past the proxy would leave a connection that requests through the proxy take.
func TestHealthChecksUseTheNetworkProxy(t *testing.T) {
	tokens := newTokenServer(t)
	api, checked, proxy := newRecordingAPI(t, nil), newRecordingAPI(t, nil), newRecordingAPI(t, nil)
	_, base := startProxy(t, tokens.credential("api", "allow_plaintext"),
		"token_proxy api "+api.URL+" {\n health_uri /health\n health_interval 5ms\n health_upstream "+checked.addr()+
			"\n transport http {\n network_proxy url "+proxy.URL+"\n}\n}")
	eventually(t, "health checks", func() bool { return len(proxy.received())+len(checked.received()) > 2 })
	get(t, base).wantStatus(t, 200)
	if n := checked.connectionCount() + api.connectionCount(); n != 0 {
		t.Errorf("%d connections past the proxy, with %v", n, checked.received())
	}
}

// With a proxy in the environment, in a process of its own: Go reads the environment once.
func TestNetworkProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	path := product(t)
	tokens := newTokenServer(t)
	api, proxy := newRecordingAPI(t, tokens.api().ServeHTTP, takingProxyProtocol), newRecordingAPI(t, nil)
	unix := newRecordingAPI(t, tokens.api().ServeHTTP, onSocket(t, filepath.Join(t.TempDir(), "a.sock")))
	other := newRecordingAPI(t, tokens.api().ServeHTTP, onSocket(t, filepath.Join(t.TempDir(), "b.sock")))
	addr := freeAddr(t)
	config := writeConfig(t, "Caddyfile", strings.Replace(globalOptions(
		tokens.credential("api"), tokens.credential("far", "api_hosts 192.0.2.1"),
	), "{\n", "{\n admin off\n", 1)+siteConfig(addr, `
		token_proxy /loopback api `+api.URL+` {
			transport http {
				proxy_protocol v1
			}
		}
		token_proxy /socket api unix/`+unix.addr()+` unix/`+other.addr()+` {
			lb_policy round_robin
		}
		token_proxy /far far {header.X-Up} {
			transport http {
				proxy_protocol v1
			}
		}
		respond /up 200`))
	cmd := exec.CommandContext(t.Context(), path, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "XDG_DATA_HOME=",
		"HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "http_proxy=", "https_proxy=", "no_proxy=")
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	c := testClient(t)
	eventually(t, "the proxy", func() bool {
		_, err := tryAsk(c, newRequest(t, http.MethodGet, "http://"+addr+"/up", nil))
		return err == nil
	})
	get(t, "http://"+addr+"/loopback").wantStatus(t, 200)
	get(t, "http://"+addr+"/far", "X-Up", "192.0.2.1:80").wantProblem(t, 502, "proxy_configuration_error")
	for range 4 {
		get(t, "http://"+addr+"/socket").wantStatus(t, 200)
	}
	if unix.connectionCount() != 1 || other.connectionCount() != 1 || len(unix.received()) != len(other.received()) {
		t.Errorf("of 4 requests, round robin, %d and %d came", len(unix.received()), len(other.received()))
	}
	if n := proxy.connectionCount(); n != 0 {
		t.Errorf("the network proxy got %d connections and %v", n, proxy.received())
	}
}

// takingProxyProtocol makes a test server read the line that comes before the first request.
func takingProxyProtocol(srv *httptest.Server) { srv.Listener = lineListener{srv.Listener} }

type lineListener struct{ net.Listener }

// Accept implements net.Listener.
func (l lineListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	for b := make([]byte, 1); err == nil && b[0] != '\n'; {
		_, err = conn.Read(b)
	}
	return conn, err
}

// What can never work is refused when the configuration is loaded.
func TestPlaceholderSockets(t *testing.T) {
	dir := t.TempDir()
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP, onSocket(t, filepath.Join(dir, "api.sock")))
	other := newRecordingAPI(t, nil, onSocket(t, filepath.Join(dir, "other.sock")))
	directive := "token_proxy api unix/" + dir + "/{header.X-Socket}.sock"

	s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
	err := s.load(globalOptions(tokens.credential("api", "api_hosts api.example.com")) + siteConfig(freeAddr(t), directive))
	if err == nil {
		_ = caddy.Stop()
	}
	wantRefused(t, err, `credential "api"`, "api_hosts", "unix//run/api.sock")

	_, base := startProxy(t, tokens.credential("api", "api_hosts unix/"+api.addr()), directive)
	get(t, base, "X-Socket", "api").wantStatus(t, 200)
	for _, socket := range []string{"other", "../" + filepath.Base(dir) + "/api", "./api"} {
		get(t, base, "X-Socket", socket).wantProblem(t, 502, "proxy_configuration_error")
	}
	if n := other.connectionCount(); n != 0 {
		t.Errorf("another socket got %v", other.received())
	}
}
