package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// shortestReflected is the length from which on a secret inside a token counts as reflected. A token may contain a shorter
// secret by chance.
const shortestReflected = 8

// errReflected is the failure of an endpoint that answers with a part of the request as the token.
var errReflected = &token.Error{Kind: token.Unreadable, Reason: "the answer has a part of the request in the place of the token"}

// isReflected reports whether a token is a part of its token request. With an echo service or a hostile server as the token
// endpoint, the API would otherwise receive the client's secret or assertion. The client has all the secrets, and clientSecret is
// one of them.
func isReflected(issued provider.Secret, req *http.Request, clientSecret provider.Secret, all []provider.Secret) bool {
	if slices.ContainsFunc(all, issued.Equal) {
		return true
	}
	value, secret := issued.Reveal(), clientSecret.Reveal()
	if len(secret) >= shortestReflected && (strings.Contains(value, secret) || strings.Contains(value, url.QueryEscape(secret))) {
		return true
	}
	return slices.Contains(sentValues(req), value)
}

// sentValues returns the values in a token request's URL, header and body.
func sentValues(req *http.Request) []string {
	values := formValues(req.URL.RawQuery)
	for _, field := range req.Header {
		for _, text := range field {
			_, credentials, _ := strings.Cut(text, " ") // after the scheme
			values = append(values, text, credentials)
		}
	}
	if id, secret, ok := req.BasicAuth(); ok {
		values = append(values, id, secret)
	}
	body := sentBody(req)
	var object any
	if json.Unmarshal(body, &object) == nil {
		return appendTexts(values, object)
	}
	return append(values, formValues(string(body))...)
}

// sentBody returns the body of a token request.
func sentBody(req *http.Request) []byte {
	if req.GetBody == nil {
		return nil
	}
	r, err := req.GetBody()
	if err != nil {
		return nil
	}
	defer r.Close()
	body, _ := io.ReadAll(r)
	return body
}

// formValues returns the values of an encoded form.
func formValues(encoded string) []string {
	var all []string
	form, _ := url.ParseQuery(encoded) // as far as it can be parsed
	for _, values := range form {
		all = append(all, values...)
	}
	return all
}

// appendTexts appends the texts in a JSON value.
func appendTexts(texts []string, value any) []string {
	switch v := value.(type) {
	case string:
		return append(texts, v)
	case []any:
		for _, element := range v {
			texts = appendTexts(texts, element)
		}
	case map[string]any:
		for _, member := range v {
			texts = appendTexts(texts, member)
		}
	}
	return texts
}
