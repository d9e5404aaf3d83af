package oauth

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Answer is the answer of a token endpoint, within the limits of Client.
type Answer struct {
	// Status is the HTTP status.
	Status int

	// Header is the HTTP header.
	Header http.Header

	// Body is the decoded body, at most 64 KiB.
	Body []byte

	// Sent is the time just before the request was sent. Lifetimes count from it.
	Sent time.Time

	// WantsCertificate reports whether the server asked for a client certificate, and the client has none.
	WantsCertificate bool
}

// Layout sets where an answer has which field. Each list contains paths in the order of preference. An answer has no field
// whose list is empty.
//
// A path consists of member names and array indexes joined by dots, such as "data.access_token". For names with dots, it is a
// JSON Pointer such as "/data/access.token" (RFC 6901). The path "header:X-Subject-Token" leads to a header field, and the path
// "$" to the whole body.
type Layout struct {
	// Token leads to the access token. Required.
	Token []string

	// Type leads to the token type (RFC 6749 section 7.1). Types are the types that Read accepts, or AnyType. Default: Bearer and
	// its variants.
	Type  []string
	Types []string

	// ExpiresIn leads to the lifetime. ExpiresInUnit is its unit, which cannot be RFC3339. Default: Seconds.
	ExpiresIn     []string
	ExpiresInUnit Unit

	// ExpiresAt leads to the time of expiry by the clock of the server, which the header field Date shows. Read uses it if
	// ExpiresIn leads to no number or, with ExpiresAtFirst, before ExpiresIn. ExpiresAtUnit is its unit, Seconds or Milliseconds
	// since the Unix epoch, or RFC3339. Default: Seconds.
	ExpiresAt      []string
	ExpiresAtUnit  Unit
	ExpiresAtFirst bool

	// DefaultLifetime is the lifetime of a token without a lifetime in the answer or, as a JWT, in itself. Default: the
	// credential's default_lifetime.
	DefaultLifetime time.Duration

	// RefreshIn leads to the seconds after which the token endpoint advises a refresh.
	RefreshIn []string

	// Scope leads to the granted scope. AskedScope is the requested scope. Issued.Note reports that the token endpoint granted
	// less.
	Scope      []string
	AskedScope []string

	// Keep maps names to the paths of further values that requests need.
	Keep map[string]string

	// Code leads to the error code of a failure.
	Code []string

	// Transient contains further error codes that mean "try again". TransientStatus contains further HTTP statuses, and
	// TransientText is a text in the body, with the same meaning.
	Transient       []string
	TransientStatus []int
	TransientText   string

	// RetryAfter leads to the seconds to wait before the next try. The header Retry-After takes precedence.
	RetryAfter []string
}

// AnyType is the value of Layout.Types that accepts tokens of every type.
const AnyType = "any"

// maxToken limits the length of an access token. Servers do not accept header fields that are much longer.
const maxToken = 16 << 10

// Read returns the token in the answer. Its errors are of type *token.Error.
func (a *Answer) Read(l Layout) (token.Issued, error) {
	fields, readable := a.fields()
	value, ok := fields.text(l.Token...)
	value = withoutScheme(value)
	code := errorCode(fields, l.Code)
	if token.NewSecret(value).In(code) {
		code = ""
	}
	if !a.success() {
		return token.Issued{}, a.failure(code, l)
	}
	if !readable && !ok {
		return token.Issued{}, a.unreadable(token.CauseNotJSON, "the answer is neither JSON nor a form")
	}
	if code != "" || reportsFailure(fields, l.Code) { // some token endpoints report failures with status 200
		return token.Issued{}, a.failure(code, l)
	}
	if !ok {
		return token.Issued{}, a.unreadable(token.CauseNoToken, "the answer holds no token")
	}
	if err := a.checkToken(value, fields, l); err != nil {
		return token.Issued{}, err
	}
	lifetime, note := a.lifetime(fields, l, value)
	issued := token.Issued{Token: token.NewSecret(value), Lifetime: lifetime}
	if seconds, ok := fields.number(l.RefreshIn...); ok {
		issued.RefreshIn = fromSeconds(seconds)
	}
	issued.Kept = fields.kept(l.Keep, issued.Token)
	issued.Note = JoinNotes(narrowed(fields, l), note)
	return issued, nil
}

// Text returns the first string at the paths, and whether there is one. It is for fields that Layout does not have.
func (a *Answer) Text(paths ...string) (string, bool) {
	fields, _ := a.fields()
	return fields.text(paths...)
}

// JoinNotes returns one note for Issued.Note. Notes can be empty.
func JoinNotes(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(note string) bool { return note == "" }), "; ")
}

// withoutScheme removes the authentication scheme that some token endpoints put before the token. A token has no spaces.
func withoutScheme(value string) string {
	const scheme = "Bearer "
	if len(value) > len(scheme) && strings.EqualFold(value[:len(scheme)], scheme) {
		return value[len(scheme):]
	}
	return value
}

// success reports whether the status means success. Some gateways answer with 201.
func (a *Answer) success() bool { return a.Status == http.StatusOK || a.Status == http.StatusCreated }

func (a *Answer) checkToken(value string, fields fields, l Layout) error {
	if len(value) > maxToken {
		return a.unreadable(token.CauseTokenText, "the token is longer than 16 KiB")
	}
	if strings.IndexFunc(value, notVisibleASCII) >= 0 {
		return a.unreadable(token.CauseTokenText, "the token holds characters that no header field can carry")
	}
	if kind, ok := fields.text(l.Type...); ok && !l.accepts(kind) {
		return &token.Error{Kind: token.Refused, Status: a.Status, Cause: token.CauseTokenType, Reason: "the token is of type " + knownType(kind) +
			", not " + cmp.Or(strings.Join(l.Types, " or "), "Bearer") + "; the option token_type of response can accept other types"}
	}
	return nil
}

func (a *Answer) unreadable(cause token.Cause, reason string) *token.Error {
	return &token.Error{Kind: token.Unreadable, Status: a.Status, Cause: cause, Reason: reason}
}

// bearerTypes are the token types of bearer tokens. Bearer is the type of RFC 6750, and BearerToken that of some gateways.
// The other two are descriptions that eBay sends.
var bearerTypes = []string{"Bearer", "BearerToken", "Application Access Token", "User Access Token"}

// accepts reports whether the layout accepts tokens of this type. A client must not use a token whose type it does not
// understand (RFC 6749 section 7.1). Types are case-insensitive (section 5.1).
func (l Layout) accepts(kind string) bool {
	types := l.Types
	if len(types) == 0 {
		types = bearerTypes
	}
	return slices.ContainsFunc(types, func(accepted string) bool {
		// The length keeps EqualFold from accepting letters beyond ASCII, such as the Kelvin sign for k.
		return accepted == AnyType || len(kind) == len(accepted) && strings.EqualFold(kind, accepted)
	})
}

func notVisibleASCII(r rune) bool { return r <= ' ' || r > '~' }

// knownType returns a name of a token type that is safe to show, because the answer is untrusted.
func knownType(kind string) string {
	for _, known := range []string{"DPoP", "MAC", "PoP", "N_A"} {
		if strings.EqualFold(kind, known) {
			return known
		}
	}
	return "another kind"
}
