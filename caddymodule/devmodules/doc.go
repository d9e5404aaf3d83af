// Package devmodules has the development servers as Caddy modules. dev_token_endpoint stands in for a token endpoint, and
// can be told to misbehave. dev_api stands in for an API, and demands the tokens of that endpoint.
package devmodules

import "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

// The order is that of the calls, so both are here: dev_api answers each request that reaches it.
func init() {
	httpcaddyfile.RegisterDirectiveOrder("dev_token_endpoint", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("dev_api", httpcaddyfile.Before, "reverse_proxy")
}
