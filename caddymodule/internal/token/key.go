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
	hash  hash.Hash
	plain Secret // the same fields, with secrets as they are
}

// NewKeyBuilder starts a key.
func NewKeyBuilder() *KeyBuilder { return &KeyBuilder{hash: sha256.New()} }

// Field adds a field. No value and one empty value are different.
func (b *KeyBuilder) Field(name string, values ...string) *KeyBuilder {
	encoded := encode(name, values...)
	return b.add(encoded, encoded)
}

// Secret adds a field that must not be guessable from the key: it goes in as an HMAC under a per-process key.
func (b *KeyBuilder) Secret(name string, value Secret) *KeyBuilder {
	return b.add(encode(name, value.digest()), encode(name, value.Reveal()))
}

// Key returns the key of all fields added so far.
func (b *KeyBuilder) Key() Key { return Key(b.hash.Sum(nil)) }

// Identity returns all fields added so far with secrets as they are. Unlike Key, it is the same in every process, so that
// replicas can agree on a digest of it under a key that they have in common.
func (b *KeyBuilder) Identity() Secret { return b.plain }

func (b *KeyBuilder) add(hashed, plain []byte) *KeyBuilder {
	b.hash.Write(hashed)
	b.plain = NewSecret(b.plain.Reveal() + string(plain))
	return b
}

func encode(name string, values ...string) []byte {
	encoded := appendText(nil, name)
	encoded = binary.BigEndian.AppendUint64(encoded, uint64(len(values)))
	for _, v := range values {
		encoded = appendText(encoded, v)
	}
	return encoded
}

func appendText(to []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint64(to, uint64(len(s))), s...)
}
