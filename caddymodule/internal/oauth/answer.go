package oauth

import (
	"encoding/base64"
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
}

// Layout sets where an answer has which field. Each list contains paths in the order of preference. A path consists of
// member names and array indexes joined by dots, such as "data.access_token", or is "$" for the whole body. An answer has no
// field whose list is empty.
type Layout struct {
	// Token leads to the access token. Required.
	Token []string

	// Type leads to the token type (RFC 6749 section 7.1).
	Type []string

	// ExpiresIn leads to the lifetime. ExpiresInUnit is its unit, Seconds or Milliseconds. Default: Seconds.
	ExpiresIn     []string
	ExpiresInUnit Unit

	// ExpiresAt leads to the time of expiry by the clock of the server. Read uses it if ExpiresIn leads to no number.
	// ExpiresAtUnit is its unit, Seconds or Milliseconds since the Unix epoch, or RFC3339. Default: Seconds.
	ExpiresAt     []string
	ExpiresAtUnit Unit

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

// Unit is the unit of a time in an answer.
type Unit string

// The units.
const (
	Seconds      Unit = "s"
	Milliseconds Unit = "ms"
	RFC3339      Unit = "rfc3339" // text, only for a point in time
)

// maxToken limits the length of an access token. Servers do not accept header fields that are much longer.
const maxToken = 16 << 10

// Read returns the token in the answer. Its errors are of type *token.Error.
func (a *Answer) Read(l Layout) (token.Issued, error) {
	fields, readable := parseFields(a.Header.Get("Content-Type"), a.Body)
	value, ok := fields.text(l.Token...)
	code := errorCode(fields, l.Code)
	if token.NewSecret(value).In(code) {
		code = ""
	}
	if !a.success() {
		return token.Issued{}, a.failure(code, l)
	}
	if !readable {
		return token.Issued{}, a.unreadable("the answer is neither JSON nor a form")
	}
	if code != "" || failed(fields, l.Code) { // some token endpoints report failures with status 200
		return token.Issued{}, a.failure(code, l)
	}
	if !ok || value == "" {
		return token.Issued{}, a.unreadable("the answer holds no token")
	}
	if err := a.checkToken(value, fields, l.Type); err != nil {
		return token.Issued{}, err
	}
	issued := token.Issued{Token: token.NewSecret(value), Lifetime: a.lifetime(fields, l, value)}
	if seconds, ok := fields.number(l.RefreshIn...); ok {
		issued.RefreshIn = fromSeconds(seconds)
	}
	issued.Kept = fields.kept(l.Keep, issued.Token)
	issued.Note = narrowed(fields, l)
	return issued, nil
}

// Text returns the value at the first path that leads to one, and whether it is a string. It is for fields that Layout does
// not have.
func (a *Answer) Text(paths ...string) (string, bool) {
	fields, _ := parseFields(a.Header.Get("Content-Type"), a.Body)
	return fields.text(paths...)
}

// success reports whether the status means success. Some gateways answer with 201.
func (a *Answer) success() bool { return a.Status == http.StatusOK || a.Status == http.StatusCreated }

func (a *Answer) checkToken(value string, fields fields, typePaths []string) error {
	if len(value) > maxToken {
		return a.unreadable("the token is longer than 16 KiB")
	}
	if strings.IndexFunc(value, notVisibleASCII) >= 0 {
		return a.unreadable("the token holds characters that no header field can carry")
	}
	kind, _ := fields.text(typePaths...)
	if kind != "" && !meansBearer(kind) {
		return &token.Error{Kind: token.Refused, Status: a.Status, Reason: "the token is of type " + knownType(kind) + ", not Bearer"}
	}
	return nil
}

// lifetime prefers the relative lifetime, because an absolute expiry depends on two clocks. The claims of the token come
// last, because they are not meant for the client.
func (a *Answer) lifetime(fields fields, l Layout, value string) time.Duration {
	if n, ok := fields.number(l.ExpiresIn...); ok {
		return fromSeconds(inSeconds(n, l.ExpiresInUnit))
	}
	if expiry, ok := fields.time(l.ExpiresAtUnit, l.ExpiresAt...); ok {
		return a.until(expiry)
	}
	if expiry, ok := jwtExpiry(value); ok && a.until(expiry) > 0 {
		return a.until(expiry)
	}
	if l.DefaultLifetime > 0 {
		return l.DefaultLifetime
	}
	return token.UnknownLifetime
}

// until returns the lifetime of a token that expires at epoch, in seconds since the Unix epoch.
func (a *Answer) until(epoch float64) time.Duration {
	return fromSeconds(epoch - float64(a.Sent.UnixMilli())/1000)
}

func inSeconds(n float64, unit Unit) float64 {
	if unit == Milliseconds {
		return n / 1000
	}
	return n
}

// jwtExpiry returns the claim exp of a token that happens to be a JWT (RFC 7519 section 4.1.4). Only the API can verify the
// claim. An unverified expiry suffices to decide how long to use the token.
func jwtExpiry(value string) (float64, bool) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return 0, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return 0, false
	}
	claims, ok := parseFields("application/json", payload)
	if !ok {
		return 0, false
	}
	return claims.number("exp")
}

func (a *Answer) unreadable(reason string) *token.Error {
	return &token.Error{Kind: token.Unreadable, Status: a.Status, Reason: reason}
}

// maxSeconds keeps the conversion to a duration from overflowing. Package token limits lifetimes far below it.
const maxSeconds = 1 << 31

func fromSeconds(seconds float64) time.Duration {
	return time.Duration(max(0, min(seconds, maxSeconds)) * float64(time.Second))
}

// bearerTypes are the token types of bearer tokens. Bearer is the type of RFC 6750, and BearerToken that of some gateways.
// The other two are descriptions that eBay sends.
var bearerTypes = []string{"Bearer", "BearerToken", "Application Access Token", "User Access Token"}

// meansBearer reports whether a token of this type is a bearer token. A client must not use a token whose type it does not
// understand (RFC 6749 section 7.1). Types are case-insensitive (section 5.1).
func meansBearer(kind string) bool {
	return slices.ContainsFunc(bearerTypes, func(bearer string) bool { return strings.EqualFold(kind, bearer) })
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
