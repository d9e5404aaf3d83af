package status

import (
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Demand is what an API demands beyond what the token has, in the parameters of its challenge. All but Code are texts of the API.
type Demand struct {
	Code     string // insufficient_scope or insufficient_user_authentication, or another or no error code
	Scope    string // RFC 6750 section 3
	ACR      string // acr_values, RFC 9470
	MaxAge   string // RFC 9470
	Metadata string // resource_metadata, RFC 9728
}

// codeClaims is the error code of a claims challenge. The proxy gets a token with the claims by itself.
const codeClaims = "insufficient_claims"

// Demanded reports that an API demands more than the token has. For each error code, it logs one demand a minute at most. With
// tenants, that is one in tenantLogInterval. echoes reports whether a text of the API shows a token.
func (c *Credential) Demanded(tenant string, d Demand, echoes func(text string) bool) {
	summary, advice := d.explain(echoes)
	if summary == "" {
		return
	}
	fields := []zap.Field{zap.String("credential", c.Name), zap.String("error_code", d.Code), zap.String("demand", summary), zap.String("advice", advice)}
	now := time.Now()
	if tenant != "" {
		silenced, ok := c.tenantLog.admit(d.Code, now)
		if !ok {
			return
		}
		fields = append(fields, zap.String("tenant", tenant), zap.Uint64("others", silenced))
	}
	due := c.demands.admit(d.Code, now)
	if due {
		c.record.occurred(Occurrence{At: now, Outcome: Demanded, Tenant: tenant, Code: d.Code, Reason: summary})
	}
	if due || tenant != "" {
		c.logger.Warn("the API demands more than the token has", fields...)
	}
}

// explain returns what an API demands and what to do, or "" if it demands nothing that is known.
func (d Demand) explain(echoes func(string) bool) (summary, advice string) {
	switch d.Code {
	case "insufficient_scope":
		summary = "a token with more rights" + quoted(" (scope ", d.Scope, echoes)
		advice = adviceScope
	case "insufficient_user_authentication":
		summary = "that a user has authenticated in another way" + quoted(" (acr_values ", d.ACR, echoes) + quoted(" (max_age ", d.MaxAge, echoes)
		advice = adviceUser
	default:
		return "", ""
	}
	if metadata := metadataURL(d.Metadata, echoes); metadata != "" {
		summary += ", and names its metadata at " + metadata
	}
	return summary, advice
}

// Shown returns the scope and the URL of the metadata, as far as they may be shown, of a challenge to a request without a token.
func (d Demand) Shown() (scope, metadata string) {
	if shown(d.Scope, nothing) {
		scope = d.Scope
	}
	return scope, metadataURL(d.Metadata, nothing)
}

// nothing is an echoes for texts that can show no token.
func nothing(string) bool { return false }

const (
	adviceScope = "If the client may have this scope, allow it in the service's console and add it to the option scope of provider oauth2. If only some paths need it, the client may not be meant to use them."
	adviceUser  = "No token of a client alone satisfies that, because a user must log in. Use the paths of the API that are meant for clients without a user, or ask the operator of the API to permit this client."
)

// adviceDemand returns what to do about a demand with this code.
func adviceDemand(code string) string {
	_, advice := Demand{Code: code}.explain(nothing)
	return advice
}

// maxShown is the length of the longest text of an API that is shown.
const maxShown = 200

// shown reports whether a text of an API may be shown. An API may send the token back.
func shown(text string, echoes func(string) bool) bool {
	return text != "" && len(text) <= maxShown && !echoes(text) &&
		strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>`, r) }) < 0
}

// quoted returns a text of an API in parentheses, or "" if it may not be shown.
func quoted(before, text string, echoes func(string) bool) string {
	if !shown(text, echoes) {
		return ""
	}
	return before + text + ")"
}

// metadataURL returns the URL of an API's metadata (RFC 9728), or "". The proxy never requests it.
func metadataURL(text string, echoes func(string) bool) string {
	u, err := url.Parse(text)
	if err != nil || !shown(text, echoes) || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return ""
	}
	return text
}
