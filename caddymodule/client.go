package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// client is the run-time half of a credential: what its configuration becomes when it is provisioned. It is whole as
// soon as it exists.
type client struct {
	*Credential
	name     string
	provider provider.Provider
	id       option.Reader
	secret   option.Reader // of nothing if the provider needs none
	hosts    hostPatterns
	header   TokenHeader
	key      token.Key
	identity token.Secret // what key is a digest of
	clientID string       // as it was when the configuration was loaded
	source   *token.Source
	sharing  *token.Sharing // nil: each replica has tokens of its own
	shared   *share.Credential
	status   *status.Credential
	logger   *zap.Logger

	// certificate is the client certificate of the latest token request; nil if there is none.
	certificate *atomic.Pointer[tls.Certificate]
}

// newClient resolves and checks everything that can be checked without a network. What it acquires is released by
// release, unless it fails.
func newClient(ctx caddy.Context, name string, config *Credential, with *Share, events *status.Events) (_ *client, err error) {
	if !validCredentialName(name) {
		return nil, errors.New("a credential's name is made of letters, digits, '_', '-' and '.'")
	}
	c := &client{Credential: config, name: name, certificate: new(atomic.Pointer[tls.Certificate]), logger: ctx.Logger()}
	c.status = status.New(name, events, c.logger)
	defer func() {
		if err != nil {
			c.status.Release()
		}
	}()
	for _, step := range []func() error{
		func() error { return c.loadProvider(ctx) },
		c.loadClient,
		c.loadTransport,
		c.checkDurations,
		c.loadDestinations,
		c.identify,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if with != nil && c.shares() {
		c.shared = with.credential(c)
		c.sharing = token.NewSharing(c.shared)
	}
	if c.source, err = acquireSource(c.key, c.sourceConfig()); err != nil {
		return nil, err
	}
	c.inherit()
	return c, nil
}

// start puts the credential into force, until the function that it returns is called.
func (c *client) start() (end func()) {
	c.status.Begin(c.key, c.source)
	return c.source.Start(c.sourceConfig())
}

// release lets go of what newClient has acquired.
func (c *client) release() error {
	c.status.Release()
	return releaseSource(c.key)
}

func (c *client) loadProvider(ctx caddy.Context) error {
	if c.ProviderRaw == nil {
		return errors.New("provider is missing")
	}
	mod, err := ctx.LoadModule(c.Credential, "ProviderRaw")
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	p, ok := mod.(provider.Provider)
	if !ok {
		return fmt.Errorf("provider: %T is not a provider", mod)
	}
	c.provider = p
	c.status.Provider = mod.(caddy.Module).CaddyModule().ID.Name()

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
	c.status.Endpoint = endpoint.Host
	return nil
}

// loadTransport reads what the transport needs once, so that a mistyped name is refused now.
func (c *client) loadTransport() error {
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
	c.certificate.Store(certificate)
	return err
}

// loadClient reads id and secret once, so that a mistyped name is refused now and not at the first request.
func (c *client) loadClient() error {
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
			return fmt.Errorf("client_secret: provider %s sends none, as it is configured: remove it", c.status.Provider)
		}
		return nil
	}
	if c.ClientSecret == "" {
		return fmt.Errorf("client_secret is missing: provider %s needs one, as it is configured", c.status.Provider)
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

func (c *client) loadDestinations() (err error) {
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

// identify makes the key of the source: everything that shapes the token, and nothing else. Policy is left out, so that a
// changed timeout costs no token.
func (c *client) identify() error {
	configuration, err := json.Marshal(c.provider)
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	transport, err := json.Marshal(c.Transport)
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	b := token.NewKeyBuilder().
		Field("provider", c.status.Provider).
		Secret("provider configuration", token.NewSecret(string(configuration))).
		Secret("transport", token.NewSecret(string(transport))).
		Field("endpoint", c.provider.Endpoint())
	id, err := c.id.Read()
	if err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	b.Secret("client_id", id)
	c.secret.Identity(b, "client_secret")
	c.key, c.identity, c.clientID = b.Key(), b.Identity(), id.Reveal()
	return nil
}

func (c *client) sourceConfig() token.Config {
	return token.Config{
		Fetcher:  &fetcher{client: c},
		Policy:   c.policy(),
		Endpoint: c.status.Endpoint,
		Observer: c.status,
		Sharing:  c.sharing,
	}
}

// acquire gets a lease on a token. Credentials may share a source, but each has its own patience.
func (c *client) acquire(ctx context.Context) (token.Lease, error) {
	return c.source.AcquireWithin(ctx, cmp.Or(time.Duration(c.MaxWait), token.DefaultMaxWait))
}
