package oauth

import (
	"net/http"
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
// names and array indexes joined by dots.
type Layout struct {
	// Token holds the access token.
	Token []string

	// Type holds the token type (RFC 6749 section 7.1).
	Type []string

	// ExpiresIn holds the lifetime in seconds.
	ExpiresIn []string

	// ExpiresAt holds the expiry in seconds since the epoch, by the server's clock. Read if there is no ExpiresIn.
	ExpiresAt []string

	// Code holds the error code of a failure.
	Code []string

	// Transient lists error codes that mean "try again" where their status says otherwise.
	Transient []string
}

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
		return token.Issued{}, a.failure(code, l.Transient)
	}
	if !readable {
		return token.Issued{}, a.unreadable("the answer is neither JSON nor a form")
	}
	if code != "" || failed(fields, l.Code) { // some endpoints fail with status 200
		return token.Issued{}, a.failure(code, l.Transient)
	}
	if !ok || value == "" {
		return token.Issued{}, a.unreadable("the answer holds no token")
	}
	if err := a.checkToken(value, fields, l.Type); err != nil {
		return token.Issued{}, err
	}
	return token.Issued{Token: token.NewSecret(value), Lifetime: a.lifetime(fields, l)}, nil
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
	// RFC 6749 section 7.1: a client must not use a token whose type it does not understand. What has a space in it is
	// no type but a description, as eBay's "Application Access Token".
	kind, _ := fields.text(typePaths...)
	if kind != "" && !strings.EqualFold(kind, "bearer") && !strings.Contains(kind, " ") {
		return &token.Error{Kind: token.Refused, Status: a.Status, Reason: "the token is of type " + knownType(kind) + ", not Bearer"}
	}
	return nil
}

// lifetime reads the relative lifetime first: an absolute one depends on two clocks.
func (a *Answer) lifetime(fields fields, l Layout) time.Duration {
	if seconds, ok := fields.number(l.ExpiresIn...); ok {
		return fromSeconds(seconds)
	}
	if epoch, ok := fields.number(l.ExpiresAt...); ok {
		return fromSeconds(epoch - float64(a.Sent.UnixMilli())/1000)
	}
	return token.UnknownLifetime
}

func (a *Answer) unreadable(reason string) *token.Error {
	return &token.Error{Kind: token.Unreadable, Status: a.Status, Reason: reason}
}

// maxSeconds keeps the conversion to a duration from overflowing; the engine caps lifetimes far below it.
const maxSeconds = 1 << 31

func fromSeconds(seconds float64) time.Duration {
	return time.Duration(max(0, min(seconds, maxSeconds)) * float64(time.Second))
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
