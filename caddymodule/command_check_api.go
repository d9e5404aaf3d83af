package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// checkedAPI is the answer of an API to a request without a token. The challenge in it shows what the API demands of tokens
// (RFC 6750 section 3, RFC 9728 section 5.1).
type checkedAPI struct {
	API      string `json:"api"`
	Status   int    `json:"status,omitempty"`
	Scope    string `json:"scope,omitempty"`
	Metadata string `json:"resource_metadata,omitempty"`
	Error    string `json:"error,omitempty"`
}

// apiTimeout is how long the command waits for the answer of an API.
const apiTimeout = 10 * time.Second

// apiFlag returns the URL that the flag --api sets, or "".
func apiFlag(cmd *cobra.Command) (string, error) {
	api, _ := cmd.Flags().GetString("api")
	if api == "" {
		return "", nil
	}
	u, err := url.Parse(api)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", errors.New("--api: set the URL of an API, such as https://api.example.com/orders")
	}
	if u.User != nil {
		return "", errors.New("--api: remove the user and the password from the URL")
	}
	return api, nil
}

// checkAPI asks an API which challenge it sends. The request has no token, because the URL is not one of the upstreams of the
// configuration. Nothing that the answer names is requested.
func checkAPI(ctx context.Context, api string) checkedAPI {
	result := checkedAPI{API: api}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
	if err != nil {
		result.Error = "the URL cannot be requested"
		return result
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL
	}
	if err != nil {
		result.Error = err.Error()
		return result
	}
	_ = res.Body.Close()
	challenge := readChallenge(res.Header.Values("WWW-Authenticate"), false)
	result.Status = res.StatusCode
	result.Scope, result.Metadata = status.Demand{Scope: challenge.scope, Metadata: challenge.metadata}.Shown()
	return result
}

func (r checkedAPI) print(cmd *cobra.Command) {
	out := cmd.OutOrStdout()
	if r.Error != "" {
		fmt.Fprintf(out, "- %s does not answer: %s\n", printable(r.API), printable(r.Error))
		return
	}
	fmt.Fprintf(out, "- %s answers %d to a request without a token\n", printable(r.API), r.Status)
	if r.Scope != "" {
		fmt.Fprintf(out, "  scope: %s\n", r.Scope)
	}
	if r.Metadata != "" {
		fmt.Fprintf(out, "  resource_metadata: %s\n", r.Metadata)
	}
}
