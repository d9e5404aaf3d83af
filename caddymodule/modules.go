package caddymodule

// The modules that come with the app. Another provider or store is added in the same way: a package that registers it, and a
// blank import beside this one.
import (
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/devmodules"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/oauth2"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/optoro"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/stores/storage"
)
