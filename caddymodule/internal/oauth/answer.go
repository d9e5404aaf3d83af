package oauth

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

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
	kind, err := a.checkToken(value, fields, l)
	if err != nil {
		return token.Issued{}, err
	}
	lifetime, note := a.lifetime(fields, l, value)
	issued := token.Issued{Token: token.NewSecret(value), Lifetime: lifetime, DPoP: isDPoP(kind)}
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

// checkToken returns the token type, or "" if the answer has none.
func (a *Answer) checkToken(value string, fields fields, l Layout) (kind string, err error) {
	if len(value) > maxToken {
		return "", a.unreadable(token.CauseTokenText, "the token is longer than 16 KiB")
	}
	if strings.IndexFunc(value, notVisibleASCII) >= 0 {
		return "", a.unreadable(token.CauseTokenText, "the token holds characters that no header field can carry")
	}
	kind, ok := fields.text(l.Type...)
	if ok && !l.accepts(kind) {
		return "", &token.Error{Kind: token.Refused, Status: a.Status, Cause: token.CauseTokenType, Reason: "the token is of type " + knownType(kind) +
			", not " + cmp.Or(strings.Join(l.Types, " or "), "Bearer") + "; the option token_type of response can accept other types"}
	}
	return kind, nil
}

// isDPoP reports whether a token of this type is bound to a key (RFC 9449 section 5).
func isDPoP(kind string) bool { return strings.EqualFold(kind, "DPoP") }

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
	if l.DPoP && isDPoP(kind) {
		return true
	}
	return slices.ContainsFunc(types, func(accepted string) bool {
		// The length keeps EqualFold from accepting letters beyond ASCII, such as the Kelvin sign for k.
		return accepted == AnyType || len(kind) == len(accepted) && strings.EqualFold(kind, accepted)
	})
}

// knownType returns a name of a token type that is safe to show, because the answer is untrusted.
func knownType(kind string) string {
	for _, known := range []string{"DPoP", "MAC", "PoP", "N_A"} {
		if strings.EqualFold(kind, known) {
			return known
		}
	}
	return "another kind"
}
