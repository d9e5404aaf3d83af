package httpsproxy

import (
	"slices"
	"sync"
)

// ListenerStatus is a listener with the wrapper.
type ListenerStatus struct {
	Address string   `json:"address"`
	Sites   []string `json:"sites"`
	Tunnel  []string `json:"tunnel"`
}

// inForce are the listeners of the configuration in force.
var inForce listenerSet

type listenerSet struct {
	mu  sync.Mutex // guards all
	all []*listener
}

func (s *listenerSet) add(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, l)
}

func (s *listenerSet) remove(listeners []*listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(l *listener) bool { return slices.Contains(listeners, l) })
}

// successor returns another open listener of the same address, or nil. During a reload, that is the one of the new
// configuration, or of the old one if the new one fails to start.
func (s *listenerSet) successor(l *listener) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.all {
		if other != l && other.Addr().Network() == l.Addr().Network() && other.Addr().String() == l.Addr().String() && !other.isClosed() {
			return other
		}
	}
	return nil
}

// list returns the status of each listener.
func (s *listenerSet) list() []ListenerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []ListenerStatus
	for _, l := range s.all {
		list = append(list, l.status)
	}
	return list
}
