package caddymodule

import (
	"context"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// acquireTenants finds the tenants that an earlier configuration of the credential has, or makes room for them.
func (c *client) acquireTenants(ctx caddy.Context) (err error) {
	if c.template == nil {
		return nil
	}
	c.source = token.NewSource(token.Config{Fetcher: noTenant{}})
	c.tenantConfig = &tenants.Config{
		Credential: c.name,
		Basic:      c.Tenant.basic(),
		Max:        c.Tenant.Max,
		NewRate:    c.Tenant.NewRate,
		Burst:      c.Tenant.burst(),
		Policy:     c.policy(),
		Status:     c.status,
		Template:   c.template,
		Provider:   c.provider,
		Sharing:    c.sharedTenants,
		Caller:     tenantCaller{c, provider.Quiet(ctx)},
		Unopened:   c.warnUnopened,
		Skewed:     c.warnSkewed,
	}
	ts, err := tenants.Acquire(c.key, c.tenantConfig)
	if err != nil {
		return err
	}
	c.tenants = ts
	c.status.Tenants = func() (count, most int) { return ts.Count(), c.Tenant.Max }
	c.status.TenantSources = ts.Statuses
	return nil
}

// tenantsHaveCertificates reports whether the tokens of tenants may be bound to TLS client certificates.
func (c *client) tenantsHaveCertificates() bool { return c.template.HasCertificates(c.provider) }

// tenantCaller makes the token calls of a credential's tenants. It implements tenants.Caller.
type tenantCaller struct {
	client *client
	ctx    caddy.Context // for the providers of tenants
}

// endedContext is for the providers that requests of a configuration still need after Caddy has ended it. On a reload, Caddy
// does not wait for the requests that are under way.
var endedContext = provider.Quiet(caddy.Context{Context: context.Background()})

// Ended implements tenants.Caller.
func (c tenantCaller) Ended() tenants.Caller { return tenantCaller{c.client, endedContext} }

// callerOf returns what makes the token requests of one tenant, with a provider of its own. It must be ended by end.
func (c tenantCaller) callerOf(t *tenants.Tenant) (_ *caller, end func(), err error) {
	template, all := c.client.template, &c.client.caller
	of := caller{
		Credential: all.Credential, id: all.id, secret: all.secret, certificate: &t.Certificate,
		binds: all.binds, ownKey: all.ownKey, source: t.Source,
	}
	if of.provider, end, err = template.Instance(c.ctx, t.Name); err != nil {
		if end != nil {
			end()
		}
		return nil, nil, err
	}
	if learner, ok := of.provider.(provider.Learner); ok {
		learner.Inherit(all.provider)
	}
	if id, secret, basic := t.Client(); basic {
		of.id, of.secret = option.Literal(id), option.Literal(secret)
		return &of, end, nil
	}
	if of.id, err = option.NewReader(template.ClientID(t.Name)); err == nil && all.provider.NeedsSecret() && all.secret == (option.Reader{}) {
		of.secret, err = option.NewReader(template.ClientSecret(t.Name))
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return &of, end, nil
}

// Prepare implements tenants.Caller. The tenant has a provider only while this runs and while a token is fetched.
func (c tenantCaller) Prepare(t *tenants.Tenant) token.Call {
	s, err := c.readSecrets(t)
	if err != nil {
		failed := provider.Misconfigured(err)
		if _, _, basic := t.Client(); option.IsMissing(err) && !basic {
			failed.Cause = token.CauseTenant
		}
		return failingCall(failed)
	}
	return token.Call{
		Proof: s.proof(c.client.AllowPlaintext),
		Fetch: func(ctx context.Context) (token.Issued, error) { return c.fetch(ctx, t, s) },
	}
}

func (c tenantCaller) readSecrets(t *tenants.Tenant) (secrets, error) {
	of, end, err := c.callerOf(t)
	if err != nil {
		return secrets{}, err
	}
	defer end()
	return of.readSecrets()
}

func (c tenantCaller) fetch(ctx context.Context, t *tenants.Tenant, s secrets) (token.Issued, error) {
	of, end, err := c.callerOf(t)
	if err != nil {
		return token.Issued{}, provider.Misconfigured(err)
	}
	defer end()
	f := fetcher{caller: of}
	f.issued.Store(t.Issued.Load())
	issued, err := f.fetch(ctx, s)
	if err == nil {
		last := issued.Token // alone, because the tenant stays small
		t.Issued.Store(&last)
	}
	return issued, err
}

// Identify implements tenants.Caller. The identity has the name of the credential, that of the tenant, and every field that
// shapes the token.
func (c tenantCaller) Identify(t *tenants.Tenant) (token.Key, token.Secret, string, error) {
	of, end, err := c.callerOf(t)
	if err != nil {
		return "", token.Secret{}, "", err
	}
	defer end()
	b := token.NewKeyBuilder().Field("credential", c.client.name).Field("tenant", t.Name)
	if err := of.identifyRequest(b, c.client.status.Provider); err != nil {
		return "", token.Secret{}, "", err
	}
	known, err := of.identifyClient(b)
	return known.key, known.identity, known.clientID, err
}

// ReadCertificate implements tenants.Caller.
func (c tenantCaller) ReadCertificate(t *tenants.Tenant) {
	of, end, err := c.callerOf(t)
	if err != nil {
		return
	}
	defer end()
	if s, err := of.readSecrets(); err == nil {
		if _, certificate, err := of.httpClient(s); err == nil {
			t.Certificate.Store(certificate)
		}
	}
}

// Prover implements tenants.Caller.
func (c tenantCaller) Prover(t *tenants.Tenant) token.Prover {
	if !c.client.binds {
		return nil
	}
	if p := latestProver(t.Source); p != nil {
		return p
	}
	of, end, err := c.callerOf(t)
	if err != nil {
		return nil
	}
	defer end()
	return of.prover()
}

// noTenant is the fetcher of a credential whose tokens belong to tenants.
type noTenant struct{}

// Prepare implements token.Fetcher.
func (noTenant) Prepare() token.Call {
	return token.Call{Fetch: func(context.Context) (token.Issued, error) {
		return token.Issued{}, &token.Error{Kind: token.Refused, Reason: "the tokens of this credential belong to its tenants: name one of them"}
	}}
}

// fetcher returns the fetcher of the credential.
func (c *client) fetcher() token.Fetcher {
	if c.template != nil {
		return noTenant{}
	}
	return &fetcher{caller: &c.caller}
}

// ready is Ready of the source. A credential with tenants is always ready, because its tenants are not known.
func (c *client) ready() (bool, *token.Error) {
	if c.template != nil {
		return true, nil
	}
	return c.source.Ready()
}
