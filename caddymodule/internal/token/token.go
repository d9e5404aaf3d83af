package token

import (
	"crypto/tls"
	"sync/atomic"
	"time"
)

// UnknownLifetime is the lifetime of an answer that names none; the policy's DefaultLifetime applies.
const UnknownLifetime time.Duration = -1

// maxLifetime bounds what a token endpoint may claim, so that no answer makes a token live for ever.
const maxLifetime = 30 * 24 * time.Hour

// Issued is the content of one answer of a token endpoint.
type Issued struct {
	// Token is the access token. Never empty.
	Token Secret

	// Lifetime counts from just before the request was sent. Zero is valid too: the token serves the requests that
	// waited for it and is not kept. UnknownLifetime: the answer names none.
	Lifetime time.Duration

	// RefreshIn is when the endpoint advises to refresh the token, counted like Lifetime. It is followed if it comes
	// before the policy's own time. Zero: no advice.
	RefreshIn time.Duration

	// Kept holds other values of the answer that requests need, by name.
	Kept map[string]string

	// Certificate is the TLS client certificate that the token may be bound to (RFC 8705 section 3): it has to be shown
	// wherever the token is. Nil if there is none.
	Certificate *tls.Certificate

	// DPoP is set if the endpoint has bound the token to a key (RFC 9449 section 5), so that it is worthless without proofs.
	DPoP bool

	// Prover proves that the client has the key that the token request was made with. Nil if it was made with none.
	Prover Prover

	// Note, if not empty, describes in constant words what is odd about a usable answer.
	Note string
}

// Prover proves to an API that the client has the key that a token is bound to (RFC 9449). The engine only hands it on from the
// token request to the requests that carry the token.
type Prover interface {
	// Thumbprint returns the SHA-256 thumbprint of the public key (RFC 7638).
	Thumbprint() string
}

// Token is one issued access token. It is immutable but for its two marks: whatever else changes makes a copy.
type Token struct {
	value Secret
	kept  map[string]string
	bound *bound // nil if the token is bound to nothing

	generation uint64
	issued     time.Time
	margin     time.Duration
	refreshAt  time.Time
	expires    time.Time

	// expiresByWall is expires without the monotonic reading. A suspended machine stops the monotonic clock and
	// a stepped clock moves the wall: the token is expired as soon as either says so.
	expiresByWall time.Time

	// rejected marks a token that the API has rejected. It is handed out only where no other can be had.
	rejected bool

	// due is set if the token is to be replaced because of its rejections.
	due bool

	// rejections is what is known from earlier rejections; nil if there were none.
	rejections *rejections

	// used is set if a request has used the token, so that the timer refreshes it.
	used atomic.Bool

	// accepted is set when the API has accepted a request that was given this very copy, so one that was sent after the
	// rejection that the copy was made for.
	accepted atomic.Bool
}

// bound is what a token may be bound to, as in Issued.
type bound struct {
	certificate *tls.Certificate
	dpop        bool
	prover      Prover
}

func boundTo(answer Issued) *bound {
	if answer.Certificate == nil && answer.Prover == nil {
		return nil
	}
	return &bound{answer.Certificate, answer.DPoP, answer.Prover}
}

// provable reports whether requests with the token need proofs.
func (t *Token) provable() bool { return t.bound != nil && t.bound.dpop && t.bound.prover != nil }

func newToken(answer Issued, generation uint64, issued time.Time, lifetime time.Duration) *Token {
	expires := issued.Add(lifetime)
	return &Token{
		value:         answer.Token,
		kept:          answer.Kept,
		bound:         boundTo(answer),
		generation:    generation,
		issued:        issued,
		expires:       expires,
		expiresByWall: expires.Round(0),
	}
}

// rejections is what rejections tell of a token that they did not replace. It is immutable.
type rejections struct {
	// since is when the API first rejected the token since it last accepted it.
	since time.Time

	// proven says that the API had accepted the token before it rejected it.
	proven bool

	// contested says that the API has accepted the token after it had rejected it, and that the rejections follow each other
	// closely.
	contested bool

	// outlived says that the API has accepted the token after it had rejected it, at any time.
	outlived bool
}

// content returns the part of the answer that requests need.
func (t *Token) content() Issued {
	issued := Issued{Token: t.value, Kept: t.kept}
	if b := t.bound; b != nil {
		issued.Certificate, issued.DPoP, issued.Prover = b.certificate, b.dpop, b.prover
	}
	return issued
}

// clone returns a copy for later requests. The mark accepted is not copied.
func (t *Token) clone() *Token {
	c := newToken(t.content(), t.generation, t.issued, t.expires.Sub(t.issued))
	c.margin, c.refreshAt, c.rejected, c.due, c.rejections = t.margin, t.refreshAt, t.rejected, t.due, t.rejections
	c.used.Store(t.used.Load())
	return c
}

// asRejectedOnce returns a copy that remembers a rejection.
func (t *Token) asRejectedOnce(now time.Time) *Token {
	accepted := t.accepted.Load()
	next := &rejections{since: now, proven: accepted}
	if before := t.rejections; before != nil {
		next.proven = before.proven || accepted
		next.outlived = before.outlived || accepted
		next.contested = t.rejectedLately(now) && (before.contested || accepted)
		if !accepted {
			next.since = before.since
		}
	}
	c := t.clone()
	c.rejections = next
	return c
}

// asDue returns a copy that is served, and due for replacement.
func (t *Token) asDue(now time.Time) *Token {
	c := t.asRejectedOnce(now)
	c.due, c.refreshAt = true, time.Time{}
	return c
}

// asRejected returns a copy that is due for replacement, and not served where another can be had.
func (t *Token) asRejected(now time.Time) *Token {
	c := t.asDue(now)
	c.rejected = true
	return c
}

// fresh reports whether the token can be served with no thought of refreshing it.
func (t *Token) fresh(now time.Time) bool {
	return t != nil && now.Before(t.refreshAt) && now.Before(t.expiresByWall)
}

// alive reports whether the token has not expired.
func (t *Token) alive(now time.Time) bool {
	return t != nil && now.Before(t.expires) && now.Before(t.expiresByWall)
}

// left returns the time until the token expires.
func (t *Token) left(now time.Time) time.Duration {
	return min(t.expires.Sub(now), t.expiresByWall.Sub(now))
}

// end returns how long the last part of the token's life is, in which a request had better wait for the next token.
func (t *Token) end() time.Duration { return min(longestEnd, t.margin/2) }

func (t *Token) touch() { mark(&t.used) }

// mark sets a flag that is usually set already: a store would take the cache line from the other cores.
func mark(flag *atomic.Bool) {
	if !flag.Load() {
		flag.Store(true)
	}
}
