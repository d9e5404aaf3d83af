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

// hostName is a DNS name; the underscore is not a host's but is in use.
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
		return hostPattern{}, errors.New("this is not a host: write it without scheme and path, a range as 10.0.0.0/8 without port, a socket as unix//run/api.sock")
	}
	p := hostPattern{host: text}
	if host, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return hostPattern{}, errors.New("this does not end in a port number")
		}
		p.host, p.port = host, port
	}
	p.host, p.subdomain = strings.CutPrefix(p.host, "*.")
	p.host = normalHost(p.host)
	if _, err := netip.ParseAddr(p.host); err == nil && !p.subdomain {
		return p, nil
	}
	if !hostName.MatchString(p.host) {
		return hostPattern{}, errors.New("this is not a host: write api.example.com, or *.example.com for all hosts below")
	}
	return p, nil
}

// normalHost makes equal what names the same host.
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
	case p.subdomain: // an IPv6 zone could end like a name
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
	name                string // under which DNS has found host, if the configuration has that name in a dynamic source
}

// destinations are the places that a handler may send its token to.
type destinations struct {
	hosts          hostPatterns
	allowPlaintext bool
	networkProxy   bool // of a transport that is not reverse_proxy's own: it cannot be asked when it uses it
	transport      transportSecurity
}

// Why a token may not go somewhere.
var (
	errNetwork          = errors.New("only tcp and unix (stream) sockets can be an upstream: it is another network")
	errHostNotAllowed   = errors.New("the host is not one of api_hosts")
	errSocketNotAllowed = errors.New("the unix socket is not one of api_hosts: name it there, as unix//run/api.sock")
	errNameNotProved    = errors.New("only the name of the dynamic source is one of api_hosts, and the upstream's certificate need not be for that name: set tls_server_name to it, or add the upstream's own name or addresses to api_hosts")
	errPlaintext        = errors.New("the token would be sent in the clear: use https, or say allow_plaintext")
	errNetworkProxy     = errors.New("the token would be sent in the clear to the network proxy: use https, or say allow_plaintext")
)

// check returns the rule that forbids a destination, if one does. Unix sockets count as loopback.
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
			return errNameNotProved
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

// checkNetwork allows connections only: a datagram goes out without knowing that the API is there.
func checkNetwork(network string) error {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
		return nil
	default:
		return errNetwork
	}
}

// safeInTransit reports whether what is sent to this port is encrypted, or need not be.
func (d *destinations) safeInTransit(port string) bool {
	return d.allowPlaintext || d.transport.encrypts(port)
}

// allowed looks at the address that is dialed, or at the name that the upstream's certificate must prove: upstreams
// found by DNS are dialed by IP address.
func (d *destinations) allowed(host, port string) bool {
	return d.hosts.match(host, port) || d.transport.encrypts(port) && d.hosts.match(d.transport.proves, port)
}

// foundByName reports whether the host is the answer of DNS to an allowed name, and DNS decides. It does for a static
// name that is dialed in plaintext; with TLS the certificate decides, which here must be for another name.
func (d *destinations) foundByName(to destination) bool {
	dnsDecides := !d.transport.verifies(to.port) || oauth.IsLoopback(to.host)
	return to.name != "" && dnsDecides && d.hosts.match(normalHost(to.name), to.port)
}

// transportSecurity is what the destination rules need to know of a transport.
type transportSecurity struct {
	tls         bool
	exceptPorts []string
	unverified  bool   // certificates are not
	proves      string // the name that the upstream's certificate must be for, if it is configured
}

// securityOf asks the transport, because the URL that a transport gets has no scheme.
func securityOf(transport any) transportSecurity {
	if t, ok := transport.(*reverseproxy.HTTPTransport); ok && t.TLS != nil {
		s := transportSecurity{tls: true, exceptPorts: t.TLS.ExceptPorts, unverified: t.TLS.InsecureSkipVerify}
		if !t.TLS.InsecureSkipVerify && !strings.Contains(t.TLS.ServerName, "{") {
			s.proves = normalHost(t.TLS.ServerName)
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
