package status

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Report is the state of one credential, as the admin API reports it. It holds no secret and no token.
type Report struct {
	Name        string         `json:"name"`
	Provider    string         `json:"provider"`
	Endpoint    string         `json:"endpoint"`
	State       token.State    `json:"state"`
	Health      Health         `json:"health"`
	Cause       Cause          `json:"cause,omitempty"`
	Summary     string         `json:"summary"`
	Advice      string         `json:"advice"`
	Ready       bool           `json:"ready"` // as readiness probes report it: the credential has a valid token, or tenants
	Fetching    bool           `json:"fetching"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Bound       string         `json:"bound,omitempty"` // "DPoP" if the token is bound to a key
	Issued      *time.Time     `json:"issued,omitempty"`
	Refresh     *time.Time     `json:"refresh,omitempty"`
	Expires     *time.Time     `json:"expires,omitempty"`
	NextTry     *time.Time     `json:"next_try,omitempty"`
	LastSuccess *time.Time     `json:"last_success,omitempty"`
	LastError   *ReportedError `json:"last_error,omitempty"`
	Share       *Shared        `json:"share,omitempty"`
	Tenants     *Tenants       `json:"tenants,omitempty"` // only of a credential with tenants
	Counters    Counters       `json:"counters"`
	Recent      []Occurrence   `json:"recent"`
}

// ReportedError is a failed token call.
type ReportedError struct {
	At     time.Time   `json:"at,omitzero"` // missing for one tenant
	Kind   token.Kind  `json:"kind"`
	Status int         `json:"status,omitempty"`
	Code   string      `json:"code,omitempty"`
	Cause  token.Cause `json:"cause,omitempty"`
	Peer   token.Peer  `json:"peer,omitempty"` // whom the cause is about; empty for the token endpoint
	Reason string      `json:"reason"`
}

// Reported returns a failed token call as the admin API and the commands report it.
func Reported(at time.Time, e *token.Error) *ReportedError {
	return &ReportedError{at, e.Kind, e.Status, e.Code, e.Cause, e.Peer, e.Reason}
}

// Counters are the counters of a credential since the process began.
type Counters struct {
	Requests      map[string]uint64  `json:"requests"`
	Calls         map[Outcome]uint64 `json:"calls"`
	Unauthorized  uint64             `json:"unauthorized"`
	Invalidations uint64             `json:"invalidations"`
	Replays       uint64             `json:"replays"`
	Refusals      map[string]uint64  `json:"refusals"`
}

// Report returns the state of a credential that is in force, with its diagnosis and its history.
func (c *Credential) Report() Report {
	now := time.Now()
	status := c.source.Status()
	seen, calls := c.record.snapshot()
	sharing := c.sharing()
	d := diagnose(c.Service, status, seen, sharing, now)
	tenants := c.tenantReport(seen)
	if tenants != nil && d.Cause != causeConfiguration {
		d = tenants.diagnosis(c.Service, diagnoseSharing(sharing), now)
	}
	r := Report{
		Name:        c.Name,
		Provider:    c.Provider,
		Endpoint:    c.Endpoint,
		State:       status.State,
		Health:      d.Health,
		Cause:       d.Cause,
		Summary:     d.Summary,
		Advice:      d.Advice,
		Ready:       tenants != nil || valid(status.State) && !status.Dead,
		Fetching:    status.Fetching,
		LastSuccess: timeOrNil(seen.lastSuccess),
		Share:       c.shared(sharing, status, seen, now),
		Tenants:     tenants,
		Counters:    c.record.counters(calls),
		Recent:      seen.recent,
	}
	r.Fingerprint, r.Issued, r.Refresh, r.Expires = tokenReport(status)
	r.Bound = bound(status.DPoP)
	r.NextTry = nextTry(status, now)
	if e := seen.lastError; e != nil {
		r.LastError = &ReportedError{e.At, token.Kind(e.Outcome), e.Status, e.Code, e.Cause, e.Peer, e.Reason}
	}
	return r
}

// shared returns the sharing in the form of the admin API, or nil if the configuration has no store.
func (c *Credential) shared(s Sharing, status token.Status, seen history, now time.Time) *Shared {
	if c.Sharing == nil {
		return nil
	}
	if !s.On {
		return new(Shared)
	}
	r := &Shared{
		On: true, Up: s.Store.Up, LastError: s.Store.LastError, Record: s.Record, Claim: s.Claim, Unopened: s.Unopened,
		Skew: s.Skew.Seconds(), Adopted: c.record.adoptions.Load(), Claims: c.record.claims(),
	}
	if s.ClaimUntil.After(now) {
		r.ClaimUntil = &s.ClaimUntil
	}
	if status.State != token.StateNone {
		r.From = fromHere
		if seen.adopted {
			r.From = fromElsewhere
		}
	}
	return r
}

// tokenReport returns what a report has of the token of a source.
func tokenReport(s token.Status) (fingerprint string, issued, refresh, expires *time.Time) {
	if s.State == token.StateNone {
		return "", nil, nil, nil
	}
	return s.Token.Fingerprint(), timeOrNil(s.Issued), timeOrNil(s.RefreshAt), timeOrNil(s.Expires)
}

// bound returns how a token is bound, or "".
func bound(dpop bool) string {
	if dpop {
		return "DPoP"
	}
	return ""
}

// nextTry returns when calls are no longer held back, or nil if they are not.
func nextTry(s token.Status, now time.Time) *time.Time {
	if s.Failure == nil || !s.Failure.RetryAt.After(now) {
		return nil
	}
	return timeOrNil(s.Failure.RetryAt)
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// counters returns the counters in the form of the admin API.
func (r *record) counters(calls map[Outcome]uint64) Counters {
	return Counters{
		Requests: map[string]uint64{
			ServedFresh.String():  r.served[ServedFresh].Load(),
			ServedStale.String():  r.served[ServedStale].Load(),
			ServedWaited.String(): r.served[ServedWaited].Load(),
			ServedFailed.String(): r.served[ServedFailed].Load(),
		},
		Calls:         calls,
		Unauthorized:  r.unauthorized.Load(),
		Invalidations: r.invalidations.Load(),
		Replays:       r.replays.Load(),
		Refusals: map[string]uint64{
			DeniedDestination.String(): r.denied[DeniedDestination].Load(),
			DeniedClient.String():      r.denied[DeniedClient].Load(),
		},
	}
}
