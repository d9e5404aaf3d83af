package status

import (
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// TenantReport is the state of one tenant, as the admin API reports it. It holds no secret and no token.
type TenantReport struct {
	Credential  string         `json:"credential"`
	Name        string         `json:"name"`
	State       token.State    `json:"state"`
	Health      Health         `json:"health"`
	Cause       Cause          `json:"cause,omitempty"`
	Summary     string         `json:"summary"`
	Advice      string         `json:"advice"`
	Fetching    bool           `json:"fetching"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Bound       string         `json:"bound,omitempty"` // "DPoP" if the token is bound to a key
	Issued      *time.Time     `json:"issued,omitempty"`
	Refresh     *time.Time     `json:"refresh,omitempty"`
	Expires     *time.Time     `json:"expires,omitempty"`
	NextTry     *time.Time     `json:"next_try,omitempty"`
	LastError   *ReportedError `json:"last_error,omitempty"` // missing if the last token call did not fail
}

// ReportTenant returns the state of one tenant with this name and source.
func (c *Credential) ReportTenant(name string, s token.Status, now time.Time) TenantReport {
	d := diagnose(c.Service, s, history{}, Sharing{}, now) // the history is that of all tenants
	r := TenantReport{
		Credential: c.Name,
		Name:       name,
		State:      s.State,
		Health:     d.Health,
		Cause:      d.Cause,
		Summary:    d.Summary,
		Advice:     d.Advice,
		Fetching:   s.Fetching,
	}
	r.Fingerprint, r.Issued, r.Refresh, r.Expires = tokenReport(s)
	r.Bound = bound(s.DPoP)
	r.NextTry = nextTry(s, now)
	if s.Failure != nil {
		r.LastError = Reported(time.Time{}, s.Failure) // a tenant remembers no time, because it stays small
	}
	return r
}
