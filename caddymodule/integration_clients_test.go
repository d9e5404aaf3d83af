package caddymodule

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/quic-go/quic-go/http3"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

// proxyV1 is a header of the PROXY protocol, version 1, that claims a client's address.
func proxyV1(client string) string {
	family := "TCP4"
	if strings.Contains(client, ":") {
		family = "TCP6"
	}
	return fmt.Sprintf("PROXY %s %s %s 4711 80\r\n", family, client, client)
}

// The bytes of version 2 that say what is claimed: the command, and the family with the transport.
const (
	v2Local, v2Proxy         = 0x20, 0x21
	v2Unspec, v2TCP4, v2TCP6 = 0x00, 0x11, 0x21
	v2UDP4                   = 0x12
	v2UnixStream             = 0x31
)

// proxyV2 is a header of version 2.
func proxyV2(command, family byte, addresses ...byte) string {
	header := []byte("\r\n\r\n\x00\r\nQUIT\n")
	header = append(header, command, family, byte(len(addresses)>>8), byte(len(addresses)))
	return string(append(header, addresses...))
}

// proxyV2TCP claims a client's address.
func proxyV2TCP(client string) string {
	addr, family := netip.MustParseAddr(client), byte(v2TCP4)
	if addr.Is6() {
		family = v2TCP6
	}
	return proxyV2(v2Proxy, family, append(append(addr.AsSlice(), addr.AsSlice()...), 0x12, 0x67, 0, 80)...)
}

// proxyV2Unix claims that the client came over a unix socket.
func proxyV2Unix(client string) string {
	var names [2 * 108]byte
	copy(names[:], client)
	copy(names[108:], "/run/balancer.sock")
	return proxyV2(v2Proxy, v2UnixStream, names[:]...)
}

// wraps is a listener wrapper whose connections are of another type, as third parties have them. It does not hide the
// socket; with "hides" it does.
type wraps struct {
	Hides bool `json:"hides,omitempty"`
}

func init() { caddy.RegisterModule(new(wraps)) }

func (*wraps) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.wraps", New: func() caddy.Module { return new(wraps) }}
}

func (w *wraps) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	w.Hides = d.NextArg()
	return nil
}

func (w *wraps) WrapListener(l net.Listener) net.Listener { return wrappedListener{l, w.Hides} }

type wrappedListener struct {
	net.Listener
	hides bool
}

type wrappedConn struct{ net.Conn }

// ConnectionState tells Caddy that TLS is below.
func (c wrappedConn) ConnectionState() tls.ConnectionState {
	if conn, ok := c.Conn.(*tls.Conn); ok {
		return conn.ConnectionState()
	}
	return tls.ConnectionState{}
}

// hidden embeds a connection under a name at which socketOf does not look.
type hidden struct{ inner }

type inner = net.Conn

func (l wrappedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.hides {
		return hidden{conn}, nil
	}
	return &wrappedConn{conn}, nil
}

// clientSites are handlers with other clients in each, on loopback, on an address of this machine, and on a unix socket.
func clientSites(t *testing.T, options, scheme, directives string) (port, socket string) {
	t.Helper()
	tokens := newTokenServer(t)
	upstream := serveHTTP(t, tokens.api()).URL
	port, socket = portNumber(freeAddr(t)), filepath.Join(shortDir(t), "s")
	handlers := ""
	for path, clients := range map[string]string{
		"loopback": "loopback", "range": "198.51.100.0/24", "private": "private_ranges", "loopback-range": "127.0.0.0/8 ::1",
	} {
		handlers += " token_proxy /" + path + " api " + upstream + " {\n clients " + clients + "\n}\n"
	}
	startCaddy(t, strings.Replace(globalOptions(tokens.credential("api")), "{\n", "{\n "+options+"\n", 1)+
		scheme+"://:"+port+" {\n "+directives+" bind 127.0.0.1 "+machineAddr(t)+" unix/"+socket+"\n"+handlers+"}\n")
	return port, socket
}

// clientFrom connects to an address and sends a header of the PROXY protocol first.
func clientFrom(t *testing.T, network, addr, header string) *http.Client {
	t.Helper()
	c := testClient(t)
	transport := c.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	transport.ForceAttemptHTTP2 = true
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = conn.Write([]byte(header))
		}
		return conn, err
	}
	return c
}

// A header of the PROXY protocol claims any address, and an AF_UNIX one: who is loopback, the socket says too.
func TestClientsBehindProxyProtocol(t *testing.T) {
	const remote, loopback, unix = "remote", "loopback", "unix"
	const denied, admitted = http.StatusForbidden, http.StatusOK
	tests := []struct {
		name, from, header, path string
		want                     int
	}{
		{"no header", remote, "", "loopback", denied},
		{"v1 127.0.0.1", remote, proxyV1("127.0.0.1"), "loopback", denied},
		{"v1 127.0.0.1", remote, proxyV1("127.0.0.1"), "private", denied},
		{"v1 127.0.0.1", remote, proxyV1("127.0.0.1"), "loopback-range", denied},
		{"v1 ::1", remote, proxyV1("::1"), "loopback", denied},
		{"v1 ::1", remote, proxyV1("::1"), "private", denied},
		{"v1 ::1", remote, proxyV1("::1"), "loopback-range", denied},
		{"v2 ::ffff:127.0.0.1", remote, proxyV2TCP("::ffff:127.0.0.1"), "loopback", denied},
		{"v1 UNKNOWN", remote, "PROXY UNKNOWN\r\n", "loopback", denied},
		{"v1 UNKNOWN with addresses", remote, "PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2\r\n", "loopback", denied},
		{"v2 127.0.0.1", remote, proxyV2TCP("127.0.0.1"), "loopback", denied},
		{"v2 ::1", remote, proxyV2TCP("::1"), "loopback", denied},
		{"v2 ::1", remote, proxyV2TCP("::1"), "private", denied},
		{"v2 AF_UNIX", remote, proxyV2Unix("/run/application.sock"), "loopback", denied},
		{"v2 AF_UNIX without a name", remote, proxyV2Unix(""), "loopback", denied},
		{"v2 AF_UNIX", remote, proxyV2Unix("198.51.100.7:1"), "range", denied},
		{"v2 LOCAL", remote, proxyV2(v2Local, v2Unspec), "loopback", denied},
		{"v2 UDP 127.0.0.1", remote, proxyV2(v2Proxy, v2UDP4, 127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 80), "loopback", denied},
		{"v1 in the range", remote, proxyV1("198.51.100.7"), "range", admitted},
		{"v1 beside the range", remote, proxyV1("203.0.113.9"), "range", denied},
		{"v2 in the range", remote, proxyV2TCP("198.51.100.7"), "range", admitted},
		{"v2 private", remote, proxyV2TCP("10.1.2.3"), "private", admitted},

		{"no header", loopback, "", "loopback", admitted},
		{"v1 127.0.0.1", loopback, proxyV1("127.0.0.1"), "loopback", admitted},
		{"v2 ::1", loopback, proxyV2TCP("::1"), "private", admitted},
		{"v2 AF_UNIX", loopback, proxyV2Unix("/run/application.sock"), "loopback", admitted},
		{"v2 LOCAL", loopback, proxyV2(v2Local, v2Unspec), "loopback", admitted},
		{"a balancer on this machine", loopback, proxyV1("203.0.113.9"), "loopback", denied},
		{"a balancer on this machine", loopback, proxyV2TCP("2001:db8::1"), "private", denied},
		{"a balancer on this machine", loopback, proxyV1("198.51.100.7"), "range", admitted},

		{"no header", unix, "", "loopback", admitted},
		{"no header", unix, "", "private", denied},
		{"v2 127.0.0.1", unix, proxyV2TCP("127.0.0.1"), "loopback", admitted},
		{"a balancer on a unix socket", unix, proxyV2TCP("203.0.113.9"), "loopback", denied},
		{"a balancer on a unix socket", unix, proxyV2TCP("198.51.100.7"), "range", admitted},
	}
	const trustAll = "proxy_protocol {\n allow 0.0.0.0/0 ::/0\n}\n"
	certificate := fmt.Sprintf("tls %s %s\n", writeExampleFile(t, exampleContents().certificate), writeExampleFile(t, exampleContents().key))
	for stack, config := range map[string]struct{ options, scheme, directives string }{
		"HTTP":                    {"servers {\n listener_wrappers {\n " + trustAll + "}\n}", "http", ""},
		"HTTP/1 alone":            {"servers {\n protocols h1\n listener_wrappers {\n " + trustAll + "}\n}", "http", ""},
		"below TLS":               {"auto_https off\n servers {\n listener_wrappers {\n " + trustAll + " http_redirect\n tls\n}\n}", "https", certificate},
		"below TLS, HTTP/1 alone": {"auto_https off\n servers {\n protocols h1\n listener_wrappers {\n " + trustAll + " tls\n}\n}", "https", certificate},
		"below TLS, then wrapped": {"auto_https off\n servers {\n listener_wrappers {\n " + trustAll + " tls\n wraps\n}\n}", "https", certificate},
	} {
		t.Run(stack, func(t *testing.T) {
			port, socket := clientSites(t, config.options, config.scheme, config.directives)
			for _, tc := range tests {
				network, addr := "tcp", "127.0.0.1:"+port
				switch tc.from {
				case remote:
					addr = net.JoinHostPort(machineAddr(t), port)
				case unix:
					network, addr = "unix", socket
				}
				a := ask(t, clientFrom(t, network, addr, tc.header), newRequest(t, http.MethodGet, config.scheme+"://localhost/"+tc.path, nil))
				if a.StatusCode != tc.want {
					t.Errorf("%s from %s to /%s: status %d, want %d", tc.name, tc.from, tc.path, a.StatusCode, tc.want)
				}
			}
		})
	}
}

// A wrapper that hides the socket could show any address: what it shows as loopback does not count, what it shows as
// another does.
func TestClientsBehindAWrapperThatHidesTheSocket(t *testing.T) {
	port, socket := clientSites(t, "servers {\n listener_wrappers {\n wraps hides\n proxy_protocol {\n allow 0.0.0.0/0\n}\n}\n}", "http", "")
	for _, tc := range []struct {
		network, header, path string
		want                  int
	}{
		{"tcp", "", "loopback", http.StatusForbidden},
		{"tcp", proxyV1("127.0.0.1"), "loopback-range", http.StatusForbidden},
		{"tcp", proxyV1("198.51.100.7"), "range", http.StatusOK},
		{"unix", "", "loopback", http.StatusForbidden},
	} {
		addr := "127.0.0.1:" + port
		if tc.network == "unix" {
			addr = socket
		}
		a := ask(t, clientFrom(t, tc.network, addr, tc.header), newRequest(t, http.MethodGet, "http://localhost/"+tc.path, nil))
		if a.StatusCode != tc.want {
			t.Errorf("%s with %q to /%s: status %d, want %d", tc.network, tc.header, tc.path, a.StatusCode, tc.want)
		}
	}
}

// HTTP/3 comes in packets, not over a connection that a wrapper could be around. The server is the one that Caddy starts,
// without Caddy, whose own start the race detector takes for a race with the first handshake.
func TestClientsOverHTTP3(t *testing.T) {
	local, err := peer.ParseClients(nil)
	if err != nil {
		t.Fatal(err)
	}
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{serverCertificate(t, "localhost")}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !local.Admit(r) {
				w.WriteHeader(http.StatusForbidden)
			}
		}),
	}
	for host, want := range map[string]int{"127.0.0.1": http.StatusOK, machineAddr(t): http.StatusForbidden} {
		packets, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(packets) }()
		t.Cleanup(func() {
			_ = server.Close()
			<-served
			packets.Close()
		})
		transport := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}}
		t.Cleanup(func() { transport.Close() })
		a := ask(t, &http.Client{Transport: transport}, newRequest(t, http.MethodGet, "https://"+packets.LocalAddr().String()+"/", nil))
		if a.StatusCode != want || a.ProtoMajor != 3 {
			t.Errorf("from %s over %s: status %d, want %d", host, a.Proto, a.StatusCode, want)
		}
	}
}
