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

// tenantDeniedReasons are the reasons in words.
var tenantDeniedReasons = [...]string{
	"the request does not name it exactly once by a valid name",
	"it has no files",
	"too many tenants without a token came at once (new_rate of the option tenant, or 200 unknown names a second)",
	"all places for tenants are taken (max of the option tenant)",
}

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

// TenantEvicted counts a tenant that has made room for another.
func (c *Credential) TenantEvicted() { c.record.tenants.evicted.Add(1) }

// ObserveTenant is Observe for an event of one tenant. All tenants of the credential are counted together.
func (c *Credential) ObserveTenant(tenant string, e token.Event) {
	o := c.record.event(tenant, e)
	c.logTenant(o, e)
	c.emitFor(tenant, o, e)
}

// Tenants are the tenants of a credential in numbers, and their latest failures.
type Tenants struct {
	Count     int                 `json:"count"` // those that have a place
	Max       int                 `json:"max"`
	States    map[token.State]int `json:"states"`  // those whose token is in this state
	Failing   int                 `json:"failing"` // those without a valid token whose last token call failed
	Evictions uint64              `json:"evictions"`
	Refusals  map[string]uint64   `json:"refusals"`
	Failures  []TenantFailure     `json:"failures"` // newest first, at most one of each tenant, and of at most 20 tenants
}

// tenantReport returns the numbers, or nil for a credential without tenants.
func (c *Credential) tenantReport(seen history) *Tenants {
	if c.Tenants == nil {
		return nil
	}
	counts := &c.record.tenants
	t := &Tenants{
		States:    make(map[token.State]int),
		Evictions: counts.evicted.Load(),
		Refusals:  make(map[string]uint64),
		Failures:  seen.tenants.newestFirst(),
	}
	t.Count, t.Max = c.Tenants()
	for _, state := range States {
		t.States[state] = 0
	}
	for s := range c.TenantSources {
		t.States[s.State]++
		if s.Failure != nil && !valid(s.State) {
			t.Failing++
		}
	}
	for i := range counts.denied {
		t.Refusals[tenantDeniedLabels[i]] = counts.denied[i].Load()
	}
	return t
}

// valid returns how many tenants have a valid token.
func (t *Tenants) valid() (n int) {
	for state, count := range t.States {
		if valid(state) {
			n += count
		}
	}
	return n
}

// diagnosis describes the credential as a whole. Its tenants may be in different states. shared is empty unless something is
// wrong with the sharing.
func (t *Tenants) diagnosis(endpoint string, shared Diagnosis, now time.Time) Diagnosis {
	valid := t.valid()
	failures, newest := goingOn(t.Failures, now)
	switch {
	case failures > 0 && valid == 0:
		d := explainTenants(endpoint, failures, newest, now)
		d.Health = healthFailing
		return d
	case t.Count >= t.Max:
		return Diagnosis{healthDegraded, causeConfiguration, fmt.Sprintf("All %d places for tenants are taken. The proxy denies new tenants with 503.", t.Max),
			"Raise max of the option tenant, if the machine has the memory. A place takes about 2.3 KiB."}
	case failures > 0:
		d := explainTenants(endpoint, failures, newest, now)
		d.Health = healthDegraded
		return d
	case shared.Health != "":
		return shared
	case valid == 0:
		return Diagnosis{Health: healthIdle, Summary: "No tenant has a valid token. The next request fetches one for its tenant."}
	default:
		return Diagnosis{Health: healthOK, Summary: fmt.Sprintf("Tenants take %d of %d places, %d of them with a valid token.", t.Count, t.Max, valid)}
	}
}

// explainTenants explains the newest failure, and counts the tenants that have one.
func explainTenants(endpoint string, failures int, newest TenantFailure, now time.Time) Diagnosis {
	d := explainCall(endpoint, newest.Occurrence, now)
	switch {
	case failures == 1:
		d.Summary = fmt.Sprintf("The last token call of tenant %s failed. %s", newest.Tenant, d.Summary)
	case failures < mostTenantFailures:
		d.Summary = fmt.Sprintf("The last token calls of %d tenants failed. The newest failure is that of tenant %s. %s", failures, newest.Tenant, d.Summary)
	default:
		d.Summary = fmt.Sprintf("The last token calls of %d tenants or more failed. The newest failure is that of tenant %s. %s", failures, newest.Tenant, d.Summary)
	}
	return d
}

// tenantLogInterval is the shortest time between two warnings of one kind about tenants of one credential. Without it, the
// failures of thousands of tenants would fill the log.
const tenantLogInterval = 10 * time.Second

// tenantLog limits the warnings about tenants. Each kind has a limit of its own, so that a flood of one kind hides no other.
type tenantLog struct {
	mu    sync.Mutex
	kinds map[string]silence
}

// silence is the time between two warnings of one kind.
type silence struct {
	since    time.Time
	silenced uint64
}

// admit reports whether a warning may be logged now, and how many of its kind were not since the last one. The kind is the
// outcome of a token call, or the reason to deny a tenant.
func (l *tenantLog) admit(kind string, now time.Time) (silenced uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, again := l.kinds[kind]
	if again && now.Sub(last.since) < tenantLogInterval {
		last.silenced++
		l.kinds[kind] = last
		return 0, false
	}
	if l.kinds == nil {
		l.kinds = make(map[string]silence)
	}
	l.kinds[kind] = silence{since: now}
	return last.silenced, true
}

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
