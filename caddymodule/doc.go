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
//		bind 127.0.0.1
//		token_proxy catalog https://catalogs.sandbox.optiturn.com
//	}
//
// A request goes through [Handler], which gets a token from the credential's source, through reverse_proxy, and
// through the injector, which puts the token on it. The providers are packages of their own below providers; another one is
// added with package provider.
//
// The package is thin: the engine is in internal/token, the wire in internal/oauth. The README has the reference.
package caddymodule
