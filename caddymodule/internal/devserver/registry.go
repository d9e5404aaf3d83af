package devserver

import (
	"crypto/rand"
	"encoding/base64"
	"slices"
	"sync"
	"time"
)

// maxTokens is how many tokens a Registry keeps. A full Registry drops dead tokens first, then the oldest live ones.
const maxTokens = 10_000

// Mode is the answer to a further request of the same client. All modes were captured from a Doorkeeper server.
type Mode string

// The modes. The empty Mode is ModeDefault.
const (
	// ModeDefault issues a new token each time. Earlier tokens stay live.
	ModeDefault Mode = "default"
	// ModeReuse returns the live token again, with the seconds that remain and the original created_at.
	ModeReuse Mode = "reuse"
	// ModeRevokePrevious issues a new token and revokes the client's earlier tokens at once.
	ModeRevokePrevious Mode = "revoke_previous"
)

// State is what a Registry knows about a token.
type State int

// The states of a token. A revoked token stays Revoked after its expiry, as in Doorkeeper.
const (
	Unknown State = iota
	Live
	Expired
	Revoked
)

// Token is a token that a development token endpoint issued.
type Token struct {
	Value    string
	ClientID string
	Issued   time.Time
	Expires  time.Time
	Revoked  bool

	// Thumbprint is that of the key that the token is bound to (cnf.jkt, RFC 9449, section 6). It is empty for a bearer token.
	Thumbprint string
	// Claims is the parameter claims of the request that the token was issued for. It may be empty.
	Claims string

	// family is the same for tokens that may replace each other. It is made of dialect, grant and client. The grant is
	// part of it because Elastic Path's implicit tokens have fewer rights.
	family string
}

// at returns the state at a time. A token is still live at the instant of its expiry, as in Doorkeeper's
// Expirable#expired?.
func (t *Token) at(now time.Time) State {
	switch {
	case t.Revoked:
		return Revoked
	case now.After(t.Expires):
		return Expired
	}
	return Live
}

// tokenType returns the token_type of RFC 6750, or that of RFC 9449, section 5.
func (t *Token) tokenType() string {
	if t.Thumbprint != "" {
		return "DPoP"
	}
	return "Bearer"
}

// remaining returns Doorkeeper's expires_in, rounded to the nearest second and never negative. It is 0 in the last half
// second of a token.
func (t *Token) remaining() int64 {
	return max(0, int64(time.Until(t.Expires).Round(time.Second)/time.Second))
}

// Registry holds the tokens that were issued. It is safe for concurrent use.
type Registry struct {
	mu     sync.Mutex
	tokens map[string]*Token
	order  []*Token // oldest first
}

// Default is the registry of this process. It outlives reloads of Caddy's configuration.
var Default = NewRegistry()

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{tokens: make(map[string]*Token)}
}

// Issue adds a new token without a token endpoint, for example to test an API alone.
func (r *Registry) Issue(clientID string, lifetime time.Duration) Token {
	return r.issue(Token{ClientID: clientID, Value: urlsafeToken()}, lifetime, ModeDefault)
}

// Lookup returns a token and its state. For an unknown token it returns the zero Token and Unknown.
func (r *Registry) Lookup(value string) (Token, State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tokens[value]
	if !ok {
		return Token{}, Unknown
	}
	return *t, t.at(time.Now())
}

// Revoke revokes a token if it is live, and reports whether it was.
func (r *Registry) Revoke(value string) bool {
	return r.revoke(func(t *Token) bool { return t.Value == value }) > 0
}

// RevokeAll revokes all live tokens of a client and returns how many there were.
func (r *Registry) RevokeAll(clientID string) int {
	return r.revoke(func(t *Token) bool { return t.ClientID == clientID })
}

func (r *Registry) revoke(match func(*Token) bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revokeLocked(match)
}

func (r *Registry) revokeLocked(match func(*Token) bool) (n int) {
	now := time.Now()
	for _, t := range r.order {
		if t.at(now) == Live && match(t) {
			t.Revoked = true
			n++
		}
	}
	return n
}

// issue adds t and returns it. In ModeReuse it returns the newest live token of the family instead. It holds the lock
// throughout, so that parallel requests see the same as with a database.
func (r *Registry) issue(t Token, lifetime time.Duration, mode Mode) Token {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	sameFamily := func(o *Token) bool { return o.family == t.family }
	same := func(o *Token) bool { return sameFamily(o) && o.Thumbprint == t.Thumbprint && o.Claims == t.Claims }
	switch mode {
	case ModeReuse:
		for _, old := range slices.Backward(r.order) {
			if same(old) && old.at(now) == Live {
				return *old
			}
		}
	case ModeRevokePrevious:
		r.revokeLocked(sameFamily)
	}
	t.Issued, t.Expires = now, now.Add(lifetime)
	r.makeRoom(now)
	r.tokens[t.Value] = &t
	r.order = append(r.order, &t)
	return t
}

// makeRoom keeps dead tokens as long as possible, so that an API can distinguish an expired token from an unknown one.
func (r *Registry) makeRoom(now time.Time) {
	if len(r.order) < maxTokens {
		return
	}
	r.order = slices.DeleteFunc(r.order, func(t *Token) bool { return t.at(now) != Live })
	if len(r.order) >= maxTokens {
		r.order = slices.Delete(r.order, 0, maxTokens/10)
	}
	clear(r.tokens)
	for _, t := range r.order {
		r.tokens[t.Value] = t
	}
}

// urlsafeToken returns a token with the alphabet and length of Doorkeeper's tokens.
func urlsafeToken() string {
	return base64.RawURLEncoding.EncodeToString(randomBytes(32))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never returns an error
	return b
}
