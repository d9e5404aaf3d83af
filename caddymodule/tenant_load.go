package caddymodule

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func usesTenant(text string) bool { return strings.Contains(text, placeholderTenant) }

// checkTenant checks the option tenant as far as that is possible without the modules of the other options.
func (c *Credential) checkTenant() error {
	if _, err := newTenantTemplate(c); err != nil {
		return err
	}
	switch {
	case c.Tenant == nil:
		return nil
	case c.Tenant.basic() && c.ClientID != "":
		return errors.New("client_id: remove it, because with `tenant basic` it comes from the request")
	case c.Tenant.basic() && c.ClientSecret != "":
		return errors.New("client_secret: remove it, because with `tenant basic` it comes from the request")
	case c.Prefetch:
		return errors.New("prefetch: it is not possible with tenant, because the tenants are not known before their requests")
	case len(c.APIHosts) == 0:
		return errors.New("api_hosts is missing: it is required with tenant")
	default:
		return nil
	}
}

// loadTenant checks the option tenant. It returns the template, which makes the credential one with tenants, or nil.
func (c *Credential) loadTenant() (*tenantTemplate, error) {
	if err := c.checkTenant(); err != nil || c.Tenant == nil {
		return nil, err
	}
	if err := c.Tenant.provision(); err != nil {
		return nil, fmt.Errorf("tenant: %w", err)
	}
	return newTenantTemplate(c)
}

// sample returns a value of the configuration as it is for the sample tenant, without the boundaries of files. Without a
// template, it returns the value.
func (t *tenantTemplate) sample(text string) string {
	if t == nil {
		return text
	}
	return t.in(text, sampleTenant)
}

// sampleProvider makes a provider that stands for those of all tenants. It checks the configuration as far as that is possible
// without the files of a tenant.
func (t *tenantTemplate) sampleProvider(ctx caddy.Context) (any, error) {
	var samples []provider.Provider
	for _, name := range []string{sampleTenant, otherSampleTenant} {
		p, end, err := t.instance(ctx, name)
		if end != nil {
			defer end()
		}
		if err != nil && !option.IsMissing(err) {
			return nil, err
		}
		samples = append(samples, p)
		ctx = provider.Quiet(ctx) // so that no warning comes twice
	}
	return samples[0], checkEndpoints(samples[0], samples[1])
}

// key returns the key of the tenants of a credential as a whole. It has the template as it was written as well, because a
// literal could be the sample's name.
func (t *tenantTemplate) key(b *token.KeyBuilder, credential string) token.Key {
	return b.Field("credential", credential).
		Secret("template", token.NewSecret(t.provider)).
		Secret("client_id template", token.NewSecret(t.clientID)).
		Secret("client_secret template", token.NewSecret(t.clientSecret)).
		Key()
}
