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

// With client_auth auto, a refusal may mean that the server supports other methods now. The provider then takes the method
// from new metadata.
func TestDoubtOfMethods(t *testing.T) {
	refused := &token.Error{Kind: token.Refused, Status: 401, Code: "invalid_client"}
	for name, tc := range map[string]struct {
		auth    string
		before  string // the methods in the metadata
		failure *token.Error
		pause   time.Duration
		want    string // the method after the metadata have client_secret_post alone
	}{
		"refused":                   {authAuto, `["client_secret_basic"]`, refused, 2 * time.Minute, oauth.ClientSecretPost},
		"refused at once":           {authAuto, `["client_secret_basic"]`, refused, time.Second, oauth.ClientSecretBasic},
		"refused with 400":          {authAuto, `["client_secret_basic"]`, &token.Error{Kind: token.Refused, Status: 400}, 2 * time.Minute, oauth.ClientSecretPost},
		"overloaded":                {authAuto, `["client_secret_basic"]`, &token.Error{Kind: token.Unavailable, Status: 503}, 2 * time.Minute, oauth.ClientSecretBasic},
		"unreachable":               {authAuto, `["client_secret_basic"]`, &token.Error{Kind: token.Unavailable}, 2 * time.Minute, oauth.ClientSecretPost},
		"no failure, for an hour":   {authAuto, `["client_secret_basic"]`, nil, time.Hour, oauth.ClientSecretPost},
		"no failure":                {authAuto, `["client_secret_basic"]`, nil, 2 * time.Minute, oauth.ClientSecretBasic},
		"no method fitted":          {authAuto, `["private_key_jwt"]`, nil, 2 * time.Minute, oauth.ClientSecretPost},
		"no method fitted, at once": {authAuto, `["private_key_jwt"]`, nil, time.Second, ""},
		"a method that is set":      {oauth.ClientSecretBasic, `["client_secret_basic"]`, refused, 2 * time.Minute, oauth.ClientSecretBasic},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const issuer = "https://as.example"
				methods := tc.before
				do := func(*http.Request) (*provider.Answer, error) {
					return &provider.Answer{Status: http.StatusOK, Body: []byte(`{"issuer": "` + issuer + `", "token_endpoint": "` + issuer +
						`/token", "token_endpoint_auth_methods_supported": ` + methods + `}`)}, nil
				}
				o := &Provider{Issuer: issuer, ClientAuth: tc.auth, discovery: &oauth.Discovery{Issuer: issuer}}
				o.methods = o.possibleMethods()
				o.auth.Method = o.methods[0]
				choose := func() string {
					t.Helper()
					if _, err := o.discovery.TokenEndpoint(t.Context(), do); err != nil {
						t.Fatal(err)
					}
					auth, err := o.chooseAuth()
					if err != nil {
						return ""
					}
					return auth.Method
				}
				choose()
				methods = `["client_secret_post"]`
				time.Sleep(tc.pause)
				if tc.failure != nil {
					o.Doubt(tc.failure)
				}
				choose() // where no method fits, this is the doubt
				if got := choose(); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		})
	}
}
