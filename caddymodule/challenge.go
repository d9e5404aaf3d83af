package caddymodule

import (
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// judgeChallenge reads the WWW-Authenticate fields of a 401: how sure it is that the token is to blame, and whether
// it can be at all. With insufficient_scope the token is good but weak, and a demand for a DPoP nonce is about the
// next request (RFC 6750 section 3.1, RFC 9449 section 9).
func judgeChallenge(fields []string) (doubt token.Doubt, ours bool) {
	switch bearerError(fields) {
	case "invalid_token":
		return token.Certain, true
	case "insufficient_scope", "use_dpop_nonce", "invalid_dpop_proof":
		return token.Doubtful, false
	default:
		return token.Doubtful, true
	}
}

// bearerError returns the value of the first `error` parameter, or "". It need not know which challenge it belongs
// to: only Bearer and its relatives have one.
func bearerError(fields []string) string {
	for _, field := range fields {
		for field != "" {
			var name, value string
			name, value, field = nextParam(field)
			if strings.EqualFold(name, "error") {
				return value
			}
		}
	}
	return ""
}

// nextParam takes the next `name=value` off a list of challenges (RFC 9110 section 11.6.1). Schemes and whatever
// else stands there are passed over.
func nextParam(s string) (name, value, rest string) {
	end := strings.IndexAny(s, `=",`)
	if end < 0 {
		return "", "", ""
	}
	if s[end] == ',' {
		return "", "", s[end+1:]
	}
	if s[end] == '"' { // a quoted string without a name
		_, rest = quoted(s[end+1:])
		return "", "", rest
	}
	name = strings.TrimSpace(s[:end])
	if space := strings.LastIndexAny(name, " \t"); space >= 0 {
		name = name[space+1:] // what stands before is the scheme
	}
	s = strings.TrimLeft(s[end+1:], " \t")
	if strings.HasPrefix(s, `"`) {
		value, rest = quoted(s[1:])
		return name, value, rest
	}
	end = strings.IndexAny(s, ", \t")
	if end < 0 {
		return name, s, ""
	}
	return name, s[:end], s[end+1:]
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
