package share

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// reportInterval bounds how often the same thing is reported.
	reportInterval = 10 * time.Minute

	// minSkew is how far another replica's clock has to be ahead to be reported.
	minSkew = 2 * time.Second
)

// Operation is what a store is used for.
type Operation int

// The operations. A save, a claim or a release can take several calls of a store; each is counted. A probe asks a store that
// has failed whether it works again.
const (
	OperationLoad Operation = iota
	OperationSave
	OperationClaim
	OperationRelease
	OperationPurge
	OperationProbe
	operations
)

var operationLabels = [...]string{"load", "save", "claim", "release", "purge", "probe"}

// String returns the value of the metric label operation.
func (o Operation) String() string { return operationLabels[o] }

// Outcome is what came of one call of a store.
type Outcome int

// The outcomes.
const (
	// OutcomeOK: the store did what it was asked for.
	OutcomeOK Outcome = iota

	// OutcomeAbsent: the store has no such value.
	OutcomeAbsent

	// OutcomeError: the store failed.
	OutcomeError

	// OutcomeTimeout: the store took too long.
	OutcomeTimeout

	// OutcomeSkipped: the store was not called, because it is not open, rests after a failure, was closed meanwhile, or has
	// as many calls as it may have.
	OutcomeSkipped

	outcomes
)

var outcomeLabels = [...]string{"ok", "absent", "error", "timeout", "skipped"}

// String returns the value of the metric label outcome.
func (o Outcome) String() string { return outcomeLabels[o] }

// StoreStats is what is known of a store at one time.
type StoreStats struct {
	// Up reports whether the store works, as far as is known. It is false until the store is open and has saved a probe.
	Up bool

	// LastFailure is why the store failed last. It is nil if it never failed.
	LastFailure *Failure

	// Calls counts the calls by operation and outcome.
	Calls [operations][outcomes]uint64

	// Durations is how long the calls took that were made, by operation.
	Durations [operations]Histogram
}

// Histogram is a distribution of durations.
type Histogram struct {
	// Count is the number of durations, and Sum their sum in seconds.
	Count uint64
	Sum   float64

	// Buckets counts durations up to an upper bound in seconds, those of lower buckets included.
	Buckets map[float64]uint64
}

// bounds are the upper bounds of the buckets. The last is the longest that a call may take.
var bounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, callBudget,
}

// histogram collects a Histogram.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64 // the last is for what is longer than all bounds
	sum     atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Sum: time.Duration(h.sum.Load()).Seconds(), Buckets: make(map[float64]uint64)}
	for i, bound := range bounds {
		s.Count += h.buckets[i].Load()
		s.Buckets[bound.Seconds()] = s.Count
	}
	s.Count += h.buckets[len(bounds)].Load()
	return s
}

// storeCounters collects StoreStats.
type storeCounters struct {
	calls     [operations][outcomes]atomic.Uint64
	durations [operations]histogram
}

func (c *storeCounters) count(op Operation, outcome Outcome, took time.Duration) {
	c.calls[op][outcome].Add(1)
	if outcome != OutcomeSkipped {
		c.durations[op].observe(took)
	}
}

func (c *storeCounters) snapshot(s *StoreStats) {
	for op := range operations {
		for outcome := range outcomes {
			s.Calls[op][outcome] = c.calls[op][outcome].Load()
		}
		s.Durations[op] = c.durations[op].snapshot()
	}
}

// CredentialStats is what is known of one credential at one time.
type CredentialStats struct {
	// Claims counts the claims by their outcome, a token.Claim.
	Claims [len(claimLabels)]uint64

	// LastClaim is the outcome of the latest claim. It is empty before the first.
	LastClaim string

	// Unopened counts the values that could not be opened, by reason.
	Unopened [len(unopenedLabels)]uint64

	// Skew is by how much the clock of the replica that saved the latest record was ahead of ours, if it was.
	Skew time.Duration

	// From is where the token that was saved or loaded last comes from: "here" (this process) or "another replica". It is
	// empty if there was none.
	From string
}

// claimLabels are the values of the metric label outcome of claims.
var claimLabels = [...]string{
	token.ClaimUnknown: "unknown", token.ClaimWon: "won", token.ClaimLost: "lost", token.ClaimHeld: "held",
}

// ClaimLabel returns the value of the metric label outcome.
func ClaimLabel(c token.Claim) string { return claimLabels[c] }

// credentialCounters collects CredentialStats.
type credentialCounters struct {
	claims    [len(claimLabels)]atomic.Uint64
	lastClaim atomic.Pointer[string]
	unopened  [len(unopenedLabels)]struct {
		count    atomic.Uint64
		reported occasion
	}
	skew       atomic.Int64
	skewReport occasion
	origin     atomic.Pointer[string]
}

// Stats returns what is known of the credential.
func (c *credentialCounters) Stats() CredentialStats {
	s := CredentialStats{Skew: time.Duration(c.skew.Load())}
	for i := range c.claims {
		s.Claims[i] = c.claims[i].Load()
	}
	if last := c.lastClaim.Load(); last != nil {
		s.LastClaim = *last
	}
	for i := range c.unopened {
		s.Unopened[i] = c.unopened[i].count.Load()
	}
	if origin := c.origin.Load(); origin != nil {
		s.From = *origin
	}
	return s
}

var here, elsewhere = "here", "another replica"

// from notes where the latest token comes from.
func (c *credentialCounters) from(us bool) {
	origin := &elsewhere
	if us {
		origin = &here
	}
	c.origin.Store(origin)
}

func (c *credentialCounters) countClaim(answer token.Claim) {
	c.claims[answer].Add(1)
	c.lastClaim.Store(&claimLabels[answer])
}

// countUnopened reports whether the reason is to be reported.
func (c *credentialCounters) countUnopened(reason Unopened) bool {
	c.unopened[reason].count.Add(1)
	return c.unopened[reason].reported.due()
}

// countSkew reports whether the skew is to be reported.
func (c *credentialCounters) countSkew(ahead time.Duration) bool {
	c.skew.Store(int64(ahead))
	return ahead > minSkew && c.skewReport.due()
}

// occasion comes once in a reportInterval.
type occasion struct {
	mu   sync.Mutex
	next time.Time
}

func (o *occasion) due() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if now.Before(o.next) {
		return false
	}
	o.next = now.Add(reportInterval)
	return true
}
