package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// route makes the URL that reverse_proxy's own transport gets agree with what that transport dials. net/http looks at
// the URL only: by its scheme and host it decides whether to encrypt, whether to use a network proxy, and which of the
// connections that are open already it takes.
type route struct {
	destinations  *destinations
	proxy         func(*http.Request) (*url.URL, error) // the transport's own
	proxyProtocol bool
}

// newRoute returns nil for other transports, and refuses static upstreams that a network proxy leads to in the clear.
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

// keepsFromProxy reports whether no network proxy can read a token that is sent to this address. A proxy that only a
// request can choose counts as one.
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

// direct sets what net/http looks at. The scheme is always set, because reverse_proxy keeps that of an upstream that
// failed for the next one, although only one of them may be on a port in except_ports.
func (r *route) direct(req *http.Request, di reverseproxy.DialInfo) {
	req.URL.Scheme = "http"
	if r.destinations.transport.encrypts(di.Port) {
		req.URL.Scheme = "https"
	}
	if !r.proxyProtocol { // else the host holds the client's address, because each client needs connections of its own
		req.URL.Host = di.Address
	}
	if di.Network != "unix" {
		return
	}
	// A socket may have the path "127.0.0.1:8080": without its network, its connections would be kept as those to that
	// address. No host that can be allowed has a "%" in it, but for an IPv6 zone. tcp4 and tcp6 need no such
	// distinction: they name the same host.
	if req.Host == "" {
		req.Host = req.URL.Host
	}
	req.URL.Host = url.QueryEscape(di.Network + "/" + req.URL.Host)
}

// proxyFor is the transport's Proxy: it asks the transport's own for the address that is dialed. With proxy_protocol,
// the URL's host is another; and no proxy leads to a unix socket.
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

func withHost(req *http.Request, host string) *http.Request {
	if req.URL.Host == host {
		return req
	}
	c, u := *req, *req.URL
	u.Host = host
	c.URL = &u
	return &c
}

// healthCheck is an active health check as the transport gets it. It needs variables: in them, reverse_proxy's dialer
// looks up whether a network proxy is used. Without, it would dial the upstream, and the connection would be kept as
// one to the proxy, for requests to any upstream.
func (r *route) healthCheck(req *http.Request, di reverseproxy.DialInfo) *http.Request {
	c := req.Clone(context.WithValue(req.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
	r.direct(c, di)
	return c
}
