package oauth

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// IsLoopback reports whether host, a name or an IP address without a port, can only be this machine, and is reached
// without a proxy: what it permits, such as http, must not be permitted by mistake. Of names, that is localhost in
// exactly this spelling: with any other, or with 0.0.0.0, Go would use a proxy from the environment.
func IsLoopback(host string) bool {
	if host == "localhost" { // RFC 6761 section 6.3
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}

// mayBeNear reports whether host could be this machine, or what only its own link reaches, in any spelling that some
// resolver understands: what it forbids must not be permitted by mistake.
func mayBeNear(host string) bool {
	if ip, _, ok := strings.Cut(host, "%"); ok && strings.Contains(ip, ":") { // the zone of an address is of no matter
		host = ip
	}
	host, ok := normalHost(host)
	if !ok {
		return true // nobody knows what it is
	}
	if addr, ok := parseAddr(host); ok {
		return addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast() ||
			isThisNetwork(addr)
	}
	switch host { // what /etc/hosts has
	case "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback":
		return true
	}
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") // RFC 6761 section 6.3
}

// isThisNetwork reports whether addr is unspecified, which systems dial as this machine, or of 0.0.0.0/8 (RFC 1122
// section 3.2.1.3).
func isThisNetwork(addr netip.Addr) bool {
	return addr.IsUnspecified() || addr.Is4() && addr.As4()[0] == 0
}

// sameHost reports whether two hosts are the same, however they are written.
func sameHost(a, b string) bool {
	x, okX := normalHost(a)
	y, okY := normalHost(b)
	return okX && okY && x == y
}

// normalHost writes a host in one way, which is ASCII: net/http maps names such as "ｌocalhost" too.
func normalHost(host string) (string, bool) {
	host = strings.Trim(host, "[]")
	if strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", false
		}
	}
	return strings.ToLower(strings.TrimRight(host, ".")), true
}

// parseAddr reads an IP address without a zone, and IPv4 as well when it is written as IPv6 (RFC 4291 section
// 2.5.5), or as inet_aton reads it: 127.1, 0x7f.1, 017700000001, 2130706433.
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

// parseLegacyIPv4 reads one to four numbers, decimal, octal or hexadecimal, the last of which fills what is left.
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
	if text == "" { // 0x is zero
		return 0, true
	}
	n, err := strconv.ParseUint(text, base, bits)
	return n, err == nil
}
