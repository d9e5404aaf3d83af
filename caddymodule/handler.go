package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler is reverse_proxy with a credential. It gets a valid token before it proxies a request. It adds the token to the
// request at the last moment, where no other handler, log or placeholder can see it. All of reverse_proxy's
// configuration applies. Two defaults differ. The handler keeps 256 idle connections to an upstream, not 32. The API does not
// get the X-Forwarded fields and the Via that reverse_proxy adds.
//
// If the handler has no token, it answers with application/problem+json and a Proxy-Status field. The request then does
// not reach the upstream.
type Handler struct {
	// Credential is the name of the credential, as in the token_proxy app. Required.
	Credential string `json:"credential,omitempty"`

	// ClientAuthorization sets what the handler does with credentials that the application sends in Authorization or in the
	// credential's own header field. "replace" removes them. "keep" sends the request on with them and without a token.
	// "reject" answers 400. Default: replace.
	ClientAuthorization string `json:"client_authorization,omitempty"`

	// OnUnauthorized sets what the handler does when the API rejects the token. "replay" gets a new token and sends the
	// request once more if its body is still at hand. "pass" gives the answer to the application. Both replace the rejected
	// token. Default: replay.
	OnUnauthorized string `json:"on_unauthorized,omitempty"`

	// RejectedStatus are the statuses with which the API rejects the token, from 400 to 499 without 407, 408, 425 and 429.
	// Default: 401.
	RejectedStatus []int `json:"rejected_status,omitempty"`

	// ReplayBuffer is how many bytes of a request body the handler keeps for a replay. If it has sent more of the body than
	// that, it cannot replay the request. With OnUnauthorized "pass" it keeps none, unless the tokens are bound to a key (DPoP).
	// Default: 65536 (64 KiB).
	ReplayBuffer *int64 `json:"replay_buffer,omitempty"`

	// Clients are the clients that may use the handler: "loopback", which includes unix sockets, IP addresses, CIDR ranges,
	// "private_ranges" as elsewhere in Caddy, or "any". The handler judges the connection and never a header field. Behind
	// a listener wrapper such as proxy_protocol, it uses the address that the wrapper shows. A loopback address or a unix
	// socket counts only if the socket below the wrapper is local, too. All other clients get 403. Default: loopback.
	Clients []string `json:"clients,omitempty"`

	// CrossSite sets what the handler does with requests that a browser makes for a page of another site. "deny" answers
	// 403 before it fetches a token. "allow" sends them on with the token. The handler recognizes them by the fields
	// Sec-Fetch-Site and Origin, which a page cannot change. Default: deny.
	CrossSite string `json:"cross_site,omitempty"`

	// Forwarded sets whether the API gets the fields X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host and Via that
	// reverse_proxy adds. Without them, the API sees the request as if the application had sent it. What header_up sets stays,
	// and so do the X-Forwarded fields of trusted_proxies. Default: false.
	Forwarded bool `json:"forwarded,omitempty"`

	// TokenStub are the paths at which an SDK that requests its own token gets a worthless one, in the format of the
	// provider's token endpoint. "default" stands for the path of that endpoint. The handler does not read the client id
	// and the secret that the SDK sends. Default: none.
	TokenStub []string `json:"token_stub,omitempty"`

	reverseproxy.Handler

	stub       *tokenStub
	credential *client
	clients    peer.Clients
	trusted    []netip.Prefix
	logger     *zap.Logger
	warnings   *warnings
	bound      *boundTransport
	proxying   bool
	route      *route
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.token_proxy",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the credential, checks where its token would go, and puts the injector around the transport.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	peer.RememberConnections(ctx)
	h.warnings = newWarnings(h.logger, h.Credential)
	app, err := ctx.AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return fmt.Errorf("the app %s, which defines the credentials, is not configured", appName)
	}
	if err != nil {
		return err
	}
	if h.credential, err = app.(*App).client(h.Credential); err != nil {
		return err
	}
	if err := h.provisionOptions(); err != nil {
		return fmt.Errorf("credential %q: %w", h.Credential, err)
	}
	h.warnOfLoggedSecrets(ctx)
	if err := h.provisionTransport(ctx); err != nil {
		return fmt.Errorf("credential %q: %w", h.Credential, err)
	}
	if err := h.provisionDynamicUpstreams(ctx); err != nil {
		return fmt.Errorf("credential %q: %w", h.Credential, err)
	}
	if err := h.Handler.Provision(ctx); err != nil {
		return err
	}
	h.provisionAttempts()
	h.proxying = true
	return nil
}

func (h *Handler) provisionOptions() error {
	switch h.ClientAuthorization {
	case "":
		h.ClientAuthorization = authorizationReplace
	case authorizationReplace, authorizationKeep, authorizationReject:
	default:
		return errors.New("client_authorization: it must be replace, keep or reject")
	}
	switch h.OnUnauthorized {
	case "":
		h.OnUnauthorized = unauthorizedReplay
	case unauthorizedReplay, unauthorizedPass:
	default:
		return errors.New("on_unauthorized: it must be replay or pass")
	}
	if len(h.RejectedStatus) == 0 {
		h.RejectedStatus = []int{http.StatusUnauthorized}
	}
	if err := checkRejectedStatus(h.RejectedStatus); err != nil {
		return fmt.Errorf("rejected_status: %w", err)
	}
	switch h.CrossSite {
	case "":
		h.CrossSite = crossSiteDeny
	case crossSiteDeny, crossSiteAllow:
	default:
		return errors.New("cross_site: it must be deny or allow")
	}
	if h.ReplayBuffer == nil {
		size := int64(defaultReplayBuffer)
		h.ReplayBuffer = &size
	}
	if *h.ReplayBuffer < 0 || *h.ReplayBuffer > maxReplayBuffer {
		return fmt.Errorf("replay_buffer: it must be between 0 and %d bytes", maxReplayBuffer)
	}
	var err error
	if h.clients, err = peer.ParseClients(h.Clients); err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	if h.trusted, err = parseTrustedProxies(h.TrustedProxies); err != nil {
		return err
	}
	if h.credential.template != nil && len(h.TokenStub) > 0 {
		return errors.New("token_stub: it is not possible with a credential that has tenants")
	}
	if h.credential.Tenant.basic() && h.ClientAuthorization != authorizationReplace {
		return errors.New("client_authorization: with `tenant basic` it must be replace, because Authorization names the tenant")
	}
	if h.stub, err = newTokenStub(h.TokenStub, h.credential.provider, h.ClientAuthorization); err != nil {
		return fmt.Errorf("token_stub: %w", err)
	}
	return nil
}

// warnOfLoggedSecrets warns if the access log would have the secrets of clients. Caddy encodes the request for the log before any
// handler, so the handler cannot keep them out of it.
func (h *Handler) warnOfLoggedSecrets(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if ok && server.Logs != nil && server.Logs.ShouldLogCredentials && h.credential.Tenant.basic() {
		h.logger.Warn("log_credentials writes the id and the secret of each client into the access log, because the credential has `tenant basic`; remove log_credentials",
			zap.String("credential", h.Credential))
	}
}

// Cleanup releases what reverse_proxy has acquired. Caddy also calls it after a failed Provision, when upstreams without a
// Host have not been acquired. To release one of those would take it from the running configuration.
func (h *Handler) Cleanup() error {
	h.bound.close()
	if !h.proxying {
		h.Upstreams = slices.DeleteFunc(h.Upstreams, func(u *reverseproxy.Upstream) bool { return u == nil || u.Host == nil })
		if len(h.Upstreams) == 0 {
			return nil
		}
	}
	return h.Handler.Cleanup()
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It denies the request, or gets a token and proxies it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !h.clients.Admit(r) {
		h.warnings.client(r)
		h.deny(w, &problemClient, status.DeniedClient)
		return nil
	}
	if h.CrossSite != crossSiteAllow && crossSite(r) {
		h.warnings.crossSite(r)
		h.deny(w, &problemCrossSite, status.DeniedCrossSite)
		return nil
	}
	if loops(r) {
		h.warnings.loop()
		h.deny(w, &problemLoop, status.DeniedLoop)
		return nil
	}
	if h.stub.takes(r) {
		return h.stub.write(w)
	}
	if !mayCarryToken(r) {
		h.deny(w, &problemMethod, status.DeniedMethod)
		return nil
	}
	basic := h.credential.Tenant.basicIn(r) // before the field is removed
	returns := false
	if h.credential.header.sentBy(r) {
		returns = mayReturn(r)
		switch h.ClientAuthorization {
		case authorizationKeep:
			h.credential.Tenant.removeFrom(r)
			return h.proxy(w, r, next, &proxied{Context: r.Context(), keeps: true, returns: returns})
		case authorizationReject:
			h.deny(w, &problemAuthorization, status.DeniedAuthorization)
			return nil
		}
		h.credential.header.deleteFrom(r.Header)
	}
	delete(r.Header, fieldDPoP) // the proof for a token that is not sent
	h.credential.header.keepFromTrailer(r)

	tenant, err := h.credential.tenantOf(r, basic)
	if err != nil {
		return h.withoutToken(w, err)
	}
	lease, account, err := h.credential.serveFor(r, tenant)
	if err != nil {
		account.log(r)
		return h.withoutToken(w, tenant.failed(err))
	}
	exposeKept(r, lease.Kept())
	tenant.expose(r)
	p := &proxied{Context: r.Context(), lease: lease, tenant: tenant, returns: returns}
	defer p.end()
	err = h.proxy(w, r, next, p)
	if p.second != nil {
		err = h.proxy(w, p.startOver(r, h.credential.status), next, p)
	}
	account.replayed = p.replayed
	account.log(r)
	return err
}

// deny answers a request that the proxy denies, and counts it.
func (h *Handler) deny(w http.ResponseWriter, p *problem, why status.Denied) {
	h.credential.status.Denied(why)
	p.write(w, h.Credential)
}

func (h *Handler) proxy(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *proxied) error {
	if !h.Forwarded {
		h.notice(p, r)
	}
	p.request = r.WithContext(p)
	return h.Handler.ServeHTTP(newDenialWriter(w, p, h.Credential), p.request, next)
}

// withoutToken answers a request that got no token. It does not return an error, because the application must always be able
// to tell this answer from the API's.
func (h *Handler) withoutToken(w http.ResponseWriter, err error) error {
	if clientGone(err) {
		w.WriteHeader(statusClientGone)
		return nil
	}
	if c := h.logger.Check(zap.DebugLevel, "request without token"); c != nil {
		c.Write(zap.String("credential", h.Credential), zap.Error(err))
	}
	h.credential.problemOf(err).write(w, h.Credential)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

// notice remembers what the application sent in the fields that reverse_proxy adds.
func (h *Handler) notice(p *proxied, r *http.Request) {
	p.received, p.via, p.trusted = r.Header, r.Header["Via"], h.trusts(r)
	if p.returns {
		p.via = append(slices.Clip(p.via), visit(r))
	}
}

// trusts reports whether a request comes from one of trusted_proxies, as reverse_proxy decides it.
func (h *Handler) trusts(r *http.Request) bool {
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
		return true
	}
	if len(h.trusted) == 0 {
		return false
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	host, _, _ = strings.Cut(host, "%")
	addr, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(h.trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}
