package status

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// record is what is kept of the credential with one name, for as long as a configuration names it and a while longer.
type record struct {
	name  string
	users int         // the loaded configurations that name it; guarded by the set's mutex
	timer *time.Timer // forgets it; guarded by the set's mutex

	served                               [len(servedLabels)]atomic.Uint64
	denied                               [len(deniedLabels)]atomic.Uint64
	unauthorized, invalidations, replays atomic.Uint64

	mu        sync.Mutex // guards what follows
	forgotten bool
	calls     map[callLabels]uint64
	identity  token.Key // of the client that the history is of
	history
}

// callLabels are the labels that token calls are counted by.
type callLabels struct {
	outcome Outcome
	code    string
}

func newRecord(name string) *record {
	r := &record{name: name, calls: make(map[callLabels]uint64)}
	for _, outcome := range callOutcomes { // a rate cannot tell of the first event of a series
		r.calls[callLabels{outcome: outcome}] = 0
	}
	return r
}

// begin says which client goes by the name now. The history of another tells nothing of it.
func (r *record) begin(identity token.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.identity != "" && r.identity != identity {
		r.history = history{}
	}
	r.identity = identity
	waitDuration.WithLabelValues(r.name) // from zero, as the counters
}

// begun reports whether a configuration that names the credential has been in force.
func (r *record) begun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.identity != ""
}

// event counts an event of the engine, and adds it to the history.
func (r *record) event(e token.Event) Occurrence {
	o := occurrenceOf(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(o)
	if o.Outcome == Rejected {
		r.invalidations.Add(1)
		return o
	}
	r.calls[callLabels{o.Outcome, codeLabel(o.Code)}]++
	if !r.forgotten {
		callDuration.WithLabelValues(r.name).Observe(e.Duration.Seconds())
	}
	return o
}

// occurred adds to the history what is no event of the engine.
func (r *record) occurred(o Occurrence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(o)
}

// waited counts the time that a request has waited for a token.
func (r *record) waited(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.forgotten {
		waitDuration.WithLabelValues(r.name).Observe(d.Seconds())
	}
}

// snapshot returns a copy of the history, and the token calls by outcome.
func (r *record) snapshot() (history, map[Outcome]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := make(map[Outcome]uint64)
	for labels, n := range r.calls {
		calls[labels.outcome] += n
	}
	return r.history.clone(), calls
}
