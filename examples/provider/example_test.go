package ticketoffice_test

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

	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule"
	_ "github.com/tokenproxy/caddy-token-proxy/examples/provider"
)

// The Caddyfile names a provider of another module like the providers of the app.
func Example() {
	office := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"ticket": {"number": "for-%s-%s", "seconds": 600}}`, r.Header.Get("X-Visitor"), r.Header.Get("X-Badge"))
	}))
	defer office.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "the API got %q", r.Header.Get("Authorization"))
	}))
	defer api.Close()
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "sidecar")
	badge := filepath.Join(dir, "badge")
	_ = os.WriteFile(badge, []byte("1815\n"), 0o600)

	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`{
		admin off
		persist_config off
		token_proxy {
			credential museum {
				provider      ticket_office `+office.URL+` `+badge+`
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
	// Output: the API got "Ticket for-ada-1815"
}
