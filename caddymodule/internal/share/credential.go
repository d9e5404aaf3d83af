package share

import (
	"crypto/tls"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// distrustTime is for how long a replica claims nothing after it has met a value that it cannot open: it would wait for a
// record that it cannot open either.
const distrustTime = 30 * time.Second

// Share is where replicas meet. All fields but Group are needed.
type Share struct {
	Ring  *Ring
	Guard *Guard

	// Group keeps apart replicas that have store and key in common and are not to share. Default: no group.
	Group string

	now func() time.Time // the wall clock, as it is written into records; nil: the system's
}

// Spec is one credential as its replicas know it.
type Spec struct {
	// Provider, Endpoint and ClientID name the credential publicly. The store sees a digest of them.
	Provider, Endpoint, ClientID string

	// Identity is everything that shapes the token, as in token.KeyBuilder. Replicas with different identities cannot open
	// each other's records.
	Identity token.Secret

	// Certificate returns the client certificate at present, or nil. A token that is bound to a certificate (RFC 8705) is
	// shared only by replicas that have the same. Nil: the credential has none. It must not block.
	Certificate func() *tls.Certificate

	// Prover returns the prover of the key that tokens are bound to (RFC 9449) at present, or nil. A token that is bound to a
	// key is shared only by replicas that have the same. Nil: the credential has none. It must not block.
	Prover func() token.Prover

	// Unopened is called when a value of the store cannot be opened, at most once in 10 minutes for each reason.
	Unopened func(Unopened)

	// Skewed is called when another replica's clock is ahead of ours by more than 2 s, at most once in 10 minutes.
	Skewed func(ahead time.Duration)
}

// Credential is what replicas know together of one credential. It implements token.Shared. It is safe for concurrent use but
// for Claim and Release, which belong to the flights of one source.
type Credential struct {
	share Share
	spec  Spec
	names names
	credentialCounters

	// What follows is touched by the flight only, and flights do not overlap.
	register *register // for a store that decides nothing
	left     string    // owner of our latest claim that may be in the store
	held     *holding  // nil: no claim is ours

	mu         sync.Mutex // guards what follows
	suspicious time.Time  // no claim before
	sighted    sighting   // of the record that was loaded or saved last
}

// Credential makes what this replica shares of one credential.
func (s Share) Credential(spec Spec) *Credential {
	if s.now == nil {
		s.now = time.Now
	}
	if spec.Certificate == nil {
		spec.Certificate = func() *tls.Certificate { return nil }
	}
	if spec.Prover == nil {
		spec.Prover = func() token.Prover { return nil }
	}
	if spec.Unopened == nil {
		spec.Unopened = func(Unopened) {}
	}
	if spec.Skewed == nil {
		spec.Skewed = func(time.Duration) {}
	}
	return &Credential{
		share: s, spec: spec,
		names:    names{group: s.Group, provider: spec.Provider, endpoint: spec.Endpoint, clientID: spec.ClientID},
		register: &register{guard: s.Guard},
	}
}

// Folder returns where the credential's values are in the store, at present. It reveals nothing.
func (c *Credential) Folder() string { return c.names.folder(c.binding().thumbprint()) }

// binding returns what the credential's tokens are bound to at present.
func (c *Credential) binding() binding { return binding{c.spec.Certificate(), c.spec.Prover()} }

// distrust keeps this replica from claims for a while, and reports why.
func (c *Credential) distrust(reason Unopened) {
	c.mu.Lock()
	c.suspicious = time.Now().Add(distrustTime)
	c.mu.Unlock()
	if c.countUnopened(reason) {
		c.spec.Unopened(reason)
	}
}

func (c *Credential) distrusts() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.suspicious)
}

func (c *Credential) skewed(ahead time.Duration) {
	if c.countSkew(ahead) {
		c.spec.Skewed(ahead)
	}
}
