package httpsproxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// farServer is a server without a site, with a certificate of its own for localhost.
func farServer(t *testing.T, a *authority) *httptest.Server {
	t.Helper()
	return caddytest.ServeHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "far %s %d %q", r.Proto, n, r.Header["Authorization"])
	}), func(srv *httptest.Server) {
		srv.EnableHTTP2 = true
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{a.certificate(t, "localhost")}}
	})
}

func portOf(addr net.Addr) string { return fmt.Sprint(addr.(*net.TCPAddr).Port) }

// A host that tunnel allows is reached untouched, over HTTP/1.1 and HTTP/2, also with a large upload.
func TestTunnel(t *testing.T) {
	far := farServer(t, newAuthority(t))
	p := startProxy(t, parts{wrapper: "tunnel *.example.org localhost:" + portOf(far.Listener.Addr())})
	for _, h2 := range []bool{false, true} {
		application := p.application(t, h2)
		transport := application.Transport.(*http.Transport)
		transport.TLSClientConfig.RootCAs = far.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		transport.TLSClientConfig.InsecureSkipVerify = true // the certificate is compared below
		const size = 4 << 20
		requests, denied := difference(t, func() {
			for range 2 {
				res, err := application.Post("https://localhost:"+portOf(far.Listener.Addr())+"/", "application/octet-stream", io.LimitReader(new(pattern), size))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				want := fmt.Sprintf("far %s %d []", map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2], size)
				if string(body) != want || !bytes.Equal(res.TLS.PeerCertificates[0].Raw, far.TLS.Certificates[0].Leaf.Raw) {
					t.Errorf("got %q, want %q, from %s", body, want, res.TLS.PeerCertificates[0].Subject)
				}
			}
		})
		if !maps.Equal(requests, map[string]uint64{"tunnel": 1}) || len(denied) > 0 {
			t.Errorf("counted %v, denied %v", requests, denied)
		}
		if n := httpsproxy.CurrentStatus().Tunnels; n < 1 {
			t.Errorf("%d tunnels are open", n)
		}
		transport.CloseIdleConnections()
	}
	caddytest.Eventually(t, "the tunnels to end", func() bool { return httpsproxy.CurrentStatus().Tunnels == 0 })
}

// farListener is a server that speaks no protocol in particular.
func farListener(t *testing.T) (net.Listener, func() *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, func() *net.TCPConn {
		t.Helper()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn.(*net.TCPConn)
	}
}

// Each end may end its half, and still gets the other.
func TestTunnelHalfClosed(t *testing.T) {
	l, accept := farListener(t)
	p := startProxy(t, parts{wrapper: "tunnel 127.0.0.1:" + portOf(l.Addr())})
	for name, ends := range map[string]func(near, far *net.TCPConn) (first, second *net.TCPConn){
		"the client first": func(near, far *net.TCPConn) (_, _ *net.TCPConn) { return near, far },
		"the host first":   func(near, far *net.TCPConn) (_, _ *net.TCPConn) { return far, near },
	} {
		t.Run(name, func(t *testing.T) {
			near, status := p.connect(t, l.Addr().String())
			if status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			first, second := ends(near, accept())
			say := func(from, to *net.TCPConn, words string) {
				t.Helper()
				if _, err := io.WriteString(from, words); err != nil {
					t.Fatal(err)
				}
				_ = from.CloseWrite()
				if got, err := io.ReadAll(to); string(got) != words || err != nil {
					t.Errorf("got %q, %v, want %q", got, err, words)
				}
			}
			say(first, second, "that is all")
			say(second, first, "and that")
		})
	}
	caddytest.Eventually(t, "the tunnels to end", func() bool { return httpsproxy.CurrentStatus().Tunnels == 0 })
}

// When one end breaks off, the other learns it.
func TestTunnelBrokenOff(t *testing.T) {
	l, accept := farListener(t)
	p := startProxy(t, parts{wrapper: "tunnel 127.0.0.1:" + portOf(l.Addr())})
	for _, nearBreaks := range []bool{false, true} {
		near, _ := p.connect(t, l.Addr().String())
		far := accept()
		breaks, learns := far, near
		if nearBreaks {
			breaks, learns = near, far
		}
		_ = breaks.SetLinger(0) // a reset
		_ = breaks.Close()
		if _, err := learns.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("the client breaks off %t: %v", nearBreaks, err)
		}
	}
	caddytest.Eventually(t, "the tunnels to end", func() bool { return httpsproxy.CurrentStatus().Tunnels == 0 })
}

// A tunnel leads to allowed hosts and ports, and to this machine only if the configuration names the address.
func TestTunnelTargets(t *testing.T) {
	l, accept := farListener(t)
	port := portOf(l.Addr())
	for _, tc := range []struct {
		tunnel, target string
		status         int
		reason         string
	}{
		{"any", "localhost:443", http.StatusForbidden, "address"},
		{"any", "127.0.0.1:443", http.StatusForbidden, "address"},
		{"any", "[::1]:443", http.StatusForbidden, "address"},
		{"any", "[::ffff:127.0.0.1]:443", http.StatusForbidden, "address"},
		{"any", "0.0.0.0:443", http.StatusForbidden, "address"},
		{"any", "[::]:443", http.StatusForbidden, "address"},
		{"any", "169.254.169.254:443", http.StatusForbidden, "address"},
		{"any", "[64:ff9b::7f00:1]:443", http.StatusForbidden, "address"},
		{"any", "localhost:" + port, http.StatusForbidden, "port"},
		{"any", apiHost + ":8443", http.StatusForbidden, "port"},
		{"127.0.0.1", "127.0.0.1:" + port, http.StatusForbidden, "port"},
		{"*.example.org", "a.example.org:25", http.StatusForbidden, "port"},
		{"127.0.0.0/8", "127.0.0.1:443", http.StatusForbidden, "address"},
		{"127.0.0.1:" + port, "127.0.0.1:443", http.StatusForbidden, "port"},
		{"127.0.0.1:" + port, "127.0.0.2:" + port, http.StatusForbidden, "host"},
		{"127.0.0.1:" + port, "127.0.0.1:" + port, http.StatusOK, ""},
		{"127.0.0.1:" + port, "[::ffff:127.0.0.1]:" + port, http.StatusOK, ""},
		{"localhost:" + port, "localhost:" + port, http.StatusOK, ""},
		{"localhost:" + port, "127.0.0.1:" + port, http.StatusForbidden, "host"},
		{"localhost:1", "localhost:1", http.StatusBadGateway, ""}, // where nobody listens
	} {
		t.Run(tc.tunnel+" "+tc.target, func(t *testing.T) {
			p := startProxy(t, parts{wrapper: "tunnel " + tc.tunnel})
			requests, denied := difference(t, func() {
				conn, status := p.connect(t, tc.target)
				if status != tc.status {
					t.Errorf("status %d, want %d", status, tc.status)
				}
				conn.Close()
				if status == http.StatusOK {
					accept().Close()
				}
			})
			want := map[string]uint64{}
			if tc.reason != "" {
				want[tc.reason] = 1
			}
			if !maps.Equal(denied, want) {
				t.Errorf("denied %v, want %v", denied, want)
			}
			if tc.status == http.StatusBadGateway && requests["unreachable"] != 1 {
				t.Errorf("counted %v", requests)
			}
		})
	}
}

// A host with a site never gets a tunnel, whatever tunnel allows.
func TestSiteBeforeTunnel(t *testing.T) {
	p := startProxy(t, parts{wrapper: "tunnel any"})
	res, err := p.application(t, true).Get("https://" + apiHost + "/orders")
	p.wantToken(t, res, err)
	for _, target := range []string{apiHost + ":8443", apiHost + ".:443"} {
		if _, status := p.connect(t, target); status != http.StatusForbidden {
			t.Errorf("%s: status %d", target, status)
		}
	}
}

// A reload lets tunnels and requests finish, and the client of a CONNECT that has been answered.
func TestReload(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	l, accept := farListener(t)
	p := startProxy(t, parts{wrapper: "tunnel 127.0.0.1:" + portOf(l.Addr()), api: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "done")
	}})
	near, _ := p.connect(t, l.Addr().String())
	far := accept()
	answered, status := p.connect(t, apiHost+":443")
	if status != http.StatusOK {
		t.Fatal(status)
	}
	type outcome struct {
		status int
		err    error
	}
	slow := make(chan outcome, 2)
	for _, scheme := range []string{"http", "https"} {
		go func() {
			res, err := p.application(t, false).Get(scheme + "://" + apiHost + "/slow")
			if err != nil {
				slow <- outcome{0, err}
				return
			}
			res.Body.Close()
			slow <- outcome{res.StatusCode, nil}
		}()
		<-arrived
	}

	if err := p.Load(strings.Replace(p.config, "tunnel 127.0.0.1:"+portOf(l.Addr()), "", 1)); err != nil {
		t.Fatal(err)
	}
	close(release)
	for range 2 {
		if got := <-slow; got != (outcome{http.StatusOK, nil}) {
			t.Errorf("a request in flight: %+v", got)
		}
	}
	if conn, err := p.handshake(answered, apiHost); err != nil {
		t.Errorf("after the answer to CONNECT: %v", err)
	} else if status, body := get(t, conn, apiHost); status != http.StatusOK {
		t.Errorf("after the answer to CONNECT: %d %s", status, body)
	}
	for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
		word := make([]byte, 5)
		_, _ = io.WriteString(ends[0], "hello")
		if _, err := io.ReadFull(ends[1], word); err != nil || string(word) != "hello" {
			t.Errorf("the tunnel: %q, %v", word, err)
		}
	}
	if _, status := p.connect(t, l.Addr().String()); status != http.StatusForbidden {
		t.Errorf("the new configuration answers %d", status)
	}
	near.Close()
}

// With a grace period, a tunnel ends at its end, although it carries bytes all the time.
func TestGracePeriod(t *testing.T) {
	l, accept := farListener(t)
	p := startProxy(t, parts{global: "grace_period 500ms", wrapper: "tunnel 127.0.0.1:" + portOf(l.Addr())})
	near, _ := p.connect(t, l.Addr().String())
	far := accept()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := far.Write([]byte("busy")); err != nil {
				return
			}
		}
	}()
	if _, err := io.ReadFull(near, make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	if err := p.Load(strings.Replace(p.config, "tunnel", "clients loopback\n tunnel", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, near); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("the tunnel goes on after the grace period")
	}
	caddytest.Eventually(t, "the tunnel to end", func() bool { return httpsproxy.CurrentStatus().Tunnels == 0 })
}
