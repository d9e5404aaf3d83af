package oauth

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// IsLoopback reports whether host is certainly this machine. It errs on the side of false, because callers permit http to
// such a host. The host is a name or an IP address without a port.
//
// Of the names, only localhost in exactly this spelling qualifies. For other spellings, and for 0.0.0.0, net/http would
// use a proxy from the environment.
func IsLoopback(host string) bool {
	if host == "localhost" { // RFC 6761 section 6.3
		return true
	}
	addr, err := netip.ParseAddr(withoutBrackets(host))
	return err == nil && addr.Unmap().IsLoopback()
}

// mayBeLocal reports whether host could be this machine or a link-local address, in any spelling that some resolver
// understands. It errs on the side of true, because the metadata of an issuer elsewhere must not name such a host.
func mayBeLocal(host string) bool {
	host = withoutBrackets(host)
	if ip, _, ok := strings.Cut(host, "%"); ok && strings.Contains(ip, ":") { // an IPv6 address with a zone
		host = ip
	}
	host, ok := normalHost(host)
	if !ok {
		return true // a resolver could make anything of it
	}
	if addr, ok := parseAddr(host); ok {
		return addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast() ||
			isThisNetwork(addr)
	}
	switch host { // names that distributions put into /etc/hosts
	case "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback":
		return true
	}
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") // RFC 6761 section 6.3
}

// isThisNetwork reports whether addr is in 0.0.0.0/8 (RFC 1122 section 3.2.1.3) or is the unspecified address. Operating
// systems connect to the unspecified address as to this machine.
func isThisNetwork(addr netip.Addr) bool {
	return addr.IsUnspecified() || addr.Is4() && addr.As4()[0] == 0
}

// sameHost reports whether two hosts are the same in any spelling.
func sameHost(a, b string) bool {
	x, okX := normalHost(a)
	y, okY := normalHost(b)
	return okX && okY && x == y
}

// normalHost returns the host in lower case, in ASCII and without dots at the end. Like net/http, it maps names such as
// "ｌocalhost" to ASCII. It reports false for a name that has no ASCII form, and for one with a bracket, which can only
// enclose an IPv6 address (RFC 3986 section 3.2.2).
func normalHost(host string) (string, bool) {
	host = withoutBrackets(host)
	if strings.ContainsAny(host, "[]") {
		return "", false
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", false
		}
	}
	return strings.ToLower(strings.TrimRight(host, ".")), true
}

// withoutBrackets returns what the brackets of an IPv6 address in a URL enclose.
func withoutBrackets(host string) string {
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		return strings.TrimSuffix(inner, "]")
	}
	return host
}

// parseAddr parses an IP address without a zone. It returns an IPv4 address also for its forms in IPv6 (RFC 4291 section
// 2.5.5) and for the forms that inet_aton accepts, such as 127.1, 0x7f.1, 017700000001 and 2130706433.
func parseAddr(host string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return parseLegacyIPv4(host)
	}
	addr = addr.Unmap()
	if b := addr.As16(); addr.Is6() && [12]byte(b[:12]) == [12]byte{} && !addr.IsLoopback() { // IPv4-compatible
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return addr, true
}

// parseLegacyIPv4 parses the forms of inet_aton. They are one to four decimal, octal or hexadecimal numbers. The last
// number fills the remaining bytes.
func parseLegacyIPv4(host string) (netip.Addr, bool) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var address uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		n, ok := legacyNumber(part, bits)
		if !ok {
			return netip.Addr{}, false
		}
		address = address<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)}), true
}

func legacyNumber(text string, bits int) (uint64, bool) {
	if text == "" || strings.Trim(text, "0123456789abcdefx") != "" { // no sign, no underscore
		return 0, false
	}
	base := 10
	switch {
	case strings.HasPrefix(text, "0x"):
		text, base = text[2:], 16
	case strings.HasPrefix(text, "0"):
		base = 8
	}
	if text == "" { // inet_aton reads 0x as zero
		return 0, true
	}
	n, err := strconv.ParseUint(text, base, bits)
	return n, err == nil
}
