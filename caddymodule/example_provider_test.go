package caddymodule_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule"
)

func init() { caddy.RegisterModule(TicketOffice{}) }

// TicketOffice is a provider of somebody else's: it asks a ticket office, which is no OAuth 2.0 server, for tickets.
type TicketOffice struct {
	URL string `json:"url,omitempty"`
}

func (TicketOffice) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_proxy.providers.ticket_office", New: func() caddy.Module { return new(TicketOffice) }}
}

// UnmarshalCaddyfile parses `provider ticket_office <url>`.
func (o *TicketOffice) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the provider's name
	if !d.AllArgs(&o.URL) {
		return d.ArgErr()
	}
	return nil
}

func (o *TicketOffice) Endpoint() string  { return o.URL }
func (o *TicketOffice) NeedsSecret() bool { return true }

func (o *TicketOffice) NewRequest(ctx context.Context, client caddymodule.Client) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, o.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Visitor", client.ID)
	req.Header.Set("X-Password", client.Secret.Reveal())
	return req, nil
}

func (o *TicketOffice) ReadAnswer(answer *caddymodule.Answer) (caddymodule.Issued, error) {
	return answer.Read(caddymodule.Layout{
		Token:     []string{"ticket.number"},
		ExpiresIn: []string{"ticket.seconds"},
		Code:      []string{"problem"},
	})
}

// A provider is a Caddy module. This one is complete: caching, refresh, limits, retries and redaction come with the
// app. In a Caddyfile it is used like those that come with the module.
func ExampleProvider() {
	office := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"ticket": {"number": "for-%s", "seconds": 600}}`, r.Header.Get("X-Visitor"))
	}))
	defer office.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the API got %q", r.Header.Get("Authorization"))
	}))
	defer api.Close()
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "sidecar")

	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`{
		admin off
		persist_config off
		token_proxy {
			credential museum {
				provider      ticket_office `+office.URL+`
				client_id     ada
				client_secret swordfish
				header        Authorization "Ticket {token}"
			}
		}
	}
	http:// {
		bind unix/`+socket+`
		token_proxy museum `+api.URL+`
	}`), nil)
	if err == nil {
		err = caddy.Load(config, true)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer caddy.Stop()

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	res, err := client.Get("http://sidecar/paintings")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Println(string(body))
	// Output: the API got "Ticket for-ada"
}
