package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
)

// clientList says who may use a handler.
type clientList struct {
	any      bool
	loopback bool
	ranges   []netip.Prefix
}

func parseClients(configured []string) (clientList, error) {
	if len(configured) == 0 {
		return clientList{loopback: true}, nil
	}
	var l clientList
	for _, text := range configured {
		if err := l.add(text); err != nil {
			return clientList{}, err
		}
	}
	if l.any && len(configured) > 1 {
		return clientList{}, errors.New("any allows everyone: nothing else can stand beside it")
	}
	return l, nil
}

func (l *clientList) add(text string) error {
	switch text {
	case "any":
		l.any = true
		return nil
	case "loopback":
		l.loopback = true
		return nil
	}
	prefix, err := netip.ParsePrefix(text)
	if addr, errAddr := netip.ParseAddr(text); errAddr == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return fmt.Errorf("%q is not loopback, any, an IP address without a zone, or a CIDR range", text)
	}
	l.ranges = append(l.ranges, unmapped(prefix).Masked())
	return nil
}

// unmapped writes a range of IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2) as the IPv4 range that it is.
func unmapped(p netip.Prefix) netip.Prefix {
	const mapping = 96
	if p.Addr().Is4In6() && p.Bits() >= mapping {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapping)
	}
	return p
}

// admit looks at the connection only: whoever can write a header field could write any address into it.
func (l *clientList) admit(r *http.Request) bool {
	if l.any {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	addr := peer.Addr().Unmap().WithZone("")
	if l.loopback && addr.IsLoopback() { // or, on a unix socket, one that calls itself so
		return true
	}
	if peerIsUnix(r) {
		return l.loopback
	}
	if err != nil {
		return false
	}
	return slices.ContainsFunc(l.ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}
