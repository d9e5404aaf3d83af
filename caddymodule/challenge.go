package caddymodule

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// challenge is what an API demands of the token (RFC 6750 section 3, RFC 9449 section 7.1).
type challenge struct {
	errorCode string // the parameter error
	claims    string // as they are sent; see demandedClaims
	scope     string
	acr       string // the parameter acr_values (RFC 9470)
	maxAge    string // RFC 9470
	metadata  string // the parameter resource_metadata (RFC 9728)
}

// readChallenge reads the WWW-Authenticate fields of an answer. It returns the challenge that is about the token: Bearer's, or
// DPoP's if there is no Bearer challenge. For a token that was sent with DPoP, it is the other way round. Other schemes may use
// parameters of these names for something else.
func readChallenge(fields []string, bound bool) challenge {
	var l challengeList
	for _, field := range fields {
		l.read(field)
	}
	first, second := l.bearer, l.dpop
	if bound {
		first, second = second, first
	}
	switch {
	case first == nil && second == nil:
		return challenge{}
	case first == nil:
		return *second
	case second == nil:
		return *first
	}
	c := *first
	c.metadata = cmp.Or(first.metadata, second.metadata) // they are of the API, whatever the scheme (RFC 9728 section 5.1)
	return c
}

// challengeIn returns the challenge of an answer to a request with this lease's token.
func challengeIn(res *http.Response, lease token.Lease) challenge {
	return readChallenge(res.Header.Values("WWW-Authenticate"), lease.Prover() != nil)
}

// judge returns whether the answer may be about something other than the token, and whether it can be about the token at all.
// With insufficient_scope and insufficient_user_authentication, the token is valid but lacks rights, and the next one would lack
// them, too. A demand for another DPoP proof is about the next request (RFC 6750 section 3.1, RFC 9470, RFC 9449 section 9).
func (c challenge) judge() (doubt token.Doubt, ours bool) {
	switch c.errorCode {
	case "invalid_token":
		return token.Certain, true
	case errInsufficientClaims:
		return token.Certain, c.demandedClaims() != ""
	case errInsufficientScope, errInsufficientAuthentication, "use_dpop_nonce", "invalid_dpop_proof":
		return token.Doubtful, false
	default:
		return token.Doubtful, true
	}
}

// demandsProof reports whether the API asks for another proof (RFC 9449 sections 7.1 and 9).
func (c challenge) demandsProof() bool {
	return c.errorCode == "use_dpop_nonce" || c.errorCode == "invalid_dpop_proof"
}

// The error codes of APIs that ask for more than the token has.
const (
	errInsufficientClaims         = "insufficient_claims"              // Entra's claims challenge
	errInsufficientScope          = "insufficient_scope"               // RFC 6750 section 3.1
	errInsufficientAuthentication = "insufficient_user_authentication" // RFC 9470
)

// maxClaims is the length of the longest claims that are demanded of the token endpoint.
const maxClaims = 4 << 10

// demandedClaims returns the JSON object of the parameter claims, or "". Entra encodes it in base64.
func (c challenge) demandedClaims() string {
	if c.errorCode != errInsufficientClaims || len(c.claims) > maxClaims {
		return ""
	}
	text := []byte(c.claims)
	if !strings.HasPrefix(c.claims, "{") {
		encoded := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(c.claims, "="))
		text, _ = base64.RawStdEncoding.DecodeString(encoded)
	}
	var object map[string]any
	if json.Unmarshal(text, &object) != nil || object == nil {
		return ""
	}
	return string(text)
}

// challengeList reads lists of challenges (RFC 9110 section 11.6.1). Several fields are one list (section 5.3).
type challengeList struct {
	current      *challenge // that is being read; nil for other schemes
	bearer, dpop *challenge // nil if there is none; several of a scheme are one
}

// read reads one field. A comma separates two challenges, or two parameters of one challenge. A word without a value is a
// scheme, or the token68 after a scheme. Some senders forget commas, so read does not need them.
func (l *challengeList) read(s string) {
	afterScheme := false
	for {
		rest := strings.TrimLeft(s, " \t")
		switch {
		case rest == "":
			return
		case rest[0] == ',':
			s, afterScheme = rest[1:], false
			continue
		case rest[0] == '"': // a quoted string without a name
			_, s = quoted(rest[1:])
			continue
		}
		var name, value string
		name, rest = word(rest)
		if after := strings.TrimLeft(rest, " \t"); strings.HasPrefix(after, "=") {
			value, s = paramValue(after[1:])
			l.param(name, value)
			afterScheme = false
			continue
		}
		if s = rest; !afterScheme {
			l.begin(name)
		}
		afterScheme = !afterScheme
	}
}

// begin starts a new challenge.
func (l *challengeList) begin(scheme string) {
	of := &l.bearer
	switch {
	case strings.EqualFold(scheme, "Bearer"):
	case strings.EqualFold(scheme, "DPoP"):
		of = &l.dpop
	default:
		l.current = nil
		return
	}
	if *of == nil {
		*of = new(challenge)
	}
	l.current = *of
}

// param takes a parameter of the challenge that is being read. The first of a name counts.
func (l *challengeList) param(name, value string) {
	if l.current == nil {
		return
	}
	if into := l.current.field(strings.ToLower(name)); into != nil && *into == "" {
		*into = value
	}
}

// field returns where a parameter belongs, or nil.
func (c *challenge) field(name string) *string {
	switch name {
	case "error":
		return &c.errorCode
	case "claims":
		return &c.claims
	case "scope":
		return &c.scope
	case "acr_values":
		return &c.acr
	case "max_age":
		return &c.maxAge
	case "resource_metadata":
		return &c.metadata
	default:
		return nil
	}
}

// word splits a scheme, a parameter's name or a token68 from the beginning of s.
func word(s string) (word, rest string) {
	end := strings.IndexAny(s, ` 	,="`)
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// paramValue splits a parameter's value from the text after the equals sign (RFC 9110 section 11.2).
func paramValue(s string) (value, rest string) {
	s = strings.TrimLeft(s, " \t")
	if strings.HasPrefix(s, `"`) {
		return quoted(s[1:])
	}
	end := strings.IndexAny(s, ", \t")
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// quoted reads a quoted string up to its end, which may be missing.
func quoted(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}
