package oauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// Encoding is how a token request carries its parameters.
type Encoding string

// The encodings.
const (
	Form  Encoding = "form"  // application/x-www-form-urlencoded, the encoding of RFC 6749
	JSON  Encoding = "json"  // one JSON object
	Query Encoding = "query" // in the query of the URL, which servers and proxies log
)

// TokenRequest is a token request before it is encoded.
type TokenRequest struct {
	// URL is the token endpoint.
	URL string

	// Method is the HTTP method of the encoding Query. The other encodings use POST. Default: POST.
	Method string

	// Encoding is how the request carries the parameters. Default: Form.
	Encoding Encoding

	// Params are the parameters. In JSON, a parameter with several values is an array.
	Params url.Values

	// JSONParams are further parameters of the encoding JSON, for values other than strings. They take precedence over Params.
	JSONParams map[string]json.RawMessage

	// Header holds further header fields. They take precedence over the fields that every token request has.
	Header http.Header
}

// Build returns the encoded request.
func (r TokenRequest) Build(ctx context.Context) (*http.Request, error) {
	req, err := r.encode(ctx)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, r.Header)
	return req, nil
}

func (r TokenRequest) encode(ctx context.Context) (*http.Request, error) {
	switch r.Encoding {
	case JSON:
		return NewJSONRequest(ctx, r.URL, r.object())
	case Query:
		u, err := url.Parse(r.URL)
		if err != nil {
			return nil, err
		}
		query := u.Query()
		maps.Copy(query, r.Params)
		u.RawQuery = query.Encode()
		return newRequest(ctx, cmp.Or(r.Method, http.MethodPost), u.String(), "", nil)
	default:
		return NewFormRequest(ctx, r.URL, r.Params)
	}
}

func (r TokenRequest) object() map[string]any {
	object := make(map[string]any, len(r.Params)+len(r.JSONParams))
	for name, values := range r.Params {
		object[name] = values
		if len(values) == 1 {
			object[name] = values[0]
		}
	}
	for name, value := range r.JSONParams {
		object[name] = value
	}
	return object
}

// NewFormRequest returns a token request with a body of type application/x-www-form-urlencoded (RFC 6749).
func NewFormRequest(ctx context.Context, endpoint string, params url.Values) (*http.Request, error) {
	return newRequest(ctx, http.MethodPost, endpoint, "application/x-www-form-urlencoded", strings.NewReader(params.Encode()))
}

// NewJSONRequest returns a token request whose body is the JSON of params.
func NewJSONRequest(ctx context.Context, endpoint string, params any) (*http.Request, error) {
	body, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	return newRequest(ctx, http.MethodPost, endpoint, "application/json", bytes.NewReader(body))
}

func newRequest(ctx context.Context, method, endpoint, contentType string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, endpoint, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "caddy-token-proxy")
	return req, nil
}
