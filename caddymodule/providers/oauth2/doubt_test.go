package oauth2

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// If the token endpoint seems to be missing, the provider requests the metadata of the issuer again. The answer of a token
// endpoint does not have this effect.
func TestDoubt(t *testing.T) {
	for name, tc := range map[string]struct {
		failure *token.Error
		again   bool
	}{
		"unreachable":    {&token.Error{Kind: token.Unavailable}, true},
		"moved":          {&token.Error{Kind: token.Refused, Status: 307}, true},
		"not found":      {&token.Error{Kind: token.Refused, Status: 404}, true},
		"no such method": {&token.Error{Kind: token.Refused, Status: 405}, true},
		"gone":           {&token.Error{Kind: token.Refused, Status: 410}, true},
		"overloaded":     {&token.Error{Kind: token.Unavailable, Status: 503}, false},
		"wrong secret":   {&token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client"}, false},
		"not our error":  {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const issuer = "https://as.example"
				asked := 0
				do := func(*http.Request) (*provider.Answer, error) {
					asked++
					return &provider.Answer{Status: http.StatusOK, Body: []byte(`{"issuer": "` + issuer + `", "token_endpoint": "` + issuer + `/token"}`)}, nil
				}
				o := &Provider{discovery: &oauth.Discovery{Issuer: issuer}}
				look := func() {
					t.Helper()
					if _, err := o.discovery.TokenEndpoint(t.Context(), do); err != nil {
						t.Fatal(err)
					}
				}
				look()
				time.Sleep(2 * time.Minute)
				var err error = http.ErrHandlerTimeout
				if tc.failure != nil {
					err = tc.failure
				}
				o.Doubt(err)
				look()
				if again := asked > 1; again != tc.again {
					t.Errorf("the provider requests the metadata again: %t, want %t", again, tc.again)
				}
			})
		})
	}
	(&Provider{}).Doubt(&token.Error{Kind: token.Unavailable}) // no effect without an issuer
}
