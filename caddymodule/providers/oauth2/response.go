package oauth2

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// Response says where a token endpoint's answer has what. A path is made of member names and array indexes joined
// by dots, such as data.access_token or errors.0.code; "$" is the whole body.
type Response struct {
	// Token holds the token: the first of these paths where there is one. Default: access_token.
	Token []string `json:"token,omitempty"`

	// ExpiresIn holds the lifetime, in "s" or "ms". Default: expires_in, in s.
	ExpiresIn *TimeField `json:"expires_in,omitempty"`

	// ExpiresAt holds the expiry, since the epoch in "s" or "ms", or as text in "rfc3339". It is read if there is no
	// lifetime. Default: none.
	ExpiresAt *TimeField `json:"expires_at,omitempty"`

	// RefreshIn holds the seconds after which the server advises to ask again. Default: refresh_in.
	RefreshIn string `json:"refresh_in,omitempty"`

	// Default is the lifetime of tokens whose answer names none, and that are no JWT with an expiry in it.
	// Default: the credential's default_lifetime.
	Default caddy.Duration `json:"default,omitempty"`

	// Keep names what else is of use to requests, by path. It stands in the placeholder {http.token_proxy.<name>} and,
	// if it is a URL, its host and port in {http.token_proxy.<name>.hostport}.
	Keep map[string]string `json:"keep,omitempty"`

	// Error holds the error code of a failure. Default: error, errors.0.code, errors.code, response.errors.0.code,
	// errorcode.
	Error []string `json:"error,omitempty"`

	// Retry lists error codes and statuses of failures that may pass. What RFC 6749 and HTTP call temporary, and every
	// 5xx, counts without being named.
	Retry []string `json:"retry,omitempty"`

	// RetryText is text in the body of failures that may pass.
	RetryText string `json:"retry_text,omitempty"`

	// RetryAfter holds the seconds to wait after a failure, if the header Retry-After does not say. Default: none.
	RetryAfter string `json:"retry_after,omitempty"`
}

// TimeField is the place of a time in an answer.
type TimeField struct {
	// Path is where it is.
	Path string `json:"path"`

	// Unit is "s", "ms", or "rfc3339". Default: s.
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
		Type:            []string{"token_type"},
		ExpiresIn:       []string{"expires_in"},
		RefreshIn:       []string{cmp.Or(r.RefreshIn, "refresh_in")},
		Scope:           []string{"scope"},
		AskedScope:      o.Scope,
		DefaultLifetime: time.Duration(r.Default),
		Keep:            r.Keep,
		Code:            orDefault(r.Error, "error", "errors.0.code", "errors.code", "response.errors.0.code", "errorcode"),
		TransientText:   r.RetryText,
	}
	if r.ExpiresIn != nil {
		o.layout.ExpiresIn = []string{r.ExpiresIn.Path}
		o.layout.ExpiresInUnit = oauth.Unit(r.ExpiresIn.Unit)
	}
	if r.ExpiresAt != nil {
		o.layout.ExpiresAt = []string{r.ExpiresAt.Path}
		o.layout.ExpiresAtUnit = oauth.Unit(r.ExpiresAt.Unit)
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

func orDefault(paths []string, standard ...string) []string {
	if len(paths) > 0 {
		return paths
	}
	return standard
}

func (r *Response) check() error {
	for option, paths := range map[string][]string{"token": r.Token, "error": r.Error} {
		for _, path := range paths {
			if err := checkPath(path); err != nil {
				return fmt.Errorf("%s: %w", option, err)
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
			return errors.New("keep: a name is made of letters, digits and '_'")
		}
		if err := checkPath(path); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	if r.Default < 0 {
		return errors.New("default: a duration must be positive")
	}
	return nil
}

func checkPath(path string) error {
	if slices.Contains(strings.Split(path, "."), "") {
		return errors.New("this is not a path, such as access_token, data.token or errors.0.code")
	}
	return nil
}

func checkUnit(option, unit string) error {
	switch oauth.Unit(unit) {
	case "", oauth.Seconds, oauth.Milliseconds:
		return nil
	case oauth.RFC3339:
		if option == "expires_at" {
			return nil
		}
		return errors.New("rfc3339 is for expires_at")
	default:
		return fmt.Errorf("unknown unit: it is %s, %s or, for expires_at, %s", oauth.Seconds, oauth.Milliseconds, oauth.RFC3339)
	}
}

func validKeptName(name string) bool {
	return name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}
