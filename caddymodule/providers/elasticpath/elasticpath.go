// Package elasticpath asks Elastic Path's Authentication API for tokens.
package elasticpath

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func init() {
	caddy.RegisterModule(Provider{})
}

// Provider asks Elastic Path's Authentication API for tokens: a form in the request; in the answer, the fields at
// the top level, as the service sends them, or below "data", as its published description says.
type Provider struct {
	// Region is "euwest" (https://euwest.api.elasticpath.com) or "useast" (https://useast.api.elasticpath.com).
	// Default: euwest.
	Region string `json:"region,omitempty"`

	// TokenURL is where to ask instead: an enterprise host, a gateway, a test server. Without a path,
	// /oauth/access_token is added. Default: the region's own.
	TokenURL string `json:"token_url,omitempty"`

	// Grant is "client_credentials", which needs client_secret and gives full access, or "implicit", which has no
	// secret and gives the access of a shopper. (It is not the implicit grant of RFC 6749.)
	// Default: client_credentials.
	Grant string `json:"grant,omitempty"`

	// Store selects a store for the keys of an organization: the header X-MOLTIN-AUTH-STORE of the token request.
	// Default: none.
	Store string `json:"store,omitempty"`

	endpoint string
	logger   *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_proxy.providers.elastic_path",
		New: func() caddy.Module { return new(Provider) },
	}
}

var elasticPathURLs = map[string]string{
	"":       "https://euwest.api.elasticpath.com/oauth/access_token",
	"euwest": "https://euwest.api.elasticpath.com/oauth/access_token",
	"useast": "https://useast.api.elasticpath.com/oauth/access_token",
}

// The values of Provider.Grant.
const (
	GrantClientCredentials = "client_credentials"
	GrantImplicit          = "implicit"
)

// Provision resolves the endpoint and the grant.
func (e *Provider) Provision(ctx caddy.Context) error {
	e.logger = ctx.Logger()
	standard, ok := elasticPathURLs[e.Region]
	if !ok {
		return errors.New("unknown region: it is euwest or useast")
	}
	switch e.Grant {
	case "":
		e.Grant = GrantClientCredentials
	case GrantClientCredentials, GrantImplicit:
	default:
		return errors.New("unknown grant: it is client_credentials or implicit")
	}
	var err error
	if e.endpoint, err = option.Resolve("token_url", e.TokenURL, oauth.OrStandard(standard)); err != nil {
		return err
	}
	e.warnOfLegacyHost()
	return nil
}

func (e *Provider) warnOfLegacyHost() {
	u, err := url.Parse(e.endpoint)
	if err != nil {
		return
	}
	if host := u.Hostname(); host == "api.moltin.com" || host == "api.molt.in" {
		e.logger.Warn("token_url names a legacy host of Elastic Path: use a region, or your own host",
			zap.String("host", host))
	}
}

// UnmarshalCaddyfile sets up the provider from Caddyfile tokens. Syntax:
//
//	provider elastic_path [euwest|useast] {
//	    token_url <url>
//	    grant     client_credentials|implicit
//	    store     <id>
//	}
func (e *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the provider's name
	if d.NextArg() {
		e.Region = d.Val()
		if _, ok := elasticPathURLs[e.Region]; !ok || e.Region == "" {
			return d.Err("unknown region: it is euwest or useast")
		}
	}
	if d.NextArg() {
		return d.Err("provider elastic_path takes a region, and nothing else on its line")
	}
	_, err := option.Block(d, e.unmarshalOption)
	return err
}

func (e *Provider) unmarshalOption(d *caddyfile.Dispenser) error {
	switch d.Val() {
	case "token_url":
		return option.Checked(d, &e.TokenURL, oauth.CheckEndpoint)
	case "grant":
		return option.Choice(d, &e.Grant, GrantClientCredentials, GrantImplicit)
	case "store":
		return option.String(d, &e.Store)
	default:
		return option.Unrecognized(d, "provider elastic_path")
	}
}

// Endpoint implements provider.Provider.
func (e *Provider) Endpoint() string { return e.endpoint }

// NeedsSecret implements provider.Provider.
func (e *Provider) NeedsSecret() bool { return e.Grant != GrantImplicit }

// NewRequest implements provider.Provider.
func (e *Provider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	params := url.Values{"grant_type": {e.Grant}, "client_id": {client.ID}}
	if e.NeedsSecret() {
		params.Set("client_secret", client.Secret.Reveal())
	}
	req, err := oauth.NewFormRequest(ctx, e.endpoint, params)
	if err == nil && e.Store != "" {
		req.Header.Set("X-Moltin-Auth-Store", e.Store)
	}
	return req, err
}

// ReadAnswer implements provider.Provider. Errors are JSON:API objects in more shapes than the description has, or OAuth's.
func (e *Provider) ReadAnswer(answer *provider.Answer) (provider.Issued, error) {
	issued, err := answer.Read(provider.Layout{
		Token:     []string{"access_token", "data.access_token"},
		Type:      []string{"token_type", "data.token_type"},
		ExpiresIn: []string{"expires_in", "data.expires_in"},
		ExpiresAt: []string{"expires", "data.expires"},
		Code:      []string{"error", "errors.0.code", "errors.0.status", "errors.code", "errors.status"},
	})
	if err != nil {
		return issued, err
	}
	if grant, ok := answer.Text("identifier", "data.identifier"); ok && grant != e.Grant {
		issued.Note = "the token was issued for another grant than " + e.Grant + ": it has other rights than expected"
	}
	return issued, nil
}

// Stub implements provider.Stubber. Elastic Path's own SDKs go by expires, not by expires_in.
func (e *Provider) Stub(token string, now time.Time, lifetime time.Duration) any {
	return struct {
		Expires     int64  `json:"expires"`
		Identifier  string `json:"identifier"`
		ExpiresIn   int64  `json:"expires_in"`
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
	}{now.Add(lifetime).Unix(), e.Grant, int64(lifetime.Seconds()), token, "Bearer"}
}

// Interface guards
var (
	_ provider.Provider     = (*Provider)(nil)
	_ provider.Stubber      = (*Provider)(nil)
	_ caddy.Provisioner     = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
)
