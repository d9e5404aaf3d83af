package devserver

import (
	"crypto/rand"
	"encoding/base64"
	"slices"
	"sync"
	"time"
)

// maxTokens bounds a Registry. Beyond it dead tokens are forgotten, and then the oldest live ones.
const maxTokens = 10_000

// Mode says what a further request of the same client gets. All three were captured from a Doorkeeper server.
type Mode string

// The modes. The empty Mode is ModeDefault.
const (
	// ModeDefault issues another token each time; earlier ones stay good.
	ModeDefault Mode = "default"
	// ModeReuse returns the live token again, with the seconds that remain and the original created_at.
	ModeReuse Mode = "reuse"
	// ModeRevokePrevious issues another token and ends the client's earlier ones at once.
	ModeRevokePrevious Mode = "revoke_previous"
)

// State says what a Registry knows of a token.
type State int

// The states of a token. Revoked wins over Expired, as in Doorkeeper.
const (
	Unknown State = iota
	Live
	Expired
	Revoked
)

// Token is one token that a development token endpoint issued.
type Token struct {
	Value    string
	ClientID string
	Issued   time.Time
	Expires  time.Time
	Revoked  bool

	// family has the tokens that may replace each other. It is made of dialect, grant and client. The grant belongs to
	// it because Elastic Path's implicit tokens have fewer rights.
	family string
}

// at is the state at a time. A token lives to the very instant of its expiry, as Doorkeeper's Expirable#expired? has it.
func (t *Token) at(now time.Time) State {
	switch {
	case t.Revoked:
		return Revoked
	case now.After(t.Expires):
		return Expired
	}
	return Live
}

// remaining is Doorkeeper's expires_in, rounded to the nearest second and never negative. It is 0 in the last half
// second of a token.
func (t *Token) remaining() int64 {
	return max(0, int64(time.Until(t.Expires).Round(time.Second)/time.Second))
}

// Registry knows the tokens that were issued. It is safe for concurrent use.
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

// Issue adds a new token that no endpoint handed out, for instance to test an API alone.
func (r *Registry) Issue(clientID string, lifetime time.Duration) Token {
	return r.issue(Token{ClientID: clientID, Value: urlsafeToken()}, lifetime, ModeDefault)
}

// Lookup returns a token and its state. Unknown comes with the zero Token.
func (r *Registry) Lookup(value string) (Token, State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tokens[value]
	if !ok {
		return Token{}, Unknown
	}
	return *t, t.at(time.Now())
}

// Revoke ends one token before its time. It reports whether the token was live.
func (r *Registry) Revoke(value string) bool {
	return r.revoke(func(t *Token) bool { return t.Value == value }) > 0
}

// RevokeAll ends all tokens of a client and returns how many were live.
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

// issue adds t, or in ModeReuse returns the newest live token of its family instead. It is one step under the lock, so
// that parallel requests see what a database would show them.
func (r *Registry) issue(t Token, lifetime time.Duration, mode Mode) Token {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	sameFamily := func(o *Token) bool { return o.family == t.family }
	switch mode {
	case ModeReuse:
		for _, old := range slices.Backward(r.order) {
			if sameFamily(old) && old.at(now) == Live {
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

// makeRoom keeps dead tokens while it can, so that an API can tell an expired token from one it never saw.
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

// urlsafeToken has the alphabet and length of Doorkeeper's tokens.
func urlsafeToken() string {
	return base64.RawURLEncoding.EncodeToString(randomBytes(32))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: see its documentation
	return b
}
