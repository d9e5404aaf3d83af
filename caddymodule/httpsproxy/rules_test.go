package httpsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// The address that is dialed is judged, in whatever form it comes.
func TestSpecialAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.255.255.254": true, "::1": true, "::ffff:127.0.0.1": true, "::127.0.0.1": true,
		"0.0.0.0": true, "0.1.2.3": true, "::": true, "::ffff:0.0.0.0": true,
		"169.254.169.254": true, "169.254.0.1": true, "::ffff:169.254.169.254": true, "fe80::1": true, "fe80::1%eth0": true, "febf::1": true,
		"64:ff9b::127.0.0.1": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b:1::a9fe:a9fe": true, "2002:7f00:1::": true, "2002:a9fe:a9fe::1": true,
		"224.0.0.1": true, "ff02::1": true, "168.63.129.16": true, "100.100.100.200": true, "fd00:ec2::254": true, "fd20:ce::254": true,

		"192.0.2.7": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.0.1": false, "128.0.0.1": false, "169.253.0.1": false,
		"2001:db8::1": false, "fd00::1": false, "::ffff:192.0.2.7": false, "64:ff9b::192.0.2.7": false, "2002:c000:207::1": false, "fec0::1": false,
	} {
		rules := tunnelRules{any: true}
		err := rules.judge(target{host: "a.example", port: portTLS}, netip.AddrPortFrom(netip.MustParseAddr(text), 443).String())
		if got := errors.Is(err, errSpecialAddress); got != want {
			t.Errorf("%s is denied: %t, want %t", text, got, want)
		}
	}
	if err := new(tunnelRules).judge(target{}, "not an address"); err == nil {
		t.Error("what is not an address is dialed")
	}
}

// Only the address itself, or localhost, opens an address of this machine. The answer of a DNS server does not.
func TestTunnelNames(t *testing.T) {
	for _, tc := range []struct {
		tunnel  []string
		to      target
		address string
		want    bool
	}{
		{[]string{"a.example"}, target{host: "a.example", port: "443"}, "127.0.0.1", false},
		{[]string{"a.example", "127.0.0.1"}, target{host: "a.example", port: "443"}, "127.0.0.1", true},
		{[]string{"a.example", "127.0.0.1"}, target{host: "a.example", port: "443"}, "127.0.0.2", false},
		{[]string{"a.example", "127.0.0.1:8443"}, target{host: "a.example", port: "443"}, "127.0.0.1", false},
		{[]string{"a.example", "0.0.0.0/0", "::/0", "127.0.0.0/8"}, target{host: "a.example", port: "443"}, "127.0.0.1", false},
		{[]string{"a.example", "localhost"}, target{host: "a.example", port: "443"}, "127.0.0.1", false},
		{[]string{"localhost"}, target{host: "localhost", port: "443"}, "127.0.0.1", true},
		{[]string{"localhost"}, target{host: "localhost", port: "443"}, "::1", true},
		{[]string{"localhost"}, target{host: "localhost", port: "443"}, "169.254.169.254", false},
		{[]string{"*.localhost"}, target{host: "a.localhost", port: "443"}, "127.0.0.1", false},
		{[]string{"169.254.169.254"}, target{host: "169.254.169.254", port: "443"}, "169.254.169.254", true},
		{[]string{"::1"}, target{host: "::1", port: "443"}, "::1", true},
		{[]string{"any"}, target{host: "localhost", port: "443"}, "127.0.0.1", false},
	} {
		rules, err := parseTunnel(tc.tunnel)
		if err != nil {
			t.Fatal(err)
		}
		err = rules.judge(tc.to, net.JoinHostPort(tc.address, tc.to.port))
		if (err == nil) != tc.want {
			t.Errorf("tunnel %q, %s at %s: %v", tc.tunnel, tc.to, tc.address, err)
		}
	}
}

// A DNS server that leads an allowed name to this machine does not get a connection there. The name alone would be fine.
func TestDialJudgesTheAnswerOfDNS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dns := caddytest.LoopbackDNS(t)
	dial := func(tunnel ...string) error {
		t.Helper()
		rules, err := parseTunnel(tunnel)
		if err != nil {
			t.Fatal(err)
		}
		rules.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", dns)
		}}
		to, ok := parseTarget("rebind.example.com:" + port)
		if !ok || !rules.allow(to) {
			t.Fatalf("%q does not allow the name", tunnel)
		}
		conn, err := rules.dial(t.Context(), to)
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial("*.example.com:" + port); !errors.Is(err, errSpecialAddress) {
		t.Errorf("got %v", err)
	}
	if err := dial("*.example.com:"+port, "127.0.0.1:"+port); err != nil {
		t.Errorf("with the address: %v", err)
	}
}

func FuzzTarget(f *testing.F) {
	for _, text := range []string{"api.example.com:443", "[::1]:443", "bücher.example.:8443", "user@a:1", "127.1:443", ":", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		to, ok := parseTarget(text)
		if !ok {
			return
		}
		again, ok := parseTarget(to.String())
		if to.root = false; !ok || again != to {
			t.Errorf("%q is %+v, and that is %+v, %t", text, to, again, ok)
		}
	})
}
