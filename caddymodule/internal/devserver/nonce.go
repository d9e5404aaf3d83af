package devserver

import (
	"sync"
	"time"
)

// nonceLife is how long a server hands out a nonce. It accepts the nonce for twice as long.
const nonceLife = time.Minute

// nonces are those of one server. The nonce before the current one stays good, so that no request fails because the nonce
// changed while it was on its way.
type nonces struct {
	mu                sync.Mutex
	current, previous string
	since             time.Time // when current became the current nonce
}

// now returns the nonce to hand out.
func (n *nonces) now() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.renewLocked()
	return n.current
}

func (n *nonces) accepts(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.renewLocked()
	return nonce != "" && (nonce == n.current || nonce == n.previous)
}

// rotate replaces the current nonce before its time.
func (n *nonces) rotate() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.renewLocked()
	n.rotateLocked()
}

func (n *nonces) renewLocked() {
	age := time.Since(n.since)
	if age >= 2*nonceLife {
		n.current = "" // nobody asked for a nonce in time, so the last one is too old to be the previous one
	}
	if age >= nonceLife {
		n.rotateLocked()
	}
}

func (n *nonces) rotateLocked() {
	n.current, n.previous, n.since = urlsafeToken(), n.current, time.Now()
}
