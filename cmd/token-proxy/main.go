// Command token-proxy is Caddy with the token_proxy modules built in.
package main

import (
	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// The standard modules of Caddy, and those of this repository.
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule"
)

func main() {
	if caddy.CustomBinaryName == "" { // the linker sets it in a release
		caddy.CustomBinaryName = "token-proxy"
	}
	relaxCollector()
	caddycmd.Main()
}
