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

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/hostpattern"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// client is a credential at run time: its configuration, and everything that newClient makes from it.
type client struct {
	*Credential
	name     string
	provider provider.Provider
	id       option.Reader
	secret   option.Reader // empty if the provider needs no secret
	hosts    hostpattern.List
	header   TokenHeader
	key      token.Key
	identity token.Secret // what key is a digest of
	clientID string       // as it was when the configuration was loaded
	source   *token.Source
	sharing  *token.Sharing // nil: each replica has tokens of its own
	shared   *sharedToken
	status   *status.Credential
	logger   *zap.Logger
	template *tenantTemplate // nil without tenants
	tenancy  tenancy         // in the place of a source that fetches tokens; nil without tenants
	ctx      caddy.Context   // for the providers of tenants

	sharedTenants *sharedTenants // nil: each replica has tokens of tenants of its own

	// certificate is the client certificate of the latest token request; nil if there is none.
	certificate *atomic.Pointer[tls.Certificate]
}

// tenancy is what a credential with tenants does with them.
type tenancy interface {
	// start is as that of client.
	start(*client) (end func())

	// release releases what was acquired for the client with this key.
	release(token.Key) error

	// purge is as that of client.
	purge(ctx context.Context, fleet bool) *storePurge
}

// newClient makes a client, which is complete unless it has tenants. It checks everything that can be checked without a network. The caller must call
// release, unless newClient fails.
func newClient(ctx caddy.Context, name string, config *Credential, join func(*client) error, events *status.Events) (_ *client, err error) {
	if !validCredentialName(name) {
		return nil, errCredentialName
	}
	c := &client{Credential: config, name: name, certificate: new(atomic.Pointer[tls.Certificate]), logger: ctx.Logger()}
	c.status = status.New(name, events, c.logger)
	defer func() {
		if err != nil {
			c.status.Release()
		}
	}()
	for _, step := range []func() error{
		func() error { c.template, err = config.loadTenant(); return err },
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
	if err := join(c); err != nil {
		return nil, err
	}
	if c.template != nil {
		c.ctx = provider.Quiet(ctx)
		return c, nil
	}
	if c.source, err = acquireSource(c.key, c.sourceConfig()); err != nil {
		return nil, err
	}
	c.inherit()
	return c, nil
}

// start puts the credential into force. The function that it returns takes the credential out of force.
func (c *client) start() (end func()) {
	c.status.Begin(c.key, c.source)
	if c.tenancy != nil {
		return c.tenancy.start(c)
	}
	return c.source.Start(c.sourceConfig())
}

// release releases what newClient has acquired.
func (c *client) release() error {
	c.status.Release()
	if c.tenancy != nil {
		return c.tenancy.release(c.key)
	}
	return releaseSource(c.key)
}

func (c *client) loadProvider(ctx caddy.Context) error {
	if c.ProviderRaw == nil {
		return errors.New("provider is missing")
	}
	mod, err := c.providerModule(ctx)
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
		return errors.New(option + ": the client secret would be sent in the clear: use https, or set allow_plaintext")
	}
	c.status.Endpoint = endpoint.Host
	return nil
}

// providerModule returns the provider or, for a credential with tenants, one that stands for those of all tenants.
func (c *client) providerModule(ctx caddy.Context) (any, error) {
	if c.template != nil {
		return c.template.sampleProvider(ctx)
	}
	return ctx.LoadModule(c.Credential, "ProviderRaw")
}

// loadTransport reads the files and variables of the transport once, so that a mistyped name is an error at load.
func (c *client) loadTransport() error {
	if c.Transport == nil {
		c.Transport = new(TokenTransport)
	}
	if err := c.Transport.provision(); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	if c.template != nil { // the secrets are those of the tenants
		_, err := c.Transport.check()
		return err
	}
	secrets, err := c.readSecrets()
	if err != nil {
		return err
	}
	_, certificate, err := c.httpClient(secrets)
	c.certificate.Store(certificate)
	return err
}

// loadClient reads the id and the secret once, so that a mistyped name is an error at load, not at the first request.
func (c *client) loadClient() error {
	if c.Tenant.basic() {
		if !c.provider.NeedsSecret() {
			return fmt.Errorf("tenant: `tenant basic` is for clients with a secret, and provider %s sends none as it is configured", c.status.Provider)
		}
		return nil
	}
	if c.ClientID == "" {
		return errors.New("client_id is missing")
	}
	var err error
	if c.id, err = option.NewReader(c.template.sample(c.ClientID)); err == nil && !usesTenant(c.ClientID) {
		_, err = c.id.Read()
	}
	if err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	if !c.provider.NeedsSecret() {
		if c.ClientSecret != "" {
			return fmt.Errorf("client_secret: remove it, because provider %s sends no secret as it is configured", c.status.Provider)
		}
		return nil
	}
	if c.ClientSecret == "" {
		return fmt.Errorf("client_secret is missing: provider %s needs it as it is configured", c.status.Provider)
	}
	var secret provider.Secret
	if usesTenant(string(c.ClientSecret)) {
		return nil
	}
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
		c.ClientSecret = "" // so that no code can print or marshal it
		c.logger.Warn("client_secret is a literal, which the admin API and autosave.json show; use {env.NAME} or {file./path} instead",
			zap.String("credential", c.name))
	}
	return nil
}

func (c *client) loadDestinations() (err error) {
	if c.hosts, err = hostpattern.Parse(c.APIHosts); err != nil {
		return fmt.Errorf("api_hosts: %w", err)
	}
	if c.Header != nil {
		c.header = *c.Header
	}
	if err := c.header.provision(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if c.Tenant != nil && c.header.carries(c.Tenant.header) {
		return fmt.Errorf("tenant: the field %s cannot name the tenant, because it carries credentials", c.Tenant.header)
	}
	return nil
}

// identify sets the key of the source, which is the identity of the credential: all fields that shape the token, and no
// others. The policy is not part of it, so that a changed timeout costs no token call.
func (c *client) identify() error {
	b, err := c.identityWithoutClient(token.NewKeyBuilder())
	if err != nil {
		return err
	}
	if c.template != nil {
		c.key = c.template.key(b, c.name)
		return nil
	}
	return c.identifyClient(b)
}

// identityWithoutClient adds everything but the id and the secret.
func (c *client) identityWithoutClient(b *token.KeyBuilder) (*token.KeyBuilder, error) {
	configuration, err := json.Marshal(c.provider)
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	transport, err := json.Marshal(c.Transport)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return b.Field("provider", c.status.Provider).
		Secret("provider configuration", token.NewSecret(string(configuration))).
		Secret("transport", token.NewSecret(string(transport))).
		Field("endpoint", c.provider.Endpoint()), nil
}

// identifyClient adds the id and the secret, and sets the key.
func (c *client) identifyClient(b *token.KeyBuilder) error {
	id, err := c.id.Read()
	if err != nil {
		return fmt.Errorf("client_id: %w", err)
	}
	b.Secret("client_id", id)
	c.secret.Identity(b, "client_secret")
	if !c.shares() { // it must not have its token from a source that shares
		b.Field("share", "off")
	}
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

// acquire gets a lease on a token of a credential without tenants.
func (c *client) acquire(ctx context.Context) (token.Lease, error) {
	return c.acquireFrom(ctx, c.source)
}

// acquireFrom gets a lease from a source. Credentials that share it each have their own MaxWait.
func (c *client) acquireFrom(ctx context.Context, source *token.Source) (token.Lease, error) {
	return source.AcquireWithin(ctx, cmp.Or(time.Duration(c.MaxWait), token.DefaultMaxWait))
}
