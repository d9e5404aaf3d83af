package status

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	// slowCall is the duration from which a token call counts as slow. A request without a token waits that long.
	slowCall = 2 * time.Second

	// recently is how long a problem that is over stays in the diagnosis. An API that rejects every token rejects at least
	// two in this time, which tells it from an API that rejected one token.
	recently = 10 * time.Minute
)

// diagnose returns the worst problem that the present state and the recent history show.
func diagnose(of Service, s token.Status, seen history, sharing Sharing, now time.Time) Diagnosis {
	valid := valid(s.State)
	destination := seen.latest(Destination.is)
	rejected, demanded := rejections(seen.recent, now)
	call := seen.latest(Outcome.isCall)
	demand := seen.latest(Demanded.is)
	shared := diagnoseSharing(sharing)
	switch {
	case s.Failure != nil && !valid:
		d := Explain(of, s.Failure, now)
		d.Health = healthFailing
		return d
	case s.Dead:
		return diagnoseDead(of, s.Failure, now)
	case now.Sub(destination.At) < recently:
		return Diagnosis{destinationHealth(destination, now), causeConfiguration,
			"The proxy denies requests, because the token may not go to their upstream (" + destination.Reason + ").",
			"If this upstream may receive the token, add its host to api_hosts of the credential, or change the other option that the summary names. If it may not, correct the upstream in the site."}
	case s.Failure != nil:
		d := Explain(of, s.Failure, now)
		d.Health = healthDegraded
		d.Summary += " Requests still use the present token, " + present(s, now) + "."
		return d
	case rejected > 1:
		return Diagnosis{healthDegraded, causeAPI,
			"The API rejects tokens, and rejects new tokens, too.",
			"Check that the client has the rights (scope, audience) that the API requires. Check that the upstream and the token endpoint belong to the same environment, such as sandbox or production."}
	case demanded > 1:
		return Diagnosis{healthDegraded, causeAPI,
			"The API demands claims of tokens (" + codeClaims + "), and of new tokens, too.",
			"Check that the token endpoint supports the parameter claims. If paths of the API demand different claims, use a credential for each."}
	case s.State == token.StateRejected && demanded == 1:
		return Diagnosis{healthDegraded, causeAPI,
			"The API demands claims that the token was issued without (" + codeClaims + "), and the proxy has no new token yet.",
			"Do nothing, unless this lasts. The proxy fetches a token with these claims by itself."}
	case s.State == token.StateRejected:
		return Diagnosis{healthDegraded, causeAPI, "The API rejected the token, and the proxy has no new token yet.",
			"If the token was revoked on purpose, do nothing. The proxy fetches a new token by itself."}
	case rejected == 1:
		return Diagnosis{healthDegraded, causeAPI,
			"The API rejected a token " + ago(seen.latest(Rejected.is).At, now) + ", most likely because the token was revoked early. The proxy no longer uses that token.",
			"If the token was revoked on purpose, do nothing. If this happens again, look for other processes that use the same client id, because their tokens may revoke these."}
	case s.Fetching && !valid:
		return Diagnosis{healthDegraded, causeEndpoint, "The proxy is waiting for the token endpoint " + of.Endpoint + ".",
			"If this takes longer than a moment, the token endpoint is slow. Check the service's status page, and the network to " + of.Endpoint + ". A request waits at most max_wait."}
	case valid && seen.adopted && call.Outcome == Outcome(token.Refused):
		d := explainCall(of, call, now)
		d.Health = healthDegraded
		d.Summary += " Requests use a token that another replica obtained."
		return d
	case shared.Health != "":
		return shared
	case valid && now.Sub(demand.At) < recently:
		return Diagnosis{healthDegraded, causeAPI,
			"For some requests, the API demands " + demand.Reason + ".", adviceDemand(demand.Code)}
	case valid && call.slow() && now.Sub(call.At) < recently:
		return Diagnosis{healthDegraded, causeEndpoint,
			fmt.Sprintf("The token endpoint is slow. The last call took %.1f s.", call.Duration),
			"Requests do not notice, because the proxy refreshes tokens before they expire. Check the service's status page, and the network to " + of.Endpoint + "."}
	case valid:
		return Diagnosis{Health: healthOK, Summary: "The token is valid for " + Lasting(s.Expires.Sub(now)) + "."}
	case s.State == token.StateExpired:
		return Diagnosis{Health: healthIdle, Summary: "The last token expired unused. The next request fetches a new one."}
	default:
		return Diagnosis{Health: healthIdle, Summary: "The proxy has no token. The next request fetches one."}
	}
}

// States are the states of a token, in the order of its life.
var States = []token.State{token.StateNone, token.StateFresh, token.StateStale, token.StateRejected, token.StateExpired}

// valid reports whether a token in this state may be served.
func valid(s token.State) bool {
	return s == token.StateFresh || s == token.StateStale || s == token.StateRejected
}

// diagnoseDead explains why requests fail although the token has not expired.
func diagnoseDead(of Service, failure *token.Error, now time.Time) Diagnosis {
	d := Diagnosis{Cause: causeConfiguration, Summary: "The token endpoint refuses the credential.", Advice: of.onRefusal("invalid_client")[1]}
	if failure != nil {
		d = Explain(of, failure, now)
	}
	d.Health = healthFailing
	d.Summary += " The API rejects the present token, so requests fail."
	d.Advice += " If the service has disabled the client, enable it in the service's console."
	return d
}

// present describes the token that requests use while token calls fail.
func present(s token.Status, now time.Time) string {
	if s.State == token.StateRejected {
		return "which the API has rejected"
	}
	return "which expires " + In(s.Expires, now)
}

// destinationHealth returns failing while the proxy denies requests. The history gets an entry only once in each
// DestinationInterval, so a missing one is no sign yet that requests go through.
func destinationHealth(last Occurrence, now time.Time) Health {
	if now.Sub(last.At) < 2*DestinationInterval {
		return healthFailing
	}
	return healthDegraded
}

// rejections counts the tokens that the API has rejected recently, and those of which it has demanded claims.
func rejections(recent []Occurrence, now time.Time) (rejected, demanded int) {
	for _, entry := range recent {
		switch {
		case entry.Outcome != Rejected || now.Sub(entry.At) >= recently:
		case entry.Code == codeClaims:
			demanded++
		default:
			rejected++
		}
	}
	return rejected, demanded
}

// slow reports whether a token call took too long.
func (o Occurrence) slow() bool { return o.Duration >= slowCall.Seconds() }

// explainCall returns what a failed token call of the history means and what to do.
func explainCall(of Service, call Occurrence, now time.Time) Diagnosis {
	return Explain(of, &token.Error{Kind: token.Kind(call.Outcome), Status: call.Status, Code: call.Code, Reason: call.Reason, Cause: call.Cause, Peer: call.Peer}, now)
}

// Explain returns what a failed token call means and what to do. The Health of its result is empty.
func Explain(of Service, e *token.Error, now time.Time) Diagnosis {
	again := ""
	if e.RetryAt.After(now) {
		again = "The proxy calls again by itself. "
	}
	p := of.partyOf(e.Peer)
	if e.Kind == token.Refused && e.Status != 0 || e.Cause == token.CauseTokenType || e.Peer == token.PeerIssuer && e.Kind == token.Refused {
		p.cause = causeConfiguration
	}
	advice := of.advise(e)
	switch {
	case e.Status == http.StatusTooManyRequests:
		return Diagnosis{"", p.cause, sentence(p.name + " limits how often the client may call it (status 429)"),
			again + "If this happens often, look for other processes that use the same client id, or ask the service for a higher limit."}
	case e.Cause == token.CauseProvider:
		return Diagnosis{"", causeConfiguration, sentence(e.Error()), again + "Report this to the author of the provider. The code of the provider failed, not the token endpoint."}
	case advice != "":
		if e.Kind == token.Refused {
			again = ""
		}
		return Diagnosis{"", p.cause, sentence(e.Error()), again + advice}
	case e.Kind == token.Unavailable && e.Status != 0:
		return Diagnosis{"", p.cause, sentence(fmt.Sprintf("%s %s fails with status %d%s", p.name, of.Endpoint, e.Status, inParentheses(e.Code))),
			again + "Check the service's status page."}
	case e.Kind == token.Unavailable:
		return Diagnosis{"", p.cause, sentence(e.Error()), again + "Check the network, the firewall and the network proxy between this machine and " + of.Endpoint + "."}
	case e.Kind == token.Unreadable:
		return Diagnosis{"", p.cause, sentence(e.Error()),
			again + "Check " + p.place + adviceElsewhere}
	case e.Cause == token.CauseFile || e.Cause == token.CauseTenant:
		return Diagnosis{"", causeConfiguration, sentence(e.Error()), "Create the file, or correct its path in " + optionIn(e.Reason) + ". " + adviceReload}
	case e.Status == 0: // not an answer of the token endpoint, so the mistake is in the configuration or its files
		return Diagnosis{"", causeConfiguration, sentence(e.Error()),
			"Correct this. " + adviceReload}
	default:
		summary, advice := of.explainRefusal(e)
		return Diagnosis{"", causeConfiguration, summary, advice}
	}
}

// refusals has a summary and an advice for each error code of RFC 6749 section 5.2 and RFC 8707 section 2.
var refusals = map[string][2]string{
	"invalid_client": {"The token endpoint refuses the credential, because the client id, the secret or key, or the value of client_auth is wrong.",
		"Compare client_id and client_secret (or signing_key, client_auth) with the service's console. " + adviceReload},
	"unauthorized_client": {"The client may not use this grant.", "Allow the grant for this client in the service's console. The grant is client_credentials, unless the option grant sets another one."},
	"invalid_scope":       {"The token endpoint does not know the scope, or does not grant it to this client.", "Compare scope with the scopes of this client in the service's console."},
	"invalid_target":      {"The token endpoint does not know the audience or resource.", "Compare audience and resource with the documentation of the API."},
	"invalid_grant":       {"The token endpoint refuses the grant, which is the assertion or the token in the token request.", "Check the file or key that it comes from, its audience and its expiry, and the clock of this machine."},
	"unsupported_grant_type": {"The token endpoint does not support this grant.",
		"Check the option grant, and that the token URL is the right endpoint."},
	"use_dpop_nonce": {"The token endpoint demands a DPoP proof with its nonce, and has not accepted the proof that it got.",
		"Set the option dpop of provider oauth2 to on, if it is not set. If it is set, report this to the service: it has demanded another nonce for each of two requests."},
	"invalid_dpop_proof": {"The token endpoint does not accept the DPoP proof.",
		"Set the option dpop of provider oauth2 to on, if it is not set. Check that the service supports the algorithm (dpop_alg, default ES256), that the token URL is exactly the one that the service knows itself by, and the clock of this machine."},
	"invalid_request": {"The token endpoint finds the token request malformed, because a parameter is missing, wrong or not expected.",
		"Compare scope, audience, param and client_auth with the service's documentation."},
}

// onRefusal returns a summary and an advice for an error code, or "" and "" if the code is unknown. It names only options that
// the provider has.
func (s Service) onRefusal(code string) [2]string {
	known := refusals[code]
	switch {
	case s.oauth2() || known == [2]string{}:
		return known
	case code == "invalid_client":
		return [2]string{"The token endpoint refuses the credential, because the client id or the secret is wrong.",
			"Compare client_id and client_secret with the service's console. " + adviceReload}
	case code == "unauthorized_client":
		return [2]string{known[0], "Allow the grant for this client in the service's console."}
	default:
		return [2]string{known[0], adviceProvider}
	}
}

const (
	// adviceElsewhere begins with the end of the sentence that names the place to check.
	adviceElsewhere = ". A login page, a gateway, a firewall or another service may be answering there."
	adviceReload    = "The proxy reads a changed file within moments. Any other change needs a reload."
	adviceProvider  = "Compare the token URL, the provider and its options with the service's documentation."
)

// explainRefusal returns what it means that the token endpoint refuses the credential, and what to do.
func (s Service) explainRefusal(e *token.Error) (summary, advice string) {
	if known := s.onRefusal(e.Code); known[0] != "" {
		return strings.TrimSuffix(known[0], ".") + " (" + e.Code + ").", known[1]
	}
	if e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden {
		return sentence(e.Error()), s.onRefusal("invalid_client")[1]
	}
	return sentence(e.Error()), adviceProvider
}

// optionIn returns the option with which the reason of a failure begins.
func optionIn(reason string) string {
	if name, _, found := strings.Cut(reason, ":"); found && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
		return name
	}
	return "the configuration"
}
