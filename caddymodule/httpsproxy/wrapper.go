// Package httpsproxy has the listener wrapper https_proxy, for applications that obey the environment variable HTTPS_PROXY.
//
// The way of a connection: the listener looks at its first byte. TLS goes to Caddy's own TLS at once. Everything else goes to
// an HTTP server of the wrapper. It hands the connection of a CONNECT for a site on to Caddy's TLS, carries the bytes of a
// tunnel, or gives a request in absolute form to the routes of the site. Each connection waits in a goroutine of its own.
package httpsproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

func init() {
	caddy.RegisterModule(new(ListenerWrapper))
}

const (
	moduleID    = "caddy.listeners.https_proxy"
	wrapperName = "https_proxy"
)

// ListenerWrapper makes a listener with TLS sites a proxy for applications that obey HTTPS_PROXY. An application sends
// CONNECT before TLS. If a site of the listener has the host as its name, the connection goes on into Caddy's own TLS and
// routes. All other hosts get 403, unless Tunnel allows them. TLS without CONNECT works as without the wrapper. Requests
// for http:// URLs of the sites, in absolute form, are served as well.
//
// It must stand before the wrapper tls in listener_wrappers. In a Caddyfile, the address of the option servers must be that of
// the listener, such as 127.0.0.1:3128 for a site with this port and bind 127.0.0.1. Caddy ignores an option with another
// address without a warning.
type ListenerWrapper struct {
	// Tunnel are the hosts without a site on this listener whose connections are passed through untouched: "any", or host
	// patterns such as example.com, *.example.com, 192.0.2.7, 10.0.0.0/8 and example.com:8443. Without a port, a pattern
	// allows port 443. An address of loopback, a link-local address and the address of a cloud's metadata are reached only if
	// the list has this very address, or localhost for the loopback addresses of localhost. Default: none.
	Tunnel []string `json:"tunnel,omitempty"`

	// Clients are the clients that may use the proxy, as in the handler token_proxy: "loopback", which includes unix sockets,
	// IP addresses, CIDR ranges, "private_ranges" or "any". All other clients get 403. Default: loopback.
	Clients []string `json:"clients,omitempty"`

	server    *caddyhttp.Server
	sites     sites
	mutualTLS bool // a site demands client certificates, which a request without TLS would evade
	tunnels   tunnelRules
	clients   peer.Clients
	logger    *zap.Logger
	logged    seldom
	proxy     *http.Server
	listeners []*listener
}

// CaddyModule returns the Caddy module information.
func (*ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  moduleID,
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

// Provision checks the options and the place of the wrapper. Caddy has provisioned the host matchers of the server's routes
// by then, because automatic HTTPS needs them.
func (w *ListenerWrapper) Provision(ctx caddy.Context) error {
	w.logger = ctx.Logger()
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("https_proxy works only in the listener_wrappers of an HTTP server")
	}
	w.server = server
	if err := checkPlace(server); err != nil {
		return err
	}
	var err error
	if w.tunnels, err = parseTunnel(w.Tunnel); err != nil {
		return fmt.Errorf("tunnel: %w", err)
	}
	if w.clients, err = peer.ParseClients(w.Clients); err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	w.sites = sitesOf(server)
	w.mutualTLS = demandsCertificates(server)
	if len(w.sites.matchers) == 0 {
		w.logger.Warn("no site of this listener has a host as its name, so no request gets a token through https_proxy; name the sites, such as https://api.example.com:3128")
	}
	if err := register(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	server.RegisterOnStop(w.stop)
	return nil
}

// checkPlace reports whether TLS follows the wrapper. Caddy puts TLS before all wrappers if the list does not have it.
func checkPlace(server *caddyhttp.Server) error {
	if len(server.TLSConnPolicies) == 0 {
		return errors.New("https_proxy needs sites with TLS: write https:// before their names, and tls internal into them")
	}
	var order []string
	for _, raw := range server.ListenerWrappersRaw {
		var module struct {
			Wrapper string `json:"wrapper"`
		}
		_ = json.Unmarshal(raw, &module) // Caddy reports an error itself
		order = append(order, module.Wrapper)
	}
	if slices.Index(order, "tls") < slices.Index(order, wrapperName) {
		return errors.New("https_proxy must stand before tls in listener_wrappers: add tls after it")
	}
	if tls := slices.Index(order, "tls"); slices.Contains(order[tls:], wrapperName) {
		return errors.New("https_proxy is repeated in listener_wrappers, or stands after tls: remove it there")
	}
	return nil
}

// demandsCertificates reports whether a site of the server has TLS client authentication. It must be asked before Caddy
// provisions the policies of the server. That empties the list of verifiers, without which Active can no longer tell.
func demandsCertificates(server *caddyhttp.Server) bool {
	return slices.ContainsFunc(server.TLSConnPolicies, func(p *caddytls.ConnectionPolicy) bool {
		return p.ClientAuthentication != nil && p.ClientAuthentication.Active()
	})
}

// WrapListener implements caddy.ListenerWrapper. Caddy calls it when it starts the server, for each address.
func (w *ListenerWrapper) WrapListener(below net.Listener) net.Listener {
	if w.proxy == nil {
		w.proxy = w.newProxy()
	}
	l := newListener(below, w.headerTimeout())
	l.status = ListenerStatus{below.Addr().String(), w.sites.names(), append([]string{}, w.Tunnel...)}
	w.listeners = append(w.listeners, l)
	inForce.add(l)
	go l.run()
	go func() { _ = w.proxy.Serve(l.plain) }()
	return l
}

// newProxy returns the HTTP server for what is not TLS, with the limits of Caddy's server.
func (w *ListenerWrapper) newProxy() *http.Server {
	errorLog, _ := zap.NewStdLogAt(w.logger, zap.DebugLevel) // as Caddy logs what clients send; it fails only for an unknown level
	return &http.Server{
		Handler:                      http.HandlerFunc(w.serve),
		ReadTimeout:                  time.Duration(w.server.ReadTimeout),
		ReadHeaderTimeout:            w.headerTimeout(),
		WriteTimeout:                 time.Duration(w.server.WriteTimeout),
		IdleTimeout:                  time.Duration(w.server.IdleTimeout),
		MaxHeaderBytes:               w.server.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     errorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(peer.With(ctx, c), connKey{}, c)
		},
	}
}

// headerTimeout is how long a client has for its first byte, for the head of a request, and for the beginning of TLS.
func (w *ListenerWrapper) headerTimeout() time.Duration {
	if t := time.Duration(w.server.ReadHeaderTimeout); t > 0 {
		return t
	}
	return time.Minute // Caddy's default
}

// stop ends the proxy when its configuration ends. Caddy calls it when the servers begin to shut down for a reload, or have
// shut down before the process exits. It may keep only an exit waiting.
func (w *ListenerWrapper) stop(ctx context.Context) error {
	inForce.remove(w.listeners)
	if caddy.Exiting() {
		w.drain(ctx, nil, idleAtExit)
		return nil
	}
	// During a reload, Caddy cancels its context as soon as its own requests have finished.
	detached, cancel := context.WithoutCancel(ctx), context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		detached, cancel = context.WithDeadline(detached, deadline)
	}
	go func() {
		defer cancel()
		w.drain(detached, &w.tunnels, idleAtReload)
	}()
	return nil
}

// drain lets the requests of the proxy, and the tunnels that rules allowed, end within the grace period. Without rules, these
// are the tunnels of all configurations.
func (w *ListenerWrapper) drain(ctx context.Context, rules *tunnelRules, idle time.Duration) {
	if w.proxy != nil && w.proxy.Shutdown(ctx) != nil {
		_ = w.proxy.Close()
	}
	open.drain(ctx, rules, idle)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
)
