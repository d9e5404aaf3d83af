package dpop_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/dpop"
)

// The development servers share no code with this package, and check each claim of a proof. They demand nonces.
func TestDevelopmentServersAcceptProofs(t *testing.T) {
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"} {
		t.Run(alg, func(t *testing.T) {
			registry := devserver.NewRegistry()
			demanded := devserver.DPoP{Mode: "required", Nonce: true}
			tokens := httptest.NewServer(&devserver.TokenEndpoint{
				Dialect: devserver.OAuth2, ClientID: "id", ClientSecret: "secret", Registry: registry, Demands: devserver.Demands{DPoP: demanded},
			})
			defer tokens.Close()
			api := httptest.NewServer(&devserver.API{Registry: registry, DPoP: demanded})
			defer api.Close()
			client := new(dpop.Client)
			key, err := client.Key(alg)
			if err != nil {
				t.Fatal(err)
			}

			res := sendTwice(t, client.ForEndpoint(key), "", func() *http.Request {
				req, _ := http.NewRequest(http.MethodPost, tokens.URL+"/token", strings.NewReader(url.Values{"grant_type": {"client_credentials"}}.Encode()))
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				req.SetBasicAuth("id", "secret")
				return req
			})
			var answer struct {
				Token string `json:"access_token"`
				Type  string `json:"token_type"`
			}
			if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Type != "DPoP" {
				t.Fatalf("the token endpoint answered %d with %+v (%s): %v", res.StatusCode, answer, res.Header.Get(devserver.RefusalHeader), err)
			}
			for range 2 { // with different jti
				if res := sendTwice(t, client.ForAPI(key), answer.Token, func() *http.Request {
					req, _ := http.NewRequest(http.MethodPut, api.URL+"/a%2fb/../%7ec?d=e", nil)
					req.Header.Set("Authorization", "DPoP "+answer.Token)
					return req
				}); res.StatusCode != http.StatusOK {
					t.Fatalf("the API answered %d with %v", res.StatusCode, res.Header)
				}
			}
		})
	}
}

// sendTwice sends a request, and sends another one if the server's answer has something new for its proof.
func sendTwice(t *testing.T, prover *dpop.Prover, token string, request func() *http.Request) *http.Response {
	t.Helper()
	var refused *dpop.Proof
	for tries := 1; ; tries++ {
		req := request()
		proof, err := prover.Prove(req, "", token, refused)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("DPoP", proof.Field)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		accepted := res.StatusCode == http.StatusOK
		if another := prover.Learn(&proof, res.Header, accepted); accepted || !another || tries == 2 {
			return res
		}
		refused = &proof
	}
}
