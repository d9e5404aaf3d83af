package provider

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// Logger returns the logger for a provider. Call it in Provision in place of ctx.Logger. For a credential with tenants, the
// app makes the provider once more for each token call. The logger of such a provider writes nothing, so that no warning
// about the configuration is repeated for each tenant.
func Logger(ctx caddy.Context) *zap.Logger {
	if ctx.Value(quiet{}) != nil {
		return zap.NewNop()
	}
	return ctx.Logger()
}

// Quiet returns a context whose Logger writes nothing.
func Quiet(ctx caddy.Context) caddy.Context {
	ctx.Context = context.WithValue(ctx.Context, quiet{}, true)
	return ctx
}

type quiet struct{}
