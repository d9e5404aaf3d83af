package caddymodule

import (
	"context"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tenantsHaveCertificates reports whether the tokens of tenants may be bound to TLS client certificates.
func (c *client) tenantsHaveCertificates() bool {
	if c.template == nil {
		return false
	}
	_, ok := c.provider.(provider.CertificateHolder)
	return ok && strings.Contains(c.template.provider, `"client_certificate"`)
}

// forTenant returns what makes the token requests of one tenant, with a provider of its own. It must be ended by end.
func (c *client) forTenant(t *tenant) (_ *caller, end func(), err error) {
	of := caller{Credential: c.Credential, id: c.id, secret: c.secret, certificate: &t.certificate}
	if of.provider, end, err = c.template.instance(c.ctx, t.name); err != nil {
		if end != nil {
			end()
		}
		return nil, nil, err
	}
	if learner, ok := of.provider.(provider.Learner); ok {
		learner.Inherit(c.provider)
	}
	if t.basic != nil {
		of.id, of.secret = option.Literal(t.basic.id), option.Literal(t.basic.secret)
		return &of, end, nil
	}
	if of.id, err = option.NewReader(c.template.in(c.template.clientID, t.name)); err == nil && c.provider.NeedsSecret() && c.secret == (option.Reader{}) {
		of.secret, err = option.NewReader(c.template.in(c.template.clientSecret, t.name))
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return &of, end, nil
}

// Prepare implements token.Fetcher. The tenant has a provider only while this runs and while a token is fetched.
func (t *tenant) Prepare() token.Call {
	c := t.of.client()
	s, err := t.readSecrets(c)
	if err != nil {
		failed := provider.Misconfigured(err)
		if option.IsMissing(err) && t.basic == nil {
			failed.Cause = token.CauseTenant
		}
		return failingCall(failed)
	}
	return token.Call{
		Proof: s.proof(c.AllowPlaintext),
		Fetch: func(ctx context.Context) (token.Issued, error) { return t.fetch(ctx, c, s) },
	}
}

func (t *tenant) readSecrets(c *client) (secrets, error) {
	of, end, err := c.forTenant(t)
	if err != nil {
		return secrets{}, err
	}
	defer end()
	return of.readSecrets()
}

func (t *tenant) fetch(ctx context.Context, c *client, s secrets) (token.Issued, error) {
	of, end, err := c.forTenant(t)
	if err != nil {
		return token.Issued{}, provider.Misconfigured(err)
	}
	defer end()
	f := fetcher{caller: of}
	f.issued.Store(t.issued.Load())
	issued, err := f.fetch(ctx, s)
	if err == nil {
		last := issued.Token // alone, because the tenant stays small
		t.issued.Store(&last)
	}
	return issued, err
}

// identifyTenant returns the tenant's key and identity: the name of the credential, that of the tenant, and every field that
// shapes the token.
func (c *client) identifyTenant(t *tenant) (identified, error) {
	of, end, err := c.forTenant(t)
	if err != nil {
		return identified{}, err
	}
	defer end()
	b := token.NewKeyBuilder().Field("credential", c.name).Field("tenant", t.name)
	if err := of.identifyRequest(b, c.status.Provider); err != nil {
		return identified{}, err
	}
	return of.identifyClient(b)
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
