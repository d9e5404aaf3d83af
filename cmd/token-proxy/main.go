// Command token-proxy is Caddy with the token_proxy modules built in.
package main

import (
	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// Caddy's standard modules, and ours.
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule"
)

func main() {
	if caddy.CustomBinaryName == "" { // a release sets it when it is linked
		caddy.CustomBinaryName = "token-proxy"
	}
	relaxCollector()
	caddycmd.Main()
}
