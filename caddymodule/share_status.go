package caddymodule

import (
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// status returns the state of the store.
func (s *Share) status() status.Store {
	stats := s.store.guard.Stats()
	r := status.Store{Name: s.name, Up: stats.Up}
	if f := stats.LastFailure; f != nil {
		r.LastError = failureText(*f)
	}
	return r
}

// statusOrNil returns the state of the store, or nil if the app has none.
func (s *Share) statusOrNil() *status.Store {
	if s == nil {
		return nil
	}
	store := s.status()
	return &store
}

// failureText returns why a store failed, without any text that the store has not explained.
func failureText(f share.Failure) string {
	switch {
	case f.Reason != "":
		return f.Reason
	case f.Class == "timeout":
		return "the store does not answer in time, because its server hangs, a firewall drops the connection, or only one side uses TLS"
	case f.Class == "refused":
		return "the store's server refuses connections, because it is not running or the address is wrong"
	default:
		return "the store failed with an error of type " + f.Type + ", whose text the proxy does not show"
	}
}
