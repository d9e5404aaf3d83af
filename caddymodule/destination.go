package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
)

// destination is what the transport dials.
type destination struct {
	network, host, port string
	name                string // that a dynamic source looked up to find host, or ""
}

// destinations are the rules for where a handler may send its token.
type destinations struct {
	hosts          hostpattern.List
	allowPlaintext bool
	networkProxy   bool // a transport other than reverse_proxy's own has one, and may use it for any request
	transport      transportSecurity
}

// The reasons why a token may not go to a destination.
var (
	errNetwork          = errors.New("the network of an upstream must be tcp, or unix with a socket of type stream")
	errHostNotAllowed   = errors.New("the host is not one of api_hosts")
	errSocketNotAllowed = errors.New("the unix socket is not one of api_hosts: add it there, like unix//run/api.sock")
	errNameNotCertified = errors.New("api_hosts has the name of the dynamic source, but the upstream's certificate may be for another name: set tls_server_name to the name of the dynamic source, or add the upstream's own name or addresses to api_hosts")
	errPlaintext        = errors.New("the token would be sent in the clear: use https, or set allow_plaintext")
	errNetworkProxy     = errors.New("the token would be sent in the clear to the network proxy: use https, or set allow_plaintext")
)

// check returns the reason why the token may not go to a destination, or nil. Unix sockets count as loopback.
func (d *destinations) check(to destination) error {
	if err := checkNetwork(to.network); err != nil {
		return err
	}
	if to.network == "unix" {
		if !d.hosts.MatchSocket(to.host) {
			return errSocketNotAllowed
		}
		return nil
	}
	host := hostpattern.Normal(to.host)
	if !d.allowed(host, to.port) && !d.foundByName(to) {
		if to.name != "" && d.hosts.Match(hostpattern.Normal(to.name), to.port) {
			return errNameNotCertified
		}
		return errHostNotAllowed
	}
	if d.safeInTransit(to.port) {
		return nil
	}
	if d.networkProxy {
		return errNetworkProxy
	}
	if !oauth.IsLoopback(to.host) {
		return errPlaintext
	}
	return nil
}

// checkNetwork allows only networks with connections. A datagram would be sent without a sign that the API is there.
func checkNetwork(network string) error {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
		return nil
	default:
		return errNetwork
	}
}

// safeInTransit reports whether a request to this port is encrypted, or need not be.
func (d *destinations) safeInTransit(port string) bool {
	return d.allowPlaintext || d.transport.encrypts(port)
}

// allowed reports whether api_hosts has the host that is dialed, or the name that the upstream's certificate must be for.
// Upstreams found by DNS are dialed by IP address, so that only their certificate shows a name.
func (d *destinations) allowed(host, port string) bool {
	return d.hosts.Match(host, port) || d.transport.encrypts(port) && d.hosts.Match(d.transport.certified, port)
}

// foundByName reports whether the host is the answer of DNS to an allowed name, and DNS decides where the token goes. Without
// TLS, DNS decides, as it does for a static name. With TLS the certificate decides, and here it must be for another name.
func (d *destinations) foundByName(to destination) bool {
	dnsDecides := !d.transport.verifies(to.port) || oauth.IsLoopback(to.host)
	return to.name != "" && dnsDecides && d.hosts.Match(hostpattern.Normal(to.name), to.port)
}

// transportSecurity is what the destination rules need to know of a transport.
type transportSecurity struct {
	tls         bool
	exceptPorts []string
	unverified  bool   // the certificates of upstreams are not verified
	certified   string // the name that the upstream's certificate must be for, if the configuration sets one
}

// securityOf returns the security of a transport. It asks the transport, because reverse_proxy's URLs have no scheme.
func securityOf(transport any) transportSecurity {
	if t, ok := transport.(*reverseproxy.HTTPTransport); ok && t.TLS != nil {
		s := transportSecurity{tls: true, exceptPorts: t.TLS.ExceptPorts, unverified: t.TLS.InsecureSkipVerify}
		if !t.TLS.InsecureSkipVerify && !strings.Contains(t.TLS.ServerName, "{") {
			s.certified = hostpattern.Normal(t.TLS.ServerName)
		}
		return s
	}
	t, ok := transport.(reverseproxy.TLSTransport)
	return transportSecurity{tls: ok && t.TLSEnabled()}
}

func (s transportSecurity) encrypts(port string) bool {
	return s.tls && !slices.Contains(s.exceptPorts, port)
}

func (s transportSecurity) verifies(port string) bool {
	return s.encrypts(port) && !s.unverified
}

func portOf(addr caddy.NetworkAddress) string { return fmt.Sprint(addr.StartPort) }
