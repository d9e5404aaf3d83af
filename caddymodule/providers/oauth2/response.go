package oauth2

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// Response sets where the answer of a token endpoint has which field. A path consists of member names and array indexes
// joined by dots, such as data.access_token or errors.0.code. For names with dots, it is a JSON Pointer, such as
// /data/access.token (RFC 6901). The path header:X-Subject-Token leads to a header field, and the path "$" to the whole body.
type Response struct {
	// Token contains the paths of the token, in the order of preference. Default: access_token.
	Token []string `json:"token,omitempty"`

	// TokenType contains the token types that the provider accepts, in any case, or only "any" for every type. An answer
	// without a type is accepted as well. Default: Bearer, BearerToken, and the descriptions that eBay sends.
	TokenType []string `json:"token_type,omitempty"`

	// ExpiresIn is the path of the lifetime, with the unit "s", "ms", "min" or "h". Default: expires_in, in s.
	ExpiresIn *TimeField `json:"expires_in,omitempty"`

	// ExpiresAt is the path of the time of expiry. The unit is "s" or "ms" since the Unix epoch, or "rfc3339" for text. The
	// provider uses it if the answer has no lifetime at ExpiresIn. It takes precedence over the default of ExpiresIn.
	// Default: none.
	ExpiresAt *TimeField `json:"expires_at,omitempty"`

	// RefreshIn is the path of the seconds after which the server advises a refresh. Default: refresh_in.
	RefreshIn string `json:"refresh_in,omitempty"`

	// Default is the lifetime of a token without a lifetime in the answer or, as a JWT, in itself. Default: the credential's
	// default_lifetime.
	Default caddy.Duration `json:"default,omitempty"`

	// Keep maps names to the paths of further values that requests need. A request has such a value as the placeholder
	// {http.token_proxy.<name>}. If it is a URL, {http.token_proxy.<name>.hostport} is its host and port. Default: none.
	Keep map[string]string `json:"keep,omitempty"`

	// Error contains the paths of the error code, in the order of preference. Default: error, errors.0.code, errors.code,
	// response.errors.0.code, errorcode.
	Error []string `json:"error,omitempty"`

	// Retry contains error codes and HTTP statuses of failures that may pass. The temporary codes and statuses of RFC 6749
	// and HTTP, and all 5xx, count without being in the list. Default: none.
	Retry []string `json:"retry,omitempty"`

	// RetryText is a text in the body of failures that may pass. Default: none.
	RetryText string `json:"retry_text,omitempty"`

	// RetryAfter is the path of the seconds to wait after a failure. The header Retry-After takes precedence. Default: none.
	RetryAfter string `json:"retry_after,omitempty"`
}

// TimeField is a field of an answer that contains a time.
type TimeField struct {
	// Path is the path of the field. Required.
	Path string `json:"path"`

	// Unit is the unit of the time. It is "s" or "ms", for ExpiresIn also "min" or "h", and for ExpiresAt also "rfc3339".
	// Default: s.
	Unit string `json:"unit,omitempty"`
}

func (o *Provider) provisionLayout() error {
	r := o.Response
	if r == nil {
		r = new(Response)
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	o.layout = provider.Layout{
		Token:           orDefault(r.Token, "access_token"),
		Type:            r.standard("token_type"),
		Types:           r.TokenType,
		DPoP:            o.DPoP != "",
		ExpiresIn:       r.standard("expires_in"),
		RefreshIn:       r.standard("refresh_in"),
		Scope:           r.standard("scope"),
		AskedScope:      o.Scope,
		DefaultLifetime: time.Duration(r.Default),
		Keep:            r.Keep,
		Code:            orDefault(r.Error, r.standard("error", "errors.0.code", "errors.code", "response.errors.0.code", "errorcode")...),
		TransientText:   r.RetryText,
	}
	if r.ExpiresIn != nil {
		o.layout.ExpiresIn = []string{r.ExpiresIn.Path}
		o.layout.ExpiresInUnit = oauth.Unit(r.ExpiresIn.Unit)
	}
	if r.ExpiresAt != nil {
		o.layout.ExpiresAt = []string{r.ExpiresAt.Path}
		o.layout.ExpiresAtUnit = oauth.Unit(r.ExpiresAt.Unit)
		o.layout.ExpiresAtFirst = r.ExpiresIn == nil
	}
	if r.RefreshIn != "" {
		o.layout.RefreshIn = []string{r.RefreshIn}
	}
	if r.RetryAfter != "" {
		o.layout.RetryAfter = []string{r.RetryAfter}
	}
	for _, word := range r.Retry {
		if status, err := strconv.Atoi(word); err == nil {
			o.layout.TransientStatus = append(o.layout.TransientStatus, status)
		}
		o.layout.Transient = append(o.layout.Transient, word) // error codes can be numbers too
	}
	return nil
}

// standard returns the standard paths of a field, except those that an option uses for another field.
func (r *Response) standard(paths ...string) []string {
	used := slices.Clone(r.Token)
	for _, field := range []*TimeField{r.ExpiresIn, r.ExpiresAt} {
		if field != nil {
			used = append(used, field.Path)
		}
	}
	return slices.DeleteFunc(paths, func(path string) bool { return slices.Contains(used, path) })
}

func orDefault(paths []string, standard ...string) []string {
	if len(paths) > 0 {
		return paths
	}
	return standard
}

func (r *Response) check() error {
	if err := checkTypes(r.TokenType); err != nil {
		return fmt.Errorf("token_type: %w", err)
	}
	for name, values := range map[string][]string{"retry": r.Retry, "retry_text": {r.RetryText}} {
		if slices.ContainsFunc(values, option.LooksLikePlaceholder) {
			return fmt.Errorf("%s: %w", name, errPlaceholder)
		}
	}
	for name, paths := range map[string][]string{"token": r.Token, "error": r.Error} {
		for _, path := range paths {
			if err := checkPath(path); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for option, field := range map[string]*TimeField{"expires_in": r.ExpiresIn, "expires_at": r.ExpiresAt} {
		if field == nil {
			continue
		}
		if err := checkPath(field.Path); err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
		if err := checkUnit(option, field.Unit); err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
	}
	for option, path := range map[string]string{"refresh_in": r.RefreshIn, "retry_after": r.RetryAfter} {
		if path == "" {
			continue
		}
		if err := checkPath(path); err != nil {
			return fmt.Errorf("%s: %w", option, err)
		}
	}
	for name, path := range r.Keep {
		if !validKeptName(name) {
			return errors.New("keep: a name must consist of letters, digits and '_'")
		}
		if err := checkPath(path); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	if r.Default < 0 {
		return errors.New("default: the duration must be above zero")
	}
	return nil
}

// checkTypes returns an error for token types that cannot occur in an answer, or that AnyType makes superfluous.
func checkTypes(types []string) error {
	if slices.Contains(types, oauth.AnyType) && len(types) > 1 {
		return errors.New("any accepts every type, so it must be the only value")
	}
	for _, kind := range types {
		if kind == "" || !httpguts.ValidHeaderFieldValue(kind) || strings.TrimSpace(kind) != kind {
			return errors.New("a type must be text without white space around it")
		}
		if option.LooksLikePlaceholder(kind) {
			return errPlaceholder
		}
	}
	return nil
}

func checkPath(path string) error {
	if option.LooksLikePlaceholder(path) {
		return errPlaceholder
	}
	return oauth.CheckPath(path)
}

// errPlaceholder is the error for a placeholder in a value where the provider does not replace it.
var errPlaceholder = errors.New("the value cannot contain a placeholder")

func checkUnit(option, unit string) error {
	switch oauth.Unit(unit) {
	case "", oauth.Seconds, oauth.Milliseconds:
		return nil
	case oauth.Minutes, oauth.Hours:
		if option == "expires_in" {
			return nil
		}
		return errors.New("only expires_in can have the units min and h")
	case oauth.RFC3339:
		if option == "expires_at" {
			return nil
		}
		return errors.New("only expires_at can have the unit rfc3339")
	default:
		return errors.New("unknown unit, must be s or ms, for expires_in also min or h, and for expires_at also rfc3339")
	}
}

func validKeptName(name string) bool {
	return name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}
