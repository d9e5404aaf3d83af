package status

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// log writes one line for each event. For identical failures it writes at most one line a minute.
func (c *Credential) log(e token.Event) {
	fields := []zap.Field{
		zap.String("credential", c.Name),
		zap.String("provider", c.Provider),
		zap.String("endpoint", c.Endpoint),
	}
	switch {
	case e.Rejected:
		c.logger.Warn("token rejected by the API", append(fields, rejectedFields(e)...)...)
	case e.Err != nil:
		c.logFailure(e, fields)
	case e.Adopted:
		c.logAdopted(e, fields)
	default:
		c.logSuccess(e, fields)
	}
}

// rejectedFields are the fields of a line about a token that the API has rejected.
func rejectedFields(e token.Event) []zap.Field {
	fields := []zap.Field{zap.String("fingerprint", e.Token.Fingerprint())}
	if e.Demanded {
		fields = append(fields, zap.String("error_code", codeClaims))
	}
	return fields
}

func (c *Credential) logFailure(e token.Event, fields []zap.Field) {
	repeated, ok := c.failures.admit(e.Err, time.Now())
	if !ok {
		return
	}
	fields = append(fields,
		zap.Duration("duration", e.Duration),
		zap.String("kind", string(e.Err.Kind)),
		zap.String("error_code", e.Err.Code),
		zap.String("cause", string(e.Err.Cause)),
		zap.Error(e.Err),
		zap.String("advice", Explain(c.Service, e.Err, time.Time{}).Advice))
	if !e.Err.RetryAt.IsZero() {
		fields = append(fields, zap.Time("next_try", e.Err.RetryAt))
	}
	if repeated > 0 {
		fields = append(fields, zap.Uint64("repeated", repeated))
	}
	level := zapcore.WarnLevel
	if e.Err.Kind == token.Refused {
		level = zapcore.ErrorLevel
	}
	c.logger.Log(level, "no token", fields...)
}

func (c *Credential) logSuccess(e token.Event, fields []zap.Field) {
	fields = append(fields,
		zap.Duration("duration", e.Duration),
		zap.String("fingerprint", e.Token.Fingerprint()),
		zap.Duration("lifetime", e.Lifetime),
		zap.Bool("unchanged", e.Unchanged))
	if failures := c.failures.recover(); e.Recovered {
		fields = append(fields, zap.Bool("recovered", true), zap.Uint64("failures", failures))
	}
	noted := c.noted
	c.noted = e.Note
	if e.Note != "" && e.Note != noted { // what is odd about every token is worth one warning
		c.logger.Warn("token obtained, but "+e.Note, fields...)
		return
	}
	c.logger.Info("token obtained", fields...)
}

// logAdopted writes a line that only a search for mistakes needs, unless the token ends a series of failures.
func (c *Credential) logAdopted(e token.Event, fields []zap.Field) {
	fields = append(fields,
		zap.String("fingerprint", e.Token.Fingerprint()),
		zap.Duration("lifetime", e.Lifetime),
		zap.Bool("unchanged", e.Unchanged))
	level := zapcore.DebugLevel
	if failures := c.failures.recover(); e.Recovered {
		level = zapcore.InfoLevel
		fields = append(fields, zap.Bool("recovered", true), zap.Uint64("failures", failures))
	}
	c.logger.Log(level, "adopted a token from another replica", fields...)
}

// LogTenantDenied logs that the proxy denied a tenant, and why. The name must be a valid one.
func (c *Credential) LogTenantDenied(tenant string, why TenantDenied) {
	silenced, ok := c.tenantLog.admit(why.String(), time.Now())
	if !ok {
		return
	}
	c.logger.Warn("denied a tenant: "+tenantDeniedReasons[why],
		zap.String("credential", c.Name),
		zap.String("tenant", tenant),
		zap.String("reason", why.String()),
		zap.Uint64("others", silenced))
}

// logTenant writes a line for an event of one tenant. It limits the warnings by their kind.
func (c *Credential) logTenant(o Occurrence, e token.Event) {
	fields := []zap.Field{
		zap.String("credential", c.Name),
		zap.String("tenant", o.Tenant),
		zap.String("provider", c.Provider),
		zap.String("endpoint", c.Endpoint),
	}
	if e.Adopted {
		c.logger.Debug("adopted a token from another replica", append(fields,
			zap.String("fingerprint", e.Token.Fingerprint()), zap.Duration("lifetime", e.Lifetime))...)
		return
	}
	if e.Err == nil && !e.Rejected && e.Note == "" {
		c.logger.Debug("token obtained", append(fields, zap.Duration("duration", e.Duration),
			zap.String("fingerprint", e.Token.Fingerprint()), zap.Duration("lifetime", e.Lifetime))...)
		return
	}
	silenced, ok := c.tenantLog.admit(string(o.Outcome), time.Now())
	if !ok {
		return
	}
	fields = append(fields, zap.Uint64("others", silenced))
	switch {
	case e.Rejected:
		c.logger.Warn("token of a tenant rejected by the API", append(fields, rejectedFields(e)...)...)
	case e.Err != nil:
		level := zapcore.WarnLevel
		if e.Err.Kind == token.Refused {
			level = zapcore.ErrorLevel
		}
		c.logger.Log(level, "no token for a tenant", append(fields,
			zap.Duration("duration", e.Duration),
			zap.String("kind", string(e.Err.Kind)),
			zap.String("error_code", e.Err.Code),
			zap.String("cause", string(e.Err.Cause)),
			zap.Error(e.Err),
			zap.String("advice", Explain(c.Service, e.Err, time.Time{}).Advice))...)
	default:
		c.logger.Warn("token of a tenant obtained, but "+e.Note, fields...)
	}
}
