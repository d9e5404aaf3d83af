package devserver

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// API is an API for development. It demands a live token and answers with an Echo of the request. Set its fields before
// it serves. It must not be copied.
type API struct {
	// Registry holds the tokens. Default: Default.
	Registry *Registry
	// Header is the field that must carry the token. Default: Authorization.
	Header string
	// Prefix is what comes before the token in Header, in upper or lower case. It may be empty. Default: nil, which means
	// "Bearer ".
	Prefix *string
	// Reject is a status, such as 401 or 403, that the API rejects live tokens with. Default: 0, it accepts live tokens.
	Reject int
	// DPoP describes the proofs that requests must have. With it, the API takes tokens in Authorization only, with the
	// scheme DPoP, or also Bearer if DPoP is optional. Default: none. A token that is bound to a key needs a proof even then.
	DPoP DPoP
	// ClaimsChallenge are the claims, a JSON object, that a token must have been issued for. The API rejects any other
	// token as APIs of Microsoft Entra do that evaluate access continuously. Default: none.
	ClaimsChallenge json.RawMessage

	proofs                        proofs
	calls, unauthorized, seenDead atomic.Int64
}

// Echo is the answer of an API. It describes the request, without any credential. Names are sorted.
type Echo struct {
	Method         string   `json:"method"`
	Path           string   `json:"path"`
	Query          string   `json:"query"`  // as received, without "?"
	Token          string   `json:"token"`  // its Fingerprint
	Client         string   `json:"client"` // the client id that the token was issued to
	BodyBytes      int64    `json:"body_bytes"`
	HeaderNames    []string `json:"header_names"`
	TrailerNames   []string `json:"trailer_names"`
	Host           string   `json:"host"`
	UserAgent      string   `json:"user_agent"`
	XRequestSource string   `json:"x_request_source"`
	ContentType    string   `json:"content_type"`
}

// Fingerprint returns a text that identifies a token without showing it. The logs of token_proxy have the same text.
func Fingerprint(value string) string { return token.NewSecret(value).Fingerprint() }

// Calls returns how many requests have arrived.
func (a *API) Calls() int { return int(a.calls.Load()) }

// Unauthorized returns how many requests got 401.
func (a *API) Unauthorized() int { return int(a.unauthorized.Load()) }

// SeenExpired returns how many requests had a token that was expired or revoked.
func (a *API) SeenExpired() int { return int(a.seenDead.Load()) }

// RotateNonce replaces the nonce for DPoP proofs before its time. The API still accepts the one before.
func (a *API) RotateNonce() { a.proofs.nonces.rotate() }

// Validate returns an error that names the first wrong option.
func (a *API) Validate() error {
	switch {
	case a.Reject != 0 && (a.Reject < 400 || a.Reject > 599):
		return fmt.Errorf("reject %d: must be 400 to 599", a.Reject)
	case a.DPoP.on() && (a.Header != "" || a.Prefix != nil):
		return errors.New("dpop: the token is in Authorization, so header must not be set")
	case a.ClaimsChallenge != nil && !isObject(a.ClaimsChallenge):
		return errors.New("claims_challenge: must be names of claims or a JSON object")
	}
	return a.DPoP.validate()
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !admit(w, r) {
		return
	}
	a.calls.Add(1)
	for name, value := range a.proofs.header(&a.DPoP) {
		w.Header().Set(name, value)
	}
	sent, err := a.credential(r)
	if err != nil {
		refusal := empty(http.StatusBadRequest, typeHTML)
		refusal.header["WWW-Authenticate"] = a.challenge(sent, invalidRequest, err.Error())
		refusal.write(w)
		return
	}
	issued, state := cmp.Or(a.Registry, Default).Lookup(sent.token)
	if refusal := a.refusal(r, sent, issued, state); refusal != nil {
		if refusal.status == http.StatusUnauthorized {
			a.unauthorized.Add(1)
		}
		refusal.write(w)
		return
	}
	a.echo(w, r, issued)
}

// presented is the token of a request.
type presented struct {
	token string // empty if the request has none
	dpop  bool   // the scheme is DPoP
}

func (p presented) scheme() string {
	if p.dpop {
		return "DPoP"
	}
	return "Bearer"
}

// credential returns the token of a request, or an error if the request may have a token in more than one place.
func (a *API) credential(r *http.Request) (presented, error) {
	values := r.Header.Values(cmp.Or(a.Header, "Authorization"))
	if len(values) > 1 {
		return presented{}, errors.New("the request has more than one credential header")
	}
	if q := r.URL.Query(); q.Has("access_token") || q.Has("bearer_token") { // RFC 6750, section 2.3; Doorkeeper
		return presented{}, errors.New("the query has a token")
	}
	if len(values) == 0 {
		return presented{}, nil
	}
	var sent presented
	if sent.token, sent.dpop = cutPrefixFold(values[0], "DPoP "); !sent.dpop || !a.DPoP.on() {
		sent.dpop = false
		sent.token, _ = cutPrefixFold(values[0], orDefault(a.Prefix, "Bearer "))
	}
	sent.token = strings.TrimSpace(sent.token)
	if sent.token != "" && strings.Contains(r.URL.RequestURI(), sent.token) {
		return presented{}, errors.New("the URL has the token")
	}
	return sent, nil
}

// cutPrefixFold returns what follows a prefix in upper or lower case, or an empty text.
func cutPrefixFold(value, prefix string) (rest string, found bool) {
	if len(value) < len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix) {
		return "", false
	}
	return value[len(prefix):], true
}

// refusal returns the answer to a request that is not good enough, or nil. The answer with the status Reject has the body
// that an API of Optoro sends if the client lacks a permission.
func (a *API) refusal(r *http.Request, sent presented, issued Token, state State) *answer {
	switch state {
	case Unknown:
		return a.rejection(sent, invalidToken, "The access token is invalid")
	case Expired:
		a.seenDead.Add(1)
		return a.rejection(sent, invalidToken, "The access token expired")
	case Revoked:
		a.seenDead.Add(1)
		return a.rejection(sent, invalidToken, "The access token was revoked")
	}
	if why := a.checkKey(r, sent, issued); why != nil {
		return a.rejection(sent, why.code, why.reason)
	}
	if a.ClaimsChallenge != nil && !satisfies(issued.Claims, a.ClaimsChallenge) {
		refusal := empty(http.StatusUnauthorized, "")
		refusal.header["WWW-Authenticate"] = claimsChallenge(sent.scheme(), a.ClaimsChallenge)
		return &refusal
	}
	if a.Reject != 0 {
		return &answer{a.Reject, map[string]string{"Content-Type": typeJSON},
			[]byte(`{"message":"You are not allowed to do this action"}`)}
	}
	return nil
}

// checkKey demands a proof of the key that a token is bound to, and accepts a token without a key only as a bearer token
// (RFC 9449, sections 7.1 and 7.2).
func (a *API) checkKey(r *http.Request, sent presented, issued Token) *refusal {
	bound := issued.Thumbprint != ""
	switch {
	case bound && !sent.dpop:
		return refuse(invalidToken, "The access token is bound to a key, but its scheme is not DPoP")
	case !bound && (sent.dpop || a.DPoP.Mode == dpopRequired):
		return refuse(invalidToken, "The access token is not bound to a key")
	case !bound:
		return nil
	}
	thumbprint, why := a.proofs.check(&a.DPoP, r, sent.token)
	if why == nil && thumbprint != issued.Thumbprint {
		why = refuse(invalidToken, "The access token is bound to another key")
	}
	return why
}

// rejection returns the answer of an API that Doorkeeper protects. The reason is in the header only.
func (a *API) rejection(sent presented, code, reason string) *answer {
	refusal := empty(http.StatusUnauthorized, typeHTML)
	refusal.header["WWW-Authenticate"] = a.challenge(sent, code, reason)
	return &refusal
}

// challenge returns the challenges of the schemes that the API accepts. The reason goes with the scheme that the client
// used (RFC 9449, sections 7.1 and 7.2).
func (a *API) challenge(sent presented, code, reason string) string {
	algs := fmt.Sprintf(`algs="%s"`, strings.Join(a.DPoP.algs(), " "))
	switch {
	case !a.DPoP.on():
		return challenge(code, reason)
	case sent.dpop || a.DPoP.Mode == dpopRequired:
		return fmt.Sprintf(`DPoP error="%s", error_description="%s", %s`, code, reason, algs)
	}
	return challenge(code, reason) + ", DPoP " + algs
}

func (a *API) echo(w http.ResponseWriter, r *http.Request, issued Token) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		empty(http.StatusBadRequest, "").write(w)
		return
	}
	body := encode(Echo{
		Method:         r.Method,
		Path:           r.URL.Path,
		Query:          r.URL.RawQuery,
		Token:          Fingerprint(issued.Value),
		Client:         issued.ClientID,
		BodyBytes:      n,
		HeaderNames:    sortedKeys(r.Header),
		TrailerNames:   sortedKeys(r.Trailer), // known once the body has been read
		Host:           r.Host,
		UserAgent:      r.UserAgent(),
		XRequestSource: r.Header.Get("X-Request-Source"),
		ContentType:    r.Header.Get("Content-Type"),
	})
	answer{http.StatusOK, map[string]string{"Content-Type": typeJSON}, append(body, '\n')}.write(w)
}
