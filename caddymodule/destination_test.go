package caddymodule

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
)

func TestDestinations(t *testing.T) {
	patterns := func(texts ...string) hostpattern.List {
		t.Helper()
		p, err := hostpattern.Parse(texts)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	tls := transportSecurity{tls: true}
	exampleSubdomains := destinations{hosts: patterns("*.example.com"), transport: tls}
	tests := []struct {
		name                string
		d                   destinations
		network, host, port string
		want                error
	}{
		{"the host itself", destinations{hosts: patterns("api.example.com"), transport: tls}, "tcp", "api.example.com", "443", nil},
		{"capitals", destinations{hosts: patterns("api.example.com"), transport: tls}, "tcp", "API.Example.Com", "443", nil},
		{"trailing dot", destinations{hosts: patterns("api.example.com"), transport: tls}, "tcp", "api.example.com.", "443", nil},
		{"another host", destinations{hosts: patterns("api.example.com"), transport: tls}, "tcp", "evil.example", "443", errHostNotAllowed},
		{"no host", destinations{hosts: patterns("api.example.com"), transport: tls}, "tcp", "", "443", errHostNotAllowed},
		{"no pattern", destinations{transport: tls}, "tcp", "api.example.com", "443", errHostNotAllowed},
		{"a prefix of the name", destinations{hosts: patterns("api.example.com"), transport: tls}, "tcp", "api.example.com.evil.example", "443", errHostNotAllowed},
		{"a suffix of the name", destinations{hosts: patterns("example.com"), transport: tls}, "tcp", "notexample.com", "443", errHostNotAllowed},
		{"a subdomain of a plain host", destinations{hosts: patterns("example.com"), transport: tls}, "tcp", "api.example.com", "443", errHostNotAllowed},

		{"wildcard", exampleSubdomains, "tcp", "api.example.com", "443", nil},
		{"wildcard, two labels", exampleSubdomains, "tcp", "eu.api.example.com", "443", nil},
		{"wildcard, the domain itself", exampleSubdomains, "tcp", "example.com", "443", errHostNotAllowed},
		{"wildcard, no label", exampleSubdomains, "tcp", ".example.com", "443", errHostNotAllowed},
		{"wildcard, no dot", exampleSubdomains, "tcp", "evilexample.com", "443", errHostNotAllowed},
		{"wildcard, below another", exampleSubdomains, "tcp", "example.com.evil.example", "443", errHostNotAllowed},
		// An IPv6 zone is text that the client may choose (RFC 4007 section 11); it is no part of a name.
		{"wildcard, IPv6 zone that looks like the domain", exampleSubdomains, "tcp", "2001:db8::bad%.example.com", "443", errHostNotAllowed},
		{"wildcard, loopback zone that looks like the domain", destinations{hosts: patterns("*.example.com")}, "tcp", "::1%.example.com", "80", errHostNotAllowed},
		{"wildcard, v4-mapped loopback with a zone", destinations{hosts: patterns("*.example.com")}, "tcp", "::ffff:127.0.0.1%.example.com", "80", errHostNotAllowed},

		{"the port", destinations{hosts: patterns("api.example.com:8443"), transport: tls}, "tcp", "api.example.com", "8443", nil},
		{"another port", destinations{hosts: patterns("api.example.com:8443"), transport: tls}, "tcp", "api.example.com", "443", errHostNotAllowed},
		{"one of several", destinations{hosts: patterns("a.example:1", "b.example"), transport: tls}, "tcp", "b.example", "2", nil},

		{"plaintext", destinations{hosts: patterns("api.example.com")}, "tcp", "api.example.com", "80", errPlaintext},
		{"plaintext to port 443", destinations{hosts: patterns("api.example.com")}, "tcp", "api.example.com", "443", errPlaintext},
		{"plaintext, allowed", destinations{hosts: patterns("api.example.com"), allowPlaintext: true}, "tcp", "api.example.com", "80", nil},
		{"plaintext, allowed, another host", destinations{hosts: patterns("api.example.com"), allowPlaintext: true}, "tcp", "evil.example", "80", errHostNotAllowed},
		{"plaintext to an excepted port", destinations{hosts: patterns("api.example.com"), transport: transportSecurity{tls: true, exceptPorts: []string{"8080"}}}, "tcp", "api.example.com", "8080", errPlaintext},
		{"TLS beside an excepted port", destinations{hosts: patterns("api.example.com"), transport: transportSecurity{tls: true, exceptPorts: []string{"8080"}}}, "tcp", "api.example.com", "8443", nil},
		{"plaintext to 127.0.0.1", destinations{hosts: patterns("127.0.0.1")}, "tcp", "127.0.0.1", "80", nil},
		{"plaintext to ::1", destinations{hosts: patterns("[::1]")}, "tcp", "::1", "80", nil},
		{"plaintext to localhost", destinations{hosts: patterns("localhost")}, "tcp", "localhost", "80", nil},
		{"plaintext to a private address", destinations{hosts: patterns("10.0.0.1")}, "tcp", "10.0.0.1", "80", errPlaintext},
		{"plaintext to the unspecified address", destinations{hosts: patterns("0.0.0.0")}, "tcp", "0.0.0.0", "80", errPlaintext},
		{"plaintext to a name that begins like loopback", destinations{hosts: patterns("*.example")}, "tcp", "127.0.0.1.example", "80", errPlaintext},
		{"plaintext to localhost of another domain", destinations{hosts: patterns("*.example")}, "tcp", "localhost.example", "80", errPlaintext},
		{"loopback is not allowed for being loopback", destinations{hosts: patterns("api.example.com")}, "tcp", "127.0.0.1", "80", errHostNotAllowed},

		{"unix socket", destinations{hosts: patterns("unix//run/api.sock")}, "unix", "/run/api.sock", "0", nil},
		{"unix socket, h2c", destinations{hosts: patterns("unix//run/api.sock")}, "unix+h2c", "/run/api.sock", "0", errNetwork}, // the Caddyfile's word; the dialer knows unix only
		{"another unix socket", destinations{hosts: patterns("unix//run/api.sock")}, "unix", "/run/docker.sock", "0", errSocketNotAllowed},
		{"unix socket that ends like the host", exampleSubdomains, "unix", "/tmp/x.example.com", "0", errSocketNotAllowed},
		{"unix socket named like the host", destinations{hosts: patterns("api.example.com"), transport: tls}, "unix", "api.example.com", "0", errSocketNotAllowed},

		{"unix socket without a path", destinations{hosts: patterns("api.example.com")}, "unix", "", "0", errSocketNotAllowed},
		{"tcp4", destinations{hosts: patterns("127.0.0.1")}, "tcp4", "127.0.0.1", "80", nil},
		{"tcp6", destinations{hosts: patterns("[::1]")}, "tcp6", "::1", "80", nil},
		{"tcp host named like a socket", destinations{hosts: patterns("unix//run/api.sock")}, "tcp", "/run/api.sock", "80", errHostNotAllowed},
		{"no host, where a socket is allowed", destinations{hosts: patterns("unix//run/api.sock")}, "tcp", "", "80", errHostNotAllowed},

		{"range", destinations{hosts: patterns("10.0.0.0/8"), transport: tls}, "tcp", "10.1.2.3", "443", nil},
		{"outside the range", destinations{hosts: patterns("10.0.0.0/8"), transport: tls}, "tcp", "11.1.2.3", "443", errHostNotAllowed},
		{"range, in plaintext", destinations{hosts: patterns("10.0.0.0/8")}, "tcp", "10.1.2.3", "80", errPlaintext},
		{"range, IPv4-mapped", destinations{hosts: patterns("10.0.0.0/8"), transport: tls}, "tcp", "::ffff:10.1.2.3", "443", nil},
		{"range of IPv6", destinations{hosts: patterns("fd00::/8"), transport: tls}, "tcp", "fd12::1", "443", nil},
		{"range of IPv6 with a zone", destinations{hosts: patterns("fe80::/10"), transport: tls}, "tcp", "fe80::1%eth0", "443", errHostNotAllowed},
		{"range and a name that begins like it", destinations{hosts: patterns("10.0.0.0/8"), transport: tls}, "tcp", "10.1.2.3.evil.example", "443", errHostNotAllowed},

		// Upstreams found by DNS are dialed by address: the name that their certificate must be for counts.
		{"name that the certificate must be for", destinations{hosts: patterns("api.example.com"), transport: transportSecurity{tls: true, certified: "api.example.com"}}, "tcp", "192.0.2.1", "443", nil},
		{"wrong name that the certificate must be for", destinations{hosts: patterns("api.example.com"), transport: transportSecurity{tls: true, certified: "evil.example"}}, "tcp", "192.0.2.1", "443", errHostNotAllowed},
		{"no certificate counts on an excepted port", destinations{hosts: patterns("api.example.com"), allowPlaintext: true, transport: transportSecurity{tls: true, exceptPorts: []string{"80"}, certified: "api.example.com"}}, "tcp", "192.0.2.1", "80", errHostNotAllowed},
		{"no certificate counts on an excepted port of loopback", destinations{hosts: patterns("api.example.com"), transport: transportSecurity{tls: true, exceptPorts: []string{"80"}, certified: "api.example.com"}}, "tcp", "127.0.0.1", "80", errHostNotAllowed},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.d.check(destination{network: tc.network, host: tc.host, port: tc.port}); !errors.Is(got, tc.want) {
				t.Errorf("%s/%s:%s: got %v, want %v", tc.network, tc.host, tc.port, got, tc.want)
			}
		})
	}
}

// Only what the dialer would make a TCP connection or a stream on a socket of: a datagram needs no listener to be sent.
func TestDestinationNetworks(t *testing.T) {
	hosts, err := hostpattern.Parse([]string{"127.0.0.1", "unix/127.0.0.1", "unix//run/api.sock"})
	if err != nil {
		t.Fatal(err)
	}
	d := destinations{hosts: hosts, allowPlaintext: true}
	for _, network := range []string{"", "udp", "udp4", "udp6", "unixgram", "unixpacket", "unix+h2c", "ip", "ip4", "ip:tcp", "fd", "fdgram", "TCP", "tcp ", "carrier"} {
		for _, host := range []string{"127.0.0.1", "/run/api.sock"} {
			if err := d.check(destination{network: network, host: host, port: "80"}); !errors.Is(err, errNetwork) {
				t.Errorf("%s/%s: got %v", network, host, err)
			}
		}
	}
}

// A name in plaintext is trusted to DNS, as that of a static upstream is. With TLS the certificate must be for it.
func TestDestinationsFoundByName(t *testing.T) {
	hosts, err := hostpattern.Parse([]string{"api.example.com:80", "*.svc.example"})
	if err != nil {
		t.Fatal(err)
	}
	plain := destinations{hosts: hosts}
	mesh := destinations{hosts: hosts, allowPlaintext: true}
	verified := destinations{hosts: hosts, allowPlaintext: true, transport: transportSecurity{tls: true}}
	unverified := destinations{hosts: hosts, transport: transportSecurity{tls: true, unverified: true}}
	for _, tc := range []struct {
		what             string
		d                destinations
		name, host, port string
		want             error
	}{
		{"the name", mesh, "api.example.com", "192.0.2.1", "80", nil},
		{"the name, otherwise spelled", mesh, "API.Example.com.", "192.0.2.1", "80", nil},
		{"below a wildcard", mesh, "_http._tcp.api.svc.example", "192.0.2.1", "80", nil},
		{"another port", mesh, "api.example.com", "192.0.2.1", "8080", errHostNotAllowed},
		{"another name", mesh, "evil.example", "192.0.2.1", "80", errHostNotAllowed},
		{"no name", mesh, "", "192.0.2.1", "80", errHostNotAllowed},
		{"an expression for a name", mesh, "{http.request.host}.svc.example", "192.0.2.1", "80", errHostNotAllowed},
		{"in the clear", plain, "api.example.com", "192.0.2.1", "80", errPlaintext},
		{"in the clear on loopback", plain, "api.example.com", "127.0.0.1", "80", nil},
		{"TLS, certificate for another name", verified, "api.example.com", "192.0.2.1", "80", errNameNotCertified},
		{"TLS on loopback", verified, "api.example.com", "::1", "80", nil},
		{"TLS without verification", unverified, "api.example.com", "192.0.2.1", "80", nil},
	} {
		t.Run(tc.what, func(t *testing.T) {
			if got := tc.d.check(destination{network: "tcp", host: tc.host, port: tc.port, name: tc.name}); !errors.Is(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// What a transport is taken for decides whether the token may go out: the URL has no scheme to ask.
func TestTransportSecurity(t *testing.T) {
	tests := []struct {
		name      string
		transport any
		encrypts  bool
		certified string
	}{
		{"plain HTTP", &reverseproxy.HTTPTransport{}, false, ""},
		{"TLS", &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{}}, true, ""},
		{"TLS with a name", &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ServerName: "API.example.com."}}, true, "api.example.com"},
		{"TLS with a name and no verification", &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ServerName: "api.example.com", InsecureSkipVerify: true}}, true, ""},
		{"TLS with a name that the request chooses", &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ServerName: "{http.request.host}"}}, true, ""},
		{"TLS but for this port", &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ExceptPorts: []string{"443"}}}, false, ""},
		{"a transport that cannot be asked", struct{}{}, false, ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := securityOf(tc.transport)
			if got.encrypts("443") != tc.encrypts || got.certified != tc.certified {
				t.Errorf("got %+v, want encrypts %t, certified %q", got, tc.encrypts, tc.certified)
			}
		})
	}
}

// The reasons go into the log: they must tell the operator which option to look at.
func TestDestinationErrorsNameTheOption(t *testing.T) {
	if !strings.Contains(errHostNotAllowed.Error(), "api_hosts") || !strings.Contains(errPlaintext.Error(), "allow_plaintext") {
		t.Errorf("got %q and %q", errHostNotAllowed, errPlaintext)
	}
}
