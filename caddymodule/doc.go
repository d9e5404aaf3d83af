// Package caddymodule registers the token_proxy modules with Caddy.
package caddymodule
