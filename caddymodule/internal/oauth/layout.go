package oauth

import (
	"net/http"
	"strings"
	"time"
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

	// DPoP makes Read accept the type DPoP as well (RFC 9449 section 5).
	DPoP bool

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

// success reports whether the status means success. Some gateways answer with 201.
func (a *Answer) success() bool { return a.Status == http.StatusOK || a.Status == http.StatusCreated }

// withoutScheme removes the authentication scheme that some token endpoints put before the token. A token has no spaces.
func withoutScheme(value string) string {
	const scheme = "Bearer "
	if len(value) > len(scheme) && strings.EqualFold(value[:len(scheme)], scheme) {
		return value[len(scheme):]
	}
	return value
}

func notVisibleASCII(r rune) bool { return r <= ' ' || r > '~' }

// Unit is the unit of a time in an answer.
type Unit string

// The units.
const (
	Seconds      Unit = "s"
	Milliseconds Unit = "ms"
	Minutes      Unit = "min"     // only for a lifetime
	Hours        Unit = "h"       // only for a lifetime
	RFC3339      Unit = "rfc3339" // text, only for a point in time
)

// seconds converts a number of this unit.
func (u Unit) seconds(n float64) float64 {
	switch u {
	case Milliseconds:
		return n / 1000
	case Minutes:
		return n * 60
	case Hours:
		return n * 3600
	default:
		return n
	}
}

// name returns the name of the unit for operators.
func (u Unit) name() string {
	switch u {
	case Milliseconds:
		return "milliseconds"
	case Minutes:
		return "minutes"
	case Hours:
		return "hours"
	default:
		return "seconds"
	}
}

// maxSeconds keeps the conversion to a duration from overflowing. Package token limits lifetimes far below it.
const maxSeconds = 1 << 31

func fromSeconds(seconds float64) time.Duration {
	return time.Duration(max(0, min(seconds, maxSeconds)) * float64(time.Second))
}
