package caddymodule

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func init() {
	caddy.RegisterModule(Ready{})
	httpcaddyfile.RegisterHandlerDirective("token_proxy_ready", parseReady)
	httpcaddyfile.RegisterDirectiveOrder("token_proxy_ready", httpcaddyfile.Before, "respond") // and thereby before token_proxy
}

// Ready answers readiness probes. It answers 200 while every credential has a valid token, whatever the token endpoint does,
// and 503 otherwise.
//
// The body names the credentials and gives the reasons only to clients on loopback or a unix socket, because a reason can
// name a secret's file or an error code. All other clients, such as a kubelet, get the status and the number of credentials
// that are not ready, and the kind of the first reason in constant words. The address of the connection decides, never a header
// field.
//
// A probe fetches a missing token in the background, and keeps credentials from falling asleep. So readiness needs neither a
// first request nor prefetch.
type Ready struct {
	// Credentials are the names of the credentials that must have a token. Default: all.
	Credentials []string `json:"credentials,omitempty"`

	checked []*client
}

// CaddyModule returns the Caddy module information.
func (Ready) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.token_proxy_ready",
		New: func() caddy.Module { return new(Ready) },
	}
}

// Provision finds the credentials.
func (h *Ready) Provision(ctx caddy.Context) error {
	loaded, err := ctx.AppIfConfigured(appName)
	if err != nil {
		return fmt.Errorf("the app %s, which defines the credentials: %w", appName, err)
	}
	peer.RememberConnections(ctx)
	app := loaded.(*App)
	names := h.Credentials
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(app.clients))
	}
	for _, name := range names {
		c, err := app.client(name)
		if err != nil {
			return err
		}
		h.checked = append(h.checked, c)
	}
	return nil
}

// readiness is the answer for one credential.
type readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// readinessDetails is the answer for clients on the same machine.
type readinessDetails struct {
	Ready       bool                 `json:"ready"`
	Reason      string               `json:"reason,omitempty"` // of the first credential that is not ready
	Credentials map[string]readiness `json:"credentials"`
}

// readinessCounts is the answer for all other clients.
type readinessCounts struct {
	Ready       bool   `json:"ready"`
	Reason      string `json:"reason,omitempty"` // in constant words, which name nothing
	Credentials int    `json:"credentials"`
	NotReady    int    `json:"not_ready"`
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Ready) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	details := readinessDetails{Credentials: make(map[string]readiness, len(h.checked))}
	counts := readinessCounts{Credentials: len(h.checked)}
	for _, c := range h.checked {
		ready, err := c.ready()
		one := readinessOf(ready, err)
		details.Credentials[c.name] = one
		if one.Ready {
			continue
		}
		if counts.NotReady++; counts.NotReady == 1 {
			details.Reason, counts.Reason = c.name+": "+one.Reason, outlineOf(err)
		}
	}
	status := http.StatusServiceUnavailable
	if counts.NotReady == 0 {
		status = http.StatusOK
		counts.Ready, details.Ready = true, true
	}
	if peer.IsLoopback(r) {
		return writeJSON(w, status, details)
	}
	return writeJSON(w, status, counts)
}

func readinessOf(ready bool, err *token.Error) readiness {
	switch {
	case ready:
		return readiness{Ready: true}
	case err != nil:
		return readiness{Reason: err.Error()}
	default:
		return readiness{Reason: "a token is being fetched"}
	}
}

// outlineOf returns what may be known of a failure beyond this machine.
func outlineOf(err *token.Error) string {
	switch {
	case err == nil:
		return "a token is being fetched"
	case err.Kind == token.Refused && err.Status == 0:
		return "a secret or the configuration cannot be used"
	case err.Kind == token.Refused:
		return "a token endpoint refuses a credential"
	case err.Kind == token.Unreadable:
		return "a token endpoint answers without a usable token"
	default:
		return "a token endpoint is unavailable"
	}
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	token_proxy_ready [<matcher>] [<credentials...>]
func (h *Ready) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	h.Credentials = d.RemainingArgs()
	if d.NextBlock(0) {
		return d.Err("token_proxy_ready takes no block")
	}
	return nil
}

func parseReady(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	ready := new(Ready)
	if err := ready.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	h.Reset()
	h.Next() // back to the line that names the credentials
	for _, name := range ready.Credentials {
		if err := checkCredential(h, name); err != nil {
			return nil, err
		}
	}
	return ready, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Ready)(nil)
	_ caddyhttp.MiddlewareHandler = (*Ready)(nil)
	_ caddyfile.Unmarshaler       = (*Ready)(nil)
)
