// Package caddymodule registers the token_proxy modules with Caddy: the app token_proxy, which holds credentials; the
// handler token_proxy, which is reverse_proxy with a credential; the providers below token_proxy.providers; and the
// development servers dev_token_endpoint and dev_api.
//
//	{
//		token_proxy {
//			credential catalog {
//				provider optoro sandbox
//				client_id {env.OPTORO_CLIENT_ID}
//				client_secret {file./run/secrets/optoro}
//			}
//		}
//	}
//
//	http://127.0.0.1:8080 {
//		bind loopback/localhost
//		token_proxy catalog https://catalogs.sandbox.optiturn.com
//	}
//
// A request first reaches [Handler], which gets a token from the credential's source. It then passes reverse_proxy and
// the injector, which adds the token. The providers are packages below providers. To write a
// provider, use package provider.
//
// The package is thin. The engine is in internal/token, and the wire to token endpoints in internal/oauth. README.md in
// this folder is the reference.
package caddymodule

// appName is the name of the app and of the global option.
const appName = "token_proxy"
