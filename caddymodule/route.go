package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// route makes the URL of a request agree with what reverse_proxy's own transport dials. net/http looks at the URL only. Its
// scheme and host decide whether net/http encrypts, whether it uses a network proxy, and which open connection it reuses.
type route struct {
	destinations  *destinations
	proxy         func(*http.Request) (*url.URL, error) // the transport's own
	proxyProtocol bool
}

// newRoute returns nil for transports other than reverse_proxy's own. It returns an error if the token would go to a static
// upstream in the clear through a network proxy.
func newRoute(transport http.RoundTripper, d *destinations, static []caddy.NetworkAddress) (*route, error) {
	t, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok {
		return nil, nil
	}
	r := &route{destinations: d, proxy: t.Transport.Proxy, proxyProtocol: t.ProxyProtocolEnabled()}
	for _, addr := range static {
		if !addr.IsUnixNetwork() && !r.keepsFromProxy(portOf(addr), addr.JoinHostPort(0)) {
			return nil, fmt.Errorf("upstream %s: %w", addr, errNetworkProxy)
		}
	}
	t.Transport.Proxy = r.proxyFor
	return r, nil
}

// keepsFromProxy reports whether no network proxy can read a token that is sent to this address. A network proxy that
// depends on the request counts as one that can.
func (r *route) keepsFromProxy(port, address string) bool {
	if r.destinations.safeInTransit(port) {
		return true
	}
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	req := (&http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "http", Host: address, Path: "/"},
		Header: http.Header{},
		Host:   address,
	}).WithContext(ctx)
	proxy, err := r.proxy(req)
	return proxy == nil && err == nil
}

// direct sets the parts of the URL that net/http looks at. It always sets the scheme, because reverse_proxy keeps the scheme of
// a failed upstream for the next one, although only one of the two may be on a port in except_ports.
func (r *route) direct(req *http.Request, di reverseproxy.DialInfo) {
	req.URL.Scheme = "http"
	if r.destinations.transport.encrypts(di.Port) {
		req.URL.Scheme = "https"
	}
	// reverse_proxy sets the address as the Host of an encrypted request. Clients leave the default port out of Host, and some
	// servers know themselves only without it (RFC 9110 section 4.2.2).
	if req.Host == di.Address && standardPorts[req.URL.Scheme] == di.Port {
		req.Host = strings.TrimSuffix(req.Host, ":"+di.Port)
	}
	if !r.proxyProtocol { // with it, the host holds the client's address, because each client needs its own connections
		req.URL.Host = di.Address
	}
	if di.Network != "unix" {
		return
	}
	// A socket may have the path "127.0.0.1:8080". Without the network in the host, net/http would keep its connections as
	// connections to that address. The escaped slash adds a "%", which no allowed host has, except in an IPv6 zone. tcp4 and
	// tcp6 need no such distinction, because they name the same host.
	if req.Host == "" {
		req.Host = req.URL.Host
	}
	req.URL.Host = url.QueryEscape(di.Network + "/" + req.URL.Host)
}

// proxyFor replaces the transport's Proxy function. It calls the original function with the address that is dialed, because
// the URL has another host with proxy_protocol. Requests to a unix socket use no network proxy.
func (r *route) proxyFor(req *http.Request) (*url.URL, error) {
	di, _ := reverseproxy.GetDialInfo(req.Context())
	if di.Network == "unix" {
		return nil, nil
	}
	proxy, err := r.proxy(withHost(req, di.Address))
	if proxy == nil || err != nil {
		return nil, err
	}
	if _, ok := req.Context().Value(proxiedKey{}).(*proxied); ok && !r.destinations.safeInTransit(di.Port) {
		return nil, errNetworkProxy
	}
	return proxy, nil
}

// withHost returns a request with this host in its URL.
func withHost(req *http.Request, host string) *http.Request {
	if req.URL.Host == host {
		return req
	}
	c, u := *req, *req.URL
	u.Host = host
	c.URL = &u
	return &c
}

// healthCheck returns an active health check for the transport. It adds the variables in which reverse_proxy's dialer looks up
// whether a network proxy is used. Without them, the dialer would dial the upstream itself, and net/http would keep that
// connection as one to the network proxy, for requests to any upstream.
func (r *route) healthCheck(req *http.Request, di reverseproxy.DialInfo) *http.Request {
	c := req.Clone(context.WithValue(req.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
	r.direct(c, di)
	return c
}
