package status

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Health says in one word how a credential is.
type Health string

// The healths, from best to worst.
const (
	healthOK       Health = "ok"       // a valid token, and nothing wrong
	healthIdle     Health = "idle"     // no token, because nobody has asked for one
	healthDegraded Health = "degraded" // requests are served, but something is wrong
	healthFailing  Health = "failing"  // requests fail
)

const (
	// slowCall is what a token call takes when something is wrong: requests without a token wait that long.
	slowCall = 2 * time.Second

	// recently is how long something that is over stays worth telling. An API that refuses every token costs at least two
	// in this time, so that it is not taken for one that refused one.
	recently = 10 * time.Minute
)

// Cause says where to look first.
type Cause string

// The causes.
const (
	causeConfiguration Cause = "configuration"
	causeEndpoint      Cause = "token endpoint"
	causeAPI           Cause = "API"
)

// Diagnosis is the health of a credential in words for the person who must act.
type Diagnosis struct {
	Health          Health
	Cause           Cause // empty if nothing is wrong
	Summary, Advice string
}

// diagnose judges from what is and what has been. The worst comes first.
func diagnose(endpoint string, s token.Status, seen history, now time.Time) Diagnosis {
	valid := s.State == token.StateFresh || s.State == token.StateStale || s.State == token.StateRejected
	destination := seen.latest(Destination.is)
	rejected := rejections(seen.recent, now)
	call := seen.latest(Outcome.isCall)
	switch {
	case s.Failure != nil && !valid:
		d := Explain(endpoint, s.Failure, now)
		d.Health = healthFailing
		return d
	case now.Sub(destination.At) < recently:
		return Diagnosis{destinationHealth(destination, now), causeConfiguration,
			"Requests are refused because the token may not go to their upstream: " + destination.Reason + ".",
			"If the upstream is meant to get this token, add its host to api_hosts of this credential. If not, somebody nearly got a token: correct the upstream."}
	case s.Failure != nil:
		d := Explain(endpoint, s.Failure, now)
		d.Health = healthDegraded
		d.Summary += " The present token serves until it expires " + In(s.Expires, now) + "."
		return d
	case rejected > 1:
		return Diagnosis{healthDegraded, causeAPI,
			"The API refuses tokens with 401, new ones too.",
			"Check that the client has the rights (scope, audience) that the API wants, and that upstream and token endpoint belong together (sandbox, production)."}
	case s.State == token.StateRejected:
		return Diagnosis{healthDegraded, causeAPI, "The API refused the token with 401, and there is no other yet.",
			"Nothing, if it was revoked on purpose: another is on its way."}
	case rejected == 1:
		return Diagnosis{healthDegraded, causeAPI,
			"The API refused a token with 401 " + ago(seen.latest(Rejected.is).At, now) + ", most likely because it was revoked early. Another has taken its place.",
			"Nothing, if it was revoked on purpose. If it happens again, look for another client with the same id whose tokens revoke these."}
	case s.Fetching && !valid:
		return Diagnosis{healthDegraded, causeEndpoint, "Waiting for the token endpoint " + endpoint + ".",
			"If this takes longer than a moment, the token endpoint is slow: requests wait up to max_wait."}
	case valid && call.slow() && now.Sub(call.At) < recently:
		return Diagnosis{healthDegraded, causeEndpoint,
			fmt.Sprintf("The token endpoint is slow: the last call took %.1f s.", call.Duration),
			"Tokens are refreshed before they expire, so requests do not notice. See the status page of the token endpoint, or the network to " + endpoint + "."}
	case valid:
		return Diagnosis{Health: healthOK, Summary: "The token is valid for " + Lasting(s.Expires.Sub(now)) + "."}
	case s.State == token.StateExpired:
		return Diagnosis{Health: healthIdle, Summary: "The last token has expired unused. The next request fetches one."}
	default:
		return Diagnosis{Health: healthIdle, Summary: "There is no token yet. The next request fetches one."}
	}
}

// destinationHealth is failing while requests are being refused, which is told once a minute.
func destinationHealth(last Occurrence, now time.Time) Health {
	if now.Sub(last.At) < 2*DestinationInterval {
		return healthFailing
	}
	return healthDegraded
}

// rejections counts the tokens that the API has refused recently.
func rejections(recent []Occurrence, now time.Time) (n int) {
	for _, entry := range recent {
		if entry.Outcome == Rejected && now.Sub(entry.At) < recently {
			n++
		}
	}
	return n
}

// slow reports whether a token call took too long.
func (o Occurrence) slow() bool { return o.Duration >= slowCall.Seconds() }

// Explain says what a failed token call means, and what to do.
func Explain(endpoint string, e *token.Error, now time.Time) Diagnosis {
	again := ""
	if e.RetryAt.After(now) {
		again = "The next call follows by itself. "
	}
	switch {
	case e.Status == http.StatusTooManyRequests:
		return Diagnosis{"", causeEndpoint, "The token endpoint limits how often it may be asked (status 429).",
			again + "If it happens often, look for other processes that use the same client id, or ask the provider for a higher limit."}
	case e.Cause == token.CauseProvider:
		return Diagnosis{"", causeConfiguration, sentence(e.Error()), again + "Report it to the author of the provider: its code failed, not the token endpoint."}
	case e.Kind == token.Unavailable && e.Status != 0:
		return Diagnosis{"", causeEndpoint, fmt.Sprintf("The token endpoint %s fails (status %d).", endpoint, e.Status),
			again + "See the provider's status page."}
	case e.Cause == token.CauseTimeout:
		return Diagnosis{"", causeEndpoint, "The token endpoint " + endpoint + " does not answer in time.",
			again + "See the provider's status page, and the network to it; fetch_timeout says how long to wait."}
	case e.Kind == token.Unavailable:
		return Diagnosis{"", causeEndpoint, sentence(e.Error()), again + adviceOnNetwork(endpoint, e.Cause)}
	case e.Kind == token.Unreadable:
		return Diagnosis{"", causeEndpoint, sentence(e.Error()),
			again + "Check the token URL: a login page, a gateway, or another service may be answering there."}
	case e.Status == 0: // our own configuration
		return Diagnosis{"", causeConfiguration, sentence(e.Error()),
			"Correct it. Files are read again within moments; anything else needs a reload."}
	default:
		summary, advice := explainRefusal(e)
		return Diagnosis{"", causeConfiguration, summary, advice}
	}
}

// adviceOnNetwork says what to check first, by how far the call has come.
func adviceOnNetwork(endpoint string, cause token.Cause) string {
	switch cause {
	case token.CauseName:
		return "Check the host of the token URL or issuer (" + endpoint + "), and name resolution on this machine."
	case token.CauseConnection:
		return "Check that host and port of the token URL are right (" + endpoint + "), and that the token endpoint is up. A firewall or proxy can refuse too."
	case token.CauseAuthority, token.CauseCertificate, token.CauseTLS:
		return "Check the token URL, and ca and server_name of transport. If neither has changed, somebody may be in between."
	case token.CauseHandshake:
		return "Check whether the token endpoint wants a client certificate (client_certificate of provider oauth2), and which versions of TLS it takes."
	case token.CauseProxy:
		return "Check the proxy that token requests go through: proxy of transport or, without it, HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
	default:
		return "Check the network, firewall and proxy between this machine and " + endpoint + "."
	}
}

// refusals explains the error codes of RFC 6749 section 5.2 and RFC 8707 section 2.
var refusals = map[string][2]string{
	"invalid_client": {"The token endpoint does not accept the client: its id, its secret or key, or the way it authenticates is wrong.",
		"Compare client_id and client_secret (or signing_key, client_auth) with the provider's console. A corrected file is used within moments; anything else needs a reload."},
	"unauthorized_client": {"The client may not use this grant.", "Allow the client-credentials grant for this client in the provider's console."},
	"invalid_scope":       {"The token endpoint does not know the scope, or does not allow it to this client.", "Compare scope with what the provider's console grants to this client."},
	"invalid_target":      {"The token endpoint does not know the audience or resource.", "Compare audience and resource with the provider's documentation of the API."},
	"invalid_grant":       {"The token endpoint does not accept the grant: an assertion or a token that was sent in proof.", "Check the file or key that it comes from, its audience and its expiry, and this machine's clock."},
	"unsupported_grant_type": {"The token endpoint does not support this grant.",
		"Check grant, and that the token URL is the right endpoint."},
	"invalid_request": {"The token endpoint calls the request malformed: a parameter is missing, or one too many.",
		"Compare scope, audience, param and client_auth with the provider's documentation."},
}

func explainRefusal(e *token.Error) (summary, advice string) {
	if known, ok := refusals[e.Code]; ok {
		return strings.TrimSuffix(known[0], ".") + " (" + e.Code + ").", known[1]
	}
	if e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden {
		return sentence(e.Error()), refusals["invalid_client"][1]
	}
	return sentence(e.Error()), "Check the token URL, the provider and its options against the provider's documentation."
}

// sentence makes one of an error text.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// In, ago and Lasting tell times as people do.
func In(t, now time.Time) string { return "in " + Lasting(t.Sub(now)) }

func ago(t, now time.Time) string { return Lasting(now.Sub(t)) + " ago" }

func Lasting(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "a moment"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
