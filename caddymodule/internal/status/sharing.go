package status

import (
	"time"
)

// Sharing is what this replica knows of the token that replicas share, and of the store that they share it through. It
// holds no secret.
type Sharing struct {
	// On reports whether the credential is shared. It is false for a credential that is excluded from sharing.
	On bool

	// Store is the state of the store.
	Store Store

	// Record is where the credential's values are in the store.
	Record string

	// Claim is what this replica knows of the right to call the token endpoint: "free", "ours", "another replica's",
	// "held" (a call has failed, and the time to call again has not come) or "unknown" (the store did not answer).
	Claim string

	// ClaimUntil is when a claim that this replica holds back ends. It is zero if that is not known.
	ClaimUntil time.Time

	// Unopened is why this replica cannot open what another replica has left: "version", "key" or "forged". It is empty if
	// this replica can.
	Unopened string

	// Skew is by how much the clock of the replica that saved the token is ahead, if it is.
	Skew time.Duration

	// Claims counts the claims by outcome, and UnopenedTotal the values that could not be opened by reason.
	Claims, UnopenedTotal map[string]uint64
}

// Store is the state of the store through which replicas share tokens.
type Store struct {
	// Name is the name of the store's module.
	Name string `json:"name"`

	// Up reports whether the store works, as far as is known.
	Up bool `json:"up"`

	// LastError is why the store failed last, in words. It is empty if it never failed.
	LastError string `json:"last_error,omitempty"`
}

// down reports whether the store has failed and not worked since.
func (s Store) down() bool { return !s.Up && s.LastError != "" }

// Shared is the sharing of one credential, as the admin API reports it.
type Shared struct {
	On         bool              `json:"on"`
	Up         bool              `json:"up"`
	LastError  string            `json:"last_error,omitempty"`
	Record     string            `json:"record,omitempty"`
	From       string            `json:"from,omitempty"`
	Claim      string            `json:"claim,omitempty"`
	ClaimUntil *time.Time        `json:"claim_until,omitempty"`
	Unopened   string            `json:"unopened,omitempty"`
	Skew       float64           `json:"skew,omitempty"` // seconds
	Adopted    uint64            `json:"adopted"`
	Claims     map[string]uint64 `json:"claims,omitempty"`
}

// The places that a token can come from.
const (
	fromHere      = "here"
	fromElsewhere = "another replica"
)
