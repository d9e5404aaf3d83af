package httpsproxy

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// served is how the proxy served a request that it did not deny. It is an index into servedLabels.
type served int

const (
	servedSite        served = iota // CONNECT for a site
	servedTunnel                    // CONNECT for another host
	servedHTTP                      // a request for an http:// URL of a site
	servedUnreachable               // CONNECT for another host, to which no connection could be made
)

// servedLabels are the values of the metric label served.
var servedLabels = [...]string{"site", "tunnel", "http", "unreachable"}

// counts are the counters of the process. They continue across reloads.
var counts counters

type counters struct {
	served [len(servedLabels)]atomic.Uint64
	denied [len(denials)]atomic.Uint64
	last   atomic.Pointer[Denial]
}

// Denial is a request that the proxy denied.
type Denial struct {
	Host   string    `json:"host,omitempty"` // in lower case; empty if the request named none
	Reason string    `json:"reason"`         // as in the metric
	At     time.Time `json:"at"`
}

func (c *counters) deny(host string, why denied) {
	c.denied[why].Add(1)
	c.last.Store(&Denial{host, why.String(), time.Now()})
}

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

// Status is what the admin API and the page show of https_proxy.
type Status struct {
	Listeners  []ListenerStatus  `json:"listeners"`
	Requests   map[string]uint64 `json:"requests"` // by how they were served, since the process began
	Denied     map[string]uint64 `json:"denied"`   // by reason, since the process began
	LastDenied *Denial           `json:"last_denied,omitempty"`
	Tunnels    int               `json:"tunnels"` // open now
}

// ListenerStatus is a listener with the wrapper.
type ListenerStatus struct {
	Address string   `json:"address"`
	Sites   []string `json:"sites"`
	Tunnel  []string `json:"tunnel"`
}

// CurrentStatus returns the status, or nil if the configuration in force has no https_proxy.
func CurrentStatus() *Status {
	listeners := inForce.list()
	if len(listeners) == 0 {
		return nil
	}
	s := &Status{
		Listeners:  listeners,
		Requests:   make(map[string]uint64),
		Denied:     make(map[string]uint64),
		LastDenied: counts.last.Load(),
		Tunnels:    open.count(),
	}
	for i := range counts.served {
		s.Requests[servedLabels[i]] = counts.served[i].Load()
	}
	for i := range counts.denied {
		s.Denied[denied(i).String()] = counts.denied[i].Load()
	}
	return s
}

// inForce are the listeners of the configuration in force.
var inForce listenerSet

type listenerSet struct {
	mu  sync.Mutex // guards all
	all []inUse
}

type inUse struct {
	*listener
	wrapper *ListenerWrapper
}

func (s *listenerSet) add(w *ListenerWrapper, l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, inUse{l, w})
}

func (s *listenerSet) remove(w *ListenerWrapper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(u inUse) bool { return u.wrapper == w })
}

// successor returns another open listener of the same address, or nil. During a reload, that is the one of the new
// configuration, or of the old one if the new one fails to start.
func (s *listenerSet) successor(l *listener) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		if u.listener != l && u.Addr().Network() == l.Addr().Network() && u.Addr().String() == l.Addr().String() && !u.isClosed() {
			return u.listener
		}
	}
	return nil
}

func (s *listenerSet) list() []ListenerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []ListenerStatus
	for _, u := range s.all {
		list = append(list, ListenerStatus{u.Addr().String(), u.wrapper.sites.names(), append([]string{}, u.wrapper.Tunnel...)})
	}
	return list
}
