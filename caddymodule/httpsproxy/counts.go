package httpsproxy

import (
	"sync/atomic"
	"time"
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
