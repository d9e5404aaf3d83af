package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Credential is one OAuth 2.0 client registration: who asks, which token endpoint is asked, where the token may go,
// and how time is treated.
type Credential struct {
	// Provider is the kind of token endpoint. Required.
	ProviderRaw json.RawMessage `json:"provider,omitempty" caddy:"namespace=token_proxy.providers inline_key=name"`

	// ClientID is the client identifier: a literal, or one whole-value placeholder {env.NAME} or {file./path}.
	// Required.
	ClientID string `json:"client_id,omitempty"`

	// ClientSecret is the client secret: one whole-value placeholder {env.NAME} or {file./path}, or a literal, which
	// gets a warning. A file is read again for each token request. Required if the provider needs it, an error if
	// it does not.
	ClientSecret option.Source `json:"client_secret,omitempty"`

	// APIHosts is where the token may be sent to: `api.example.com`, `api.example.com:8443`, `*.example.com` for all
	// hosts below example.com, an IP address, a range of addresses (`10.0.0.0/8`, without a port), or a unix socket
	// (`unix//run/api.sock`). The name in `dynamic a` or `dynamic srv` counts as a host, except where TLS proves another
	// one. Required unless every upstream of the handler is static. Default: the hosts of those upstreams.
	APIHosts []string `json:"api_hosts,omitempty"`

	// AllowPlaintext permits http:// beyond loopback, for the token endpoint and for the upstreams. Default: false.
	AllowPlaintext bool `json:"allow_plaintext,omitempty"`

	// RefreshMargin is how long before its expiry a token is refreshed, at most half of its lifetime.
	// Default: the smaller of 5 minutes and 20 % of the lifetime.
	RefreshMargin caddy.Duration `json:"refresh_margin,omitempty"`

	// FetchTimeout bounds a token request, from connecting to the last byte of the answer. Default: 10s.
	FetchTimeout caddy.Duration `json:"fetch_timeout,omitempty"`

	// MaxWait bounds how long one request waits for a token. Default: 15s.
	MaxWait caddy.Duration `json:"max_wait,omitempty"`

	// DefaultLifetime is the lifetime of tokens whose answer names none. Default: 1h.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// Header is where the token goes. Default: `Authorization: Bearer <token>`.
	Header *TokenHeader `json:"header,omitempty"`

	// Transport is how token requests travel. Default: to the URL's host, trusting the system's authorities, through
	// the proxy of the environment if there is one.
	Transport *TokenTransport `json:"transport,omitempty"`

	// Prefetch gets a token when the configuration starts, and keeps one ready even if no request comes. Of many
	// credentials, 4 at a time are fetched from one token endpoint; a request that needs a token does not wait for that.
	// Default: false: the first request waits for the token.
	Prefetch bool `json:"prefetch,omitempty"`
}

func (c *Credential) checkDurations() error {
	for option, d := range map[string]caddy.Duration{
		"refresh_margin":   c.RefreshMargin,
		"fetch_timeout":    c.FetchTimeout,
		"max_wait":         c.MaxWait,
		"default_lifetime": c.DefaultLifetime,
	} {
		if d < 0 {
			return fmt.Errorf("%s: a duration must be positive", option)
		}
	}
	return nil
}

// policy is how the credential's source treats time.
func (c *Credential) policy() token.Policy {
	return token.Policy{
		RefreshMargin:   time.Duration(c.RefreshMargin),
		FetchTimeout:    time.Duration(c.FetchTimeout),
		MaxWait:         time.Duration(c.MaxWait),
		DefaultLifetime: time.Duration(c.DefaultLifetime),
		Prefetch:        c.Prefetch,
	}
}

// validCredentialName keeps names usable in URLs, metrics and logs.
func validCredentialName(name string) bool {
	return strings.Trim(name, ".") != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.") == ""
}
