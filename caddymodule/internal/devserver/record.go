package devserver

import (
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
)

// Recorded is what a TokenEndpoint remembers about a request. It holds no secret.
type Recorded struct {
	Method      string
	Path        string
	HeaderNames []string // sorted
	ContentType string
	Basic       bool     // the request has Basic authentication
	QueryNames  []string // sorted
	ParamNames  []string // in the body, sorted
	GrantType   string
	ClientID    string // in the body
	Store       string // the header X-Moltin-Auth-Store, which selects a store of Elastic Path
}

func record(r *http.Request, p params) Recorded {
	_, _, basic := r.BasicAuth()
	return Recorded{
		Method:      r.Method,
		Path:        r.URL.Path,
		HeaderNames: sortedKeys(r.Header),
		ContentType: r.Header.Get("Content-Type"),
		Basic:       basic,
		QueryNames:  sortedKeys(r.URL.Query()),
		ParamNames:  p.names,
		GrantType:   p.values["grant_type"],
		ClientID:    p.values["client_id"],
		Store:       r.Header.Get("X-Moltin-Auth-Store"),
	}
}

// params are the parameters in the body of a token request. Parameters in the query are not among them, because
// Doorkeeper 5.9 and later ignores credentials there.
type params struct {
	body      []byte // as received
	mediaType string
	names     []string          // sorted
	values    map[string]string // of the parameters that are strings
	malformed bool              // the body does not match its media type
}

func parseParams(contentType string, body []byte) params {
	p := params{body: body, values: make(map[string]string)}
	p.mediaType, _, _ = mime.ParseMediaType(contentType)
	switch p.mediaType {
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		p.malformed = err != nil
		for name := range form {
			p.values[name] = form.Get(name)
		}
		p.names = sortedKeys(form)
	case typeJSON:
		p.malformed = len(body) > 0 && !json.Valid(body)
		var object map[string]any
		_ = json.Unmarshal(body, &object) // to Doorkeeper, JSON that is not an object has no parameters
		for name, value := range object {
			if s, ok := value.(string); ok {
				p.values[name] = s
			}
		}
		p.names = sortedKeys(object)
	}
	return p
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
