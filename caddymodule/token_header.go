package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// TokenHeader is the header field, cookie or query parameter that carries the token to the API.
type TokenHeader struct {
	// Name is the field's name. `query:` and a name, such as `query:access_token`, is a query parameter instead, which the
	// proxy adds where no log can see it. Default: Authorization.
	Name string `json:"name,omitempty"`

	// Format is the field's value, in which {token} stands for the token. In Cookie, it is a cookie such as
	// `session={token}`, or several. The cookies of the application stay beside it, except those of the same name. In a query
	// parameter, it is the value before it is encoded. Default: `Bearer {token}` in Authorization, `{token}` in all others.
	Format string `json:"format,omitempty"`

	prefix, suffix string
	parameter      string   // the name of the query parameter; "" for a field
	cookies        []string // the names in Format, if Name is Cookie
}

// dpopHeader carries the tokens that are bound to a key (RFC 9449 section 7.1).
var dpopHeader = TokenHeader{Name: "Authorization", Format: "DPoP " + placeholderToken, prefix: "DPoP "}

// fieldDPoP is the header field with the proof of the key (RFC 9449 section 4.1), as http.CanonicalHeaderKey spells it.
const fieldDPoP = "Dpop"

// placeholderToken stands for the token in TokenHeader.Format.
const placeholderToken = "{token}"

func (t *TokenHeader) provision() error {
	if t.Name == "" {
		t.Name = "Authorization"
	}
	if err := t.provisionName(); err != nil {
		return err
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
	if t.isCookie() {
		t.cookies = cookieNames(t.Format)
	}
	return nil
}

func (t *TokenHeader) provisionName() error {
	if parameter, ok := strings.CutPrefix(t.Name, queryPrefix); ok {
		if parameter == "" || !httpguts.ValidHeaderFieldValue(parameter) || option.LooksLikePlaceholder(parameter) {
			return errors.New("the name of the query parameter is missing, or has a placeholder or a control character")
		}
		t.parameter = parameter
		return nil
	}
	if !httpguts.ValidHeaderFieldName(t.Name) {
		return errors.New("the name is not a header field name")
	}
	t.Name = http.CanonicalHeaderKey(t.Name)
	if oauth.ReservedHeaders[t.Name] {
		return fmt.Errorf("the field %s cannot carry a token", t.Name)
	}
	return nil
}

func (t *TokenHeader) isCookie() bool { return t.Name == "Cookie" }

// value returns the field's value for a token.
func (t *TokenHeader) value(s provider.Secret) string { return t.prefix + s.Reveal() + t.suffix }

// encoded returns the value as it is sent. For a query parameter, that is the parameter's name and value.
func (t *TokenHeader) encoded(s provider.Secret) string {
	if t.parameter == "" {
		return t.value(s)
	}
	return url.QueryEscape(t.parameter) + "=" + url.QueryEscape(t.value(s))
}

// addTo puts an encoded value into a request. The request must have a header map and a URL of its own.
func (t *TokenHeader) addTo(req *http.Request, values []string) {
	switch {
	case t.parameter != "":
		req.URL.RawQuery = withParameter(req.URL.RawQuery, t.parameter, values[0])
	case t.isCookie():
		req.Header[t.Name] = withCookies(req.Header[t.Name], t.cookies, values)
	default:
		req.Header[t.Name] = values
	}
}

// sentBy reports whether the application sent credentials of its own.
func (t *TokenHeader) sentBy(r *http.Request) bool {
	return t.in(r.Header) || t.in(r.Trailer) || haveCookie(r.Header["Cookie"], t.cookies) ||
		t.parameter != "" && hasParameter(r.URL.RawQuery, t.parameter)
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
func (t *TokenHeader) keepFromTrailer(r *http.Request) { filterTrailer(r, t) }

// deleteFrom removes the application's credentials from header fields. addTo removes cookies and query parameters, because
// the others stay.
func (t *TokenHeader) deleteFrom(fields http.Header) {
	for name := range fields {
		if t.carries(name) {
			delete(fields, name)
		}
	}
}

// deleteFromTrailer removes the application's credentials from a trailer. It also removes DPoP, which
// belongs to them, and Proxy-Authorization, because reverse_proxy removes that field from the header only.
func (t *TokenHeader) deleteFromTrailer(trailer http.Header) {
	t.deleteFrom(trailer)
	delete(trailer, "Proxy-Authorization")
	delete(trailer, fieldDPoP)
	if t.isCookie() {
		delete(trailer, "Cookie")
	}
}

// carries reports whether a field name is Authorization or the credential's own field, or may be taken for one of them. CGI
// and its successors do not distinguish '-', '_' and '.'. Cookie does not count, because it also carries other cookies.
func (t *TokenHeader) carries(name string) bool {
	return sameField(name, "Authorization") || t.Name != "Authorization" && !t.isCookie() && sameField(name, t.Name)
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

// trailerDeleter deletes fields of a trailer.
type trailerDeleter interface{ deleteFromTrailer(http.Header) }

// filterTrailer deletes fields of the trailer, both of its announcement and when it arrives.
func filterTrailer(r *http.Request, d trailerDeleter) {
	d.deleteFromTrailer(r.Trailer)
	if r.Body != nil && r.Body != http.NoBody && !withoutTrailer(r) {
		r.Body = &trailerFilter{r.Body, r, d}
	}
}

// withoutTrailer reports whether a request comes without a trailer. In HTTP/1, only chunked bodies have one, and their length is not
// known (RFC 9112 section 7.1.2). In HTTP/2 and HTTP/3, any body may have one.
func withoutTrailer(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ContentLength >= 0 && len(r.Trailer) == 0
}

// trailerFilter deletes fields of the trailer when it arrives, which is at the end of the body. In the same call, net/http
// adds the fields to Request.Trailer and reverse_proxy copies them.
type trailerFilter struct {
	io.ReadCloser
	request *http.Request
	deleter trailerDeleter
}

// Read implements io.Reader.
func (f *trailerFilter) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil {
		f.deleter.deleteFromTrailer(f.request.Trailer)
	}
	return n, err
}
