package status

import (
	"maps"
	"regexp"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func noCredentials() []*Credential { return nil }

func noVault() *token.Vault { return nil }

func TestMetricsOfEachState(t *testing.T) {
	now := time.Now()
	collect := func(s token.Status) map[string]float64 {
		ch := make(chan prometheus.Metric, 10)
		collectState(ch, "catalog", s, time.Time{}, now)
		close(ch)
		got := make(map[string]float64)
		for metric := range ch {
			family, value := readMetric(t, metric)
			got[family] = value
		}
		return got
	}
	issued := now.Add(-time.Hour)
	failure := &token.Error{RetryAt: now.Add(20 * time.Second)}
	past := &token.Error{RetryAt: now.Add(-20 * time.Second)}
	for name, tc := range map[string]struct {
		status                                token.Status
		remaining, lifetime, overdue, backoff float64
	}{
		"none":     {token.Status{State: token.StateNone}, 0, 0, 0, 0},
		"fresh":    {token.Status{State: token.StateFresh, Issued: issued, RefreshAt: now.Add(time.Minute), Expires: now.Add(time.Hour)}, 3600, 7200, 0, 0},
		"stale":    {token.Status{State: token.StateStale, Issued: issued, RefreshAt: now.Add(-time.Minute), Expires: now.Add(time.Hour)}, 3600, 7200, 60, 0},
		"rejected": {token.Status{State: token.StateRejected, Issued: issued, Expires: now.Add(time.Hour)}, 3600, 7200, 0, 0},
		"expired":  {token.Status{State: token.StateExpired, Issued: issued, RefreshAt: now.Add(-time.Minute), Expires: now.Add(-time.Second)}, 0, 3599, 0, 0},
		"held":     {token.Status{State: token.StateNone, Failure: failure}, 0, 0, 0, 20},
		"due":      {token.Status{State: token.StateNone, Failure: past}, 0, 0, 0, 0},
	} {
		want := map[string]float64{"token_remaining_seconds": tc.remaining, "token_lifetime_seconds": tc.lifetime,
			"token_refresh_overdue_seconds": tc.overdue, "backoff_seconds": tc.backoff}
		if got := collect(tc.status); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// readMetric returns the name, without its prefix, and the value of a gauge.
func readMetric(t *testing.T, metric prometheus.Metric) (string, float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(oneMetric{metric})
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%d families: %v", len(families), err)
	}
	match := familyName.FindStringSubmatch(metric.Desc().String())
	return match[1], families[0].GetMetric()[0].GetGauge().GetValue()
}

func TestMetricsRegisterTwice(t *testing.T) {
	registry := prometheus.NewRegistry()
	for range 2 {
		if err := Register(registry, noCredentials, noVault); err != nil {
			t.Error(err)
		}
	}
	if err := Register(nil, noCredentials, noVault); err != nil {
		t.Error(err)
	}
	clash := prometheus.NewRegistry()
	clash.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: MetricsPrefix + "calls_total", Help: "another"}))
	if Register(clash, noCredentials, noVault) == nil {
		t.Error("a name that is taken is no error")
	}
}

var familyName = regexp.MustCompile(`fqName: "` + MetricsPrefix + `([a-z_]+)"`)

type oneMetric struct{ prometheus.Metric }

func (m oneMetric) Describe(ch chan<- *prometheus.Desc) { ch <- m.Desc() }
func (m oneMetric) Collect(ch chan<- prometheus.Metric) { ch <- m.Metric }

func TestCodeLabels(t *testing.T) {
	for _, code := range append(labeledCodes, "") {
		if codeLabel(code) != code {
			t.Errorf("the label of code %q is %q", code, codeLabel(code))
		}
	}
	if codeLabel("x_invented") != "other" {
		t.Error("an invented code is a label")
	}
}
