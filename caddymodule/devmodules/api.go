package devmodules

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
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

	// The DPoP proofs that requests must have (RFC 9449). With optional, the API also accepts bearer tokens. Default: none.
	DPoP devserver.DPoP `json:"dpop,omitzero"`

	// The claims, a JSON object, that a token must have been issued for. The API rejects any other token with
	// insufficient_claims and these claims, as APIs of Microsoft Entra do that evaluate access continuously. The token endpoint
	// needs accept_claims. Default: none.
	ClaimsChallenge json.RawMessage `json:"claims_challenge,omitempty"`

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
	a.api = a.newAPI()
	ctx.Logger().Warn("serving a development API; not for production")
	return nil
}

// Validate implements caddy.Validator.
func (a *API) Validate() error {
	return a.newAPI().Validate()
}

func (a *API) newAPI() *devserver.API {
	return &devserver.API{
		Header: a.Header, Prefix: a.Prefix, Reject: a.Reject, DPoP: a.DPoP, ClaimsChallenge: a.ClaimsChallenge,
	}
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
//	    dpop off|optional|required [nonce]
//	    dpop_algs <algorithm...>
//	    claims_challenge <json>|<name...> # JSON in backticks; a name stands for an essential claim of the token
//	}
func (a *API) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() {
		return d.Err("dev_api takes no value")
	}
	return unmarshalBlock(d, a, a.unmarshalOption)
}

// ofAPI are the options of dev_api.
var ofAPI = option.NewPlace("a development server", `header reject dpop dpop_algs claims_challenge`)

func (a *API) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "header":
		return a.unmarshalHeader(d)
	case "reject":
		return unmarshalNumber(d, &a.Reject)
	case "dpop":
		return unmarshalDPoP(d, &a.DPoP)
	case "dpop_algs":
		return unmarshalDPoPAlgs(d, &a.DPoP)
	case "claims_challenge":
		return a.unmarshalClaimsChallenge(d)
	default:
		return option.Unrecognized(d, ofAPI)
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

// unmarshalClaimsChallenge parses JSON, or names of claims that the token must have.
func (a *API) unmarshalClaimsChallenge(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("claims_challenge takes JSON in backticks, or one or more names of claims")
	}
	if len(args) == 1 && strings.HasPrefix(args[0], "{") {
		a.ClaimsChallenge = json.RawMessage(args[0])
		return nil
	}
	claims := make(map[string]any)
	for _, name := range args {
		if !claimName.MatchString(name) {
			return d.Err("claims_challenge: wrong value: it takes one JSON object in backticks, or names of claims")
		}
		claims[name] = map[string]bool{"essential": true}
	}
	a.ClaimsChallenge = caddyconfig.JSON(map[string]any{"access_token": claims}, nil)
	return nil
}

var claimName = regexp.MustCompile(`^[A-Za-z0-9_.:/-]+$`)

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
