package status

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// TenantDenied is the reason why the proxy denied the tenant of a request. It is an index into tenantDeniedLabels.
type TenantDenied int

// The reasons to deny a tenant.
const (
	TenantInvalid TenantDenied = iota // the request does not name a tenant exactly once, or by no valid name
	TenantUnknown                     // the tenant has no files
	TenantLimited                     // too many new tenants at once
	TenantFull                        // no place for another tenant
)

// tenantDeniedLabels are the values of the metric label reason.
var tenantDeniedLabels = [...]string{"invalid", "unknown", "limited", "full"}

// String returns the value of the label.
func (d TenantDenied) String() string { return tenantDeniedLabels[d] }

// tenantCounts are the counters of a credential with tenants.
type tenantCounts struct {
	used    atomic.Bool // the credential has or had tenants
	denied  [len(tenantDeniedLabels)]atomic.Uint64
	evicted atomic.Uint64
}

// TenantDenied counts a request whose tenant the proxy denied, by the reason.
func (c *Credential) TenantDenied(why TenantDenied) { c.record.tenants.denied[why].Add(1) }

// TenantEvicted counts a tenant that has made room for another.
func (c *Credential) TenantEvicted() { c.record.tenants.evicted.Add(1) }

// ObserveTenant is Observe for an event of one tenant. All tenants of the credential are counted together.
func (c *Credential) ObserveTenant(tenant string, e token.Event) {
	o := c.record.event(e)
	c.logTenant(tenant, e)
	c.emitFor(tenant, o, e)
}

// Tenants are the tenants of a credential in numbers.
type Tenants struct {
	Count     int               `json:"count"` // those that have a place
	Max       int               `json:"max"`
	Evictions uint64            `json:"evictions"`
	Refusals  map[string]uint64 `json:"refusals"`
}

// tenantReport returns the numbers, or nil for a credential without tenants.
func (c *Credential) tenantReport() *Tenants {
	if c.Tenants == nil {
		return nil
	}
	counts := &c.record.tenants
	t := &Tenants{Evictions: counts.evicted.Load(), Refusals: make(map[string]uint64)}
	t.Count, t.Max = c.Tenants()
	for i := range counts.denied {
		t.Refusals[tenantDeniedLabels[i]] = counts.denied[i].Load()
	}
	return t
}

// diagnosis describes the credential as a whole. Its tenants may be in different states. shared is empty unless something is
// wrong with the sharing.
func (t *Tenants) diagnosis(shared Diagnosis) Diagnosis {
	switch {
	case t.Count >= t.Max:
		return Diagnosis{healthDegraded, causeConfiguration, fmt.Sprintf("All %d places for tenants are taken. The proxy denies new tenants with 503.", t.Max),
			"Raise max of the option tenant, if the machine has the memory. A place takes about 2.3 KiB."}
	case shared.Health != "":
		return shared
	case t.Count == 0:
		return Diagnosis{Health: healthIdle, Summary: "No tenant has a token. The next request fetches one for its tenant."}
	default:
		return Diagnosis{Health: healthOK, Summary: fmt.Sprintf("The tenants take %d of %d places.", t.Count, t.Max)}
	}
}

// tenantLogInterval is the shortest time between two warnings about tenants of one credential. Without it, the failures of
// thousands of tenants would fill the log.
const tenantLogInterval = 10 * time.Second

// tenantLog limits the warnings about tenants.
type tenantLog struct {
	mu       sync.Mutex
	at       time.Time
	silenced uint64
}

// admit reports whether a warning may be logged now, and how many were not since the last one.
func (l *tenantLog) admit(now time.Time) (silenced uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.at.IsZero() && now.Sub(l.at) < tenantLogInterval {
		l.silenced++
		return 0, false
	}
	silenced = l.silenced
	l.at, l.silenced = now, 0
	return silenced, true
}

func (c *Credential) logTenant(tenant string, e token.Event) {
	fields := []zap.Field{
		zap.String("credential", c.Name),
		zap.String("tenant", tenant),
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
	silenced, ok := c.tenantLog.admit(time.Now())
	if !ok {
		return
	}
	fields = append(fields, zap.Uint64("others", silenced))
	switch {
	case e.Rejected:
		c.logger.Warn("token of a tenant rejected by the API", append(fields, zap.String("fingerprint", e.Token.Fingerprint()))...)
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
			zap.String("advice", Explain(c.Endpoint, e.Err, time.Time{}).Advice))...)
	default:
		c.logger.Warn("token of a tenant obtained, but "+e.Note, fields...)
	}
}
