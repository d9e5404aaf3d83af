// Package ticketoffice is an example of a provider outside of caddy-token-proxy. Its token endpoint is a ticket office,
// which does not speak OAuth 2.0, and its tokens are tickets. Build Caddy with both modules:
//
//	xcaddy build --with github.com/tokenproxy/caddy-token-proxy/caddymodule --with example.com/ticketoffice
package ticketoffice

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

func init() {
	caddy.RegisterModule(Provider{})
}

// Provider requests tickets from a ticket office. A visitor, which is the client, shows a password and a badge. The
// password is the client secret.
type Provider struct {
	// URL is the URL of the ticket office. Required.
	URL string `json:"url,omitempty"`

	// BadgeFile is the path of a file with the number of the visitor's badge. Required.
	BadgeFile string `json:"badge_file,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "token_proxy.providers.ticket_office",
		New: func() caddy.Module { return new(Provider) },
	}
}

// UnmarshalCaddyfile sets up the provider from Caddyfile tokens. Syntax:
//
//	provider ticket_office <url> <badge_file>
func (p *Provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the provider's name
	if !d.AllArgs(&p.URL, &p.BadgeFile) {
		return d.Err("provider ticket_office takes a URL and the path of the file with the badge")
	}
	return nil
}

// Endpoint implements provider.Provider.
func (p *Provider) Endpoint() string { return p.URL }

// NeedsSecret implements provider.Provider.
func (p *Provider) NeedsSecret() bool { return true }

// Secrets implements provider.SecretHolder. The app calls it for each ticket, so a new badge needs no reload. The app
// keeps the badge out of logs and errors.
func (p *Provider) Secrets() (provider.Secrets, error) {
	badge, err := os.ReadFile(p.BadgeFile)
	if err != nil {
		return nil, fmt.Errorf("badge_file: %w", err)
	}
	return provider.Secrets{"badge_file": provider.NewSecret(strings.TrimSpace(string(badge)))}, nil
}

// NewRequest implements provider.Provider.
func (p *Provider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, p.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Visitor", client.ID)
	req.Header.Set("X-Password", client.Secret.Reveal())
	req.Header.Set("X-Badge", client.Secrets["badge_file"].Reveal())
	return req, nil
}

// ReadAnswer implements provider.Provider.
func (p *Provider) ReadAnswer(answer *provider.Answer) (provider.Issued, error) {
	if answer.Status == http.StatusConflict { // how this office announces its closing time
		return provider.Issued{}, &provider.Error{Kind: provider.Unavailable, Status: answer.Status, Reason: "the ticket office is closed"}
	}
	return answer.Read(provider.Layout{
		Token:     []string{"ticket.number"},
		ExpiresIn: []string{"ticket.seconds"},
		Code:      []string{"problem"},
	})
}

// Interface guards
var (
	_ provider.Provider     = (*Provider)(nil)
	_ provider.SecretHolder = (*Provider)(nil)
	_ caddyfile.Unmarshaler = (*Provider)(nil)
)
