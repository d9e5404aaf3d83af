package peer

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// testConn is a connection that shows an address, of what another one is underneath.
type testConn struct {
	net.Conn
	remote net.Addr
}

func (c testConn) RemoteAddr() net.Addr { return c.remote }

// overConnection makes a request that arrives over a connection whose socket has one peer and whose listener wrappers show
// another.
func overConnection(socket, shown net.Addr) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/", nil)
	r.RemoteAddr = shown.String()
	return r.WithContext(WithSocket(r.Context(), testConn{remote: shown}, testConn{remote: socket}))
}

// peerRequest makes a request as it arrives from a peer at remote over network ("tcp" or "unix").
func peerRequest(remote, network string) *http.Request {
	addr := addrOf(remote, network)
	return overConnection(addr, addr)
}

func addrOf(remote, network string) net.Addr {
	if network == "unix" {
		return &net.UnixAddr{Net: "unix", Name: remote}
	}
	if addr, err := netip.ParseAddrPort(remote); err == nil {
		return net.TCPAddrFromAddrPort(addr)
	}
	return wrapperAddr(remote)
}

// wrapperAddr is an address of a type of its own.
type wrapperAddr string

func (wrapperAddr) Network() string  { return "tcp" }
func (a wrapperAddr) String() string { return string(a) }

func TestClientsAdmit(t *testing.T) {
	tests := []struct {
		clients string // "" is the default
		remote  string
		network string
		want    bool
	}{
		{"", "127.0.0.1:1", "tcp", true},
		{"", "127.255.255.254:1", "tcp", true},
		{"", "[::1]:1", "tcp", true},
		{"", "[::ffff:127.0.0.1]:1", "tcp", true}, // a dual-stack listener shows IPv4 peers so
		{"", "10.0.0.1:1", "tcp", false},
		{"", "192.168.1.1:1", "tcp", false},
		{"", "[::ffff:10.0.0.1]:1", "tcp", false},
		{"", "[fe80::1%lo]:1", "tcp", false},
		{"", "[::2]:1", "tcp", false},
		{"", "0.0.0.0:1", "tcp", false},
		{"", "[::]:1", "tcp", false},
		{"", "128.0.0.1:1", "tcp", false},
		{"", "localhost:1", "tcp", false},
		{"", "", "tcp", false},
		{"", "@", "tcp", false},
		{"", "127.0.0.1", "tcp", false},
		{"", "@", "unix", true},
		{"", "", "unix", true},
		{"", "10.1.2.3:1", "unix", true}, // what a peer on a unix socket calls itself
		{"", "127.0.0.1:1", "unix", true},
		{"10.0.0.0/8", "10.1.2.3:1", "unix", false},
		{"127.0.0.0/8", "127.0.0.1:1", "unix", false},
		{"loopback", "127.0.0.1:1", "tcp", true},
		{"loopback", "10.0.0.1:1", "tcp", false},

		{"any", "203.0.113.9:1", "tcp", true},
		{"any", "[2001:db8::1]:1", "tcp", true},
		{"any", "@", "unix", true},
		{"any", "", "tcp", true},

		{"10.0.0.0/8", "10.1.2.3:1", "tcp", true},
		{"10.0.0.0/8", "[::ffff:10.1.2.3]:1", "tcp", true},
		{"10.0.0.0/8", "11.1.2.3:1", "tcp", false},
		{"10.0.0.0/8", "127.0.0.1:1", "tcp", false}, // loopback is not said
		{"10.0.0.0/8", "@", "unix", false},          // and a unix socket counts as loopback
		{"10.9.8.7/8", "10.1.2.3:1", "tcp", true},   // host bits do not matter
		{"10.0.0.0/8 loopback", "127.0.0.1:1", "tcp", true},
		{"10.0.0.0/8 loopback", "10.0.0.1:1", "tcp", true},
		{"10.0.0.0/8 loopback", "@", "unix", true},
		{"10.0.0.0/8 loopback", "12.0.0.1:1", "tcp", false},
		{"192.0.2.7", "192.0.2.7:1", "tcp", true},
		{"192.0.2.7", "192.0.2.8:1", "tcp", false},
		{"::ffff:192.0.2.7", "192.0.2.7:1", "tcp", true},
		{"2001:db8::/32", "[2001:db8:1::1]:1", "tcp", true},
		{"2001:db8::/32", "[2001:db9::1]:1", "tcp", false},
		{"2001:db8::1", "[2001:db8::1]:1", "tcp", true},
		{"fe80::/10", "[fe80::1%eth0]:1", "tcp", true}, // a range does not know of zones
		{"::/0", "10.0.0.1:1", "tcp", false},           // IPv6 alone
		{"0.0.0.0/0", "[2001:db8::1]:1", "tcp", false}, // IPv4 alone
		{"0.0.0.0/0", "203.0.113.9:1", "tcp", true},

		{"private_ranges", "10.1.2.3:1", "tcp", true},
		{"private_ranges", "172.31.255.255:1", "tcp", true},
		{"private_ranges", "192.168.1.1:1", "tcp", true},
		{"private_ranges", "[fd00::1]:1", "tcp", true},
		{"private_ranges", "127.1.2.3:1", "tcp", true},
		{"private_ranges", "[::1]:1", "tcp", true},
		{"private_ranges", "172.32.0.1:1", "tcp", false},
		{"private_ranges", "203.0.113.9:1", "tcp", false},
		{"private_ranges", "[fe80::1]:1", "tcp", false},
		{"private_ranges", "@", "unix", false}, // not a range
		{"private_ranges loopback 192.0.2.7", "@", "unix", true},
		{"private_ranges loopback 192.0.2.7", "192.0.2.7:1", "tcp", true},
	}
	for _, tc := range tests {
		t.Run(tc.clients+" "+tc.remote, func(t *testing.T) {
			l, err := ParseClients(strings.Fields(tc.clients))
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Admit(peerRequest(tc.remote, tc.network)); got != tc.want {
				t.Errorf("clients %q admits %q (%s): %t, want %t", tc.clients, tc.remote, tc.network, got, tc.want)
			}
		})
	}
}

// private_ranges is Caddy's word, and means what it means to Caddy.
func TestPrivateRangesAreCaddys(t *testing.T) {
	l, err := ParseClients([]string{"private_ranges"})
	if err != nil {
		t.Fatal(err)
	}
	want, err := ParseClients(caddyhttp.PrivateRangesCIDR())
	if err != nil || !reflect.DeepEqual(l, want) || len(l.ranges) == 0 {
		t.Errorf("got %v, want %v, error %v", l, want, err)
	}
}

// A listener wrapper shows an address that is not the socket's, because a header of the PROXY protocol claims it.
func TestClientsBehindAListenerWrapper(t *testing.T) {
	const network, unix = "tcp", "unix"
	type end struct{ network, addr string }
	remote, loopback, socketFile := end{network, "10.0.0.5:1"}, end{network, "127.0.0.1:1"}, end{unix, "@"}
	tests := []struct {
		clients       string
		socket, shown end
		want          bool
	}{
		// Loopback is what both say.
		{"", remote, loopback, false},
		{"", remote, end{network, "[::1]:1"}, false},
		{"", remote, end{network, "[::ffff:127.0.0.1]:1"}, false},
		{"", remote, socketFile, false},
		{"", remote, end{unix, "/run/a.sock"}, false},
		{"", remote, remote, false},
		{"", loopback, remote, false},
		{"", loopback, end{network, "203.0.113.9:1"}, false},
		{"", loopback, end{network, "[::1]:1"}, true},
		{"", loopback, socketFile, true},
		{"", socketFile, remote, false},
		{"", socketFile, loopback, true},
		{"", socketFile, socketFile, true},
		{"", socketFile, end{unix, "10.0.0.5:1"}, true},

		// A range is of what is shown.
		{"192.168.0.0/16", remote, end{network, "192.168.7.7:1"}, true},
		{"192.168.0.0/16", loopback, end{network, "192.168.7.7:1"}, true},
		{"192.168.0.0/16", socketFile, end{network, "192.168.7.7:1"}, true},
		{"192.168.0.0/16", socketFile, end{unix, "192.168.7.7:1"}, false}, // the name of a file
		{"192.168.0.0/16", remote, end{network, "203.0.113.9:1"}, false},
		{"10.0.0.0/8", remote, end{network, "203.0.113.9:1"}, false},
		{"10.0.0.0/8", remote, loopback, false},

		// But a loopback address in a range is still of this machine.
		{"127.0.0.0/8", remote, loopback, false},
		{"127.0.0.0/8", loopback, loopback, true},
		{"127.0.0.0/8", socketFile, loopback, true},
		{"127.0.0.1 ::1", remote, end{network, "[::1]:1"}, false},
		{"0.0.0.0/0 ::/0", remote, loopback, false},
		{"0.0.0.0/0", remote, end{network, "203.0.113.9:1"}, true},
		{"private_ranges", remote, loopback, false},
		{"private_ranges", remote, end{network, "[::1]:1"}, false},
		{"private_ranges", remote, end{network, "192.168.7.7:1"}, true},

		{"any", remote, loopback, true},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			l, err := ParseClients(strings.Fields(tc.clients))
			if err != nil {
				t.Fatal(err)
			}
			r := overConnection(addrOf(tc.socket.addr, tc.socket.network), addrOf(tc.shown.addr, tc.shown.network))
			if got := l.Admit(r); got != tc.want {
				t.Errorf("admitted: %t, want %t", got, tc.want)
			}
			if tc.clients == "" && IsLoopback(r) != tc.want {
				t.Errorf("the peer is loopback: %t, want %t", !tc.want, tc.want)
			}
		})
	}
}

// A handler before token_proxy can write any address into the request; without a connection nobody is admitted.
func TestClientsIgnoreTheAddressInTheRequest(t *testing.T) {
	l, err := ParseClients([]string{"loopback", "192.0.2.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	for _, claim := range []string{"127.0.0.1:1", "192.0.2.1:1", "@", ""} {
		r := peerRequest("203.0.113.9:1", "tcp")
		r.RemoteAddr = claim
		if l.Admit(r) {
			t.Errorf("%q in RemoteAddr let a remote peer in", claim)
		}
		r = httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = claim
		if l.Admit(r) || IsLoopback(r) {
			t.Errorf("%q in RemoteAddr let a request without a connection in", claim)
		}
	}
}

// An address in the configuration that means less than it says is either refused, or means what it says.
func TestClientsMeanWhatTheySay(t *testing.T) {
	tests := []struct {
		name, clients string
		remote        string
		want          bool
	}{
		{"an address with a zone is not the same address in another zone", "fe80::1%eth0", "[fe80::1%eth1]:1", false},
		{"a range of v4-mapped addresses is the range of IPv4", "::ffff:10.0.0.0/104", "10.1.2.3:1", true},
		{"a range of v4-mapped addresses is the range of IPv4 (mapped peer)", "::ffff:10.0.0.0/104", "[::ffff:10.1.2.3]:1", true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			l, err := ParseClients([]string{tc.clients})
			if err == nil && l.Admit(peerRequest(tc.remote, "tcp")) != tc.want {
				t.Errorf("clients %s was taken, but %s is admitted: %t", tc.clients, tc.remote, !tc.want)
			}
		})
	}
}

func TestClientsRefuseWhatTheyDoNotUnderstand(t *testing.T) {
	for _, clients := range [][]string{
		{"localhost"}, {"everyone"}, {""}, {"10.0.0.0/33"}, {"10.0.0.0/"}, {"10.0.0"}, {"10.0.0.1:80"}, {"example.com"},
		{"Loopback"}, {"ANY"}, {"Private_Ranges"}, {"private"}, {"any", "private_ranges"}, {"fe80::/10%eth0"}, {"any", "loopback"}, {"10.0.0.0/8", "any"}, {"10.0.0.0/8", "nonsense"},
	} {
		if l, err := ParseClients(clients); err == nil {
			t.Errorf("clients %q was taken as %+v", clients, l)
		}
	}
}

// Whoever can write a header field could write any address into it.
func TestClientsIgnoreForwardedAddresses(t *testing.T) {
	l, err := ParseClients(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Via",
	} {
		value := "127.0.0.1"
		if name == "Forwarded" { // RFC 7239
			value = "for=127.0.0.1;by=127.0.0.1"
		}
		r := peerRequest("203.0.113.9:1", "tcp")
		r.Header.Set(name, value)
		if l.Admit(r) {
			t.Errorf("%s: %s let a remote peer in", name, value)
		}
		r = peerRequest("127.0.0.1:1", "tcp")
		r.Header.Set(name, "203.0.113.9")
		if !l.Admit(r) {
			t.Errorf("%s kept a local peer out", name)
		}
	}
}
