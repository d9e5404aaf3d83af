package status

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// record has the counters and the history of the credential with one name. It lives as long as a configuration names the
// credential, and for forgetAfter longer.
type record struct {
	name  string
	users int         // the number of loaded configurations that name it; guarded by the set's mutex
	timer *time.Timer // drops the record; guarded by the set's mutex

	served                               [len(servedLabels)]atomic.Uint64
	denied                               [len(deniedLabels)]atomic.Uint64
	unauthorized, invalidations, replays atomic.Uint64
	adoptions                            atomic.Uint64 // tokens of other replicas
	tenants                              tenantCounts

	mu        sync.Mutex // guards what follows
	forgotten bool
	calls     map[callLabels]uint64
	identity  token.Key // of the credential that the history is about; empty before begin
	shares    shares
	history
}

// tenantCounts are the counters of a credential with tenants.
type tenantCounts struct {
	used    atomic.Bool // the credential has or had tenants
	denied  [len(tenantDeniedLabels)]atomic.Uint64
	evicted atomic.Uint64
}

// callLabels are the labels of the counter of token calls.
type callLabels struct {
	outcome Outcome
	code    string
}

func newRecord(name string) *record {
	r := &record{name: name, calls: make(map[callLabels]uint64)}
	for _, outcome := range callOutcomes { // because rate() in Prometheus misses the first event of a new series
		r.calls[callLabels{outcome: outcome}] = 0
	}
	return r
}

// begin sets the identity that the name now stands for. It drops the history of a different identity, which would mislead
// the operator.
func (r *record) begin(identity token.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.identity != "" && r.identity != identity {
		r.history = history{}
	}
	r.identity = identity
	waitDuration.WithLabelValues(r.name) // begins at zero, as the counters do
}

// begun reports whether a configuration that names the credential has been in force.
func (r *record) begun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.identity != ""
}

// event counts an event of a source, and adds it to the history. tenant is empty for a credential without tenants.
func (r *record) event(tenant string, e token.Event) Occurrence {
	o := occurrenceOf(e)
	o.Tenant = tenant
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(o)
	switch o.Outcome {
	case Rejected:
		r.invalidations.Add(1)
		return o
	case Adopted:
		r.adoptions.Add(1)
		return o
	}
	r.calls[callLabels{o.Outcome, codeLabel(o.Code)}]++
	if !r.forgotten {
		callDuration.WithLabelValues(r.name).Observe(e.Duration.Seconds())
	}
	return o
}

// occurred adds an entry to the history that is no event of the source.
func (r *record) occurred(o Occurrence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(o)
}

// waited counts the time that a request waited for a token.
func (r *record) waited(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.forgotten {
		waitDuration.WithLabelValues(r.name).Observe(d.Seconds())
	}
}

// share counts what a configuration that came into force counts of its sharing, until the function that it returns is
// called. A configuration that does not share the credential counts nothing.
func (r *record) share(now func() Sharing) (end func()) {
	if !now().On {
		return func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.shares.join(now)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.shares.leave(m)
	}
}

// claims returns the claims by outcome.
func (r *record) claims() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	claims, _ := r.shares.counts()
	return claims
}

// snapshot returns a copy of the history, and the number of token calls by outcome.
func (r *record) snapshot() (history, map[Outcome]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := make(map[Outcome]uint64)
	for labels, n := range r.calls {
		calls[labels.outcome] += n
	}
	return r.history.clone(), calls
}
