// Package hostpattern parses and matches the hosts of options such as api_hosts.
package hostpattern

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// Pattern is a host, a range of addresses or a unix socket.
type Pattern struct {
	Host      string // without the "*." of a wildcard
	Port      string // "" for any
	Subdomain bool   // all hosts below Host
	Addresses netip.Prefix
	Socket    string // its path
}

// List is what an option with patterns holds.
type List []Pattern

// hostName matches a DNS name. The underscore is not allowed in the name of a host, but is in use.
var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

// Parse parses the values of an option. Its errors number them and do not quote them.
func Parse(configured []string) (List, error) {
	var patterns List
	for i, text := range configured {
		p, err := ParseOne(text)
		if err != nil {
			return nil, fmt.Errorf("host %d: %w", i+1, err)
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

// ParseOne parses one value, after it has replaced the placeholders that Caddy knows when it loads a configuration.
func ParseOne(text string) (Pattern, error) {
	text, err := option.ReplaceGlobals(text)
	if err != nil {
		return Pattern{}, err
	}
	if path, ok := strings.CutPrefix(text, "unix/"); ok && path != "" {
		return Pattern{Socket: path}, nil
	}
	if addresses, err := netip.ParsePrefix(text); err == nil {
		return Pattern{Addresses: Unmapped(addresses).Masked()}, nil
	}
	if strings.ContainsAny(text, "/@?#") {
		return Pattern{}, errors.New("this is not a host: write a host without scheme and path, a range like 10.0.0.0/8 without a port, or a socket like unix//run/api.sock")
	}
	p := Pattern{Host: text}
	if host, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return Pattern{}, errors.New("the text after the colon is not a port number")
		}
		p.Host, p.Port = host, port
	}
	p.Host, p.Subdomain = strings.CutPrefix(p.Host, "*.")
	p.Host = Normal(p.Host)
	if _, err := netip.ParseAddr(p.Host); err == nil && !p.Subdomain {
		return p, nil
	}
	if !hostName.MatchString(p.Host) {
		return Pattern{}, errors.New("this is not a host: write api.example.com, or *.example.com for all hosts below example.com")
	}
	return p, nil
}

// Normal returns a host in the form in which equal hosts are equal texts: in lower case, without brackets and without
// the dot at the end.
func Normal(host string) string {
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// Matches reports whether the pattern has the host, in its normal form, and the port.
func (p Pattern) Matches(host, port string) bool {
	switch {
	case p.Socket != "":
		return false
	case p.Addresses.IsValid():
		addr, err := netip.ParseAddr(host)
		return err == nil && p.Addresses.Contains(addr.Unmap())
	case p.Port != "" && p.Port != port:
		return false
	case p.Subdomain: // hostName, because an IPv6 zone could end like a name
		return strings.HasSuffix(host, "."+p.Host) && hostName.MatchString(host)
	default:
		return host == p.Host
	}
}

// Match reports whether a pattern has the host, in its normal form, and the port.
func (l List) Match(host, port string) bool {
	return slices.ContainsFunc(l, func(p Pattern) bool { return p.Matches(host, port) })
}

// MatchSocket reports whether a pattern is the unix socket with this path.
func (l List) MatchSocket(path string) bool {
	return slices.ContainsFunc(l, func(p Pattern) bool { return p.Socket != "" && p.Socket == path })
}

// Unmapped returns a range of IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2) as a range of IPv4 addresses.
func Unmapped(p netip.Prefix) netip.Prefix {
	const mapping = 96
	if p.Addr().Is4In6() && p.Bits() >= mapping {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapping)
	}
	return p
}
