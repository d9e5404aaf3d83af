package status

import (
	"fmt"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

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
func (t *Tenants) diagnosis(of Service, shared Diagnosis, now time.Time) Diagnosis {
	valid := t.valid()
	failures, newest := goingOn(t.Failures, now)
	switch {
	case failures > 0 && valid == 0:
		d := explainTenants(of, failures, newest, now)
		d.Health = healthFailing
		return d
	case t.Count >= t.Max:
		return Diagnosis{healthDegraded, causeConfiguration, fmt.Sprintf("All %d places for tenants are taken. The proxy denies new tenants with 503.", t.Max),
			"Raise max of the option tenant, if the machine has the memory. A place takes about 2.3 KiB."}
	case failures > 0:
		d := explainTenants(of, failures, newest, now)
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
func explainTenants(of Service, failures int, newest TenantFailure, now time.Time) Diagnosis {
	d := explainCall(of, newest.Occurrence, now)
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

// goingOn returns how many of the failures are recent and not over, and the newest of them.
func goingOn(newestFirst []TenantFailure, now time.Time) (n int, newest TenantFailure) {
	for _, failure := range newestFirst {
		if failure.Over || now.Sub(failure.At) >= recently {
			continue
		}
		if n++; n == 1 {
			newest = failure
		}
	}
	return n, newest
}
