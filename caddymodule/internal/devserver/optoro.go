package devserver

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// optoro is a Doorkeeper server with the options that Optoro's API description shows.
type optoro struct {
	client      client
	enforceForm bool
}

const (
	missingGrantType    = "Missing required parameter: grant_type."
	multipleAuthMethods = "The request utilizes more than one mechanism for authenticating the client."
	serverError         = "The authorization server encountered an unexpected condition which prevented it from " +
		"fulfilling the request."
)

// descriptions are Doorkeeper's, from its config/locales/en.yml. A code that has no text there, such as
// invalid_token_reuse, gets serverError.
var descriptions = map[string]string{
	"invalid_request": "The request is missing a required parameter, includes an unsupported parameter value, " +
		"or is otherwise malformed.",
	"invalid_client": "Client authentication failed due to unknown client, no client authentication included, " +
		"or unsupported authentication method.",
	"invalid_grant": "The provided authorization grant is invalid, expired, revoked, does not match the redirection URI " +
		"used in the authorization request, or was issued to another client.",
	"invalid_scope":          "The requested scope is invalid, unknown, or malformed.",
	"unauthorized_client":    "The client is not authorized to perform this request using this method.",
	"unsupported_grant_type": "The authorization grant type is not supported by the authorization server.",
}

// check examines a request in the order of a Rails application with Doorkeeper, which is route, content type, body,
// grant, client.
func (o optoro) check(r *http.Request, p params) (granted, *answer) {
	refuse := func(status int, code string) (granted, *answer) {
		a := o.refuse(status, code)
		return granted{}, &a
	}
	json, form := p.mediaType == typeJSON, p.mediaType == "application/x-www-form-urlencoded"
	switch grant := p.values["grant_type"]; {
	case r.URL.Path != "/oauth/token" || r.Method != http.MethodPost:
		return refuse(http.StatusNotFound, "")
	case o.enforceForm && !form:
		return refuse(http.StatusUnsupportedMediaType, "")
	case p.malformed:
		return refuse(http.StatusBadRequest, "")
	case json && !o.described(p):
		return refuse(http.StatusUnprocessableEntity, "")
	case grant == "":
		a := oauthError(http.StatusBadRequest, "invalid_request", missingGrantType)
		return granted{}, &a
	case grant != "client_credentials":
		return refuse(http.StatusBadRequest, "unsupported_grant_type")
	}
	id, secret, basic := r.BasicAuth() // not decoded any further: Doorkeeper ignores RFC 6749, section 2.3.1, here
	if basic && p.values["client_secret"] != "" {
		a := oauthError(http.StatusBadRequest, "invalid_request", multipleAuthMethods) // Doorkeeper 5.9 and later
		return granted{}, &a
	}
	if !basic {
		id, secret = p.values["client_id"], p.values["client_secret"]
	}
	if !o.client.knows(id, secret) {
		return refuse(http.StatusUnauthorized, "invalid_client")
	}
	return granted{grant: "client_credentials"}, nil
}

// described reports whether all members are strings that Optoro's API description names. The description sets
// additionalProperties to false, and documents 422 for invalid values.
func (optoro) described(p params) bool {
	return len(p.values) == len(p.names) && !slices.ContainsFunc(p.names, func(name string) bool {
		return !slices.Contains([]string{"grant_type", "client_id", "client_secret"}, name)
	})
}

func (optoro) mint() string {
	return urlsafeToken()
}

func (optoro) lifetime() time.Duration {
	return 25 * time.Hour
}

func (optoro) success(t Token, _ string, f Fault) []byte {
	return encode(f.spoil(tokenBody{
		AccessToken: t.Value,
		TokenType:   "Bearer",
		ExpiresIn:   strconv.AppendInt(nil, t.remaining(), 10),
		Scope:       "read write",
		CreatedAt:   t.Issued.Unix(),
	}))
}

func (optoro) header() map[string]string {
	return map[string]string{"Content-Type": typeJSONUTF8, "Cache-Control": "no-store", "Pragma": "no-cache"}
}

// refuse has a body only where the API description or Doorkeeper has one.
func (optoro) refuse(status int, code string) answer {
	if code == "" && status == http.StatusUnauthorized {
		code = "invalid_client"
	}
	if code != "" {
		return oauthError(status, code, cmp.Or(descriptions[code], serverError))
	}
	switch status {
	case http.StatusBadRequest, http.StatusNotFound:
		return empty(status, typeHTML)
	case http.StatusUnsupportedMediaType:
		a := empty(status, typeJSONUTF8)
		a.body = []byte("{}")
		return a
	}
	return empty(status, "")
}

func oauthError(status int, code, description string) answer {
	return answer{
		status: status,
		header: map[string]string{
			"Content-Type":     typeJSONUTF8,
			"Cache-Control":    "no-store",
			"WWW-Authenticate": challenge(code, description),
		},
		body: encode(struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}{code, description}),
	}
}

// challenge returns Doorkeeper's WWW-Authenticate (RFC 6750, section 3). Doorkeeper's token endpoint sends it as well.
func challenge(code, description string) string {
	return fmt.Sprintf(`Bearer realm="Doorkeeper", error="%s", error_description="%s"`, code, description)
}
