// Package optoro requests tokens from Optoro's Auth API.
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

// Provider requests tokens from Optoro's Auth API, a Doorkeeper server. The request is JSON, and the answer has the fields of
// RFC 6749. The source is Optoro's published description "Auth 1.0.0".
type Provider struct {
	// Environment is "production" (https://auth.optiturn.com) or "sandbox" (https://auth.sandbox.optiturn.com).
	// Default: production.
	Environment string `json:"environment,omitempty"`

	// TokenURL is another token endpoint, such as a gateway or a test server. Its default path is /oauth/token.
	// Default: the token endpoint of the environment.
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

// optoroURLs are the token endpoints by environment.
var optoroURLs = map[string]string{
	"":           "https://auth.optiturn.com/oauth/token",
	"production": "https://auth.optiturn.com/oauth/token",
	"sandbox":    "https://auth.sandbox.optiturn.com/oauth/token",
}

// Provision checks the configuration and resolves the token endpoint.
func (o *Provider) Provision(caddy.Context) error {
	standard, ok := optoroURLs[o.Environment]
	if !ok {
		return errors.New("unknown environment, must be production or sandbox")
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
			return d.Err("unknown environment, must be production or sandbox")
		}
	}
	if d.NextArg() {
		return d.Err("provider optoro takes only an environment on its line")
	}
	_, err := option.Block(d, o.unmarshalOption)
	return err
}

func (o *Provider) unmarshalOption(d *caddyfile.Dispenser) error {
	if d.Val() != "token_url" {
		return option.Unrecognized(d, option.OfOptoro)
	}
	return option.Checked(d, &o.TokenURL, oauth.CheckEndpoint)
}

// Endpoint implements provider.Provider.
func (o *Provider) Endpoint() string { return o.endpoint }

// NeedsSecret implements provider.Provider.
func (o *Provider) NeedsSecret() bool { return true }

// NewRequest implements provider.Provider. The description permits only these three members.
func (o *Provider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	return oauth.NewJSONRequest(ctx, o.endpoint, struct {
		GrantType    string `json:"grant_type"`
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	}{"client_credentials", client.ID, client.Secret.Reveal()})
}

// ReadAnswer implements provider.Provider. It ignores created_at, because created_at plus expires_in may be in the past for a
// valid token if the server reuses tokens. The server reports a race of its own with status 400 and the error code
// invalid_token_reuse, which means "try again".
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
