package caddymodule

import (
	"maps"
	"slices"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// report is what the admin API says of one credential. No secret and no token is in it.
type report struct {
	Name        string         `json:"name"`
	Provider    string         `json:"provider"`
	Endpoint    string         `json:"endpoint"`
	State       token.State    `json:"state"`
	Health      health         `json:"health"`
	Cause       cause          `json:"cause,omitempty"`
	Summary     string         `json:"summary"`
	Advice      string         `json:"advice"`
	Fetching    bool           `json:"fetching"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Issued      *time.Time     `json:"issued,omitempty"`
	Refresh     *time.Time     `json:"refresh,omitempty"`
	Expires     *time.Time     `json:"expires,omitempty"`
	NextTry     *time.Time     `json:"next_try,omitempty"`
	LastSuccess *time.Time     `json:"last_success,omitempty"`
	LastError   *reportedError `json:"last_error,omitempty"`
	Counters    reportCounters `json:"counters"`
	Recent      []occurrence   `json:"recent"`
}

type reportedError struct {
	At     time.Time  `json:"at"`
	Kind   token.Kind `json:"kind"`
	Status int        `json:"status,omitempty"`
	Code   string     `json:"code,omitempty"`
	Reason string     `json:"reason"`
}

type reportCounters struct {
	Requests      map[string]uint64  `json:"requests"`
	Calls         map[outcome]uint64 `json:"calls"`
	Unauthorized  uint64             `json:"unauthorized"`
	Invalidations uint64             `json:"invalidations"`
	Replays       uint64             `json:"replays"`
	Refusals      map[string]uint64  `json:"refusals"`
}

// reports tells of all credentials, sorted by name.
func (a *App) reports() []report {
	all := []report{} // an empty list, not null
	for _, name := range slices.Sorted(maps.Keys(a.Credentials)) {
		all = append(all, a.Credentials[name].report())
	}
	return all
}

func (c *Credential) report() report {
	now := time.Now()
	status, seen := c.source.Status(), c.observation.snapshot()
	d := diagnose(c.endpointHost, status, seen, now)
	r := report{
		Name:        c.name,
		Provider:    c.providerName,
		Endpoint:    c.endpointHost,
		State:       status.State,
		Health:      d.health,
		Cause:       d.cause,
		Summary:     d.summary,
		Advice:      d.advice,
		Fetching:    status.Fetching,
		LastSuccess: timeOrNil(seen.lastSuccess),
		Counters:    c.counters(seen),
		Recent:      seen.recent,
	}
	if status.State != token.StateNone {
		r.Fingerprint = status.Token.Fingerprint()
		r.Issued, r.Refresh, r.Expires = timeOrNil(status.Issued), timeOrNil(status.RefreshAt), timeOrNil(status.Expires)
	}
	if status.Failure != nil && status.Failure.RetryAt.After(now) {
		r.NextTry = timeOrNil(status.Failure.RetryAt)
	}
	if e := seen.lastError; e != nil {
		r.LastError = &reportedError{e.At, token.Kind(e.Outcome), e.Status, e.Code, e.Reason}
	}
	return r
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// snapshot is a copy of what an observation guards.
type snapshot struct {
	calls         map[outcome]uint64
	invalidations uint64
	lastSuccess   time.Time
	lastError     *occurrence
	recent        []occurrence
}

func (o *observation) snapshot() snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	return snapshot{
		calls:         maps.Clone(o.calls),
		invalidations: o.invalidations,
		lastSuccess:   o.lastSuccess,
		lastError:     o.lastError,
		recent:        append([]occurrence{}, o.recent...),
	}
}

func (c *Credential) counters(seen snapshot) reportCounters {
	calls := map[outcome]uint64{outcomeObtained: 0, outcome(token.Unavailable): 0, outcome(token.Refused): 0, outcome(token.Unreadable): 0}
	maps.Copy(calls, seen.calls)
	counted := c.counted()
	return reportCounters{
		Requests: map[string]uint64{
			string(token.ServedFresh):  valueOf(counted.served[string(token.ServedFresh)]),
			string(token.ServedStale):  valueOf(counted.served[string(token.ServedStale)]),
			string(token.ServedWaited): valueOf(counted.served[string(token.ServedWaited)]),
			servedFailed:               valueOf(counted.served[servedFailed]),
		},
		Calls:         calls,
		Unauthorized:  valueOf(counted.unauthorized),
		Invalidations: seen.invalidations,
		Replays:       valueOf(counted.replays),
		Refusals: map[string]uint64{
			refusedDestination: valueOf(counted.refused[refusedDestination]),
			refusedClient:      valueOf(counted.refused[refusedClient]),
		},
	}
}
