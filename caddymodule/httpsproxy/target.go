package httpsproxy

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// The default ports of https and http.
const (
	portTLS  = "443"
	portHTTP = "80"
)

// target is where a client wants to go.
type target struct {
	host string // in its normal form: in lower case and ASCII, without brackets and without a dot at the end
	port string
	root bool // the host was written with a dot at the end
}

// dnsName matches a DNS name in its normal form, RFC 1123 section 2.1. The underscore is not allowed there, but is in use.
var dnsName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)

const maxName = 253 // RFC 1035 section 2.3.4, without the encoding

// parseTarget parses the target of a CONNECT, which is a host and a port (RFC 9110 section 9.3.6).
func parseTarget(text string) (target, bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return target{}, false
	}
	return newTarget(host, port)
}

// newTarget returns the target with this host and port, and reports whether the host is an IP address or a DNS name, and the
// port a number. The old spellings of IPv4 addresses, such as 127.1 and 0x7f.1, are neither, because resolvers disagree about
// them.
func newTarget(host, port string) (target, bool) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return target{}, false
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return target{host: addr.Unmap().WithZone("").String(), port: port}, addr.Zone() == ""
	}
	name, root := strings.CutSuffix(host, ".")
	if strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return target{}, false
		}
		name = ascii
	}
	name = strings.ToLower(name)
	if len(name) > maxName || !dnsName.MatchString(name) || isNumber(name[strings.LastIndexByte(name, '.')+1:]) {
		return target{}, false
	}
	return target{host: name, port: port, root: root}, true
}

// isNumber reports whether the last label of a host makes it an IPv4 address in some spelling (WHATWG URL section 3.5).
func isNumber(label string) bool {
	_, err := strconv.ParseUint(label, 0, 64)
	return err == nil || strings.Trim(label, "0123456789") == "" || label == "0x"
}

// address returns what a dialer takes. The dot at the end keeps a resolver from adding its search domains.
func (t target) address() string {
	if t.root {
		return net.JoinHostPort(t.host+".", t.port)
	}
	return net.JoinHostPort(t.host, t.port)
}

func (t target) String() string { return net.JoinHostPort(t.host, t.port) }
