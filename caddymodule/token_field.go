package caddymodule

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tokenField has the field, cookie or query parameter that carries the token. It makes one for each token.
type tokenField struct {
	tenants bool // the tokens are those of several tenants
	made    atomic.Pointer[madeField]
}

// madeField is the field for one token.
type madeField struct {
	header  *TokenHeader
	token   provider.Secret
	values  []string        // of the field, as they are sent
	query   bool            // the token is a query parameter, which an upstream often sends back in a well-formed answer
	encoded provider.Secret // the token as it is in a query
	earlier *madeField      // the one before, whose token an upstream may still send back; it has none before itself
}

// of returns the field for a token. Requests share it.
func (f *tokenField) of(header *TokenHeader, token provider.Secret) *madeField {
	before := f.made.Load()
	if before.isOf(header, token) {
		return before
	}
	made := &madeField{
		header: header, token: token, values: []string{header.encoded(token)},
		query: header.parameter != "", encoded: provider.NewSecret(url.QueryEscape(token.Reveal())),
	}
	if before != nil {
		earlier := *before
		earlier.earlier = nil
		made.earlier = &earlier
	}
	f.made.Store(made)
	return made
}

// isOf reports whether this is the field for a token.
func (m *madeField) isOf(header *TokenHeader, token provider.Secret) bool {
	return m != nil && m.header == header && m.token == token
}

// in reports whether a text shows the token or the earlier one.
func (m *madeField) in(text string) bool {
	return m != nil && (m.token.In(text) || m.query && m.shows(text) || m.earlier.in(text))
}

// shows reports whether a text has the token of a query in it, which may be encoded more than once.
func (m *madeField) shows(text string) bool {
	if m.encoded.In(text) {
		return true
	}
	for range maxEncodings {
		decoded, err := url.PathUnescape(text)
		if err != nil || decoded == text {
			return false
		}
		if text = decoded; m.token.In(text) || strings.Contains(text, m.token.Reveal()) {
			return true
		}
	}
	return false
}

const (
	// maxEncodings is how often a token is decoded. A redirect to a login page, which repeats the URL of the request in a
	// parameter, encodes twice.
	maxEncodings = 3

	// hiddenToken stands for a token in the header of an answer.
	hiddenToken = "REDACTED"
)

// withoutQuery removes the token, if it is a query parameter, from the fields of an answer.
func (m *madeField) withoutQuery(fields http.Header) {
	if m == nil || !m.query {
		return
	}
	for _, values := range fields {
		for i, value := range values {
			if m.in(value) {
				values[i] = m.without(value)
			}
		}
	}
}

// without removes the token and the earlier one from a text.
func (m *madeField) without(text string) string {
	if m.earlier != nil {
		text = m.earlier.without(text)
	}
	text = withoutPair(text, m.values[0])
	token, once := m.token.Reveal(), m.encoded.Reveal()
	for _, form := range []string{url.QueryEscape(once), once, url.PathEscape(token), token} {
		text = strings.ReplaceAll(text, form, hiddenToken)
	}
	if m.in(text) {
		return hiddenToken
	}
	return text
}
