package caddymodule

import (
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// judgeChallenge reads the WWW-Authenticate fields of an answer. It returns whether the answer may be about something other than
// the token, and whether it can be about the token at all. With insufficient_scope, the token is valid but lacks rights. A
// demand for a DPoP nonce is about the next request (RFC 6750 section 3.1, RFC 9449 section 9).
func judgeChallenge(fields []string) (doubt token.Doubt, ours bool) {
	switch challengeError(fields) {
	case "invalid_token":
		return token.Certain, true
	case "insufficient_scope", "use_dpop_nonce", "invalid_dpop_proof":
		return token.Doubtful, false
	default:
		return token.Doubtful, true
	}
}

// challengeError returns the `error` of the challenge that is about the token: Bearer's, or DPoP's if there is no Bearer
// challenge (RFC 6750 section 3, RFC 9449 section 7.1). Other schemes may use a parameter of that name for something
// else.
func challengeError(fields []string) string {
	var l challengeList
	for _, field := range fields {
		l.read(field)
	}
	if l.bearer {
		return l.bearerError
	}
	return l.dpopError
}

// challengeList reads lists of challenges (RFC 9110 section 11.6.1). Several fields are one list (section 5.3).
type challengeList struct {
	scheme                 string // of the challenge that is being read
	bearer                 bool   // a Bearer challenge has begun
	bearerError, dpopError string // the first of each
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
	l.scheme = scheme
	l.bearer = l.bearer || strings.EqualFold(scheme, "Bearer")
}

// param takes a parameter of the challenge that is being read.
func (l *challengeList) param(name, value string) {
	switch {
	case !strings.EqualFold(name, "error"):
	case strings.EqualFold(l.scheme, "Bearer") && l.bearerError == "":
		l.bearerError = value
	case strings.EqualFold(l.scheme, "DPoP") && l.dpopError == "":
		l.dpopError = value
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
