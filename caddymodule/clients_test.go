package caddymodule

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// peerRequest makes a request as it arrives from a peer at remote over network ("tcp" or "unix").
func peerRequest(remote, network string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/", nil)
	r.RemoteAddr = remote
	var local net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
	if network == "unix" {
		local = &net.UnixAddr{Net: "unix", Name: "/run/sidecar.sock"}
	}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
}

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
	}
	for _, tc := range tests {
		t.Run(tc.clients+" "+tc.remote, func(t *testing.T) {
			l, err := parseClients(strings.Fields(tc.clients))
			if err != nil {
				t.Fatal(err)
			}
			if got := l.admit(peerRequest(tc.remote, tc.network)); got != tc.want {
				t.Errorf("clients %q admits %q (%s): %t, want %t", tc.clients, tc.remote, tc.network, got, tc.want)
			}
		})
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
			l, err := parseClients([]string{tc.clients})
			if err == nil && l.admit(peerRequest(tc.remote, "tcp")) != tc.want {
				t.Errorf("clients %s was taken, but %s is admitted: %t", tc.clients, tc.remote, !tc.want)
			}
		})
	}
}

func TestClientsRefuseWhatTheyDoNotUnderstand(t *testing.T) {
	for _, clients := range [][]string{
		{"localhost"}, {"everyone"}, {""}, {"10.0.0.0/33"}, {"10.0.0.0/"}, {"10.0.0"}, {"10.0.0.1:80"}, {"example.com"},
		{"Loopback"}, {"ANY"}, {"fe80::/10%eth0"}, {"any", "loopback"}, {"10.0.0.0/8", "any"}, {"10.0.0.0/8", "nonsense"},
	} {
		if l, err := parseClients(clients); err == nil {
			t.Errorf("clients %q was taken as %+v", clients, l)
		}
	}
}

// Whoever can write a header field could write any address into it.
func TestClientsIgnoreForwardedAddresses(t *testing.T) {
	l, err := parseClients(nil)
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
		if l.admit(r) {
			t.Errorf("%s: %s let a remote peer in", name, value)
		}
		r = peerRequest("127.0.0.1:1", "tcp")
		r.Header.Set(name, "203.0.113.9")
		if !l.admit(r) {
			t.Errorf("%s kept a local peer out", name)
		}
	}
}
