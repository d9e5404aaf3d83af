package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/tenants"
)

func usesTenant(text string) bool { return strings.Contains(text, tenants.Placeholder) }

// checkTenant checks the option tenant as far as that is possible without the modules of the other options.
func (c *Credential) checkTenant() error {
	if _, err := c.tenantTemplate(); err != nil {
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
func (c *Credential) loadTenant() (*tenants.Template, error) {
	if err := c.checkTenant(); err != nil || c.Tenant == nil {
		return nil, err
	}
	if err := c.Tenant.provision(); err != nil {
		return nil, fmt.Errorf("tenant: %w", err)
	}
	return c.tenantTemplate()
}

// tenantTemplate returns what the tenants have in common, or nil for a credential without tenants.
func (c *Credential) tenantTemplate() (*tenants.Template, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return tenants.NewTemplate(raw, providerNamespace)
}
