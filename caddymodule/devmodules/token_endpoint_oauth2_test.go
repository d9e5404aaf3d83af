package devmodules

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

func TestDevOAuth2Caddyfile(t *testing.T) {
	tests := []struct {
		options string
		want    devserver.Demands
	}{
		{"", devserver.Demands{}},
		{"basic_encoding raw\nscope \"a b\"\nheader X-Any\nheader X-One 1", devserver.Demands{
			BasicEncoding: "raw", Scope: "a b", Headers: []devserver.Field{{Name: "X-Any"}, {Name: "X-One", Value: new("1")}},
		}},
		{"client_auth client_secret_post\nclient_id_param \"\"\nclient_secret_param password\ngrant \"\"", devserver.Demands{
			ClientAuth: "client_secret_post", ClientIDParam: new(""), ClientSecretParam: "password", Grant: new(""),
		}},
		{"param a\nparam a \"\"\nparam a b", devserver.Demands{
			Params: []devserver.Field{{Name: "a"}, {Name: "a", Value: new("")}, {Name: "a", Value: new("b")}},
		}},
		{"method POST\nencoding json\njson_param n `{\"a\":[1,\"\"]}`\njson_param m null", devserver.Demands{
			Method: "POST", Encoding: "json", JSONParams: []devserver.JSONField{
				{Name: "n", Value: json.RawMessage(`{"a":[1,""]}`)}, {Name: "m", Value: json.RawMessage("null")},
			},
		}},
		{"client_auth private_key_jwt\nclient_key {file./key}\nsigning_alg ES256\nassertion_audience api\nassertion_typ \"\"", devserver.Demands{
			ClientAuth: "private_key_jwt", ClientKey: "{file./key}", SigningAlg: "ES256", AssertionAudience: "api", AssertionTyp: new(""),
		}},
		{"client_auth private_key_jwt\nclient_assertion {file./jwt}\nclient_assertion_type x\nclient_certificate {file./cert}", devserver.Demands{
			ClientAuth: "private_key_jwt", ClientAssertion: "{file./jwt}", ClientAssertionType: "x", ClientCertificate: "{file./cert}",
		}},
		{"grant urn:ietf:params:oauth:grant-type:jwt-bearer\nclient_key {file./key}\nassertion_claim sub \"\"\nassertion_claim a b", devserver.Demands{
			Grant: new("urn:ietf:params:oauth:grant-type:jwt-bearer"), ClientKey: "{file./key}",
			AssertionClaims: []devserver.Field{{Name: "sub", Value: new("")}, {Name: "a", Value: new("b")}},
		}},
		{"client_auth bearer_jwt\nclient_key {file./key}\nassertion_json_claim n `[1]`\nassertion_certificate x5t x5c\nanswer_status 201", devserver.Demands{
			ClientAuth: "bearer_jwt", ClientKey: "{file./key}", AssertionJSONClaims: []devserver.JSONField{{Name: "n", Value: json.RawMessage("[1]")}},
			AssertionCertificate: []string{"x5t", "x5c"}, AnswerStatus: 201,
		}},
		{"dpop required nonce\ndpop_algs ES256 PS256\naccept_claims", devserver.Demands{
			DPoP: devserver.DPoP{Mode: "required", Nonce: true, Algs: []string{"ES256", "PS256"}}, AcceptClaims: true,
		}},
		{"dpop optional", devserver.Demands{DPoP: devserver.DPoP{Mode: "optional"}}},
		{"answer `\"$token\"`\nfailure `[\"$code\"]`", devserver.Demands{Answer: `"$token"`, Failure: `["$code"]`}},
		{"issuer https://a.example\ntoken_endpoint https://b.example/t\nmtls_token_endpoint https://c.example/t", devserver.Demands{
			Issuer: "https://a.example", TokenURL: "https://b.example/t", MTLSTokenURL: "https://c.example/t",
		}},
	}
	for _, tc := range tests {
		in := "dev_token_endpoint oauth2 {\n" + tc.options + "\n}"
		want := TokenEndpoint{Dialect: "oauth2", Demands: tc.want}
		var got, again TokenEndpoint
		if err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v", in, got)
		}
		raw, err := json.Marshal(&got)
		if err == nil {
			err = json.Unmarshal(raw, &again)
		}
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%s: does not survive JSON: %s", in, raw)
		}
	}
}

func TestDevOAuth2CaddyfileErrors(t *testing.T) {
	tests := []struct{ head, options, want string }{
		{"oauth2", "wrapped", "wrapped: only elastic_path"},
		{"oauth2", "enforce_content_type form", "enforce_content_type: only optoro"},
		{"optoro", "client_auth none", "client_auth: only oauth2"},
		{"elastic_path", "param a", "param: only oauth2"},
		{"elastic_path", "grant \"\"", "grant: only oauth2"},
		{"oauth2", "client_auth magic", `client_auth "magic"`},
		{"oauth2", "client_auth", "client_auth has no value"},
		{"oauth2", "client_auth none\nclient_auth none", "client_auth is already specified"},
		{"oauth2", "grant", "grant has no value"},
		{"oauth2", "grant a b", "grant takes exactly one value"},
		{"oauth2", "grant a\ngrant b", "grant is already specified"},
		{"oauth2", "scope a b", "scope takes exactly one value"},
		{"oauth2", "param", "param: wrong number of values"},
		{"oauth2", "param a b c", "param: wrong number of values"},
		{"oauth2", "param \"\" b", "param: the name is empty"},
		{"oauth2", "encoding json\njson_param a", "json_param: wrong number of values"},
		{"oauth2", "encoding json\njson_param a x", "json_param a: the value is not JSON"},
		{"oauth2", "json_param a 1", "json_param: needs encoding json"},
		{"oauth2", "client_auth private_key_jwt", "client_auth private_key_jwt: needs client_key"},
		{"oauth2", "client_auth private_key_jwt\nclient_key CANARY", "client_key: must be a key"},
		{"oauth2", "client_certificate CANARY", "client_certificate: must be a certificate"},
		{"oauth2", "answer `{\"access_token\":$token}`", "answer: must be JSON"},
		{"oauth2", "dpop", "dpop: wrong number of values"},
		{"oauth2", "dpop required CANARY", "dpop: wrong number of values"},
		{"oauth2", "dpop required nonce nonce", "dpop: wrong number of values"},
		{"oauth2", "dpop on", `dpop "on": must be off, optional or required`},
		{"oauth2", "dpop off nonce", "dpop: nonce needs optional or required"},
		{"oauth2", "dpop off\ndpop required", "dpop is already specified"},
		{"oauth2", "dpop required\ndpop_algs", "dpop_algs takes one or more"},
		{"oauth2", "dpop required\ndpop_algs HS256", `dpop_algs "HS256": must be some of RS256`},
		{"oauth2", "dpop_algs ES256", "dpop_algs: needs dpop"},
		{"oauth2", "accept_claims yes", "accept_claims takes no value"},
		{"oauth2", "accept_claims\nparam claims", "accept_claims: contradicts"},
		{"optoro", "dpop required", "dpop: only oauth2"},
		{"elastic_path", "dpop_algs ES256", "dpop: only oauth2"},
		{"optoro", "accept_claims", "accept_claims: only oauth2"},
		{"oauth2", "hang\nstatus 503", "contradict each other"},
	}
	for _, tc := range tests {
		in := "dev_token_endpoint " + tc.head + " {\n" + tc.options + "\n}"
		err := new(TokenEndpoint).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		checkDevError(t, in, err, tc.want)
		if err != nil && strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: the error repeats the value: %v", in, err)
		}
	}
}

// Files are read when the configuration is loaded, not when it is adapted.
func TestDevOAuth2Files(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	file := filepath.Join(t.TempDir(), "jwt")
	de := &TokenEndpoint{Dialect: "oauth2", Demands: devserver.Demands{
		ClientAuth: "private_key_jwt", ClientAssertion: "{file." + file + "}",
	}}
	if err := de.Validate(); err != nil {
		t.Errorf("before the file is read: %v", err)
	}
	if err := de.Provision(ctx); err == nil || !strings.HasPrefix(err.Error(), "client_assertion: ") {
		t.Errorf("without the file: got error %v", err)
	}
	if err := os.WriteFile(file, []byte("the-assertion\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := de.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if de.ClientAssertion != "{file."+file+"}" {
		t.Error("the configuration has changed")
	}
	r := httptest.NewRequest(http.MethodPost, "/token", strings.NewReader("grant_type=client_credentials"+
		"&client_assertion=the-assertion&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "127.0.0.1:50000"
	w := httptest.NewRecorder()
	if err := de.ServeHTTP(w, r, nil); err != nil || w.Code != http.StatusOK {
		t.Errorf("got %d, %s, %v", w.Code, w.Header().Get(devserver.RefusalHeader), err)
	}

	de = &TokenEndpoint{Dialect: "oauth2", Demands: devserver.Demands{
		ClientAuth: "private_key_jwt", ClientKey: "{file." + file + "}",
	}}
	if err := de.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := de.Validate(); err == nil || !strings.HasPrefix(err.Error(), "client_key: ") {
		t.Errorf("a file without a key: got error %v", err)
	}
}

// The options reach the servers.
func TestDevDPoP(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	answer := func(m interface {
		caddyhttp.MiddlewareHandler
		caddyfile.Unmarshaler
	}, config, authorization string) *httptest.ResponseRecorder {
		t.Helper()
		if err := m.UnmarshalCaddyfile(caddyfile.NewTestDispenser(config)); err != nil {
			t.Fatal(err)
		}
		if err := m.(caddy.Provisioner).Provision(ctx); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/token", strings.NewReader("grant_type=client_credentials&claims={}"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", authorization)
		r.RemoteAddr = "127.0.0.1:50000"
		w := httptest.NewRecorder()
		if err := m.ServeHTTP(w, r, nil); err != nil {
			t.Fatal(err)
		}
		return w
	}
	const basic = "Basic ZGV2LWNsaWVudDpkZXYtc2VjcmV0" // the default client
	w := answer(new(TokenEndpoint), "dev_token_endpoint oauth2 {\ndpop required nonce\naccept_claims\n}", basic)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "invalid_dpop_proof") || w.Header().Get("DPoP-Nonce") == "" {
		t.Errorf("token endpoint: got %d %s %v", w.Code, w.Body, w.Header())
	}
	w = answer(new(API), "dev_api {\ndpop required nonce\ndpop_algs ES256\n}", "")
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || !strings.HasPrefix(got, "DPoP ") || !strings.HasSuffix(got, `algs="ES256"`) {
		t.Errorf("API: got %d %s", w.Code, got)
	}
	bearer := "Bearer " + devserver.Default.Issue("claims", time.Minute).Value
	w = answer(new(API), "dev_api {\nclaims_challenge acrs\n}", bearer)
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || !strings.Contains(got, "insufficient_claims") {
		t.Errorf("API with a challenge: got %d %s", w.Code, got)
	}
}
