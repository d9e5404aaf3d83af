package devmodules

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

func init() {
	caddy.RegisterModule(new(TokenEndpoint))
	caddy.RegisterModule(new(API))
	httpcaddyfile.RegisterHandlerDirective("dev_token_endpoint", parseTokenEndpoint)
	httpcaddyfile.RegisterHandlerDirective("dev_api", parseAPI)
	httpcaddyfile.RegisterDirectiveOrder("dev_token_endpoint", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("dev_api", httpcaddyfile.Before, "reverse_proxy")
}

// TokenEndpoint is a token endpoint for development, which behaves like Optoro's or Elastic Path's, or verifies
// requests against a description, and can be told to misbehave, to rehearse an outage. It answers loopback and unix sockets only. The tokens that it issues stay good
// across reloads of the configuration, so that a reload can change the fault alone.
type TokenEndpoint struct {
	// The service to behave like: optoro (POST /oauth/token) or elastic_path (POST /oauth/access_token); or oauth2, which
	// takes at any path the requests that are described here, and no others. Required.
	Dialect string `json:"dialect,omitempty"`

	// The client id to accept. Default: dev-client.
	ClientID string `json:"client_id,omitempty"`

	// The client secret to accept. It is no secret: never use a real one. Default: dev-secret.
	ClientSecret string `json:"client_secret,omitempty"`

	// What a further request of the client gets: default (another token), reuse (the same token while it lives) or
	// revoke_previous (another token, and the earlier ones end). Default: default.
	Mode string `json:"mode,omitempty"`

	// How long a token lives. Default: 25h for optoro, 1h for elastic_path and oauth2.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Put the answer into {"data": …} (elastic_path only). Default: false.
	Wrapped bool `json:"wrapped,omitempty"`

	// The one content type to accept; anything else gets 415 (optoro only). form or empty. Default: any that Doorkeeper
	// reads.
	EnforceContentType string `json:"enforce_content_type,omitempty"`

	// What to demand and to answer (oauth2 only). Default: RFC 6749 with client_secret_basic.
	devserver.Demands

	// Answer with this status, 200 to 599. Default: none.
	Status int `json:"status,omitempty"`

	// Answer with this OAuth error code, and with status 401 for invalid_client or else 400. Default: none.
	Error string `json:"error,omitempty"`

	// The header Retry-After beside status or error: seconds or an HTTP date. Default: none.
	RetryAfter string `json:"retry_after,omitempty"`

	// Wait this long before anything else. Default: 0.
	Latency caddy.Duration `json:"latency,omitempty"`

	// Give no answer until the client goes away. Default: false.
	Hang bool `json:"hang,omitempty"`

	// Close the connection without an answer. Default: false.
	Reset bool `json:"reset,omitempty"`

	// Answer with garbage: html, empty, not_json, redirect, truncated, no_token, huge, bomb, drip, control_chars or
	// wrong_type. Default: none.
	Garbage string `json:"garbage,omitempty"`

	// The target of the garbage redirect. Default: none.
	RedirectTo string `json:"redirect_to,omitempty"`

	// JSON to answer as expires_in (in oauth2's answer: for $expires_in) instead of the truth, or missing to leave it
	// out. Default: the truth.
	ExpiresIn string `json:"expires_in,omitempty"`

	// How many calls the fault hits, counted from the load of the configuration. Default: 0, all of them.
	Count int `json:"count,omitempty"`

	endpoint *devserver.TokenEndpoint
}

// CaddyModule returns the Caddy module information.
func (*TokenEndpoint) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.dev_token_endpoint",
		New: func() caddy.Module { return new(TokenEndpoint) },
	}
}

// Provision implements caddy.Provisioner.
func (de *TokenEndpoint) Provision(ctx caddy.Context) error {
	de.endpoint = de.newEndpoint()
	if err := readDevFiles(&de.endpoint.Demands); err != nil {
		return err
	}
	de.endpoint.SetFault(de.fault())
	ctx.Logger().Warn("serving a development token endpoint; not for production")
	return nil
}

// Validate implements caddy.Validator.
func (de *TokenEndpoint) Validate() error {
	if de.EnforceContentType != "" && de.EnforceContentType != "form" {
		return fmt.Errorf("enforce_content_type %q: must be form", de.EnforceContentType)
	}
	if err := de.newEndpoint().Validate(); err != nil {
		return err
	}
	if err := de.fault().Validate(); err != nil {
		return err
	}
	return de.validateKeys()
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (de *TokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	de.endpoint.ServeHTTP(w, r)
	return nil
}

func (de *TokenEndpoint) newEndpoint() *devserver.TokenEndpoint {
	return &devserver.TokenEndpoint{
		Dialect:      devserver.Dialect(de.Dialect),
		ClientID:     de.ClientID,
		ClientSecret: de.ClientSecret,
		Mode:         devserver.Mode(de.Mode),
		Lifetime:     time.Duration(de.Lifetime),
		Wrapped:      de.Wrapped,
		EnforceForm:  de.EnforceContentType == "form",
		Demands:      de.Demands,
	}
}

func (de *TokenEndpoint) fault() devserver.Fault {
	return devserver.Fault{
		Status:     de.Status,
		Error:      de.Error,
		RetryAfter: de.RetryAfter,
		Latency:    time.Duration(de.Latency),
		Hang:       de.Hang,
		Reset:      de.Reset,
		Garbage:    devserver.Garbage(de.Garbage),
		RedirectTo: de.RedirectTo,
		ExpiresIn:  de.ExpiresIn,
		Count:      de.Count,
	}
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	dev_token_endpoint [<matcher>] optoro|elastic_path|oauth2 {
//	    client_id            <id>
//	    client_secret        <secret>
//	    mode                 default|reuse|revoke_previous
//	    lifetime             <duration>
//	    wrapped                             # elastic_path only
//	    enforce_content_type form           # optoro only
//
//	    # oauth2 only: what is demanded, see devOAuth2Options
//
//	    # the fault: one of these, or a latency alone
//	    status               <code>
//	    error                <code>         # may go with a status
//	    hang
//	    reset
//	    garbage              html|empty|not_json|truncated|no_token|huge|bomb|drip|control_chars|wrong_type
//	    garbage              redirect <url>
//	    expires_in           <json>|missing # a JSON string goes into backticks: `"3600"`
//
//	    # more about the fault
//	    retry_after          <seconds>|<http date in quotes>
//	    latency              <duration>
//	    count                <n>
//	}
func (de *TokenEndpoint) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if !d.AllArgs(&de.Dialect) {
		return d.Err("dev_token_endpoint takes the name of a provider, and nothing else on its line")
	}
	targets := map[string]any{
		"client_id":            &de.ClientID,
		"client_secret":        &de.ClientSecret,
		"mode":                 &de.Mode,
		"lifetime":             &de.Lifetime,
		"wrapped":              &de.Wrapped,
		"enforce_content_type": &de.EnforceContentType,
		"status":               &de.Status,
		"error":                &de.Error,
		"retry_after":          &de.RetryAfter,
		"latency":              &de.Latency,
		"hang":                 &de.Hang,
		"reset":                &de.Reset,
		"garbage": func() bool {
			return d.Args(&de.Garbage) && de.Garbage != "" && (d.CountRemainingArgs() == 0 || d.AllArgs(&de.RedirectTo))
		},
		"expires_in": &de.ExpiresIn,
		"count":      &de.Count,
	}
	maps.Copy(targets, devOAuth2Options(d, &de.Demands))
	return devOptions(d, de, targets)
}

// devOptions reads a block of options into their targets and has the module validate the whole. A *bool takes no
// argument; *string, *int and *caddy.Duration take one that is neither empty nor zero; a func reads its own and reports
// whether their number was right. No option may be repeated but a repeatable one.
func devOptions(d *caddyfile.Dispenser, module caddy.Validator, targets map[string]any) error {
	seen := make(option.Set)
	for d.NextBlock(0) {
		name := d.Val()
		target, known := targets[name]
		if !known {
			return option.Unrecognized(d, "a development server")
		}
		if _, ok := target.(repeatable); !ok {
			if err := seen.Add(d); err != nil {
				return err
			}
		}
		if err := devOption(d, name, target); err != nil {
			return err
		}
	}
	if err := module.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// repeatable is a func of an option that may stand more than once.
type repeatable func() bool

func devOption(d *caddyfile.Dispenser, name string, target any) error {
	switch t := target.(type) {
	case *bool:
		*t = true
		return option.NoValue(d)
	case func() bool:
		return devArgs(d, name, t)
	case repeatable:
		return devArgs(d, name, t)
	}
	var arg string
	if err := option.String(d, &arg); err != nil {
		return err
	}
	ok := true
	switch t := target.(type) {
	case *string:
		*t = arg
	case *int:
		n, err := strconv.Atoi(arg)
		*t, ok = n, err == nil && n > 0
	case *caddy.Duration:
		v, err := caddy.ParseDuration(arg)
		*t, ok = caddy.Duration(v), err == nil && v > 0
	}
	if !ok {
		return d.Errf("%s: wrong value", name)
	}
	return nil
}

func devArgs(d *caddyfile.Dispenser, name string, read func() bool) error {
	if !read() {
		return d.Errf("%s: wrong number of values", name)
	}
	return nil
}

func parseTokenEndpoint(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	de := new(TokenEndpoint)
	return de, de.UnmarshalCaddyfile(h.Dispenser)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*TokenEndpoint)(nil)
	_ caddy.Validator             = (*TokenEndpoint)(nil)
	_ caddyhttp.MiddlewareHandler = (*TokenEndpoint)(nil)
	_ caddyfile.Unmarshaler       = (*TokenEndpoint)(nil)

	_ caddy.Provisioner           = (*API)(nil)
	_ caddy.Validator             = (*API)(nil)
	_ caddyhttp.MiddlewareHandler = (*API)(nil)
	_ caddyfile.Unmarshaler       = (*API)(nil)
)
