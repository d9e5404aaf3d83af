// Package elasticpath requests tokens from Elastic Path's Authentication API.
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
	"golang.org/x/net/http/httpguts"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func init() {
	caddy.RegisterModule(Provider{})
}

// Provider requests tokens from Elastic Path's Authentication API. The request is a form. The service sends the fields of the
// answer at the top level, but its published description has them below "data", so the provider accepts both.
type Provider struct {
	// Region is "euwest" (https://euwest.api.elasticpath.com) or "useast" (https://useast.api.elasticpath.com).
	// Default: euwest.
	Region string `json:"region,omitempty"`

	// TokenURL is another token endpoint, such as an enterprise host, a gateway or a test server. Its default path is
	// /oauth/access_token. Default: the token endpoint of the region.
	TokenURL string `json:"token_url,omitempty"`

	// Grant is the grant type. With "client_credentials", the credential needs client_secret and the token has full access.
	// With "implicit", the credential has no secret and the token has the access of a shopper. (This is not the implicit
	// grant of RFC 6749.) Default: client_credentials.
	Grant string `json:"grant,omitempty"`

	// Store is the id of a store, for keys of an organization. The token request carries it in the header field
	// X-MOLTIN-AUTH-STORE. It may contain global placeholders. Default: none.
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

// elasticPathURLs are the token endpoints by region.
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

// Provision checks the configuration and sets the defaults.
func (e *Provider) Provision(ctx caddy.Context) error {
	e.logger = provider.Logger(ctx)
	standard, ok := elasticPathURLs[e.Region]
	if !ok {
		return errors.New("unknown region, must be euwest or useast")
	}
	switch e.Grant {
	case "":
		e.Grant = GrantClientCredentials
	case GrantClientCredentials, GrantImplicit:
	default:
		return errors.New("unknown grant, must be client_credentials or implicit")
	}
	var err error
	if err = option.ReplaceGlobal("store", &e.Store); err != nil {
		return err
	}
	if !httpguts.ValidHeaderFieldValue(e.Store) {
		return errors.New("store: the value has characters that a header field cannot carry")
	}
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
		e.logger.Warn("token_url names a legacy host of Elastic Path; set a region or your own host",
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
			return d.Err("unknown region, must be euwest or useast")
		}
	}
	if d.NextArg() {
		return d.Err("provider elastic_path takes only a region on its line")
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
		return option.Unrecognized(d, option.OfElasticPath)
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

// ReadAnswer implements provider.Provider. The errors of the service are objects of JSON:API, in more forms than in the
// description, or those of RFC 6749.
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
		issued.Note = oauth.JoinNotes(issued.Note, "the token was issued for another grant than "+e.Grant+" and may have other rights")
	}
	return issued, nil
}

// Stub implements provider.Stubber. Elastic Path's own SDKs use expires and not expires_in.
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
