package httpsproxy

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metricsPrefix is what the names of all metrics of the product begin with.
const metricsPrefix = "caddy_token_proxy_"

var (
	descServed  = prometheus.NewDesc(metricsPrefix+"https_proxy_requests_total", "Requests to https_proxy by how they were served: site, tunnel, http or unreachable.", []string{"served"}, nil)
	descDenied  = prometheus.NewDesc(metricsPrefix+"https_proxy_denied_total", "Requests that https_proxy denied, by reason: client, target, host, port, plain, root, address, tls or sni.", []string{"reason"}, nil)
	descTunnels = prometheus.NewDesc(metricsPrefix+"https_proxy_tunnels", "Tunnels through https_proxy that are open.", nil, nil)
)

// register adds the metrics to the registry of a configuration, which other wrappers of the configuration may have done.
func register(registry *prometheus.Registry) error {
	if registry == nil {
		return nil
	}
	err := registry.Register(collector{})
	if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); again {
		return nil
	}
	return err
}

type collector struct{}

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descServed
	ch <- descDenied
	ch <- descTunnels
}

// Collect implements prometheus.Collector.
func (collector) Collect(ch chan<- prometheus.Metric) {
	for i := range counts.served {
		ch <- prometheus.MustNewConstMetric(descServed, prometheus.CounterValue, float64(counts.served[i].Load()), servedLabels[i])
	}
	for i := range counts.denied {
		ch <- prometheus.MustNewConstMetric(descDenied, prometheus.CounterValue, float64(counts.denied[i].Load()), denied(i).String())
	}
	ch <- prometheus.MustNewConstMetric(descTunnels, prometheus.GaugeValue, float64(open.count()))
}
