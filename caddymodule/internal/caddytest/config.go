package caddytest

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// clientNumber makes client ids that no other test uses: a source outlives its configuration, and the system may give
// a port to two tests.
var clientNumber atomic.Int64

// NewClientID returns another client id each time.
func NewClientID() string { return fmt.Sprintf("client-%d", clientNumber.Add(1)) }

// NewTokenEndpoint is a development token endpoint on loopback, with a client and tokens of its own.
func NewTokenEndpoint(t *testing.T) (endpoint *devserver.TokenEndpoint, url string) {
	t.Helper()
	endpoint = &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: NewClientID(), Registry: devserver.NewRegistry()}
	return endpoint, ServeHTTP(t, endpoint).URL + "/oauth/token"
}

// CredentialConfig is the configuration of a credential of a development token endpoint.
func CredentialConfig(name, tokenURL, clientID string, options ...string) string {
	return fmt.Sprintf("credential %s {\n provider optoro {\n token_url %s\n }\n client_id %s\n client_secret %s\n%s\n}\n",
		name, tokenURL, clientID, devserver.DefaultClientSecret, strings.Join(options, "\n"))
}

// GlobalOptions are the global options with these credentials.
func GlobalOptions(credentials ...string) string {
	return "{\n token_proxy {\n" + strings.Join(credentials, "") + "}\n}\n"
}

// SiteConfig is a site on a loopback address that takes requests for any host.
func SiteConfig(addr, directives string) string {
	_, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n %s\n}\n", port, directives)
}
