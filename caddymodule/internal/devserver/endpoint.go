package devserver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	maxRequestBody = 1 << 20
	maxRecorded    = 100
)

// Dialect names the service that a TokenEndpoint behaves like.
type Dialect string

// The dialects.
const (
	Optoro      Dialect = "optoro"       // Doorkeeper: POST /oauth/token
	ElasticPath Dialect = "elastic_path" // POST /oauth/access_token
	OAuth2      Dialect = "oauth2"       // the server that Demands describe, at any path
)

// TokenEndpoint is a token endpoint for development. Set its fields before it serves. SetFault may be called at any
// time. It must not be copied.
type TokenEndpoint struct {
	// Dialect is the service to behave like. Required.
	Dialect Dialect
	// ClientID and ClientSecret are those of the client that it accepts. Default: DefaultClientID, DefaultClientSecret.
	ClientID, ClientSecret string
	// Mode is the answer to a further request of the same client. Default: ModeDefault.
	Mode Mode
	// Lifetime is that of a token. Default: 25 h for Optoro and 1 h for ElasticPath, as the services document, and 1 h for
	// OAuth2.
	Lifetime time.Duration
	// Wrapped puts the answer into {"data": …}, as Elastic Path's API description has it. The service itself does not.
	Wrapped bool
	// EnforceForm makes Optoro answer JSON with 415, as Doorkeeper's enforce_content_type does.
	EnforceForm bool
	// Demands describe the requests that OAuth2 accepts, and its answers. The other dialects must have none.
	Demands Demands
	// Registry keeps the tokens. Default: Default.
	Registry *Registry
	// OnRequest, if set, sees every request with the bytes of its body before it is answered.
	OnRequest func(r *http.Request, body []byte)

	mu          sync.Mutex
	fault       Fault
	faultLeft   int // calls that the fault still hits, if it has a Count
	calls       int
	inFlight    int
	maxInFlight int
	recorded    []Recorded
	jtis        usedJTIs
	proofs      proofs
	arrival     chan struct{} // closed at the next arrival; nil if no WaitCalls waits
}

// dialect is the part of a TokenEndpoint that differs between services.
type dialect interface {
	// check returns what a request is granted, or the answer to a request that gets no token.
	check(r *http.Request, p params) (g granted, other *answer)
	// mint returns the value of a new token.
	mint() string
	// lifetime returns the default of TokenEndpoint.Lifetime.
	lifetime() time.Duration
	// success returns the body of the answer with a token. The fault may spoil it.
	success(t Token, grant string, f Fault) []byte
	// header returns the header of the answer with a token.
	header() map[string]string
	// refuse returns the answer with a status and an OAuth error code. The code may be empty.
	refuse(status int, code string) answer
}

// Validate returns an error that names the first wrong option. It does not check keys and certificates; see
// ValidateKeys.
func (e *TokenEndpoint) Validate() error {
	switch {
	case e.dialect() == nil:
		return fmt.Errorf("dialect %q: must be %s, %s or %s", e.Dialect, Optoro, ElasticPath, OAuth2)
	case !slices.Contains([]Mode{"", ModeDefault, ModeReuse, ModeRevokePrevious}, e.Mode):
		return fmt.Errorf("mode %q: must be %s, %s or %s", e.Mode, ModeDefault, ModeReuse, ModeRevokePrevious)
	case e.Lifetime < 0:
		return fmt.Errorf("lifetime %s: must not be negative", e.Lifetime)
	case e.Wrapped && e.Dialect != ElasticPath:
		return fmt.Errorf("wrapped: only %s has this option", ElasticPath)
	case e.EnforceForm && e.Dialect != Optoro:
		return fmt.Errorf("enforce_content_type: only %s has this option", Optoro)
	case e.Dialect == OAuth2:
		return e.Demands.validate(e.client().id)
	}
	if name := e.Demands.firstSet(); name != "" {
		return fmt.Errorf("%s: only %s has this option", name, OAuth2)
	}
	return nil
}

// ValidateKeys returns an error that names the first option whose key or certificate is wrong. Validate does not check
// them because they may be in files, which the Caddyfile adapter does not read.
func (e *TokenEndpoint) ValidateKeys() error {
	return e.Demands.validateKeys()
}

// SetFault replaces the fault. The zero Fault ends it. SetFault does not validate the fault, so a test can set a fault
// that Validate rejects. Its ExpiresIn must be valid even then.
func (e *TokenEndpoint) SetFault(f Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault, e.faultLeft = f, f.Count
}

// Calls returns how many requests have arrived.
func (e *TokenEndpoint) Calls() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls
}

// MaxInFlight returns the largest number of requests that were in flight at the same time.
func (e *TokenEndpoint) MaxInFlight() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.maxInFlight
}

// RotateNonce replaces the nonce for DPoP proofs before its time. The endpoint still accepts the one before.
func (e *TokenEndpoint) RotateNonce() { e.proofs.nonces.rotate() }

// Requests returns the last requests, at most 100, oldest first.
func (e *TokenEndpoint) Requests() []Recorded {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.recorded)
}

// WaitCalls waits until n requests have arrived since the start. It returns an error if ctx ends first.
func (e *TokenEndpoint) WaitCalls(ctx context.Context, n int) error {
	for {
		e.mu.Lock()
		calls := e.calls
		if e.arrival == nil {
			e.arrival = make(chan struct{})
		}
		arrival := e.arrival
		e.mu.Unlock()
		if calls >= n {
			return nil
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			return fmt.Errorf("waiting for call %d, after %d calls: %w", n, calls, ctx.Err())
		}
	}
}

// ServeHTTP implements http.Handler.
func (e *TokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !admit(w, r) {
		return
	}
	d := e.dialect()
	if d == nil {
		http.Error(w, "this token endpoint has no dialect", http.StatusInternalServerError)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
	p := parseParams(r.Header.Get("Content-Type"), body)
	if e.OnRequest != nil {
		e.OnRequest(r, body)
	}
	fault := e.arrive(record(r, p))
	defer e.leave()
	if err != nil {
		empty(http.StatusRequestEntityTooLarge, "").write(w)
		return
	}
	if fault.strike(w, r, d.refuse) {
		return
	}
	g, other := d.check(r, p)
	if other != nil {
		other.write(w)
		return
	}
	fault.send(w, r, e.issue(d, g, fault))
}

func (e *TokenEndpoint) issue(d dialect, g granted, f Fault) answer {
	id := e.client().id
	t := cmp.Or(e.Registry, Default).issue(
		Token{
			ClientID: id, Value: d.mint(), Thumbprint: g.thumbprint, Claims: g.claims,
			family: fmt.Sprintf("%s %s %q", e.Dialect, g.grant, id),
		},
		cmp.Or(e.Lifetime, d.lifetime()), e.Mode)
	body := d.success(t, g.grant, f)
	if e.Wrapped {
		body = encode(map[string]json.RawMessage{"data": body})
	}
	return answer{cmp.Or(e.Demands.AnswerStatus, http.StatusOK), d.header(), body}
}

// arrive counts and records a request, and returns the fault that hits it.
func (e *TokenEndpoint) arrive(rec Recorded) Fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	e.inFlight++
	e.maxInFlight = max(e.maxInFlight, e.inFlight)
	if len(e.recorded) == maxRecorded {
		e.recorded = slices.Delete(e.recorded, 0, 1)
	}
	e.recorded = append(e.recorded, rec)
	if e.arrival != nil {
		close(e.arrival)
		e.arrival = nil
	}
	if e.fault.Count == 0 {
		return e.fault
	}
	if e.faultLeft == 0 {
		return Fault{}
	}
	e.faultLeft--
	return e.fault
}

func (e *TokenEndpoint) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inFlight--
}

func (e *TokenEndpoint) dialect() dialect {
	switch e.Dialect {
	case Optoro:
		return optoro{e.client(), e.EnforceForm}
	case ElasticPath:
		return elasticPath{e.client()}
	case OAuth2:
		return oauth2{&e.Demands, e.client(), &e.jtis, &e.proofs}
	}
	return nil
}

func (e *TokenEndpoint) client() client {
	return client{cmp.Or(e.ClientID, DefaultClientID), cmp.Or(e.ClientSecret, DefaultClientSecret)}
}
