package httpsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
)

// anyHost is the word for all hosts.
const anyHost = "any"

// dialTimeout is how long a tunnel may take to find and reach its host.
const dialTimeout = 10 * time.Second

// tunnelRules are the hosts that tunnels may lead to.
type tunnelRules struct {
	any      bool
	patterns []hostpattern.Pattern
	resolver *net.Resolver // nil for that of Go
}

var errAnyAlone = errors.New("any allows all hosts: remove the other values")

func parseTunnel(configured []string) (tunnelRules, error) {
	var t tunnelRules
	for i, text := range configured {
		if err := t.add(text); err != nil {
			return tunnelRules{}, fmt.Errorf("host %d: %w", i+1, err)
		}
	}
	if t.any && len(configured) > 1 {
		return tunnelRules{}, errAnyAlone
	}
	return t, nil
}

func (t *tunnelRules) add(text string) error {
	if text == anyHost {
		t.any = true
		return nil
	}
	p, err := hostpattern.ParseOne(text)
	if err != nil {
		return err
	}
	if p.Socket != "" {
		return errors.New("a tunnel cannot lead to a unix socket: write a host")
	}
	t.patterns = append(t.patterns, p)
	return nil
}

// allow reports whether a tunnel may lead to a target, as far as its name shows.
func (t *tunnelRules) allow(to target) bool {
	return t.any && to.port == portTLS || slices.ContainsFunc(t.patterns, func(p hostpattern.Pattern) bool { return matches(p, to) })
}

// allowHost reports whether a tunnel may lead to a host, with some port.
func (t *tunnelRules) allowHost(host string) bool {
	return t.any || slices.ContainsFunc(t.patterns, func(p hostpattern.Pattern) bool { return p.Matches(host, p.Port) })
}

// matches reports whether a pattern has a target. Without a port it has port 443 alone, so that a list of hosts does not open
// their mail servers to clients.
func matches(p hostpattern.Pattern, to target) bool {
	return (p.Port != "" || to.port == portTLS) && p.Matches(to.host, to.port)
}

// names reports whether the configuration has this very address. A range or a name that leads to it is not enough, because
// the answer of a DNS server must not open what is meant for this machine alone.
func (t *tunnelRules) names(to target, addr netip.Addr) bool {
	return slices.ContainsFunc(t.patterns, func(p hostpattern.Pattern) bool {
		if p.Addresses.IsValid() || p.Subdomain {
			return false
		}
		return matches(p, target{host: addr.String(), port: to.port}) ||
			p.Host == "localhost" && matches(p, to) && addr.IsLoopback() // RFC 6761 section 6.3
	})
}

var errSpecialAddress = errors.New("the host leads to an address of loopback, link-local or metadata, which tunnel does not name")

// dial connects to a target. It judges each address that the host leads to, at the last moment before it connects.
func (t *tunnelRules) dial(ctx context.Context, to target) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout:  dialTimeout,
		Resolver: t.resolver,
		Control: func(_, address string, _ syscall.RawConn) error {
			return t.judge(to, address)
		},
	}
	return dialer.DialContext(ctx, "tcp", to.address())
}

func (t *tunnelRules) judge(to target, address string) error {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return errSpecialAddress
	}
	addr := parsed.Addr().Unmap().WithZone("")
	if special(addr) && !t.names(to, addr) {
		return errSpecialAddress
	}
	return nil
}

// metadata are the addresses of cloud metadata services outside the link-local range: Azure, Alibaba, Oracle, AWS, Google.
var metadata = []netip.Addr{
	netip.MustParseAddr("168.63.129.16"),
	netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("fd20:ce::254"),
}

// special reports whether an address leads to this machine, to its link, to many machines, or to the metadata of a cloud.
func special(addr netip.Addr) bool {
	if v4, ok := embedded(addr); ok && special(v4) {
		return true
	}
	return addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() ||
		addr.Is4() && addr.As4()[0] == 0 || // this network, RFC 1122 section 3.2.1.3
		slices.Contains(metadata, addr)
}

// translated are the prefixes of IPv6 addresses that a network may translate into an IPv4 address, with the place of the
// latter: IPv4-compatible (RFC 4291 section 2.5.5.1), NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
var translated = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("::/96"), 12},
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
}

// embedded returns the IPv4 address in an IPv6 address.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	for _, t := range translated {
		if t.prefix.Contains(addr) {
			b := addr.As16()
			return netip.AddrFrom4([4]byte(b[t.at : t.at+4])), true
		}
	}
	return netip.Addr{}, false
}
