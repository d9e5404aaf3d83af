package oauth2

import (
	"encoding/json"
	"io"
	"net/url"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
)

func TestAddClaims(t *testing.T) {
	const (
		capability = `{"access_token":{"xms_cc":{"values":["cp1"]}}}` // which Entra's continuous access evaluation needs
		revoked    = `{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}`
		both       = `{"access_token":{"nbf":{"essential":true,"value":"1604106651"},"xms_cc":{"values":["cp1"]}}}`
	)
	for _, tc := range []struct{ name, own, demanded, want string }{
		{"nothing", "", "", ""},
		{"the configuration's alone", capability, "", capability},
		{"the API's alone", "", revoked, revoked},
		{"both", capability, revoked, both},
		{"the same member", `{"a":{"x":1,"y":2}}`, `{"a":{"y":3}}`, `{"a":{"x":1,"y":3}}`},
		{"another kind of value", `{"a":{"x":1}}`, `{"a":null}`, `{"a":null}`},
		{"a large number", `{"a":{}}`, `{"a":{"n":9007199254740993}}`, `{"a":{"n":9007199254740993}}`},
		{"the configuration's is no object", `text`, revoked, revoked},
		{"the API's is no object", capability, `[]`, capability},
	} {
		t.Run(tc.name, func(t *testing.T) {
			params := url.Values{}
			if tc.own != "" {
				params.Set("claims", tc.own)
			}
			r := oauth.TokenRequest{URL: "https://login.example.com/token", Params: params}
			addClaims(&r, tc.demanded)
			if got := r.Params.Get("claims"); got != tc.want || r.Params.Has("claims") != (tc.want != "") {
				t.Errorf("the parameter is %s, want %s", got, tc.want)
			}
		})
	}
}

// With the encoding json, json_param can have the configuration's claims. The configuration stays as it is.
func TestAddClaimsToJSON(t *testing.T) {
	own := map[string]json.RawMessage{"claims": json.RawMessage(`{"a":{"x":1}}`)}
	r := oauth.TokenRequest{URL: "https://login.example.com/token", Encoding: oauth.JSON, Params: url.Values{}, JSONParams: own}
	addClaims(&r, `{"b":null}`)
	req, err := r.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(req.Body)
	if string(body) != `{"claims":{"a":{"x":1},"b":null}}` || string(own["claims"]) != `{"a":{"x":1}}` {
		t.Errorf("the request is %s, the configuration %s", body, own["claims"])
	}
}
