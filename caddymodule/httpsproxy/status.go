package httpsproxy

// Status is what the admin API and the page show of https_proxy.
type Status struct {
	Listeners  []ListenerStatus  `json:"listeners"`
	Requests   map[string]uint64 `json:"requests"` // by how they were served, since the process began
	Denied     map[string]uint64 `json:"denied"`   // by reason, since the process began
	LastDenied *Denial           `json:"last_denied,omitempty"`
	Tunnels    int               `json:"tunnels"` // open now
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
