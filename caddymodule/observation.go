package caddymodule

import (
	"slices"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// observation is what has been seen of one credential, for the admin API and its page. It outlives reloads of the
// configuration, and is forgotten a while after the last configuration that names the credential.
type observation struct {
	name  string
	users int         // the loaded configurations that name it; guarded by the set's mutex
	timer *time.Timer // forgets it; guarded by the set's mutex

	mu            sync.Mutex // guards what follows
	forgotten     bool
	identity      token.Key // of the client that the history is of
	calls         map[outcome]uint64
	invalidations uint64
	lastSuccess   time.Time
	lastError     *occurrence
	recent        []occurrence // oldest first
}

// outcome is what came of a token call, or what else happened to a token.
type outcome string

// The outcomes. Those of failed calls are the kinds of failure.
const (
	outcomeObtained    outcome = "obtained"
	outcomeRejected    outcome = "rejected"    // the API refused the token
	outcomeDestination outcome = "destination" // the token may not go to an upstream
)

func (o outcome) is(other outcome) bool { return o == other }

// isCall reports whether this is what came of a token call.
func (o outcome) isCall() bool { return o != outcomeRejected && o != outcomeDestination }

// occurrence is one entry of a credential's history.
type occurrence struct {
	At          time.Time `json:"at"`
	Outcome     outcome   `json:"outcome"`
	Duration    float64   `json:"duration,omitempty"` // seconds
	Lifetime    float64   `json:"lifetime,omitempty"` // seconds
	Status      int       `json:"status,omitempty"`
	Code        string    `json:"code,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
}

// maxRecent bounds the history of a credential.
const maxRecent = 50

// occurrenceOf turns an event of the engine into an entry of the history.
func occurrenceOf(e token.Event) occurrence {
	o := occurrence{At: time.Now(), Outcome: outcomeObtained, Duration: e.Duration.Seconds()}
	switch {
	case e.Rejected:
		o.Outcome = outcomeRejected
		o.Fingerprint = e.Token.Fingerprint()
	case e.Err != nil:
		o.Outcome = outcome(e.Err.Kind)
		o.Status, o.Code, o.Reason = e.Err.Status, e.Err.Code, e.Err.Reason
	default:
		o.Lifetime = e.Lifetime.Seconds()
		o.Fingerprint = e.Token.Fingerprint()
	}
	return o
}

// begin says which client goes by the name now. The history of another tells nothing of it.
func (o *observation) begin(identity token.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.identity != "" && o.identity != identity {
		o.recent, o.lastError, o.lastSuccess = nil, nil, time.Time{}
	}
	o.identity = identity
}

// add adds an entry to the history.
func (o *observation) add(entry occurrence) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case entry.Outcome == outcomeRejected:
		o.invalidations++
	case entry.Outcome == outcomeObtained:
		o.lastSuccess = entry.At
	case entry.Outcome.isCall():
		o.lastError = &entry
	}
	if entry.Outcome.isCall() {
		o.calls[entry.Outcome]++
	}
	if len(o.recent) == maxRecent {
		o.recent = append(o.recent[:0], o.recent[1:]...)
	}
	o.recent = append(o.recent, entry)
}

// latest returns the last entry that is wanted; the zero one if there is none.
func latest(recent []occurrence, wanted func(outcome) bool) occurrence {
	for _, entry := range slices.Backward(recent) {
		if wanted(entry.Outcome) {
			return entry
		}
	}
	return occurrence{}
}

// succeeded returns when a token was last obtained.
func (o *observation) succeeded() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lastSuccess
}

// callsSince returns the token calls that ended after a time.
func (o *observation) callsSince(began time.Time) []occurrence {
	o.mu.Lock()
	defer o.mu.Unlock()
	var calls []occurrence
	for _, entry := range o.recent {
		if entry.At.After(began) && entry.Outcome.isCall() {
			calls = append(calls, entry)
		}
	}
	return calls
}

// whileKept calls f, unless the credential has been forgotten: requests and token calls outlive their configuration, and
// a series that they brought back would stay for ever.
func (o *observation) whileKept(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.forgotten {
		f()
	}
}
