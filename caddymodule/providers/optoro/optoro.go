// Package optoro asks Optoro's Auth API for tokens.
package optoro

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func init() {
	caddy.RegisterModule(Provider{})
}

// Provider asks Optoro's Auth API for tokens: JSON in the request, the standard fields in the answer.
// Its endpoint is a Doorkeeper server. Source: Optoro's published description "Auth 1.0.0".
type Provider struct {
	// Environment is "production" (https://auth.optiturn.com) or "sandbox" (https://auth.sandbox.optiturn.com).
	// Default: production.
	Environment string `json:"environment,omitempty"`

	// TokenURL is where to ask instead: a gateway, a test server. Without a path, /oauth/token is added.
	// Default: the environment's own.
	TokenURL string `json:"token_url,omitempty"`

	endpoint string
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_proxy.providers.optoro",
		New: func() caddy.Module { return new(Provider) },
	}
}

var optoroURLs = map[string]string{
	"":           "https://auth.optiturn.com/oauth/token",
	"production": "https://auth.optiturn.com/oauth/token",
	"sandbox":    "https://auth.sandbox.optiturn.com/oauth/token",
}

// Provision resolves the endpoint.
func (o *Provider) Provision(caddy.Context) error {
	standard, ok := optoroURLs[o.Environment]
	if !ok {
		return errors.New("unknown environment: it is production or sandbox")
	}
	var err error
	o.endpoint, err = option.Resolve("token_url", o.TokenURL, oauth.OrStandard(standard))
	return err
}

// UnmarshalCaddyfile sets up the provider from Caddyfile tokens. Syntax:
//
//	provider optoro [production|sandbox] {
//	    token_url <url>
//	}
func (o *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the provider's name
	if d.NextArg() {
		o.Environment = d.Val()
		if _, ok := optoroURLs[o.Environment]; !ok || o.Environment == "" {
			return d.Err("unknown environment: it is production or sandbox")
		}
	}
	if d.NextArg() {
		return d.Err("provider optoro takes an environment, and nothing else on its line")
	}
	_, err := option.Block(d, o.unmarshalOption)
	return err
}

func (o *Provider) unmarshalOption(d *caddyfile.Dispenser) error {
	if d.Val() != "token_url" {
		return option.Unrecognized(d, "provider optoro")
	}
	return option.Checked(d, &o.TokenURL, oauth.CheckEndpoint)
}

// Endpoint implements provider.Provider.
func (o *Provider) Endpoint() string { return o.endpoint }

// NeedsSecret implements provider.Provider.
func (o *Provider) NeedsSecret() bool { return true }

// NewRequest implements provider.Provider. The description allows these three members and no other.
func (o *Provider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	return oauth.NewJSONRequest(ctx, o.endpoint, struct {
		GrantType    string `json:"grant_type"`
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	}{"client_credentials", client.ID, client.Secret.Reveal()})
}

// ReadAnswer implements provider.Provider. created_at is ignored: with token reuse on, created_at + expires_in lies in the
// past while the token is good. invalid_token_reuse is a race in the server, reported as a 400.
func (o *Provider) ReadAnswer(answer *provider.Answer) (provider.Issued, error) {
	return answer.Read(provider.Layout{
		Token:     []string{"access_token"},
		Type:      []string{"token_type"},
		ExpiresIn: []string{"expires_in"},
		Code:      []string{"error"},
		Transient: []string{"invalid_token_reuse"},
	})
}

// Stub implements provider.Stubber.
func (o *Provider) Stub(token string, now time.Time, lifetime time.Duration) any {
	return struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
		Scope       string `json:"scope"`
		CreatedAt   int64  `json:"created_at"`
	}{token, "Bearer", int64(lifetime.Seconds()), "read write", now.Unix()}
}

// Interface guards
var (
	_ provider.Provider     = (*Provider)(nil)
	_ provider.Stubber      = (*Provider)(nil)
	_ caddy.Provisioner     = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
)
