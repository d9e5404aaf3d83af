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

// shortestReflected is how long a secret must be for no token to have it in it: shorter ones may be there by chance.
const shortestReflected = 8

// errReflected is the failure of an endpoint whose answer has the request in it.
var errReflected = &token.Error{Kind: token.Unreadable, Reason: "the answer holds something of the request in the place of a token"}

// isReflected reports whether a token is something that the token endpoint was sent. Of an endpoint that reflects its request,
// as echo services do, or that means harm, the API would get the client's secret or assertion.
func isReflected(issued provider.Secret, req *http.Request, s secrets) bool {
	if slices.ContainsFunc(s.all(), issued.Equal) {
		return true
	}
	value, secret := issued.Reveal(), s.client.Secret.Reveal()
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

func formValues(encoded string) []string {
	var all []string
	form, _ := url.ParseQuery(encoded) // what can be read of it
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
