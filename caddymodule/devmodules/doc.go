// Package devmodules are the development servers as Caddy modules: dev_token_endpoint stands in for a token endpoint, and
// can be told to misbehave; dev_api stands in for an API, and demands the tokens of that endpoint.
package devmodules
