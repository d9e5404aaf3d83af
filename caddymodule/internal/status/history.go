package status

import (
	"slices"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Outcome is the result of a token call, or another thing that happened to a token.
type Outcome string

// The values of Outcome. A failed call has the token.Kind of its failure as its outcome.
const (
	Obtained    Outcome = "obtained"
	Adopted     Outcome = "adopted"     // another replica obtained the token
	Rejected    Outcome = "rejected"    // the API rejected the token
	Destination Outcome = "destination" // the token may not go to an upstream
	Demanded    Outcome = "demanded"    // the API demands more than the token has
)

// callOutcomes are the outcomes of token calls.
var callOutcomes = []Outcome{Obtained, Outcome(token.Unavailable), Outcome(token.Refused), Outcome(token.Unreadable)}

func (o Outcome) is(other Outcome) bool { return o == other }

// isCall reports whether this is the outcome of a token call.
func (o Outcome) isCall() bool {
	return o != Adopted && o != Rejected && o != Destination && o != Demanded
}

// isToken reports whether this replica got a token, by a call of its own or from another replica.
func (o Outcome) isToken() bool { return o == Obtained || o == Adopted }

// Occurrence is one entry of a credential's history.
type Occurrence struct {
	At          time.Time   `json:"at"`
	Outcome     Outcome     `json:"outcome"`
	Tenant      string      `json:"tenant,omitempty"`   // only of a credential with tenants
	Duration    float64     `json:"duration,omitempty"` // seconds
	Lifetime    float64     `json:"lifetime,omitempty"` // seconds
	Status      int         `json:"status,omitempty"`
	Code        string      `json:"code,omitempty"`
	Cause       token.Cause `json:"cause,omitempty"`
	Peer        token.Peer  `json:"peer,omitempty"`
	Reason      string      `json:"reason,omitempty"` // why the call failed, or what is odd about the token
	Fingerprint string      `json:"fingerprint,omitempty"`
}

// occurrenceOf returns the entry of the history for an event of a source.
func occurrenceOf(e token.Event) Occurrence {
	o := Occurrence{At: time.Now(), Outcome: Obtained, Duration: e.Duration.Seconds()}
	switch {
	case e.Rejected:
		o.Outcome = Rejected
		if e.Demanded {
			o.Code, o.Reason = codeClaims, "the API demands claims that the token was issued without"
		}
		o.Fingerprint = e.Token.Fingerprint()
	case e.Err != nil:
		o.Outcome = Outcome(e.Err.Kind)
		o.Status, o.Code, o.Reason = e.Err.Status, e.Err.Code, e.Err.Reason
		o.Cause, o.Peer = e.Err.Cause, e.Err.Peer
	default:
		if e.Adopted {
			o.Outcome = Adopted
		}
		o.Lifetime = e.Lifetime.Seconds()
		o.Reason = e.Note
		o.Fingerprint = e.Token.Fingerprint()
	}
	return o
}

// maxRecent is the number of entries that the history of a credential keeps.
const maxRecent = 50

// history is what happened to a credential lately.
type history struct {
	lastSuccess time.Time
	adopted     bool // the latest token is from another replica
	lastError   *Occurrence
	recent      []Occurrence // oldest first
	tenants     tenantFailures
}

func (h *history) add(o Occurrence) {
	switch {
	case o.Outcome.isToken():
		h.lastSuccess, h.adopted = o.At, o.Outcome == Adopted
	case o.Outcome.isCall():
		h.lastError = &o
	}
	h.tenants.add(o)
	if len(h.recent) == maxRecent {
		h.recent = append(h.recent[:0], h.recent[1:]...)
	}
	h.recent = append(h.recent, o)
}

func (h *history) clone() history {
	return history{h.lastSuccess, h.adopted, h.lastError, append([]Occurrence{}, h.recent...), slices.Clone(h.tenants)}
}

// latest returns the last entry whose outcome is wanted, or a zero Occurrence.
func (h *history) latest(wanted func(Outcome) bool) Occurrence {
	for _, o := range slices.Backward(h.recent) {
		if wanted(o.Outcome) {
			return o
		}
	}
	return Occurrence{}
}

// callsSince returns the token calls that ended after began.
func (h *history) callsSince(began time.Time) []Occurrence {
	var calls []Occurrence
	for _, o := range h.recent {
		if o.At.After(began) && o.Outcome.isCall() {
			calls = append(calls, o)
		}
	}
	return calls
}

// DestinationInterval is the shortest time between two entries of the history in which one handler reports a denied
// destination. Without it, one wrong upstream would push everything else out of the history.
const DestinationInterval = time.Minute
