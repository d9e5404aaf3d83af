package devmodules

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

func init() {
	caddy.RegisterModule(new(API))
	httpcaddyfile.RegisterHandlerDirective("dev_api", parseAPI)
}

// API is an API for development. It demands a live token of a development token endpoint in this process. Its answer
// describes the request, without the token. It accepts clients on loopback and unix sockets only.
type API struct {
	// The header field that must carry the token. Default: Authorization.
	Header string `json:"header,omitempty"`

	// What comes before the token in the header field. It may be empty. Default: "Bearer ".
	Prefix *string `json:"prefix,omitempty"`

	// The status, 400 to 599, to reject live tokens with. Default: none, the API accepts live tokens.
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
func (a *API) Provision(ctx caddy.Context) error {
	a.api = &devserver.API{Header: a.Header, Prefix: a.Prefix, Reject: a.Reject}
	ctx.Logger().Warn("serving a development API; not for production")
	return nil
}

// Validate implements caddy.Validator.
func (a *API) Validate() error {
	if a.Reject != 0 && (a.Reject < 400 || a.Reject > 599) {
		return fmt.Errorf("reject %d: must be 400 to 599", a.Reject)
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	a.api.ServeHTTP(w, r)
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	dev_api [<matcher>] {
//	    header <name> [<prefix>] # quote a prefix with a space; "" for the token alone
//	    reject <status>
//	}
func (a *API) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.Err("dev_api takes no value")
	}
	return unmarshalBlock(d, a, a.unmarshalOption)
}

func (a *API) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "header":
		return a.unmarshalHeader(d)
	case "reject":
		return unmarshalNumber(d, &a.Reject)
	default:
		return option.Unrecognized(d, "a development server")
	}
}

func (a *API) unmarshalHeader(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 || args[0] == "" {
		return d.Err("header: wrong number of values: it takes a name and at most one prefix")
	}
	a.Header = args[0]
	if len(args) == 2 {
		a.Prefix = &args[1]
	}
	return nil
}

func parseAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	a := new(API)
	return a, a.UnmarshalCaddyfile(h.Dispenser)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*API)(nil)
	_ caddy.Validator             = (*API)(nil)
	_ caddyhttp.MiddlewareHandler = (*API)(nil)
	_ caddyfile.Unmarshaler       = (*API)(nil)
)
