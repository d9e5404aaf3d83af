package share

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// version is the first byte of everything sealed.
	version byte = 1

	// maxValue is how large a value may be. Larger ones are neither made nor opened.
	maxValue = 64 << 10

	headerLength = 1 + len(keyID{})
)

// Unopened is why a value of the store cannot be opened.
type Unopened int

// The reasons.
const (
	// UnopenedVersion: another version of this program has sealed the value, or it is no sealed value at all.
	UnopenedVersion Unopened = iota

	// UnopenedKey: the value is sealed with a key that this replica does not have.
	UnopenedKey

	// UnopenedForged: the value is damaged, too large, from another place, or from a replica whose credential has other
	// settings.
	UnopenedForged

	opened // it can be opened
)

var unopenedLabels = [...]string{"version", "key", "forged"}

// String returns the value of the metric label reason.
func (u Unopened) String() string { return unopenedLabels[u] }

// place is what a sealed value is bound to: its name in the store, and the credential.
type place struct {
	name     string
	identity token.Secret
}

// seal returns text so that only open reads it, at the same place: 0x01, the key's id, and what AES-256-GCM makes of it
// (nonce, ciphertext, tag). It returns nil if that is impossible.
func (p place) seal(k *key, text []byte) []byte {
	aead, err := p.aead(k)
	if err != nil {
		return nil
	}
	sealed := append([]byte{version}, k.id[:]...)
	sealed = aead.Seal(sealed, nil, text, p.bound(k))
	if len(sealed) > maxValue {
		return nil
	}
	return sealed
}

// open returns what was sealed at this place with one of the keys, and that key.
func (p place) open(ring keys, sealed []byte) ([]byte, *key, Unopened) {
	if len(sealed) > maxValue {
		return nil, nil, UnopenedForged
	}
	if len(sealed) < headerLength || sealed[0] != version {
		return nil, nil, UnopenedVersion
	}
	k := ring.find(keyID(sealed[1:headerLength]))
	if k == nil {
		return nil, nil, UnopenedKey
	}
	aead, err := p.aead(k)
	if err != nil {
		return nil, nil, UnopenedForged
	}
	text, err := aead.Open(nil, nil, sealed[headerLength:], p.bound(k))
	if err != nil {
		return nil, nil, UnopenedForged
	}
	return text, k, opened
}

// aead makes the cipher, with a key for each name: the nonces of one key are random, so that it must not seal too often.
func (p place) aead(k *key) (cipher.AEAD, error) {
	secret, err := k.derive("aead "+p.name, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// bound is the associated data. The length of each part keeps two different places from having the same.
func (p place) bound(k *key) []byte {
	var data []byte
	for _, part := range [][]byte{{version}, k.id[:], []byte(p.name), k.identityDigest(p.identity)} {
		data = binary.BigEndian.AppendUint64(data, uint64(len(part)))
		data = append(data, part...)
	}
	return data
}
