package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler is reverse_proxy with a credential: it gets a valid token before it proxies a request, and puts it on the
// request at the last moment, where no other handler, log or placeholder can see it. All of reverse_proxy's
// configuration applies; one default differs: 256 idle connections to an upstream are kept, not 32.
//
// If there is no token, the application gets an application/problem+json answer with a Proxy-Status field, and the
// request does not reach the upstream.
type Handler struct {
	// Credential is the name of the credential, as in the token_proxy app. Required.
	Credential string `json:"credential,omitempty"`

	// ClientAuthorization says what to do with credentials that the application sends, in Authorization or in the
	// credential's own header field. "replace": remove them. "keep": if there are any, send the request on with
	// them, without a token. "reject": answer 400. Default: replace.
	ClientAuthorization string `json:"client_authorization,omitempty"`

	// OnUnauthorized says what to do when the API answers 401. "replay": get another token, and if there is one and
	// the body can be sent again, send the request once more. "pass": give the answer to the application. Either
	// way, the refused token is replaced. Default: replay.
	OnUnauthorized string `json:"on_unauthorized,omitempty"`

	// ReplayBuffer is how many bytes of a request body are kept for a replay. A body of which more has been sent
	// cannot be replayed. Default: 65536 (64 KiB).
	ReplayBuffer *int64 `json:"replay_buffer,omitempty"`

	// Clients says who may use this handler: "loopback", which includes unix sockets; IP addresses and CIDR ranges;
	// "private_ranges", which means the ranges that it means elsewhere in Caddy; "any". The connection is judged, never
	// a header field. Behind a listener wrapper like proxy_protocol, an address is the one that the wrapper shows, except
	// that a loopback address or a unix socket counts only if the socket below the wrapper is local too. All others get
	// 403. Default: loopback.
	Clients []string `json:"clients,omitempty"`

	// CrossSite says what to do with requests that a browser makes for a page of another site. "deny": answer 403, before
	// a token is fetched. "allow": send them on, with the token. The browser's fields Sec-Fetch-Site and Origin tell. A
	// request that has neither of them is admitted: it is the application's. Default: deny.
	CrossSite string `json:"cross_site,omitempty"`

	// TokenStub are the paths at which an SDK that fetches its own token gets a worthless one, in the words of the
	// provider's token endpoint; "default" is that endpoint's own path. The id and the secret that it sends are
	// ignored. Default: none.
	TokenStub []string `json:"token_stub,omitempty"`

	reverseproxy.Handler

	stub       *tokenStub
	credential *client
	clients    clientList
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

// The values of Handler.ClientAuthorization and Handler.OnUnauthorized.
const (
	authorizationReplace = "replace"
	authorizationKeep    = "keep"
	authorizationReject  = "reject"

	unauthorizedReplay = "replay"
	unauthorizedPass   = "pass"
)

// Provision finds the credential, checks where its token would go, and puts the injector around the transport.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	rememberConnections(ctx)
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
	if err := h.provisionTransport(ctx); err != nil {
		return fmt.Errorf("credential %q: %w", h.Credential, err)
	}
	if err := h.provisionDynamicUpstreams(ctx); err != nil {
		return fmt.Errorf("credential %q: %w", h.Credential, err)
	}
	if err := h.Handler.Provision(ctx); err != nil {
		return err
	}
	h.proxying = true
	return nil
}

func (h *Handler) provisionOptions() error {
	switch h.ClientAuthorization {
	case "":
		h.ClientAuthorization = authorizationReplace
	case authorizationReplace, authorizationKeep, authorizationReject:
	default:
		return errors.New("client_authorization: unknown value: it is replace, keep or reject")
	}
	switch h.OnUnauthorized {
	case "":
		h.OnUnauthorized = unauthorizedReplay
	case unauthorizedReplay, unauthorizedPass:
	default:
		return errors.New("on_unauthorized: unknown value: it is replay or pass")
	}
	switch h.CrossSite {
	case "":
		h.CrossSite = crossSiteDeny
	case crossSiteDeny, crossSiteAllow:
	default:
		return errors.New("cross_site: unknown value: it is deny or allow")
	}
	if h.ReplayBuffer == nil {
		size := int64(defaultReplayBuffer)
		h.ReplayBuffer = &size
	}
	if *h.ReplayBuffer < 0 || *h.ReplayBuffer > maxReplayBuffer {
		return fmt.Errorf("replay_buffer: it must be between 0 and %d bytes", maxReplayBuffer)
	}
	var err error
	if h.clients, err = parseClients(h.Clients); err != nil {
		return fmt.Errorf("clients: %w", err)
	}
	if h.stub, err = newTokenStub(h.TokenStub, h.credential.provider, h.ClientAuthorization); err != nil {
		return fmt.Errorf("token_stub: %w", err)
	}
	return nil
}

// Cleanup releases what reverse_proxy holds, and no more: Caddy calls Cleanup after a failed Provision too, and to
// release an upstream that was not acquired would take it from the running configuration.
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

// ServeHTTP gets a token, then proxies.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !h.clients.admit(r) {
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
	if h.credential.header.sentBy(r) {
		switch h.ClientAuthorization {
		case authorizationKeep:
			return h.proxy(w, r, next, &proxied{Context: r.Context(), keeps: true})
		case authorizationReject:
			h.deny(w, &problemAuthorization, status.DeniedAuthorization)
			return nil
		}
		h.credential.header.deleteFrom(r.Header)
	}
	h.credential.header.keepFromTrailer(r)

	lease, account, err := h.credential.serve(r)
	if err != nil {
		account.log(r)
		return h.withoutToken(w, err)
	}
	exposeKept(r, lease.Kept())
	p := &proxied{Context: r.Context(), lease: lease}
	defer p.end()
	err = h.proxy(w, r, next, p)
	account.replayed = p.replayed
	account.log(r)
	return err
}

// deny answers a request that is not sent on, and counts it.
func (h *Handler) deny(w http.ResponseWriter, p *problem, why status.Denied) {
	h.credential.status.Denied(why)
	p.write(w, h.Credential)
}

func (h *Handler) proxy(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, p *proxied) error {
	return h.Handler.ServeHTTP(newRefusalWriter(w, p, h.Credential), r.WithContext(p), next)
}

// withoutToken answers a request for which there is no token. It answers itself, rather than return an error,
// because the application must always be able to tell this answer from the API's.
func (h *Handler) withoutToken(w http.ResponseWriter, err error) error {
	if clientGone(err) {
		w.WriteHeader(statusClientGone)
		return nil
	}
	if c := h.logger.Check(zap.DebugLevel, "request without token"); c != nil {
		c.Write(zap.String("credential", h.Credential), zap.Error(err))
	}
	problemOf(err).write(w, h.Credential)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
