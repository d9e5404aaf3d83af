package devmodules

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// API is an API for development. It demands a live token of a development token endpoint of this process, and
// shows what arrived with it, without the token. It answers loopback and unix sockets only.
type API struct {
	// The header field that must carry the token. Default: Authorization.
	Header string `json:"header,omitempty"`

	// What stands before the token in it; may be empty. Default: "Bearer ".
	Prefix *string `json:"prefix,omitempty"`

	// The status, 400 to 599, to answer even live tokens with. Default: none.
	Reject int `json:"reject,omitempty"`

	api *devserver.API
}

// CaddyModule returns the Caddy module information.
func (*API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.dev_api",
		New: func() caddy.Module { return new(API) },
	}
}

// Provision implements caddy.Provisioner.
func (de *API) Provision(ctx caddy.Context) error {
	de.api = &devserver.API{Header: de.Header, Prefix: de.Prefix, Reject: de.Reject}
	ctx.Logger().Warn("serving a development API; not for production")
	return nil
}

// Validate implements caddy.Validator.
func (de *API) Validate() error {
	if de.Reject != 0 && (de.Reject < 400 || de.Reject > 599) {
		return fmt.Errorf("reject %d: must be 400 to 599", de.Reject)
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (de *API) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	de.api.ServeHTTP(w, r)
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	dev_api [<matcher>] {
//	    header <name> [<prefix>] # a prefix with its space in quotes, or "" for the token alone
//	    reject <status>
//	}
func (de *API) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.Err("dev_api takes no value")
	}
	return devOptions(d, de, map[string]any{
		"header": func() bool {
			if !d.Args(&de.Header) || de.Header == "" {
				return false
			}
			if d.CountRemainingArgs() > 0 {
				de.Prefix = new(string)
				return d.AllArgs(de.Prefix)
			}
			return true
		},
		"reject": &de.Reject,
	})
}

func parseAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	de := new(API)
	return de, de.UnmarshalCaddyfile(h.Dispenser)
}
