package peer

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
)

// Clients is the set of clients that may use a handler.
type Clients struct {
	any      bool
	loopback bool
	ranges   []netip.Prefix
}

func ParseClients(configured []string) (Clients, error) {
	if len(configured) == 0 {
		return Clients{loopback: true}, nil
	}
	var l Clients
	if err := l.addAll(configured); err != nil {
		return Clients{}, err
	}
	if l.any && len(configured) > 1 {
		return Clients{}, errors.New("any allows all clients: remove the other values")
	}
	return l, nil
}

func (l *Clients) addAll(texts []string) error {
	for n, text := range texts {
		if err := l.add(text); err != nil {
			return fmt.Errorf("value %d: %w", n+1, err) // without the value, which may be a secret in the wrong place
		}
	}
	return nil
}

func (l *Clients) add(text string) error {
	switch text {
	case "any":
		l.any = true
		return nil
	case "loopback":
		l.loopback = true
		return nil
	case "private_ranges":
		return l.addAll(caddyhttp.PrivateRangesCIDR())
	}
	prefix, err := netip.ParsePrefix(text)
	if addr, errAddr := netip.ParseAddr(text); errAddr == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return errors.New("it must be loopback, private_ranges, any, an IP address without a zone, or a CIDR range")
	}
	l.ranges = append(l.ranges, hostpattern.Unmapped(prefix).Masked())
	return nil
}

// Admit reports whether the client of a request is in the list. It judges the connection and never a header field, because
// a client can write any address into a header field. Type peer explains the addresses of listener wrappers.
func (l *Clients) Admit(r *http.Request) bool {
	if l.any {
		return true
	}
	p := of(r)
	if l.loopback && p.local {
		return true
	}
	return slices.ContainsFunc(l.ranges, func(allowed netip.Prefix) bool { return allowed.Contains(p.addr) })
}
