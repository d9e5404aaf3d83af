package devmodules

import (
	"fmt"
	"net/http"
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
	httpcaddyfile.RegisterHandlerDirective("dev_token_endpoint", parseTokenEndpoint)
}

// TokenEndpoint is a token endpoint for development. It behaves like that of Optoro or Elastic Path, or verifies
// requests against a description. It can misbehave, to rehearse an outage. It accepts clients on loopback and unix
// sockets only. Its tokens stay live across reloads of the configuration, so that a reload can change the fault alone.
type TokenEndpoint struct {
	// The service to behave like: optoro (POST /oauth/token), elastic_path (POST /oauth/access_token), or oauth2, which
	// accepts only the requests that are described here, at any path. Required.
	Dialect string `json:"dialect,omitempty"`

	// The client id to accept. Default: dev-client.
	ClientID string `json:"client_id,omitempty"`

	// The client secret to accept. It is not kept secret, so do not use a real one. Default: dev-secret.
	ClientSecret string `json:"client_secret,omitempty"`

	// The answer to a further request of the client: default (a new token), reuse (the same token while it is live) or
	// revoke_previous (a new token, and the earlier ones are revoked). Default: default.
	Mode string `json:"mode,omitempty"`

	// How long a token lives. Default: 25h for optoro, 1h for elastic_path and oauth2.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// Put the answer into {"data": …} (elastic_path only). Default: false.
	Wrapped bool `json:"wrapped,omitempty"`

	// The only content type to accept, which can only be form (optoro only). Any other content type gets 415. Default:
	// any content type that Doorkeeper reads.
	EnforceContentType string `json:"enforce_content_type,omitempty"`

	// The requests to accept, and their answers (oauth2 only). Default: RFC 6749 with client_secret_basic.
	devserver.Demands

	// Answer with this status, 200 to 599. Default: none.
	Status int `json:"status,omitempty"`

	// Answer with this OAuth error code, and with status 401 for invalid_client, or 400 for any other.
	// Default: none.
	Error string `json:"error,omitempty"`

	// The header Retry-After that goes with status or error, in seconds or as an HTTP date. Default: none.
	RetryAfter string `json:"retry_after,omitempty"`

	// Wait this long before anything else. Default: 0.
	Latency caddy.Duration `json:"latency,omitempty"`

	// Send no answer, and wait until the client closes the connection. Default: false.
	Hang bool `json:"hang,omitempty"`

	// Close the connection without an answer. Default: false.
	Reset bool `json:"reset,omitempty"`

	// Answer with garbage: html, empty, not_json, redirect, truncated, no_token, huge, bomb, drip, control_chars or
	// wrong_type. Default: none.
	Garbage string `json:"garbage,omitempty"`

	// The target of the garbage redirect, which requires it. Default: none.
	RedirectTo string `json:"redirect_to,omitempty"`

	// The JSON to send as expires_in, or missing to leave it out. With oauth2 it replaces $expires_in in the answer.
	// Default: the real value.
	ExpiresIn string `json:"expires_in,omitempty"`

	// How many calls the fault hits after the configuration is loaded. Default: 0, all calls.
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
func (e *TokenEndpoint) Provision(ctx caddy.Context) error {
	e.endpoint = e.newEndpoint()
	if err := readFiles(&e.endpoint.Demands); err != nil {
		return err
	}
	e.endpoint.SetFault(e.fault())
	ctx.Logger().Warn("serving a development token endpoint; not for production")
	return nil
}

// Validate implements caddy.Validator.
func (e *TokenEndpoint) Validate() error {
	if e.EnforceContentType != "" && e.EnforceContentType != "form" {
		return fmt.Errorf("enforce_content_type %q: must be form", e.EnforceContentType)
	}
	if err := e.newEndpoint().Validate(); err != nil {
		return err
	}
	if err := e.fault().Validate(); err != nil {
		return err
	}
	return e.validateKeys()
}

// validateKeys checks keys and certificates. It leaves out those in files if Provision has not read the files, which is
// so in the Caddyfile adapter.
func (e *TokenEndpoint) validateKeys() error {
	if e.endpoint != nil {
		return e.endpoint.ValidateKeys()
	}
	unread := e.newEndpoint()
	leaveOutFiles(&unread.Demands)
	return unread.ValidateKeys()
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (e *TokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	e.endpoint.ServeHTTP(w, r)
	return nil
}

func (e *TokenEndpoint) newEndpoint() *devserver.TokenEndpoint {
	return &devserver.TokenEndpoint{
		Dialect:      devserver.Dialect(e.Dialect),
		ClientID:     e.ClientID,
		ClientSecret: e.ClientSecret,
		Mode:         devserver.Mode(e.Mode),
		Lifetime:     time.Duration(e.Lifetime),
		Wrapped:      e.Wrapped,
		EnforceForm:  e.EnforceContentType == "form",
		Demands:      e.Demands,
	}
}

func (e *TokenEndpoint) fault() devserver.Fault {
	return devserver.Fault{
		Status:     e.Status,
		Error:      e.Error,
		RetryAfter: e.RetryAfter,
		Latency:    time.Duration(e.Latency),
		Hang:       e.Hang,
		Reset:      e.Reset,
		Garbage:    devserver.Garbage(e.Garbage),
		RedirectTo: e.RedirectTo,
		ExpiresIn:  e.ExpiresIn,
		Count:      e.Count,
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
//	    # oauth2 only: the options of unmarshalDemand
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
func (e *TokenEndpoint) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if !d.AllArgs(&e.Dialect) {
		return d.Err("dev_token_endpoint takes the name of a dialect, and nothing else on its line")
	}
	return unmarshalBlock(d, e, e.unmarshalOption, repeatableDemands...)
}

func (e *TokenEndpoint) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "client_id":
		return option.String(d, &e.ClientID)
	case "client_secret":
		return option.String(d, &e.ClientSecret)
	case "mode":
		return option.String(d, &e.Mode)
	case "lifetime":
		return option.Duration(d, &e.Lifetime)
	case "wrapped":
		return unmarshalFlag(d, &e.Wrapped)
	case "enforce_content_type":
		return option.String(d, &e.EnforceContentType)
	case "status", "error", "hang", "reset", "garbage", "expires_in", "retry_after", "latency", "count":
		return e.unmarshalFault(d)
	default:
		return unmarshalDemand(d, &e.Demands)
	}
}

func (e *TokenEndpoint) unmarshalFault(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "status":
		return unmarshalNumber(d, &e.Status)
	case "error":
		return option.String(d, &e.Error)
	case "hang":
		return unmarshalFlag(d, &e.Hang)
	case "reset":
		return unmarshalFlag(d, &e.Reset)
	case "garbage":
		return e.unmarshalGarbage(d)
	case "expires_in":
		return option.String(d, &e.ExpiresIn)
	case "retry_after":
		return option.String(d, &e.RetryAfter)
	case "latency":
		return option.Duration(d, &e.Latency)
	default:
		return unmarshalNumber(d, &e.Count)
	}
}

func (e *TokenEndpoint) unmarshalGarbage(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 || args[0] == "" {
		return d.Err("garbage: wrong number of values: it takes a kind, and a URL after redirect")
	}
	e.Garbage = args[0]
	if len(args) == 2 {
		e.RedirectTo = args[1]
	}
	return nil
}

func parseTokenEndpoint(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	e := new(TokenEndpoint)
	return e, e.UnmarshalCaddyfile(h.Dispenser)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*TokenEndpoint)(nil)
	_ caddy.Validator             = (*TokenEndpoint)(nil)
	_ caddyhttp.MiddlewareHandler = (*TokenEndpoint)(nil)
	_ caddyfile.Unmarshaler       = (*TokenEndpoint)(nil)
)
