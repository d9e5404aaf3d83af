package token

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Key identifies a credential by everything that shapes its token: two credentials with the same key may share a token,
// two with different keys never do. It is a SHA-256 and reveals nothing of what went into it.
type Key string

// KeyBuilder makes a Key. Every field is written with its name, the number of its values and the length of each,
// so that no two different sequences of fields have the same encoding.
type KeyBuilder struct {
	hash hash.Hash
}

// NewKeyBuilder starts a key.
func NewKeyBuilder() *KeyBuilder { return &KeyBuilder{hash: sha256.New()} }

// Field adds a field. No value and one empty value are different.
func (b *KeyBuilder) Field(name string, values ...string) *KeyBuilder {
	b.text(name)
	b.number(len(values))
	for _, v := range values {
		b.text(v)
	}
	return b
}

// Secret adds a field that must not be guessable from the key: it goes in as an HMAC under a per-process key.
func (b *KeyBuilder) Secret(name string, value Secret) *KeyBuilder {
	return b.Field(name, value.digest())
}

// Key returns the key of all fields added so far.
func (b *KeyBuilder) Key() Key { return Key(b.hash.Sum(nil)) }

func (b *KeyBuilder) text(s string) {
	b.number(len(s))
	b.hash.Write([]byte(s))
}

func (b *KeyBuilder) number(n int) {
	b.hash.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}
