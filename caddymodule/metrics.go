package caddymodule

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// metrics are the collectors of this process. Caddy makes a registry for each configuration that it loads; they are
// registered with each of them, and so go on counting across reloads. What no configuration names any more is forgotten
// after a while: see observationSet.
var metrics = newMetrics()

type metricSet struct {
	calls         *prometheus.CounterVec
	callDuration  *prometheus.HistogramVec
	requests      *prometheus.CounterVec
	waitDuration  *prometheus.HistogramVec
	refused       *prometheus.CounterVec
	unauthorized  *prometheus.CounterVec
	invalidations *prometheus.CounterVec
	replays       *prometheus.CounterVec
	state         stateCollector
}

const metricsPrefix = "caddy_token_proxy_"

func newMetrics() metricSet {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}, append([]string{"credential"}, labels...))
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    metricsPrefix + name,
			Help:    help,
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"credential"})
	}
	return metricSet{
		calls:         counter("calls_total", "Token calls by outcome and by the error code of the token endpoint.", "outcome", "code"),
		callDuration:  histogram("call_duration_seconds", "How long token calls took."),
		requests:      counter("requests_total", "Requests by how they came by a token: fresh, stale, waited, failed, or left before there was one.", "served"),
		waitDuration:  histogram("wait_duration_seconds", "How long requests waited for a token, of those that had to."),
		refused:       counter("refused_requests_total", "Requests that were not sent on: client, cross_site, method, authorization, destination or loop.", "reason"),
		unauthorized:  counter("unauthorized_total", "Answers of the API with status 401."),
		invalidations: counter("invalidations_total", "Tokens given up because the API refused them."),
		replays:       counter("replays_total", "Requests sent again with another token."),
	}
}

// register adds all collectors to a configuration's registry. It is nil in contexts that some modules derive.
func (m metricSet) register(registry *prometheus.Registry) error {
	if registry == nil {
		return nil
	}
	for _, collector := range []prometheus.Collector{
		m.calls, m.callDuration, m.requests, m.waitDuration, m.refused, m.unauthorized, m.invalidations, m.replays, m.state,
	} {
		err := registry.Register(collector)
		if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !again {
			return err
		}
	}
	return nil
}

// forget drops all series of a credential.
func (m metricSet) forget(credential string) {
	for _, vec := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.calls, m.callDuration, m.requests, m.waitDuration, m.refused, m.unauthorized, m.invalidations, m.replays,
	} {
		vec.DeletePartialMatch(prometheus.Labels{"credential": credential})
	}
}

// event counts one token call, or one token that is given up.
func (m metricSet) event(credential string, e token.Event) {
	if e.Rejected {
		m.invalidations.WithLabelValues(credential).Inc()
		return
	}
	result, code := string(outcomeObtained), ""
	if e.Err != nil {
		result, code = string(e.Err.Kind), codeLabel(e.Err.Code)
	}
	m.calls.WithLabelValues(credential, result, code).Inc()
	m.callDuration.WithLabelValues(credential).Observe(e.Duration.Seconds())
}

// The values of the label reason.
const (
	refusedClient        = "client"
	refusedCrossSite     = "cross_site"
	refusedMethod        = "method"
	refusedAuthorization = "authorization"
	refusedDestination   = "destination"
	refusedLoop          = "loop"
)

// labeledCodes are the error codes that have a value of the label code: those of RFC 6749, of RFC 8707 and RFC 8628 as
// far as they can be answers to these requests, and Doorkeeper's. A token endpoint can invent any number of others.
var labeledCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"invalid_target", "slow_down", "access_denied", "server_error", "temporarily_unavailable", "invalid_token_reuse",
}

func codeLabel(code string) string {
	if code == "" || slices.Contains(labeledCodes, code) {
		return code
	}
	return "other"
}

// credentialMetrics are the metrics of one credential that requests count.
type credentialMetrics struct {
	served                map[string]prometheus.Counter // by how
	refused               map[string]prometheus.Counter // by reason
	unauthorized, replays prometheus.Counter
	wait                  prometheus.Observer
}

// of finds the metrics of a credential once, when they are first asked for: a configuration that is refused adds none.
func (m metricSet) of(credential string) func() credentialMetrics {
	return sync.OnceValue(func() credentialMetrics {
		m.startAtZero(credential)
		each := func(counter *prometheus.CounterVec, labels ...string) map[string]prometheus.Counter {
			counters := make(map[string]prometheus.Counter)
			for _, label := range labels {
				counters[label] = counter.WithLabelValues(credential, label)
			}
			return counters
		}
		return credentialMetrics{
			served: each(m.requests, string(token.ServedFresh), string(token.ServedStale), string(token.ServedWaited),
				servedFailed, servedLeft),
			refused:      each(m.refused, refusedClient, refusedCrossSite, refusedMethod, refusedAuthorization, refusedDestination, refusedLoop),
			unauthorized: m.unauthorized.WithLabelValues(credential),
			replays:      m.replays.WithLabelValues(credential),
			wait:         m.waitDuration.WithLabelValues(credential),
		}
	})
}

// startAtZero makes what may not happen for long: a rate cannot tell of the first event of a series.
func (m metricSet) startAtZero(credential string) {
	m.invalidations.WithLabelValues(credential)
	for _, outcome := range []string{string(outcomeObtained), string(token.Unavailable), string(token.Refused), string(token.Unreadable)} {
		m.calls.WithLabelValues(credential, outcome, "")
	}
}

// valueOf reads a counter.
func valueOf(c prometheus.Counter) uint64 {
	var m dto.Metric
	_ = c.Write(&m) // it writes to memory
	return uint64(m.GetCounter().GetValue())
}

// stateCollector reports what is now: of the credentials of the configuration in force, and of the vault.
type stateCollector struct{}

func stateDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, []string{"credential"}, nil)
}

var (
	descRemaining = stateDesc("token_remaining_seconds", "Seconds until the token expires; 0 if there is no valid token.")
	descLifetime  = stateDesc("token_lifetime_seconds", "Lifetime of the token, from when it was asked for to its expiry.")
	descOverdue   = stateDesc("token_refresh_overdue_seconds", "Seconds since the token was due to be refreshed; 0 if it is not due, or there is no valid token.")
	descAge       = stateDesc("last_success_age_seconds", "Seconds since a token was last obtained.")
	descBackoff   = stateDesc("backoff_seconds", "Seconds until the token endpoint is called again after a failure; 0 if calls are not held back.")

	descEntries  = prometheus.NewDesc(metricsPrefix+"vault_entries", "Sources that are remembered.", nil, nil)
	descEvicted  = prometheus.NewDesc(metricsPrefix+"vault_evictions_total", "Sources forgotten for want of room.", nil, nil)
	descRejected = prometheus.NewDesc(metricsPrefix+"vault_rejections_total", "Sources not remembered for want of room.", nil, nil)
)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		descRemaining, descLifetime, descOverdue, descAge, descBackoff, descEntries, descEvicted, descRejected,
	} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (stateCollector) Collect(ch chan<- prometheus.Metric) {
	if app := runningApp(); app != nil {
		for _, c := range app.Credentials {
			collectCredential(ch, c, c.source.Status(), time.Now())
		}
	}
	if v := madeVault.Load(); v != nil {
		stats := v.Stats()
		ch <- prometheus.MustNewConstMetric(descEntries, prometheus.GaugeValue, float64(stats.Entries))
		ch <- prometheus.MustNewConstMetric(descEvicted, prometheus.CounterValue, float64(stats.Evicted))
		ch <- prometheus.MustNewConstMetric(descRejected, prometheus.CounterValue, float64(stats.Rejected))
	}
}

func collectCredential(ch chan<- prometheus.Metric, c *Credential, s token.Status, now time.Time) {
	gauge := func(desc *prometheus.Desc, d time.Duration) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, max(0, d.Seconds()), c.name)
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
	if success := c.observation.succeeded(); !success.IsZero() {
		gauge(descAge, now.Sub(success))
	}
}
