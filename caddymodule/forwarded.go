package caddymodule

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

// addedFields are the fields that reverse_proxy adds to a request. It adds Early-Data as well, which stays, because
// the API must know about a request that can be a repetition (RFC 8470 section 5.1).
var addedFields = [...]string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via"}

// asSent stands in a field for the values that the application sent. It takes the place of what reverse_proxy has added
// before header_up changes the field. So the values of header_up are recognized, even if they equal what reverse_proxy adds.
const asSent = "(as the application sent it)"

// withoutAdded returns header operations that put asSent into each of the fields that reverse_proxy adds. They include those
// of the transport, which reverse_proxy also applies before header_up.
func withoutAdded(transport *headers.HeaderOps) *headers.HeaderOps {
	ops := new(headers.HeaderOps)
	if transport != nil {
		*ops = *transport
	}
	ops.Set = make(http.Header, len(addedFields)+1)
	for _, name := range addedFields {
		ops.Set[name] = []string{asSent}
	}
	if transport != nil {
		maps.Copy(ops.Set, transport.Set)
	}
	return ops
}

// restore gives the fields that reverse_proxy has added the values that the application sent. marked reports whether
// header_up may have changed the fields. Then only asSent is replaced.
func (p *proxied) restore(fields http.Header, marked bool) {
	for _, name := range addedFields {
		values := p.sentIn(name)
		if marked {
			values = replaceMark(fields[name], values)
		}
		if len(values) == 0 {
			delete(fields, name)
			continue
		}
		fields[name] = values
	}
}

// replaceMark returns the values with those that the application sent in the place of asSent.
func replaceMark(values, sent []string) []string {
	at := slices.Index(values, asSent)
	if at < 0 {
		return values
	}
	return slices.Concat(values[:at], sent, values[at+1:])
}

// sentIn returns the values that the application sent in a field, as far as the API may see them. reverse_proxy gives the API
// the X-Forwarded fields of trusted proxies only, because the API may believe them.
func (p *proxied) sentIn(name string) []string {
	switch {
	case name == "Via":
		return p.via
	case p.trusted:
		return p.received[name]
	default:
		return nil
	}
}

// parseTrustedProxies parses the trusted_proxies of reverse_proxy, which keeps what it parses to itself.
func parseTrustedProxies(values []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, value := range values {
		prefix, err := caddyhttp.CIDRExpressionToPrefix(value)
		if err != nil {
			return nil, fmt.Errorf("trusted_proxies: %w", err)
		}
		all = append(all, prefix)
	}
	return all, nil
}
