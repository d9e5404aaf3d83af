package devserver

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestAcceptClaims(t *testing.T) {
	const grant = "grant_type=client_credentials"
	accepts, strict := Demands{AcceptClaims: true}, Demands{}
	inJSON := Demands{AcceptClaims: true, Encoding: "json"}
	for _, tc := range []struct {
		demands    Demands
		kind, body string
		want       string // the refusal, or empty
		claims     string
	}{
		{accepts, formType, grant, "", ""},
		{accepts, formType, grant + `&claims={"a":1}`, "", `{"a":1}`},
		{accepts, formType, grant + "&claims=", "400 invalid_request: claims is not a JSON object", ""},
		{accepts, formType, grant + "&claims=[]", "400 invalid_request: claims is not a JSON object", ""},
		{accepts, formType, grant + "&claims=null", "400 invalid_request: claims is not a JSON object", ""},
		{accepts, formType, grant + "&claims={", "400 invalid_request: claims is not a JSON object", ""},
		{accepts, formType, grant + "&claims={}&claims={}", "400 invalid_request: claims is repeated", ""},
		{inJSON, typeJSON, `{"grant_type":"client_credentials","claims":"{\"a\":1}"}`, "", `{"a":1}`},
		{inJSON, typeJSON, `{"grant_type":"client_credentials","claims":{"a":1}}`, "", `{"a":1}`},
		{inJSON, typeJSON, `{"grant_type":"client_credentials","claims":[1]}`, "400 invalid_request: claims is not", ""},
		{strict, formType, grant + "&claims={}", "400 invalid_request: the parameter claims is not described", ""},
	} {
		e := oauth2Endpoint(tc.demands)
		r := basicForm(tc.body)
		r.Header.Set("Content-Type", tc.kind)
		checkJudgement(t, e, r, tc.want)
		if tc.want == "" && e.Registry.order[0].Claims != tc.claims {
			t.Errorf("%s: the token has the claims %s", tc.body, e.Registry.order[0].Claims)
		}
	}
}

func TestClaimsChallenge(t *testing.T) {
	// The challenge in the documentation of Microsoft Entra about continuous access evaluation.
	const wanted = `{"access_token":{"nbf":{"essential":true, "value":"1604106651"}}}`
	const challenge = `Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwgInZhbHVlIjoiMTYwNDEwNjY1MSJ9fX0="`
	tokens := NewRegistry()
	issue := func(claims string) string {
		return tokens.issue(Token{Value: urlsafeToken(), Claims: claims}, time.Hour, ModeDefault).Value
	}
	api := &API{Registry: tokens, ClaimsChallenge: json.RawMessage(wanted)}
	for claims, want := range map[string]int{
		wanted: 200,
		`{"access_token":{"nbf":{"value":"1604106651","essential":true},"xms_cc":{"values":["cp1"]}},"userinfo":{}}`: 200,
		"":                    401,
		"{}":                  401,
		`{"access_token":{}}`: 401,
		`{"access_token":1}`:  401,
		`{"access_token":{"nbf":{"essential":true}}}`:                         401,
		`{"access_token":{"nbf":{"essential":true,"value":"1604106652"}}}`:    401,
		`{"access_token":{"nbf":{"essential":true,"value":1604106651}}}`:      401,
		`{"id_token":{"nbf":{"essential":true,"value":"1604106651"}}}`:        401,
		`{"nbf":{"essential":true,"value":"1604106651"}}`:                     401,
		`[{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}]`:  401,
		`{"access_token":[{"nbf":{"essential":true,"value":"1604106651"}}]}`:  401,
		`{"access_token":{"nbf":[{"essential":true,"value":"1604106651"}]}}`:  401,
		`{"access_token":{"nbf":{"essential":false,"value":"1604106651"}}}`:   401,
		`{"access_token":{"nbf":{"essential":null,"value":"1604106651"}}}`:    401,
		`{"access_token":{"nbf":{"essential":"true","value":"1604106651"}}}`:  401,
		`{"access_token":{"nbf":{"essential":true,"values":["1604106651"]}}}`: 401,
	} {
		w := serve(api, apiRequest("GET", "/", issue(claims)))
		if got := w.Header().Get("WWW-Authenticate"); w.Code != want || (got == challenge) != (want == 401) {
			t.Errorf("%s: got %d %s", claims, w.Code, got)
		}
	}
	if api.Unauthorized() != api.Calls()-2 {
		t.Errorf("got %d of %d", api.Unauthorized(), api.Calls())
	}
	if w := serve(api, apiRequest("GET", "/", "unknown")); !strings.Contains(w.Header().Get("WWW-Authenticate"), `error="invalid_token"`) {
		t.Errorf("an unknown token: got %v", w.Header())
	}
	bound := boundToken(t, tokens)
	api.DPoP.Mode = dpopRequired
	w := serve(api, dpopAPIRequest(bound, newProof(t, "GET", dpopAPIURL, bound).sign(t, "p256")))
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || got != "DPoP"+strings.TrimPrefix(challenge, "Bearer") {
		t.Errorf("with DPoP: got %d %s", w.Code, got)
	}
}
