package oauth

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// TestMain fails if a token request leaks a goroutine and thus a connection.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canary is in all text that an error must not show. That is the text of token endpoints in bodies, header fields and
// certificates, and the query of the URL.
const canary = "c4n4ry"

// wantError fails the test unless err is a *token.Error of this kind without the canary. It returns the error, or an empty
// one, so that the caller can continue.
func wantError(t *testing.T, err error, kind token.Kind) *token.Error {
	t.Helper()
	e, ok := errors.AsType[*token.Error](err)
	if !ok {
		t.Errorf("got error %v (%T), want a *token.Error of kind %s", err, err, kind)
		return new(token.Error)
	}
	if e.Kind != kind {
		t.Errorf("got kind %s (%v), want %s", e.Kind, e, kind)
	}
	wantSilent(t, e)
	return e
}

// wantSilent fails the test if a printed form of the error contains the canary, plain or encoded.
func wantSilent(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
			if text := fmt.Sprintf(verb, e); showsCanary(text) {
				t.Errorf("printed with %s, the error shows the canary: %s", verb, text)
			}
		}
	}
}

func showsCanary(text string) bool {
	text = strings.ToLower(text)
	for _, form := range []string{
		canary,
		hex.EncodeToString([]byte(canary)),
		strings.ToLower(base64.RawStdEncoding.EncodeToString([]byte(canary))),
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}
