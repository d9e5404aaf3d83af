// Package devmodules has the development servers as Caddy modules. dev_token_endpoint replaces a real token endpoint,
// and can be made to misbehave. dev_api replaces a real API, and demands the tokens of that endpoint.
package devmodules

import "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

// The order of the directives is the order of these calls. dev_api comes last because it answers every request that
// reaches it.
func init() {
	httpcaddyfile.RegisterDirectiveOrder("dev_token_endpoint", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("dev_api", httpcaddyfile.Before, "reverse_proxy")
}
