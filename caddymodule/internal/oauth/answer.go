package oauth

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Answer is what a token endpoint sent, read within the limits.
type Answer struct {
	// Status is the HTTP status.
	Status int

	// Header is the HTTP header.
	Header http.Header

	// Body is the decoded body, at most 64 KiB.
	Body []byte

	// Sent is when the request was sent, from which lifetimes count.
	Sent time.Time
}

// Layout says where an answer holds what. Each list names paths in order of preference; a path is made of member
// names and array indexes joined by dots, or is "$" for the whole body. An empty list means that there is no such thing.
type Layout struct {
	// Token holds the access token.
	Token []string

	// Type holds the token type (RFC 6749 section 7.1).
	Type []string

	// ExpiresIn holds the lifetime, and ExpiresInUnit says in what. Default: Seconds.
	ExpiresIn     []string
	ExpiresInUnit Unit

	// ExpiresAt holds the expiry by the server's clock, since the epoch or as RFC 3339 text. It is read if there is no
	// ExpiresIn. ExpiresAtUnit says in what. Default: Seconds.
	ExpiresAt     []string
	ExpiresAtUnit Unit

	// DefaultLifetime is the lifetime of tokens whose answer names none, and which do not name it themselves, as a JWT
	// does. Default: the credential's default_lifetime.
	DefaultLifetime time.Duration

	// RefreshIn holds the advice when to refresh, in seconds.
	RefreshIn []string

	// Scope holds the granted scope, and AskedScope is what was asked for. If less is granted, a warning says so.
	Scope      []string
	AskedScope []string

	// Keep names what else of the answer is of use to those who use the token, by path.
	Keep map[string]string

	// Code holds the error code of a failure.
	Code []string

	// Transient lists error codes that mean "try again" where their status says otherwise; so do TransientStatus and
	// TransientText, which is looked for in the body.
	Transient       []string
	TransientStatus []int
	TransientText   string

	// RetryAfter holds the seconds to wait before trying again, if the header Retry-After does not.
	RetryAfter []string
}

// Unit is what a time is given in.
type Unit string

// The units.
const (
	Seconds      Unit = "s"
	Milliseconds Unit = "ms"
	RFC3339      Unit = "rfc3339"
)

// maxToken bounds an access token: servers refuse header fields that are much longer.
const maxToken = 16 << 10

// Read turns the answer into a token or a *token.Error.
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
	if code != "" || failed(fields, l.Code) { // some endpoints fail with status 200
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

// Text returns the first text at the paths, for what is particular to one provider.
func (a *Answer) Text(paths ...string) (string, bool) {
	fields, _ := parseFields(a.Header.Get("Content-Type"), a.Body)
	return fields.text(paths...)
}

// success takes 201 as well: some gateways answer so.
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

// lifetime reads the relative lifetime first: an absolute one depends on two clocks. What the token says of itself
// comes last, because it is not meant for the client.
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

// until turns an expiry, in seconds since the epoch, into a lifetime.
func (a *Answer) until(epoch float64) time.Duration {
	return fromSeconds(epoch - float64(a.Sent.UnixMilli())/1000)
}

func inSeconds(n float64, unit Unit) float64 {
	if unit == Milliseconds {
		return n / 1000
	}
	return n
}

// jwtExpiry reads the expiry of a token that happens to be a JWT (RFC 7519 section 4.1.4). It is not verified, which
// only the API can do, and tells no more than how long the token may be worth trying.
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

// maxSeconds keeps the conversion to a duration from overflowing; the engine caps lifetimes far below it.
const maxSeconds = 1 << 31

func fromSeconds(seconds float64) time.Duration {
	return time.Duration(max(0, min(seconds, maxSeconds)) * float64(time.Second))
}

// bearerTypes are the token types of bearer tokens: RFC 6750's, one of some gateways, and eBay's, which are descriptions.
var bearerTypes = []string{"Bearer", "BearerToken", "Application Access Token", "User Access Token"}

// meansBearer reports whether a token of this type is used as a bearer token. A client must not use a token whose type it
// does not understand (RFC 6749 section 7.1), and types are case insensitive (section 5.1).
func meansBearer(kind string) bool {
	return slices.ContainsFunc(bearerTypes, func(bearer string) bool { return strings.EqualFold(kind, bearer) })
}

func notVisibleASCII(r rune) bool { return r <= ' ' || r > '~' }

// knownType names a token type without repeating what the endpoint sent.
func knownType(kind string) string {
	for _, known := range []string{"DPoP", "MAC", "PoP", "N_A"} {
		if strings.EqualFold(kind, known) {
			return known
		}
	}
	return "another kind"
}
