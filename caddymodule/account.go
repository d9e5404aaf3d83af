package caddymodule

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// account is what one request says of itself, in metrics and in the access log.
type account struct {
	credential string
	served     string
	waited     time.Duration
	replayed   bool
}

// How a request was served that got no token.
const (
	servedFailed = "failed"
	servedLeft   = "left" // the application did not wait for one
)

// acquire gets a lease, and keeps count.
func (h *Handler) acquire(r *http.Request) (token.Lease, account, error) {
	began := time.Now()
	lease, err := h.credential.acquire(r.Context())
	a := account{credential: h.Credential, served: servedAs(lease, err)}
	counted := h.credential.counted()
	counted.served[a.served].Inc()
	if a.served == string(token.ServedFresh) || a.served == string(token.ServedStale) {
		return lease, a, nil
	}
	a.waited = time.Since(began)
	counted.wait.Observe(a.waited.Seconds())
	traceWait(r.Context(), h.credential, began, a)
	return lease, a, err
}

func servedAs(lease token.Lease, err error) string {
	switch {
	case err == nil:
		return string(lease.Served())
	case clientGone(err):
		return servedLeft
	default:
		return servedFailed
	}
}

// refuse counts a request that is not sent on.
func (h *Handler) refuse(w http.ResponseWriter, p *problem, reason string) {
	h.credential.counted().refused[reason].Inc()
	p.write(w, h.Credential)
}

// log adds the account to the access log, if there is one.
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
	enc.AddString("served", a.served)
	enc.AddDuration("waited", a.waited)
	enc.AddBool("replayed", a.replayed)
	return nil
}
