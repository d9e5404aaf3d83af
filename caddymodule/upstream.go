package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// provisionTransport wraps the transport before reverse_proxy is provisioned, because active health checks read the transport
// from then on. They go through the injector, but hold no lease.
func (h *Handler) provisionTransport(ctx caddy.Context) error {
	config := transportConfigOf(h.TransportRaw)
	transport, err := h.loadTransport(ctx)
	if err != nil {
		return err
	}
	keepConnections(transport, config)
	if h.credential.binds {
		awaitContinue(transport)
	}
	wrapConnections(transport)
	d, err := h.destinations(transport, config)
	if err != nil {
		return err
	}
	if h.route, err = h.routeTo(transport, d); err != nil {
		return err
	}
	if t, ok := transport.(*reverseproxy.HTTPTransport); ok && t.TLS != nil && t.TLS.InsecureSkipVerify {
		h.logger.Warn("tls_insecure_skip_verify gives the token to any machine between the proxy and the upstream; remove it, or trust the certificate of the upstream with tls_trust_pool",
			zap.String("credential", h.Credential))
	}
	h.warnOfWaits()
	h.bound = h.bindTransport(transport)
	h.Transport = &injector{
		next:         transport,
		bound:        h.bound,
		destinations: d,
		route:        h.route,
		credential:   h.credential,
		forwarded:    h.Forwarded,
		marks:        !h.Forwarded && h.Headers != nil && h.Headers.Request != nil,
		setsHost:     leaveHost(transport, h.Headers),
		rejected:     h.RejectedStatus,
		replay:       h.OnUnauthorized == unauthorizedReplay,
		replayBuffer: h.replayBuffer(),
		timed:        h.timed(),
		leaves:       h.leaves(),
		buffers:      h.RequestBuffers != 0,
		logger:       h.logger,
		denials:      rate.Sometimes{Interval: status.DestinationInterval},
		field:        tokenField{tenants: h.credential.template != nil},
	}
	return nil
}

// timed reports whether reverse_proxy uses the duration of a round trip to judge an upstream or to limit its own attempts.
func (h *Handler) timed() bool {
	passive := h.HealthChecks != nil && h.HealthChecks.Passive != nil && h.HealthChecks.Passive.UnhealthyLatency > 0
	return passive || h.CBRaw != nil || h.LoadBalancing != nil && h.LoadBalancing.TryDuration > 0
}

// counting returns the options with which reverse_proxy judges an upstream by the number of requests to it.
func (h *Handler) counting() (options []string) {
	if h.HealthChecks != nil && h.HealthChecks.Passive != nil && h.HealthChecks.Passive.UnhealthyRequestCount > 0 {
		options = append(options, "unhealthy_request_count")
	}
	if slices.ContainsFunc(h.Upstreams, func(u *reverseproxy.Upstream) bool { return u != nil && u.MaxRequests > 0 }) {
		options = append(options, "max_requests")
	}
	return options
}

// leaves reports whether a request leaves reverse_proxy before it waits for another token, because the wait would count. If it gets
// none, a second run brings the answer of the first one. An expression of lb_retry_match may make reverse_proxy try again because
// of that answer, and the body would be lost by then.
func (h *Handler) leaves() bool {
	if !h.timed() && len(h.counting()) == 0 {
		return false
	}
	return h.LoadBalancing == nil || !slices.ContainsFunc(h.LoadBalancing.RetryMatchRaw, func(set caddy.ModuleMap) bool {
		return set["expression"] != nil
	})
}

// warnOfWaits warns of options that make reverse_proxy avoid an upstream because requests wait for another token.
func (h *Handler) warnOfWaits() {
	if h.OnUnauthorized != unauthorizedReplay || h.leaves() && h.RequestBuffers == 0 {
		return
	}
	if options := h.counting(); len(options) > 0 {
		h.logger.Warn("with request_buffers or an expression in lb_retry_match, reverse_proxy may count a request as one to the upstream while it waits for another token because the API has rejected its token, and may answer 503 to other requests; set a limit for the requests that come in while a token call takes max_wait, or set on_unauthorized to pass",
			zap.String("credential", h.Credential), zap.Strings("options", options))
	}
}

// provisionAttempts wraps the source of dynamic upstreams and the policy of reverse_proxy, which must be provisioned.
func (h *Handler) provisionAttempts() {
	a := &attempts{credential: h.credential, rewrite: h.Rewrite}
	h.LoadBalancing.SelectionPolicy = &attemptSelector{h.LoadBalancing.SelectionPolicy, a, h.DynamicUpstreams == nil}
	if h.DynamicUpstreams != nil {
		h.DynamicUpstreams = attemptSource{h.DynamicUpstreams, a}
	}
}

// bindTransport makes the transport for tokens that are bound to a certificate, if the credential has one.
func (h *Handler) bindTransport(transport http.RoundTripper) *boundTransport {
	if h.credential.certificate.Load() == nil && !h.credential.tenantsHaveCertificates() {
		return nil
	}
	bound := newBoundTransport(transport)
	if bound == nil {
		h.logger.Warn("client_certificate is not shown to the upstreams of this transport, so that an API there rejects a token that is bound to it",
			zap.String("credential", h.Credential))
	}
	return bound
}

func (h *Handler) loadTransport(ctx caddy.Context) (http.RoundTripper, error) {
	var mod any
	var err error
	if h.TransportRaw == nil {
		mod, err = ctx.LoadModuleByID("http.reverse_proxy.transport.http", nil)
	} else {
		mod, err = ctx.LoadModule(&h.Handler, "TransportRaw")
	}
	if err != nil {
		return nil, fmt.Errorf("loading transport: %w", err)
	}
	transport, ok := mod.(http.RoundTripper)
	if !ok {
		return nil, fmt.Errorf("loading transport: %T is not a transport", mod)
	}
	if mod.(caddy.Module).CaddyModule().ID.Name() == "fastcgi" {
		return nil, errors.New("transport fastcgi is not possible, because it writes the header, and with it the token, into the debug log")
	}
	if t, ok := transport.(reverseproxy.BufferedTransport); ok {
		h.useDefaultBuffers(t)
	}
	return transport, nil
}

// useDefaultBuffers sets the buffers as reverse_proxy does for a transport that it loads itself.
func (h *Handler) useDefaultBuffers(t reverseproxy.BufferedTransport) {
	request, response := t.DefaultBufferSizes()
	if h.RequestBuffers == 0 {
		h.RequestBuffers = request
	}
	if h.ResponseBuffers == 0 {
		h.ResponseBuffers = response
	}
}

// idleConnections is the number of idle connections to an upstream that are kept for the next requests. reverse_proxy keeps 32.
// The requests to a sidecar often go to a single upstream, and opening a TLS connection costs more than a request. By default,
// reverse_proxy closes idle connections after two minutes.
const idleConnections = 256

// keepConnections makes idleConnections the default.
func keepConnections(transport http.RoundTripper, c transportConfig) {
	if t, ok := transport.(*reverseproxy.HTTPTransport); ok && c.KeepAlive.MaxIdleConnsPerHost == 0 {
		t.Transport.MaxIdleConnsPerHost = idleConnections
	}
}

// transportConfig has the options that are needed from a transport's configuration, because the transport does not show them.
type transportConfig struct {
	NetworkProxy *struct {
		From string `json:"from"`
	} `json:"network_proxy"`
	ForwardProxyURL string `json:"forward_proxy_url"`
	KeepAlive       struct {
		MaxIdleConnsPerHost int `json:"max_idle_conns_per_host"`
	} `json:"keep_alive"`
}

func transportConfigOf(raw json.RawMessage) transportConfig {
	var c transportConfig
	_ = json.Unmarshal(raw, &c) // a transport of another kind may have other types
	return c
}

func (c transportConfig) hasNetworkProxy() bool {
	return c.ForwardProxyURL != "" || c.NetworkProxy != nil && c.NetworkProxy.From != "none"
}

// destinations returns the rules for where the token may go. It returns an error for a static upstream that the token may not
// go to.
func (h *Handler) destinations(transport http.RoundTripper, config transportConfig) (*destinations, error) {
	if len(h.Upstreams) == 0 && h.DynamicUpstreamsRaw == nil {
		return nil, errors.New("token_proxy needs an upstream")
	}
	_, canBeAsked := transport.(*reverseproxy.HTTPTransport)
	d := &destinations{
		hosts:          slices.Clone(h.credential.hosts),
		allowPlaintext: h.credential.AllowPlaintext,
		networkProxy:   !canBeAsked && config.hasNetworkProxy(),
		transport:      securityOf(transport),
	}
	static, err := h.staticUpstreams()
	if err != nil {
		return nil, err
	}
	allStatic := len(static) == len(h.Upstreams) && h.DynamicUpstreamsRaw == nil
	if len(d.hosts) == 0 && !allStatic {
		return nil, errors.New("api_hosts is missing: set the hosts that the token may go to, because not every upstream is static")
	}
	if err := h.checkSocketPlaceholders(); err != nil {
		return nil, err
	}
	for _, addr := range static {
		switch {
		case addr.IsUnixNetwork():
			d.hosts = append(d.hosts, hostpattern.Pattern{Socket: addr.Host})
		case len(h.credential.hosts) == 0:
			d.hosts = append(d.hosts, hostpattern.Pattern{Host: hostpattern.Normal(addr.Host), Port: portOf(addr)})
		}
	}
	for _, addr := range static {
		if err := d.check(destination{network: addr.Network, host: addr.Host, port: portOf(addr)}); err != nil {
			return nil, fmt.Errorf("upstream %s: %w", addr, err)
		}
	}
	return d, nil
}

// checkSocketPlaceholders returns an error for an upstream that the token may never go to.
func (h *Handler) checkSocketPlaceholders() error {
	named := slices.ContainsFunc(h.credential.hosts, func(p hostpattern.Pattern) bool { return p.Socket != "" })
	for _, u := range h.Upstreams {
		if network, path, _ := strings.Cut(u.Dial, "/"); !named && caddy.IsUnixNetwork(network) && strings.Contains(path, "{") {
			return fmt.Errorf("upstream %s: api_hosts has no unix socket: add each socket that the placeholder may stand for, like unix//run/api.sock", u.Dial)
		}
	}
	return nil
}

// staticUpstreams returns the addresses of the upstreams without a placeholder.
func (h *Handler) staticUpstreams() ([]caddy.NetworkAddress, error) {
	var static []caddy.NetworkAddress
	for _, u := range h.Upstreams {
		if u == nil {
			return nil, errors.New("an upstream is null")
		}
		if strings.Contains(u.Dial, "{") {
			continue
		}
		addr, err := caddy.ParseNetworkAddress(u.Dial)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Dial, err)
		}
		static = append(static, addr)
	}
	return static, nil
}

// routeTo returns the route for a transport, see newRoute.
func (h *Handler) routeTo(transport http.RoundTripper, d *destinations) (*route, error) {
	static, err := h.staticUpstreams()
	if err != nil {
		return nil, err
	}
	return newRoute(transport, d, static)
}

// replayBuffer returns how many bytes of a request body are kept: none if no request is replayed. An API that demands another DPoP
// proof has not rejected the token, so that request is repeated in any case.
func (h *Handler) replayBuffer() int {
	if h.OnUnauthorized == unauthorizedPass && !h.credential.binds {
		return 0
	}
	return int(*h.ReplayBuffer)
}
