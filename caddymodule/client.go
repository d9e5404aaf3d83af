package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
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
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// client is a credential at run time: its configuration, and everything that newClient makes from it.
type client struct {
	caller
	identified
	name     string
	hosts    hostpattern.List
	header   TokenHeader
	sharing  *token.Sharing // nil: each replica has tokens of its own
	shared   *sharedToken
	status   *status.Credential
	logger   *zap.Logger
	template *tenants.Template // nil without tenants
	tenants  *tenants.Set      // in the place of a source that fetches tokens; nil without tenants

	tenantConfig  *tenants.Config  // until the client is released
	sharedTenants *tenants.Sharing // nil: each replica has tokens of tenants of its own
}

// newClient makes a client, which is complete unless it has tenants. It checks everything that can be checked without a network. The caller must call
// release, unless newClient fails.
func newClient(ctx caddy.Context, name string, config *Credential, join func(*client) error, events *status.Events) (_ *client, err error) {
	if !validCredentialName(name) {
		return nil, errCredentialName
	}
	c := &client{
		caller: caller{Credential: config, certificate: new(atomic.Pointer[tls.Certificate])},
		name:   name,
		logger: ctx.Logger(),
	}
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
	if c.tenants != nil {
		return c.tenants.Start(c.tenantConfig)
	}
	return c.source.Start(c.sourceConfig())
}

// release releases what newClient has acquired.
func (c *client) release() error {
	c.status.Release()
	if c.tenants != nil {
		c.tenantConfig = nil // it has the context, which would keep everything that Caddy made for the configuration in memory
		return tenants.Release(c.key)
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
		return c.template.SampleProvider(ctx)
	}
	return ctx.LoadModule(c.Credential, "ProviderRaw")
}

// loadTransport reads the files and variables of the transport and of the provider once, so that a mistyped name is an error at
// load.
func (c *client) loadTransport() error {
	if c.Transport == nil {
		c.Transport = new(TokenTransport)
	}
	if err := c.Transport.provision(); err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	c.Transport.warn(c.logger, zap.String("credential", c.name))
	if c.template != nil { // the secrets are those of the tenants
		if _, err := c.Transport.check(); err != nil {
			return err
		}
		return c.loadDPoP(secrets{})
	}
	s, err := c.readSecrets()
	if err != nil {
		return err
	}
	_, certificate, err := c.httpClient(s)
	c.certificate.Store(certificate)
	if err != nil {
		return err
	}
	return c.loadDPoP(s)
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
	if c.id, err = option.NewReader(c.template.Sample(c.ClientID)); err == nil && !usesTenant(c.ClientID) {
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
	option.WarnOfSecret(c.logger, "client_secret", c.secret, zap.String("credential", c.name))
	if c.secret.IsLiteral() {
		c.ClientSecret = "" // so that no code can print or marshal it
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

// loadDPoP checks the key and the algorithm, and that the token goes to the API as DPoP requires. The keys of tenants are checked
// at their token requests.
func (c *client) loadDPoP(s secrets) error {
	config, err := c.dpopConfig(s.client.Secrets)
	switch {
	case err != nil && c.template != nil: // the key is that of a tenant
		c.binds = true
	case err != nil || config == nil:
		return err
	case config.Key.Empty():
		c.binds, c.ownKey = true, true
		err = oauth.CheckAlg(config.Alg)
	default:
		c.binds = true
		_, err = proofKey(config, nil)
	}
	if err != nil && c.template == nil {
		return fmt.Errorf("dpop: %w", err)
	}
	if c.binds && c.Header != nil {
		return errors.New("header: remove it, because tokens that are bound to a key (dpop) are sent as `Authorization: DPoP <token>`")
	}
	return nil
}

// identify sets the key of the source. Credentials whose tokens are the same share a source.
func (c *client) identify() (err error) {
	b := token.NewKeyBuilder()
	if err := c.identifyRequest(b, c.status.Provider); err != nil {
		return err
	}
	if c.template != nil {
		c.key = c.template.Key(b, c.name)
		return nil
	}
	c.identified, err = c.identifyClient(b)
	return err
}

func (c *client) sourceConfig() token.Config {
	return token.Config{
		Fetcher:  &fetcher{caller: &c.caller},
		Policy:   c.policy(),
		Endpoint: c.status.Endpoint,
		Observer: c.status,
		Sharing:  c.sharing,
	}
}

// inherit takes over what the provider learned before a reload. The source is the same only if the identity is the same, and
// then so is the configuration of the provider.
func (c *client) inherit() {
	learner, ok := c.provider.(provider.Learner)
	earlier, isOurs := c.source.Fetcher().(*fetcher)
	if ok && isOurs && earlier.caller != &c.caller {
		learner.Inherit(earlier.caller.provider)
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
