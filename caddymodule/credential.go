package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Credential is the configuration of one OAuth 2.0 client registration. It names the client, the token endpoint, and the
// hosts that may receive the token.
type Credential struct {
	// Provider is the kind of token endpoint. Required.
	ProviderRaw json.RawMessage `json:"provider,omitempty" caddy:"namespace=token_proxy.providers inline_key=name"`

	// ClientID is the client identifier: a literal, or one whole-value placeholder {env.NAME} or {file./path}.
	// Required, unless Tenant is "basic".
	ClientID string `json:"client_id,omitempty"`

	// ClientSecret is the client secret, as one whole-value placeholder {env.NAME} or {file./path}. The app reads a file again
	// for each token request. A literal is possible but causes a warning. Required if the provider needs a secret, unless
	// Tenant is "basic". Otherwise it is an error. Default: none.
	ClientSecret option.Source `json:"client_secret,omitempty"`

	// APIHosts are the destinations that the token may go to: `api.example.com`, `api.example.com:8443`, `*.example.com` for
	// all hosts below example.com, an IP address, a range of addresses (`10.0.0.0/8`, without a port), or a unix socket
	// (`unix//run/api.sock`). The name in `dynamic a` or `dynamic srv` counts as a host, unless the upstream's certificate
	// must be for another name. Required with Tenant, and unless every upstream of the handler is static. Default: the hosts
	// of those upstreams.
	APIHosts []string `json:"api_hosts,omitempty"`

	// AllowPlaintext permits http:// beyond loopback for the token endpoint and for the upstreams. Default: false.
	AllowPlaintext bool `json:"allow_plaintext,omitempty"`

	// RefreshMargin is how long before its expiry the app refreshes a token, at most half of its lifetime.
	// Default: the smaller of 5 minutes and 20 % of the lifetime.
	RefreshMargin caddy.Duration `json:"refresh_margin,omitempty"`

	// FetchTimeout is the limit for a token request, from connecting to the last byte of the answer. Default: 10s.
	FetchTimeout caddy.Duration `json:"fetch_timeout,omitempty"`

	// MaxWait is the limit for the time that one request waits for a token. Default: 15s.
	MaxWait caddy.Duration `json:"max_wait,omitempty"`

	// DefaultLifetime is the lifetime of tokens whose answer sets none. Default: 1h.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// Header is the header field, cookie or query parameter that carries the token to the API. Default: `Authorization: Bearer <token>`.
	Header *TokenHeader `json:"header,omitempty"`

	// Transport sets how token requests travel. Default: directly or through the proxy of the environment, with the
	// certificate authorities of the system.
	Transport *TokenTransport `json:"transport,omitempty"`

	// Prefetch gets a token when the configuration starts, and keeps one ready even if no request comes. The app fetches
	// the tokens of 4 credentials at a time from one token endpoint. A request that needs a token does not wait for the
	// others. It is not possible with Tenant. Default: false, so that the first request waits for the token.
	Prefetch bool `json:"prefetch,omitempty"`

	// Share is false if replicas do not share the tokens of this credential, although the app has a Share. Default: true.
	Share *bool `json:"share,omitempty"`

	// Tenant makes the credential stand for many clients, which requests name. It needs APIHosts, and Prefetch is not possible
	// with it. Default: none, the credential is one client.
	Tenant *Tenant `json:"tenant,omitempty"`
}

// providerNamespace is the namespace of the providers.
const providerNamespace = "token_proxy.providers"

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

// shares reports whether replicas may share the tokens of this credential.
func (c *Credential) shares() bool { return c.Share == nil || *c.Share }

// policy returns the times that the credential's source keeps to.
func (c *Credential) policy() token.Policy {
	return token.Policy{
		RefreshMargin:   time.Duration(c.RefreshMargin),
		FetchTimeout:    time.Duration(c.FetchTimeout),
		MaxWait:         time.Duration(c.MaxWait),
		DefaultLifetime: time.Duration(c.DefaultLifetime),
		Prefetch:        c.Prefetch,
	}
}

// errCredentialName is the error for a name that validCredentialName does not accept.
var errCredentialName = errors.New("the name of a credential must consist of letters, digits, '_', '-' and '.', and not of dots alone")

// validCredentialName reports whether a name is usable in URLs, metrics and logs.
func validCredentialName(name string) bool {
	return strings.Trim(name, ".") != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.") == ""
}
