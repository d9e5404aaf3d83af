package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// tokenField has the values of the header field that carries the token. It makes them once for each token.
type tokenField struct {
	made atomic.Pointer[madeField]
}

type madeField struct {
	header  *TokenHeader
	token   provider.Secret
	values  []string
	query   bool            // the token is a query parameter, which an upstream often sends back in a well-formed answer
	encoded provider.Secret // the token as it is in a query
	earlier *madeField      // the one before, whose token an upstream may still send back; it has none before itself
}

// values returns the values of the field for a token, as they are sent. Requests share them.
func (f *tokenField) values(header *TokenHeader, token provider.Secret) []string {
	before := f.made.Load()
	if before != nil && before.header == header && before.token == token {
		return before.values
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
	return made.values
}

var errEcho = errors.New("the upstream sent back the token in place of an answer")

// withoutEcho replaces an error that quotes a token or a DPoP proof, because errors are logged. Such an error occurs if the upstream sends the
// token back in place of an answer.
func (f *tokenField) withoutEcho(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if text := err.Error(); f.made.Load().in(text) || dpop.In(text) {
		return errEcho
	}
	return err
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

// withoutQuery removes the query parameter that carries the token from the header of an answer. An API that redirects a
// request, or names the next page, repeats the query. Logs and placeholders have the header of the answer.
func (f *tokenField) withoutQuery(header http.Header) {
	made := f.made.Load()
	if made == nil || !made.query {
		return
	}
	for _, values := range header {
		for i, value := range values {
			if made.in(value) {
				values[i] = made.without(value)
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
