package tenants

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// Basic is the name in the option tenant with which the credentials that a request has in Authorization: Basic are the id and
// the secret of the client.
const Basic = "basic"

const (
	// MaxBasic is the length of the longest pair of id and secret, and their colon, before it is encoded.
	MaxBasic = 1024

	// BasicAttempts is how many secrets of one client that bring no token are tried within AttemptTime.
	BasicAttempts = 5
	AttemptTime   = time.Minute

	// RefusedMemory is how long a pair that the token endpoint has refused is not tried again.
	RefusedMemory = 30 * time.Second
)

// basicClient is a client that requests name by Authorization: Basic.
type basicClient struct {
	id, secret provider.Secret
	proved     atomic.Bool // it has got a token
}

// parseBasic returns the client in the credentials of the scheme Basic (RFC 7617). It takes id and secret as they are,
// because most clients do not encode them as RFC 6749 section 2.3.1 demands.
func parseBasic(encoded string) (*basicClient, bool) {
	// A pair must have one spelling, so Strict, and no line break: package base64 passes over them.
	if len(encoded) > base64.StdEncoding.EncodedLen(MaxBasic) || strings.ContainsAny(encoded, "\r\n") {
		return nil, false
	}
	pair, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(pair) > MaxBasic || !utf8.Valid(pair) || strings.ContainsFunc(string(pair), unicode.IsControl) {
		return nil, false
	}
	id, secret, _ := strings.Cut(string(pair), ":")
	if strings.TrimSpace(id) == "" || strings.TrimSpace(secret) == "" {
		return nil, false
	}
	return &basicClient{id: provider.NewSecret(id), secret: provider.NewSecret(secret)}, true
}

// BasicName returns the name of the tenant with these credentials. It is a digest of both id and secret, so that a wrong
// secret never meets the token of the right one. Operators see it, and cannot test guesses with it, because its key is random
// in each process.
func BasicName(encoded string) string {
	d := basicDigests.Get().(*basicDigest)
	defer basicDigests.Put(d)
	d.mac.Reset()
	d.in = append(d.in[:0], encoded...)
	_, _ = d.mac.Write(d.in)
	clear(d.in)
	d.sum = d.mac.Sum(d.sum[:0])
	return hex.EncodeToString(d.sum[:16])
}

// basicDigest is what BasicName needs, kept because each request needs it.
type basicDigest struct {
	mac     hash.Hash
	in, sum []byte
}

var basicDigests = func() *sync.Pool {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return &sync.Pool{New: func() any { return &basicDigest{mac: hmac.New(sha256.New, key)} }}
}()

// requestCodes are the error codes with which a token endpoint refuses a request whose client it accepts (RFC 6749 section 5.2,
// RFC 8707 section 2, RFC 9449 sections 5 and 8). Most of them name a mistake of the configuration.
var requestCodes = []string{
	"invalid_request", "unsupported_grant_type", "invalid_scope", "invalid_target", "invalid_dpop_proof", "use_dpop_nonce",
}

// RefusesClient reports whether a failure means that the token endpoint does not accept the id or the secret of the client. A
// gateway, the configuration and a file of the operator can be in the way of every client.
func RefusesClient(e *token.Error) bool {
	judged := e.Kind == token.Refused && !e.Passing && e.Status != 0 && e.Cause == ""
	return judged && !slices.Contains(requestCodes, e.Code)
}

// attempts counts the secrets of each client that were tried and have brought no token, so that a program
// cannot try passwords through the proxy. It does not affect a client with a token.
type attempts struct {
	mu    sync.Mutex
	since time.Time
	of    map[string]int // by the client's id
}

// begin counts an attempt. If the client has no attempts left, it returns the time of the next.
func (a *attempts) begin(b *basicClient, now time.Time) (retryAt time.Time, ok bool) {
	id := b.id.Reveal()
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.since) >= AttemptTime {
		a.since, a.of = now, make(map[string]int)
	}
	n, known := a.of[id]
	switch {
	case n >= BasicAttempts:
		return a.since.Add(AttemptTime), false
	case known || len(a.of) < mostUnknown: // beyond, new_rate is the limit
		a.of[id] = n + 1
	}
	return time.Time{}, true
}

// forgive takes an attempt back.
func (a *attempts) forgive(b *basicClient) {
	id := b.id.Reveal()
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.of[id]; n > 1 {
		a.of[id] = n - 1
	} else {
		delete(a.of, id)
	}
}
