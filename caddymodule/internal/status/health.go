package status

// Health is the state of a credential in one word.
type Health string

// The values of Health, from best to worst.
const (
	healthOK       Health = "ok"       // the token is valid, and nothing is wrong
	healthIdle     Health = "idle"     // the credential has no token, and no request has needed one
	healthDegraded Health = "degraded" // requests are served, but something is wrong
	healthFailing  Health = "failing"  // requests fail
)

// Cause is the place to look first.
type Cause string

// The values of Cause.
const (
	causeConfiguration Cause = "configuration"
	causeEndpoint      Cause = "token endpoint"
	causeIssuer        Cause = "issuer"
	causeProxy         Cause = "network proxy"
	causeAPI           Cause = "API"
	causeStore         Cause = "store"
)

// Diagnosis is the state of a credential in words, for the operator.
type Diagnosis struct {
	Health  Health // empty if only a token call is explained
	Cause   Cause  // empty if nothing is wrong
	Summary string // what is wrong, in whole sentences
	Advice  string // what to do, in whole sentences; empty if nothing is wrong
}
