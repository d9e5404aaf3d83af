package oauth

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// NewFormRequest builds a token request with an application/x-www-form-urlencoded body, the encoding of RFC 6749.
func NewFormRequest(ctx context.Context, endpoint string, params url.Values) (*http.Request, error) {
	return newRequest(ctx, endpoint, "application/x-www-form-urlencoded", strings.NewReader(params.Encode()))
}

// NewJSONRequest builds a token request whose body is the JSON of params, for endpoints that want it so.
func NewJSONRequest(ctx context.Context, endpoint string, params any) (*http.Request, error) {
	body, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	return newRequest(ctx, endpoint, "application/json", bytes.NewReader(body))
}

func newRequest(ctx context.Context, endpoint, contentType string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "caddy-token-proxy")
	return req, nil
}
