package caddymodule

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// account is what one request adds to the access log.
type account struct {
	credential string
	tenant     string // empty for a credential without tenants
	served     status.Served
	waited     time.Duration
	replayed   bool
}

// serve gets a lease for a request. It counts the request and measures its wait.
func (c *client) serve(r *http.Request) (token.Lease, account, error) {
	return c.serveFor(r, requestTenant{})
}

// serveFor is serve for a request of the tenant, which is none for a credential without tenants.
func (c *client) serveFor(r *http.Request, of requestTenant) (token.Lease, account, error) {
	began := time.Now()
	lease, err := c.acquireFrom(r.Context(), of.sourceOr(c.source))
	a := account{credential: c.name, tenant: of.nameOrNone(), served: servedAs(lease, err)}
	c.status.Served(a.served)
	if a.served == status.ServedFresh || a.served == status.ServedStale {
		return lease, a, nil
	}
	a.waited = time.Since(began)
	c.status.Waited(a.waited)
	c.status.TraceWait(r.Context(), began, a.served)
	return lease, a, err
}

// servedAs returns how a request came by the result of acquire.
func servedAs(lease token.Lease, err error) status.Served {
	switch {
	case err == nil:
		return status.ServedBy(lease)
	case clientGone(err):
		return status.ServedLeft
	default:
		return status.ServedFailed
	}
}

// log adds the account to the access log, if the server has one.
func (a account) log(r *http.Request) {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.Object("token_proxy", a))
	}
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (a account) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("credential", a.credential)
	if a.tenant != "" {
		enc.AddString("tenant", a.tenant)
	}
	enc.AddString("served", a.served.String())
	enc.AddDuration("waited", a.waited)
	enc.AddBool("replayed", a.replayed)
	return nil
}
