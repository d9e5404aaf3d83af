package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
)

// redacted is what every way of printing a Secret shows.
const redacted = "[redacted]"

// Secret is text that must not be shown: a client secret or a token. However it is printed, logged or marshaled,
// it shows "[redacted]"; only Reveal gives the text, so that a search for Reveal finds every use.
//
// The text sits behind a pointer because package fmt does not call methods on unexported fields: a struct that
// holds a Secret prints an address at worst.
type Secret struct {
	text *string
}

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Equal compares in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

const (
	// tellingPart is how much of a secret counts as the secret: shorter pieces may be anywhere by chance.
	tellingPart = 12

	// shortSecret is what may be anywhere by chance as a whole.
	shortSecret = 8
)

// In reports whether text shows the secret or a telling part of it.
func (s Secret) In(text string) bool {
	secret := s.Reveal()
	if len(secret) < shortSecret {
		return secret != "" && secret == text
	}
	if len(secret) < tellingPart {
		return strings.Contains(text, secret)
	}
	for i := range len(secret) - tellingPart + 1 {
		if strings.Contains(text, secret[i:i+tellingPart]) {
			return true
		}
	}
	return false
}

// fingerprintKey makes fingerprints useless outside this process, so that a reader of the log cannot test guesses.
var fingerprintKey = func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails since Go 1.24
	return key
}()

// Fingerprint names the text without revealing any of it: 8 hex digits of an HMAC-SHA-256 under a key that is random in
// each process. Equal texts have equal fingerprints within a process.
func (s Secret) Fingerprint() string { return s.digest()[:8] }

// digest is the whole HMAC, for identity keys.
func (s Secret) digest() string {
	mac := hmac.New(sha256.New, fingerprintKey)
	mac.Write([]byte(s.Reveal()))
	return hex.EncodeToString(mac.Sum(nil))
}

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, which covers the verbs that String does not.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler, and with it JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
