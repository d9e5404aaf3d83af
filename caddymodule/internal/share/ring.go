package share

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// minKeyLength is how many bytes a key has at least, without white space around it.
	minKeyLength = 32

	// rereadInterval bounds how often the keys are read again.
	rereadInterval = time.Second

	// rereadPatience bounds how long a flight waits for the keys, which may be in files that cannot be read now.
	rereadPatience = 100 * time.Millisecond
)

// Ring is the keys that replicas have in common. The first key seals, and all open. A Ring reads its keys again when it may
// lack one, so that a rotated file needs no reload. It is safe for concurrent use.
type Ring struct {
	read func() ([]token.Secret, error)
	keys atomic.Pointer[keys]

	mu      sync.Mutex // guards what follows
	reading bool
	next    time.Time
	err     error
}

// keys are the keys of a ring at one time. There is at least one.
type keys []*key

// NewRing makes a ring of keys that never change.
func NewRing(secrets ...token.Secret) (*Ring, error) {
	return ReadRing(func() ([]token.Secret, error) { return secrets, nil })
}

// ReadRing makes a ring of the keys that read returns now and later. A read that fails later leaves the ring as it is. An
// error names a key by its position.
func ReadRing(read func() ([]token.Secret, error)) (*Ring, error) {
	secrets, err := read()
	if err != nil {
		return nil, err
	}
	all, err := newKeys(secrets)
	if err != nil {
		return nil, err
	}
	r := &Ring{read: read}
	r.keys.Store(&all)
	return r, nil
}

// Err returns why the keys could not be read when they were last read again. It is nil if they could be read.
func (r *Ring) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Ring) current() *keys { return r.keys.Load() }

// newer returns the keys if they are other than the given ones, after it has read them again. It returns nil if they are
// the same.
func (r *Ring) newer(than *keys) *keys {
	if done := r.reread(); done != nil {
		patience := time.NewTimer(rereadPatience)
		defer patience.Stop()
		select {
		case <-done:
		case <-patience.C:
		}
	}
	if now := r.current(); now != than {
		return now
	}
	return nil
}

// reread begins to read the keys unless that happened a moment ago. The channel is closed when they are read.
func (r *Ring) reread() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reading || time.Now().Before(r.next) {
		return nil
	}
	r.reading = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := errors.New("the keys could not be read") // unless something else happens: a panic or runtime.Goexit
		defer func() {
			_ = recover()
			r.mu.Lock()
			r.reading, r.next, r.err = false, time.Now().Add(rereadInterval), err
			r.mu.Unlock()
		}()
		err = r.replace()
	}()
	return done
}

func (r *Ring) replace() error {
	secrets, err := r.read()
	if err != nil {
		return err
	}
	next, err := newKeys(secrets)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(*r.current(), next, (*key).equal) {
		r.keys.Store(&next)
	}
	return nil
}

func newKeys(secrets []token.Secret) (keys, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no key")
	}
	var all keys
	for i, secret := range secrets {
		text := strings.TrimSpace(secret.Reveal())
		if len(text) < minKeyLength {
			return nil, fmt.Errorf("key %d is shorter than %d bytes", i+1, minKeyLength)
		}
		k, err := newKey(text)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		if same := slices.IndexFunc(all, func(other *key) bool { return other.id == k.id }); same >= 0 {
			return nil, fmt.Errorf("key %d is the same as key %d", i+1, same+1)
		}
		all = append(all, k)
	}
	return all, nil
}

// sealing returns the key that seals.
func (k keys) sealing() *key { return k[0] }

// find returns the key with this id, or nil.
func (k keys) find(id keyID) *key {
	for _, key := range k {
		if key.id == id {
			return key
		}
	}
	return nil
}

// keyID names a key in what it has sealed. It reveals nothing of the key.
type keyID [4]byte

// key is what is derived from one key of the ring (RFC 5869).
type key struct {
	id       keyID
	root     []byte
	identity []byte
	proof    []byte
}

func newKey(secret string) (*key, error) {
	root, err := hkdf.Extract(sha256.New, []byte(secret), []byte("caddy-token-proxy share v1"))
	if err != nil {
		return nil, err
	}
	k := &key{root: root}
	id, err := k.derive("key id", len(k.id))
	if err != nil {
		return nil, err
	}
	copy(k.id[:], id)
	if k.identity, err = k.derive("identity", sha256.Size); err != nil {
		return nil, err
	}
	k.proof, err = k.derive("proof", sha256.Size)
	return k, err
}

func (k *key) derive(purpose string, length int) ([]byte, error) {
	return hkdf.Expand(sha256.New, k.root, purpose, length)
}

func (k *key) equal(other *key) bool { return hmac.Equal(k.root, other.root) }

// identityDigest is the same for all replicas with the key and the identity. Without the key it reveals nothing.
func (k *key) identityDigest(identity token.Secret) []byte { return digest(k.identity, identity) }

// proofDigest is like identityDigest, and short: it only has to differ between the proofs of one client.
func (k *key) proofDigest(proof token.Secret) []byte { return digest(k.proof, proof)[:8] }

func digest(key []byte, secret token.Secret) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(secret.Reveal()))
	return mac.Sum(nil)
}
