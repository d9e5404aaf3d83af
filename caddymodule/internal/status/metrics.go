package status

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// credentialDesc describes a metric with the label credential.
func credentialDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(MetricsPrefix+name, help, append([]string{"credential"}, labels...), nil)
}

// The counters of a credential since the process began.
var (
	descCalls         = credentialDesc("calls_total", "Token calls by outcome and by the error code of the token endpoint.", "outcome", "code")
	descRequests      = credentialDesc("requests_total", "Requests by how they came by a token: fresh, stale, waited, failed, or left before they had one.", "served")
	descDenied        = credentialDesc("refused_requests_total", "Requests that the proxy denied, by reason: client, cross_site, method, authorization, destination or loop.", "reason")
	descUnauthorized  = credentialDesc("unauthorized_total", "Answers of the API with a status that rejects the token, 401 by default.")
	descInvalidations = credentialDesc("invalidations_total", "Tokens that the proxy gave up because the API rejected them.")
	descReplays       = credentialDesc("replays_total", "Requests that the proxy sent again with another token.")

	descAdopted        = credentialDesc("share_adopted_total", "Tokens that this replica took over from another replica.")
	descClaims         = credentialDesc("share_claims_total", "Claims of the right to call the token endpoint for all replicas, by outcome: won, lost, held or unknown.", "outcome")
	descUnopened       = credentialDesc("share_unopened_total", "Values in the store that this replica could not open, by reason: version, key or forged.", "reason")
	descTenantsEvicted = credentialDesc("tenant_evictions_total", "Tenants without a valid token that made room for others.")
	descTenantsDenied  = credentialDesc("tenant_refusals_total", "Requests whose tenant the proxy denied, by reason: invalid, unknown, limited or full.", "reason")
)

// The present state of the credentials in force, and of the vault.
var (
	descRemaining = credentialDesc("token_remaining_seconds", "Seconds until the token expires; 0 without a valid token.")
	descLifetime  = credentialDesc("token_lifetime_seconds", "Lifetime of the token in seconds, from the token request to the expiry.")
	descOverdue   = credentialDesc("token_refresh_overdue_seconds", "Seconds since the token was due for a refresh; 0 if it is not due, or without a valid token.")
	descAge       = credentialDesc("last_success_age_seconds", "Seconds since the proxy last obtained a token, or took one over from another replica.")
	descTenants   = credentialDesc("tenants", "Tenants of the credential that have a place.")
	descBackoff   = credentialDesc("backoff_seconds", "Seconds until the next token call after a failure; 0 if calls are not held back.")

	descSkew = credentialDesc("share_skew_seconds", "Seconds by which the clock of the replica that saved the token is ahead of this clock; 0 if it is not.")

	descEntries       = prometheus.NewDesc(MetricsPrefix+"vault_entries", "Sources that the vault remembers.", nil, nil)
	descVaultEvicted  = prometheus.NewDesc(MetricsPrefix+"vault_evictions_total", "Sources that the vault has forgotten for want of room.", nil, nil)
	descVaultRejected = prometheus.NewDesc(MetricsPrefix+"vault_rejections_total", "Sources that the vault did not take in for want of room.", nil, nil)
	allDescs          = []*prometheus.Desc{
		descCalls, descRequests, descDenied, descUnauthorized, descInvalidations, descReplays,
		descAdopted, descClaims, descUnopened, descSkew,
		descTenants, descTenantsEvicted, descTenantsDenied,
		descRemaining, descLifetime, descOverdue, descAge, descBackoff,
		descEntries, descVaultEvicted, descVaultRejected,
	}
)

// Vault returns the vault of the process, or nil if the process has none yet.
type Vault func() *token.Vault

// Register adds all metrics, and the collectors in more, to the registry that Caddy makes for each configuration. It does
// nothing with a nil registry, which the contexts that some modules derive have. The counters belong to the process, so that
// they continue across reloads. The present state is that of the credentials that inForce returns. An error means that the
// name of a metric is taken.
func Register(registry *prometheus.Registry, inForce func() []*Credential, vault Vault, more ...prometheus.Collector) error {
	if registry == nil {
		return nil
	}
	for _, c := range append([]prometheus.Collector{callDuration, waitDuration, collector{inForce, vault}}, more...) {
		err := registry.Register(c)
		if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !again {
			return err
		}
	}
	return nil
}

// collector collects everything but the durations, which are collectors themselves.
type collector struct {
	inForce func() []*Credential
	vault   Vault
}

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range allDescs {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range records.all() {
		r.collect(ch)
	}
	for _, credential := range c.inForce() {
		if credential.Tenants != nil {
			count, _ := credential.Tenants()
			ch <- prometheus.MustNewConstMetric(descTenants, prometheus.GaugeValue, float64(count), credential.Name)
		} else {
			seen, _ := credential.record.snapshot()
			collectState(ch, credential.Name, credential.source.Status(), seen.lastSuccess, time.Now())
		}
		if s := credential.sharing(); s.On {
			ch <- prometheus.MustNewConstMetric(descSkew, prometheus.GaugeValue, s.Skew.Seconds(), credential.Name)
		}
	}
	if v := c.vault(); v != nil {
		stats := v.Stats()
		ch <- prometheus.MustNewConstMetric(descEntries, prometheus.GaugeValue, float64(stats.Entries))
		ch <- prometheus.MustNewConstMetric(descVaultEvicted, prometheus.CounterValue, float64(stats.Evicted))
		ch <- prometheus.MustNewConstMetric(descVaultRejected, prometheus.CounterValue, float64(stats.Rejected))
	}
}

// collect reports the counters.
func (r *record) collect(ch chan<- prometheus.Metric) {
	count := func(desc *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), append([]string{r.name}, labels...)...)
	}
	for i := range r.served {
		count(descRequests, r.served[i].Load(), servedLabels[i])
	}
	for i := range r.denied {
		count(descDenied, r.denied[i].Load(), deniedLabels[i])
	}
	count(descUnauthorized, r.unauthorized.Load())
	count(descInvalidations, r.invalidations.Load())
	count(descReplays, r.replays.Load())
	r.collectTenants(count)
	r.mu.Lock()
	defer r.mu.Unlock()
	for labels, n := range r.calls {
		count(descCalls, n, string(labels.outcome), labels.code)
	}
	if !r.shares.inUse() {
		return
	}
	count(descAdopted, r.adoptions.Load())
	claims, unopened := r.shares.counts()
	for outcome, n := range claims {
		count(descClaims, n, outcome)
	}
	for reason, n := range unopened {
		count(descUnopened, n, reason)
	}
}

// collectTenants reports the counters of tenants, if the credential has or had any.
func (r *record) collectTenants(count func(desc *prometheus.Desc, n uint64, labels ...string)) {
	if !r.tenants.used.Load() {
		return
	}
	count(descTenantsEvicted, r.tenants.evicted.Load())
	for i := range r.tenants.denied {
		count(descTenantsDenied, r.tenants.denied[i].Load(), tenantDeniedLabels[i])
	}
}

// collectState reports the present state of a credential.
func collectState(ch chan<- prometheus.Metric, credential string, s token.Status, lastSuccess, now time.Time) {
	gauge := func(desc *prometheus.Desc, d time.Duration) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, max(0, d.Seconds()), credential)
	}
	gauge(descRemaining, s.Expires.Sub(now))
	gauge(descLifetime, s.Expires.Sub(s.Issued))
	var overdue, backoff time.Duration
	if s.State == token.StateStale {
		overdue = now.Sub(s.RefreshAt)
	}
	if s.Failure != nil {
		backoff = s.Failure.RetryAt.Sub(now)
	}
	gauge(descOverdue, overdue)
	gauge(descBackoff, backoff)
	if !lastSuccess.IsZero() {
		gauge(descAge, now.Sub(lastSuccess))
	}
}
