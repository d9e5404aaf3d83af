package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// TokenHeader is the header field that carries the token to the API.
type TokenHeader struct {
	// Name is the field's name. Default: Authorization.
	Name string `json:"name,omitempty"`

	// Format is the field's value, in which {token} stands for the token. Default: `Bearer {token}` in Authorization,
	// `{token}` in any other field.
	Format string `json:"format,omitempty"`

	prefix, suffix string
}

// placeholderToken stands for the token in TokenHeader.Format.
const placeholderToken = "{token}"

func (t *TokenHeader) provision() error {
	if t.Name == "" {
		t.Name = "Authorization"
	}
	if !httpguts.ValidHeaderFieldName(t.Name) {
		return errors.New("the name is not a header field name")
	}
	t.Name = http.CanonicalHeaderKey(t.Name)
	if oauth.ReservedHeaders[t.Name] {
		return fmt.Errorf("the field %s cannot carry a token", t.Name)
	}
	if t.Format == "" {
		t.Format = placeholderToken
		if t.Name == "Authorization" {
			t.Format = "Bearer " + placeholderToken
		}
	}
	if strings.Count(t.Format, placeholderToken) != 1 {
		return errors.New("the format must have {token} in it exactly once")
	}
	if option.LooksLikePlaceholder(strings.Replace(t.Format, placeholderToken, "", 1)) {
		return errors.New("the format can have no placeholder other than {token}")
	}
	if !httpguts.ValidHeaderFieldValue(t.Format) {
		return errors.New("the format has characters that a header field cannot carry")
	}
	t.prefix, t.suffix, _ = strings.Cut(t.Format, placeholderToken)
	return nil
}

// value returns the field's value for a token.
func (t *TokenHeader) value(s provider.Secret) string { return t.prefix + s.Reveal() + t.suffix }

// sentBy reports whether the application sent credentials of its own.
func (t *TokenHeader) sentBy(r *http.Request) bool {
	return t.in(r.Header) || t.in(r.Trailer)
}

// in reports whether fields has a field that carries credentials.
func (t *TokenHeader) in(fields http.Header) bool {
	for name := range fields {
		if t.carries(name) {
			return true
		}
	}
	return false
}

// keepFromTrailer removes the application's credentials from the trailer, both from its announcement and when it arrives. An
// API that merges the trailer into the header would otherwise find a second token.
func (t *TokenHeader) keepFromTrailer(r *http.Request) {
	t.deleteFromTrailer(r.Trailer)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &trailerFilter{ReadCloser: r.Body, request: r, header: t}
	}
}

// deleteFrom removes the application's credentials from header fields.
func (t *TokenHeader) deleteFrom(fields http.Header) {
	for name := range fields {
		if t.carries(name) {
			delete(fields, name)
		}
	}
}

// deleteFromTrailer removes the application's credentials from a trailer. It also removes Proxy-Authorization, because
// reverse_proxy removes that field from the header only.
func (t *TokenHeader) deleteFromTrailer(trailer http.Header) {
	t.deleteFrom(trailer)
	delete(trailer, "Proxy-Authorization")
}

// carries reports whether a field name is Authorization or the credential's own field, or may be taken for one of them. CGI
// and its successors do not distinguish '-', '_' and '.'.
func (t *TokenHeader) carries(name string) bool {
	return sameField(name, "Authorization") || t.Name != "Authorization" && sameField(name, t.Name)
}

// sameField reports whether a server may take two field names for the same.
func sameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if foldField(a[i]) != foldField(b[i]) {
			return false
		}
	}
	return true
}

func foldField(c byte) byte {
	switch {
	case c == '_' || c == '.':
		return '-'
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	default:
		return c
	}
}

// trailerFilter removes credentials from the trailer when it arrives, which is at the end of the body. In the same call,
// net/http adds the fields to Request.Trailer and reverse_proxy copies them.
type trailerFilter struct {
	io.ReadCloser
	request *http.Request
	header  *TokenHeader
}

// Read implements io.Reader.
func (f *trailerFilter) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil {
		f.header.deleteFromTrailer(f.request.Trailer)
	}
	return n, err
}
