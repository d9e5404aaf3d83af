package caddymodule

// The modules that come with the app. To add a provider or a store, import the package that registers it in the same way.
import (
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/devmodules"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/httpsproxy"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/oauth2"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/optoro"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/stores/redis"
	_ "github.com/tokenproxy/caddy-token-proxy/caddymodule/stores/storage"
)
