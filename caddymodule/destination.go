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
)

// hostPattern is one of a credential's api_hosts.
type hostPattern struct {
	host      string // without the "*." of a wildcard
	port      string // "" for any
	subdomain bool   // all hosts below host
}

type hostPatterns []hostPattern

// hostName is a DNS name; the underscore is not a host's but is in use.
var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

func parseHostPatterns(configured []string) (hostPatterns, error) {
	var patterns hostPatterns
	for _, text := range configured {
		p, err := parseHostPattern(text)
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

func parseHostPattern(text string) (hostPattern, error) {
	text, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return hostPattern{}, err
	}
	if strings.ContainsAny(text, "/@?#") {
		return hostPattern{}, fmt.Errorf("%q is not a host: write it without scheme and path", text)
	}
	p := hostPattern{host: text}
	if host, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return hostPattern{}, fmt.Errorf("%q does not end in a port number", text)
		}
		p.host, p.port = host, port
	}
	p.host, p.subdomain = strings.CutPrefix(p.host, "*.")
	p.host = normalHost(p.host)
	if _, err := netip.ParseAddr(p.host); err == nil && !p.subdomain {
		return p, nil
	}
	if !hostName.MatchString(p.host) {
		return hostPattern{}, fmt.Errorf("%q is not a host: write api.example.com, or *.example.com for all hosts below", text)
	}
	return p, nil
}

// normalHost makes equal what names the same host.
func normalHost(host string) string {
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

func (p hostPattern) matches(host, port string) bool {
	if p.port != "" && p.port != port {
		return false
	}
	if p.subdomain { // an IPv6 zone could end like a name
		return strings.HasSuffix(host, "."+p.host) && hostName.MatchString(host)
	}
	return host == p.host
}

// destinations are the places that a handler may send its token to.
type destinations struct {
	hosts          hostPatterns
	sockets        []string // unix sockets, by path
	allowPlaintext bool
	networkProxy   bool // what is not encrypted passes a proxy
	transport      transportSecurity
}

// Why a token may not go somewhere.
var (
	errHostNotAllowed = errors.New("the host is not one of api_hosts")
	errPlaintext      = errors.New("the token would be sent in the clear: use https, or say allow_plaintext")
	errNetworkProxy   = errors.New("the token would be sent in the clear to the network proxy: use https, or say allow_plaintext")
)

// check returns the rule that forbids a destination, if one does. Unix sockets count as loopback.
func (d *destinations) check(network, host, port string) error {
	if caddy.IsUnixNetwork(network) {
		if !slices.Contains(d.sockets, host) {
			return errHostNotAllowed
		}
		return nil
	}
	if !d.allowed(normalHost(host), port) {
		return errHostNotAllowed
	}
	if d.allowPlaintext || d.transport.encrypts(port) {
		return nil
	}
	if d.networkProxy {
		return errNetworkProxy
	}
	if !oauth.IsLoopback(host) {
		return errPlaintext
	}
	return nil
}

// allowed looks at the address that is dialed, or at the name that the upstream's certificate must prove: upstreams
// found by DNS are dialed by IP address.
func (d *destinations) allowed(host, port string) bool {
	return slices.ContainsFunc(d.hosts, func(p hostPattern) bool {
		return p.matches(host, port) || d.transport.encrypts(port) && p.matches(d.transport.proves, port)
	})
}

// transportSecurity is what the destination rules need to know of a transport.
type transportSecurity struct {
	tls         bool
	exceptPorts []string
	proves      string // the name that the upstream's certificate must be for, if it is configured
}

// securityOf asks the transport, because the URL that a transport gets has no scheme.
func securityOf(transport any) transportSecurity {
	if t, ok := transport.(*reverseproxy.HTTPTransport); ok && t.TLS != nil {
		s := transportSecurity{tls: true, exceptPorts: t.TLS.ExceptPorts}
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
