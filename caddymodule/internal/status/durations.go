package status

import "github.com/prometheus/client_golang/prometheus"

// MetricsPrefix is the beginning of the names of all metrics.
const MetricsPrefix = "caddy_token_proxy_"

// The durations since the process began, in seconds.
var (
	callDuration = durations("call_duration_seconds", "How long token calls took.")
	waitDuration = durations("wait_duration_seconds", "How long requests waited for a token, of those that had to wait.")
)

func durations(name, help string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    MetricsPrefix + name,
		Help:    help,
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
	}, []string{"credential"})
}

// forgetDurations deletes the series of a credential.
func forgetDurations(credential string) {
	for _, vec := range []*prometheus.HistogramVec{callDuration, waitDuration} {
		vec.DeletePartialMatch(prometheus.Labels{"credential": credential})
	}
}
