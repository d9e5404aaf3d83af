package caddymodule

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tenantBasic is the value of Tenant.Name with which the credentials that a request has in Authorization: Basic are the id
// and the secret of the client.
const tenantBasic = "basic"

const (
	// maxBasic is the length of the longest pair of id and secret, and their colon, before it is encoded.
	maxBasic = 1024

	// basicAttempts is how many secrets of one client that bring no token are tried in a minute.
	basicAttempts = 5
	attemptTime   = time.Minute

	// refusedMemory is how long a pair that the token endpoint has refused is not tried again.
	refusedMemory = 30 * time.Second
)

// basicClient is a client that requests name by Authorization: Basic.
type basicClient struct {
	id, secret provider.Secret
	proved     atomic.Bool // it has got a token
}

// parseBasic returns the client in the credentials of the scheme Basic (RFC 7617). It takes id and secret as they are,
// because most clients do not encode them as RFC 6749 section 2.3.1 demands.
func parseBasic(encoded string) (*basicClient, bool) {
	if len(encoded) > base64.StdEncoding.EncodedLen(maxBasic) {
		return nil, false
	}
	pair, err := base64.StdEncoding.Strict().DecodeString(encoded) // so that a pair has one spelling
	if err != nil || len(pair) > maxBasic || !utf8.Valid(pair) || strings.ContainsFunc(string(pair), unicode.IsControl) {
		return nil, false
	}
	id, secret, _ := strings.Cut(string(pair), ":")
	if strings.TrimSpace(id) == "" || strings.TrimSpace(secret) == "" {
		return nil, false
	}
	return &basicClient{id: provider.NewSecret(id), secret: provider.NewSecret(secret)}, true
}

// basic reports whether the credentials of a request are the client.
func (t *Tenant) basic() bool { return t != nil && t.Name == tenantBasic }

// basicIn returns the encoded credentials of the scheme Basic that a request has in its only Authorization, or "".
func (t *Tenant) basicIn(r *http.Request) string {
	values := r.Header["Authorization"]
	if !t.basic() || len(values) != 1 {
		return ""
	}
	scheme, encoded, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return ""
	}
	return strings.TrimLeft(encoded, " ") // RFC 9110 section 11.4 permits several
}

// basicName returns the name of the tenant with these credentials. It is a digest of both id and secret, so that a wrong
// secret never meets the token of the right one. Operators see it, and cannot test guesses with it, because its key is random
// in each process.
func basicName(encoded string) string {
	d := basicDigests.Get().(*basicDigest)
	defer basicDigests.Put(d)
	d.mac.Reset()
	d.in = append(d.in[:0], encoded...)
	_, _ = d.mac.Write(d.in)
	clear(d.in)
	d.sum = d.mac.Sum(d.sum[:0])
	return hex.EncodeToString(d.sum[:16])
}

// basicDigest is what basicName needs, kept because each request needs it.
type basicDigest struct {
	mac     hash.Hash
	in, sum []byte
}

var basicDigests = func() *sync.Pool {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return &sync.Pool{New: func() any { return &basicDigest{mac: hmac.New(sha256.New, key)} }}
}()

// getBasic returns the tenant with these credentials.
func (ts *tenants) getBasic(encoded string) (*tenant, error) {
	if encoded == "" {
		return nil, errTenantBasic
	}
	name := basicName(encoded)
	if t, ok := ts.find(name); ok {
		return t.current(), nil
	}
	client, ok := parseBasic(encoded)
	if !ok {
		return nil, errTenantBasic
	}
	return ts.getNew(name, client)
}

// lookUpBasic gives a client a place, unless too many secrets were tried for it. The token call shows whether it exists.
func (ts *tenants) lookUpBasic(c *client, name string, client *basicClient) (*tenant, error) {
	if client == nil { // a name without the secret
		return nil, errTenantUnknown
	}
	if at, ok := ts.attempts.begin(client, time.Now()); !ok {
		return nil, &tenantDenial{why: status.TenantLimited, retryAt: at}
	}
	t, err := ts.add(newTenant(ts, c, name, client))
	if err != nil {
		ts.attempts.forgive(client)
	}
	return t, err
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
	if now.Sub(a.since) >= attemptTime {
		a.since, a.of = now, make(map[string]int)
	}
	n, known := a.of[id]
	switch {
	case n >= basicAttempts:
		return a.since.Add(attemptTime), false
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

// prove notes that the token endpoint accepts the client's secret.
func (t *tenant) prove() {
	if t.basic != nil && t.basic.proved.CompareAndSwap(false, true) {
		t.of.attempts.forgive(t.basic)
	}
}

// failedBasic takes the place of a client that got no token, so that wrong secrets leave nothing but the memory of their
// refusal. A secret that the token endpoint refuses is not tried again for a while. Any other secret is, at once.
func (t *tenant) failedBasic(refused bool, denied *tenantDenial) {
	switch {
	case refused:
		t.of.forget(t, refusedMemory)
	case denied != nil && !t.basic.proved.Load() && t.source.Idle() && t.of.remove(t):
		t.of.attempts.forgive(t.basic) // it was not tried
	}
}
