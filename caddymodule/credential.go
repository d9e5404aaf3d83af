package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
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

	name         string
	providerName string
	provider     provider.Provider
	endpointHost string
	id, secret   option.Reader
	hosts        hostPatterns
	header       TokenHeader
	source       *token.Source
	events       *eventEmitter
	failures     failureLog
	observation  *observation
	identityKey  token.Key
	counted      func() credentialMetrics
	logger       *zap.Logger

	hasCertificate bool // token requests are made with a client certificate
}

// provision resolves and checks everything that can be checked without a network.
func (c *Credential) provision(ctx caddy.Context, name string) error {
	c.name = name
	c.logger = ctx.Logger()
	if !validCredentialName(name) {
		return errors.New("a credential's name is made of letters, digits, '_', '-' and '.'")
	}
	c.counted = metrics.of(name)
	if err := c.loadProvider(ctx); err != nil {
		return err
	}
	if err := c.loadClient(); err != nil {
		return err
	}
	if err := c.loadTransport(); err != nil {
		return err
	}
	if err := c.checkDurations(); err != nil {
		return err
	}
	var err error
	if c.hosts, err = parseHostPatterns(c.APIHosts); err != nil {
		return fmt.Errorf("api_hosts: %w", err)
	}
	if c.Header != nil {
		c.header = *c.Header
	}
	if err := c.header.provision(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	return nil
}

func (c *Credential) loadProvider(ctx caddy.Context) error {
	if c.ProviderRaw == nil {
		return errors.New("provider is missing")
	}
	mod, err := ctx.LoadModule(c, "ProviderRaw")
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	p, ok := mod.(provider.Provider)
	if !ok {
		return fmt.Errorf("provider: %T is not a provider", mod)
	}
	c.provider = p
	c.providerName = mod.(caddy.Module).CaddyModule().ID.Name()

	endpoint, err := url.Parse(p.Endpoint())
	if err != nil {
		return errors.New("provider: the token URL is not a URL")
	}
	if endpoint.Scheme != "https" && !oauth.IsLoopback(endpoint.Hostname()) && !c.AllowPlaintext {
		option := "token_url"
		if d, ok := p.(provider.Discoverer); ok && d.ByIssuer() {
			option = "issuer"
		}
		return errors.New(option + ": the client secret would be sent in the clear: use https, or say allow_plaintext")
	}
	c.endpointHost = endpoint.Host
	return nil
}

// loadTransport reads what the transport needs once, so that a mistyped name is refused now.
func (c *Credential) loadTransport() error {
	if c.Transport == nil {
		c.Transport = new(TokenTransport)
	}
	if err := c.Transport.provision(); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	secrets, err := c.readSecrets()
	if err != nil {
		return err
	}
	_, certificate, err := c.httpClient(secrets)
	c.hasCertificate = certificate != nil
	return err
}

// loadClient reads id and secret once, so that a mistyped name is refused now and not at the first request.
func (c *Credential) loadClient() error {
	if c.ClientID == "" {
		return errors.New("client_id is missing")
	}
	var err error
	if c.id, err = option.NewReader(c.ClientID); err == nil {
		_, err = c.id.Read()
	}
	if err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	if !c.provider.NeedsSecret() {
		if c.ClientSecret != "" {
			return fmt.Errorf("client_secret: provider %s sends none, as it is configured: remove it", c.providerName)
		}
		return nil
	}
	if c.ClientSecret == "" {
		return fmt.Errorf("client_secret is missing: provider %s needs one, as it is configured", c.providerName)
	}
	var secret provider.Secret
	if c.secret, err = option.NewReader(string(c.ClientSecret)); err == nil {
		secret, err = c.secret.Read()
	}
	if checker, ok := c.provider.(provider.SecretChecker); ok && err == nil {
		err = checker.CheckSecret(secret)
	}
	if err != nil {
		return fmt.Errorf("client_secret: %w", err)
	}
	if c.secret.IsLiteral() {
		c.ClientSecret = "" // for whoever prints or marshals a credential in use
		c.logger.Warn("client_secret stands in the configuration itself, where the admin API and autosave.json show it: use {env.NAME} or {file./path}",
			zap.String("credential", c.name))
	}
	return nil
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

// key identifies the source: everything that shapes the token, and nothing else. Policy is left out, so that a
// changed timeout costs no token.
func (c *Credential) key() (token.Key, error) {
	provider, err := json.Marshal(c.provider)
	if err != nil {
		return "", fmt.Errorf("provider: %w", err)
	}
	transport, err := json.Marshal(c.Transport)
	if err != nil {
		return "", fmt.Errorf("transport: %w", err)
	}
	b := token.NewKeyBuilder().
		Field("provider", c.providerName).
		Secret("provider configuration", token.NewSecret(string(provider))).
		Secret("transport", token.NewSecret(string(transport))).
		Field("endpoint", c.provider.Endpoint())
	id, err := c.id.Read()
	if err != nil {
		return "", fmt.Errorf("client_id: %w", err)
	}
	b.Secret("client_id", id)
	c.secret.Identity(b, "client_secret")
	return b.Key(), nil
}

func (c *Credential) config() token.Config {
	return token.Config{
		Fetcher: &fetcher{credential: c},
		Policy: token.Policy{
			RefreshMargin:   time.Duration(c.RefreshMargin),
			FetchTimeout:    time.Duration(c.FetchTimeout),
			MaxWait:         time.Duration(c.MaxWait),
			DefaultLifetime: time.Duration(c.DefaultLifetime),
			Prefetch:        c.Prefetch,
		},
		Endpoint: c.endpointHost,
		Observe:  c.observe,
	}
}

// acquire gets a lease on a token. Credentials may share a source, but each has its own patience.
func (c *Credential) acquire(ctx context.Context) (token.Lease, error) {
	return c.source.AcquireWithin(ctx, cmp.Or(time.Duration(c.MaxWait), token.DefaultMaxWait))
}

// validCredentialName keeps names usable in URLs, metrics and logs.
func validCredentialName(name string) bool {
	return strings.Trim(name, ".") != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.") == ""
}
