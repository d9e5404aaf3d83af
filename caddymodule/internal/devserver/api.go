package devserver

import (
	"cmp"
	"errors"
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

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !admit(w, r) {
		return
	}
	a.calls.Add(1)
	value, err := a.credential(r)
	if err != nil {
		refusal := empty(http.StatusBadRequest, typeHTML)
		refusal.header["WWW-Authenticate"] = challenge("invalid_request", err.Error())
		refusal.write(w)
		return
	}
	issued, state := cmp.Or(a.Registry, Default).Lookup(value)
	if refusal := a.refusal(state); refusal != nil {
		if refusal.status == http.StatusUnauthorized {
			a.unauthorized.Add(1)
		}
		refusal.write(w)
		return
	}
	a.echo(w, r, issued)
}

// credential returns the token of a request, or an error if the request may have a token in more than one place.
func (a *API) credential(r *http.Request) (string, error) {
	values := r.Header.Values(cmp.Or(a.Header, "Authorization"))
	if len(values) > 1 {
		return "", errors.New("the request has more than one credential header")
	}
	if q := r.URL.Query(); q.Has("access_token") || q.Has("bearer_token") { // RFC 6750, section 2.3; Doorkeeper
		return "", errors.New("the query has a token")
	}
	prefix := "Bearer "
	if a.Prefix != nil {
		prefix = *a.Prefix
	}
	if len(values) == 0 || len(values[0]) < len(prefix) || !strings.EqualFold(values[0][:len(prefix)], prefix) {
		return "", nil
	}
	value := strings.TrimSpace(values[0][len(prefix):])
	if value != "" && strings.Contains(r.URL.RequestURI(), value) {
		return "", errors.New("the URL has the token")
	}
	return value, nil
}

// refusal returns the answer of an API that Doorkeeper protects, or nil for a good token. The reason is in the header
// only. The answer with the status Reject has the body that an API of Optoro sends if the client lacks a permission.
func (a *API) refusal(state State) *answer {
	reason := "The access token is invalid"
	switch state {
	case Live:
		if a.Reject == 0 {
			return nil
		}
		return &answer{a.Reject, map[string]string{"Content-Type": typeJSON},
			[]byte(`{"message":"You are not allowed to do this action"}`)}
	case Expired:
		reason = "The access token expired"
		a.seenDead.Add(1)
	case Revoked:
		reason = "The access token was revoked"
		a.seenDead.Add(1)
	}
	refusal := empty(http.StatusUnauthorized, typeHTML)
	refusal.header["WWW-Authenticate"] = challenge("invalid_token", reason)
	return &refusal
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
