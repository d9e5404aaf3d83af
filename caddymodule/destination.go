package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// hostPattern is one of a credential's api_hosts: a host, a range of addresses or a unix socket.
type hostPattern struct {
	host      string // without the "*." of a wildcard
	port      string // "" for any
	subdomain bool   // all hosts below host
	addresses netip.Prefix
	socket    string // its path
}

type hostPatterns []hostPattern

// hostName matches a DNS name. The underscore is not allowed in the name of a host, but is in use.
var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

func parseHostPatterns(configured []string) (hostPatterns, error) {
	var patterns hostPatterns
	for i, text := range configured {
		p, err := parseHostPattern(text)
		if err != nil {
			return nil, fmt.Errorf("host %d: %w", i+1, err)
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

func parseHostPattern(text string) (hostPattern, error) {
	text, err := option.ReplaceGlobals(text)
	if err != nil {
		return hostPattern{}, err
	}
	if path, ok := strings.CutPrefix(text, "unix/"); ok && path != "" {
		return hostPattern{socket: path}, nil
	}
	if addresses, err := netip.ParsePrefix(text); err == nil {
		return hostPattern{addresses: unmapped(addresses).Masked()}, nil
	}
	if strings.ContainsAny(text, "/@?#") {
		return hostPattern{}, errors.New("this is not a host: write a host without scheme and path, a range like 10.0.0.0/8 without a port, or a socket like unix//run/api.sock")
	}
	p := hostPattern{host: text}
	if host, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return hostPattern{}, errors.New("the text after the colon is not a port number")
		}
		p.host, p.port = host, port
	}
	p.host, p.subdomain = strings.CutPrefix(p.host, "*.")
	p.host = normalHost(p.host)
	if _, err := netip.ParseAddr(p.host); err == nil && !p.subdomain {
		return p, nil
	}
	if !hostName.MatchString(p.host) {
		return hostPattern{}, errors.New("this is not a host: write api.example.com, or *.example.com for all hosts below example.com")
	}
	return p, nil
}

// normalHost returns a host in the form in which equal hosts are equal texts: in lower case, without brackets and without
// the dot at the end.
func normalHost(host string) string {
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

func (p hostPattern) matches(host, port string) bool {
	switch {
	case p.socket != "":
		return false
	case p.addresses.IsValid():
		addr, err := netip.ParseAddr(host)
		return err == nil && p.addresses.Contains(addr.Unmap())
	case p.port != "" && p.port != port:
		return false
	case p.subdomain: // hostName, because an IPv6 zone could end like a name
		return strings.HasSuffix(host, "."+p.host) && hostName.MatchString(host)
	default:
		return host == p.host
	}
}

func (l hostPatterns) match(host, port string) bool {
	return slices.ContainsFunc(l, func(p hostPattern) bool { return p.matches(host, port) })
}

func (l hostPatterns) matchSocket(path string) bool {
	return slices.ContainsFunc(l, func(p hostPattern) bool { return p.socket != "" && p.socket == path })
}

// destination is what the transport dials.
type destination struct {
	network, host, port string
	name                string // that a dynamic source looked up to find host, or ""
}

// destinations are the rules for where a handler may send its token.
type destinations struct {
	hosts          hostPatterns
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
		if !d.hosts.matchSocket(to.host) {
			return errSocketNotAllowed
		}
		return nil
	}
	host := normalHost(to.host)
	if !d.allowed(host, to.port) && !d.foundByName(to) {
		if to.name != "" && d.hosts.match(normalHost(to.name), to.port) {
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
	return d.hosts.match(host, port) || d.transport.encrypts(port) && d.hosts.match(d.transport.certified, port)
}

// foundByName reports whether the host is the answer of DNS to an allowed name, and DNS decides where the token goes. Without
// TLS, DNS decides, as it does for a static name. With TLS the certificate decides, and here it must be for another name.
func (d *destinations) foundByName(to destination) bool {
	dnsDecides := !d.transport.verifies(to.port) || oauth.IsLoopback(to.host)
	return to.name != "" && dnsDecides && d.hosts.match(normalHost(to.name), to.port)
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
			s.certified = normalHost(t.TLS.ServerName)
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
