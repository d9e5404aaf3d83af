package devmodules

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

func TestDevTokenEndpointCaddyfile(t *testing.T) {
	tests := []struct {
		in   string
		want TokenEndpoint
	}{
		{`dev_token_endpoint optoro`, TokenEndpoint{Dialect: "optoro"}},
		{`dev_token_endpoint optoro {
		}`, TokenEndpoint{Dialect: "optoro"}},
		{`dev_token_endpoint optoro {
			client_id a
			client_secret b
			mode revoke_previous
			lifetime 1d
			enforce_content_type form
			status 503
			retry_after "Wed, 21 Oct 2015 07:28:00 GMT"
			latency 250ms
			count 3
		}`, TokenEndpoint{
			Dialect: "optoro", ClientID: "a", ClientSecret: "b", Mode: "revoke_previous",
			Lifetime: caddy.Duration(24 * time.Hour), EnforceContentType: "form", Status: 503,
			RetryAfter: "Wed, 21 Oct 2015 07:28:00 GMT", Latency: caddy.Duration(250 * time.Millisecond), Count: 3,
		}},
		{`dev_token_endpoint elastic_path {
			wrapped
			hang
		}`, TokenEndpoint{Dialect: "elastic_path", Wrapped: true, Hang: true}},
		{`dev_token_endpoint optoro {
			status 200
			error invalid_client
			retry_after 5
		}`, TokenEndpoint{Dialect: "optoro", Status: 200, Error: "invalid_client", RetryAfter: "5"}},
		{`dev_token_endpoint optoro {
			reset
		}`, TokenEndpoint{Dialect: "optoro", Reset: true}},
		{`dev_token_endpoint optoro {
			garbage bomb
		}`, TokenEndpoint{Dialect: "optoro", Garbage: "bomb"}},
		{`dev_token_endpoint optoro {
			garbage redirect http://127.0.0.1:9/
		}`, TokenEndpoint{Dialect: "optoro", Garbage: "redirect", RedirectTo: "http://127.0.0.1:9/"}},
		{"dev_token_endpoint optoro {\nexpires_in `\"3600\"`\n}", TokenEndpoint{Dialect: "optoro", ExpiresIn: `"3600"`}},
		{`dev_token_endpoint optoro {
			expires_in 0
		}`, TokenEndpoint{Dialect: "optoro", ExpiresIn: "0"}},
	}
	for _, tc := range tests {
		var got TokenEndpoint
		if err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(tc.in)); err != nil {
			t.Errorf("%s: %v", tc.in, err)
			continue
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v", tc.in, got)
		}
		var again TokenEndpoint
		raw, err := json.Marshal(&got)
		if err == nil {
			err = json.Unmarshal(raw, &again)
		}
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%s: does not survive JSON: %s", tc.in, raw)
		}
	}
}

func TestDevTokenEndpointCaddyfileErrors(t *testing.T) {
	tests := []struct{ head, options, want string }{
		{"", "", "takes the name of a dialect"},
		{"okta", "", `dialect "okta"`},
		{"optoro optoro", "", "takes the name of a dialect"},
		{"optoro", "nonsense", "unrecognized option of a development server: it is not shown"},
		{"optoro", "hang\nhang", "hang is already specified"},
		{"optoro", "status 500\nstatus 500", "status is already specified"},
		{"optoro", "hang yes", "hang takes no value"},
		{"optoro", "status", "status has no value"},
		{"optoro", "status 500 501", "status takes exactly one value"},
		{"optoro", "status many", "status: wrong value"},
		{"optoro", "status 0", "status: wrong value"},
		{"optoro", "status 99", "status 99"},
		{"optoro", "client_id \"\"", "client_id is empty"},
		{"optoro", "mode fast", `mode "fast"`},
		{"optoro", "lifetime long", "lifetime: this is not a duration above zero"},
		{"optoro", "lifetime -1s", "lifetime: this is not a duration above zero"},
		{"optoro", "wrapped", "wrapped: only elastic_path"},
		{"elastic_path", "enforce_content_type form", "enforce_content_type: only optoro"},
		{"optoro", "enforce_content_type json", `enforce_content_type "json"`},
		{"optoro", "retry_after 5", "retry_after: needs status or error"},
		{"optoro", "status 503\nretry_after soon", `retry_after "soon"`},
		{"optoro", "status 503\nretry_after Wed, 21 Oct 2015 07:28:00 GMT", "retry_after takes exactly one value"},
		{"optoro", "hang\nstatus 500", "contradict each other"},
		{"optoro", "reset\ngarbage html", "contradict each other"},
		{"optoro", "garbage", "garbage: wrong number of values"},
		{"optoro", "garbage rubbish", `garbage "rubbish"`},
		{"optoro", "garbage redirect", "garbage: redirect"},
		{"optoro", "garbage html http://x", "garbage: redirect"},
		{"optoro", "garbage redirect a b", "garbage: wrong number of values"},
		{"optoro", "expires_in soon", `expires_in "soon"`},
		{"optoro", "count 2", "count: needs a fault"},
		{"optoro", "hang\ncount 0", "count: wrong value"},
	}
	for _, tc := range tests {
		in := "dev_token_endpoint " + tc.head
		if tc.options != "" {
			in += " {\n" + tc.options + "\n}"
		}
		checkDevError(t, in, new(TokenEndpoint).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)), tc.want)
	}
}

func TestDevAPICaddyfile(t *testing.T) {
	for in, want := range map[string]API{
		`dev_api`:                                               {},
		"dev_api {\nreject 403\n}":                              {Reject: 403},
		"dev_api {\nheader X-Token\n}":                          {Header: "X-Token"},
		"dev_api {\nheader X-Token \"\"\n}":                     {Header: "X-Token", Prefix: new("")},
		"dev_api {\nheader Authorization \"Token \"\n}":         {Header: "Authorization", Prefix: new("Token ")},
		"dev_api {\ndpop required nonce\ndpop_algs ES256\n}":    {DPoP: devserver.DPoP{Mode: "required", Nonce: true, Algs: []string{"ES256"}}},
		"dev_api {\ndpop off\nheader X-Token\n}":                {DPoP: devserver.DPoP{Mode: "off"}, Header: "X-Token"},
		"dev_api {\nclaims_challenge `{\"a\":{\"b\":null}}`\n}": {ClaimsChallenge: json.RawMessage(`{"a":{"b":null}}`)},
		"dev_api {\nclaims_challenge acrs xms_cc\n}": {
			ClaimsChallenge: json.RawMessage(`{"access_token":{"acrs":{"essential":true},"xms_cc":{"essential":true}}}`),
		},
	} {
		var got API
		if err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		`dev_api optoro`:                                       "takes no value",
		"dev_api {\nnonsense\n}":                               "unrecognized option of a development server: it is not shown",
		"dev_api {\nheader\n}":                                 "header: wrong number of values",
		"dev_api {\nheader \"\"\n}":                            "header: wrong number of values",
		"dev_api {\nheader a b c\n}":                           "header: wrong number of values",
		"dev_api {\nheader a\nheader a\n}":                     "header is already specified",
		"dev_api {\nreject 200\n}":                             "reject 200",
		"dev_api {\nreject no\n}":                              "reject: wrong value",
		"dev_api {\nreject 401\nreject 403\n}":                 "reject is already specified",
		"dev_api {\ndpop\n}":                                   "dpop: wrong number of values",
		"dev_api {\ndpop always\n}":                            `dpop "always": must be off, optional or required`,
		"dev_api {\ndpop off nonce\n}":                         "dpop: nonce needs optional or required",
		"dev_api {\ndpop_algs ES256\n}":                        "dpop_algs: needs dpop",
		"dev_api {\ndpop required\nheader X-Token\n}":          "dpop: the token is in Authorization",
		"dev_api {\nclaims_challenge\n}":                       "claims_challenge takes JSON in backticks",
		"dev_api {\nclaims_challenge `{`\n}":                   "claims_challenge: must be names of claims or a JSON object",
		"dev_api {\nclaims_challenge `[]`\n}":                  "claims_challenge: wrong value",
		"dev_api {\nclaims_challenge acrs `{}`\n}":             "claims_challenge: wrong value",
		"dev_api {\nclaims_challenge \"\"\n}":                  "claims_challenge: wrong value",
		"dev_api {\nclaims_challenge a\nclaims_challenge b\n}": "claims_challenge is already specified",
	} {
		checkDevError(t, in, new(API).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)), want)
	}
}

func checkDevError(t *testing.T, in string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Testfile:") {
		t.Errorf("%s: got error %v, want %q with its place", in, err, want)
	}
}

// A reload provisions new modules. The tokens stay live, and the fault is the new one.
func TestDevServersAcrossReload(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	load := func(m caddyhttp.MiddlewareHandler) func(*http.Request) *httptest.ResponseRecorder {
		t.Helper()
		if err := m.(caddy.Provisioner).Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if err := m.(caddy.Validator).Validate(); err != nil {
			t.Fatal(err)
		}
		return func(r *http.Request) *httptest.ResponseRecorder {
			t.Helper()
			r.RemoteAddr = "127.0.0.1:50000"
			w := httptest.NewRecorder()
			if err := m.ServeHTTP(w, r, nil); err != nil {
				t.Fatal(err)
			}
			return w
		}
	}
	askToken := func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/oauth/token",
			strings.NewReader(`{"grant_type":"client_credentials","client_id":"reload","client_secret":"dev-secret"}`))
		r.Header.Set("Content-Type", "application/json")
		return r
	}
	read := func(w *httptest.ResponseRecorder) string {
		t.Helper()
		var body struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.AccessToken == "" {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return body.AccessToken
	}
	askAPI := func(token string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return r
	}

	reuse := TokenEndpoint{Dialect: "optoro", ClientID: "reload", Mode: "reuse"}
	first, second, third := reuse, reuse, reuse
	token := read(load(&first)(askToken()))
	second.Status, second.RetryAfter = 503, "2"
	if w := load(&second)(askToken()); w.Code != 503 || w.Header().Get("Retry-After") != "2" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	if w := load(new(API))(askAPI(token)); w.Code != 200 || w.Header().Get(devserver.HeaderName) == "" {
		t.Errorf("the API answered %d", w.Code)
	}
	if again := read(load(&third)(askToken())); again != token {
		t.Error("the token was not reused after a reload")
	}
	third.Mode = "revoke_previous"
	read(load(&third)(askToken()))
	if w := load(new(API))(askAPI(token)); w.Code != 401 {
		t.Errorf("with a revoked token the API answered %d", w.Code)
	}
	if w := load(&API{Reject: 403})(askAPI(read(load(&first)(askToken())))); w.Code != 403 {
		t.Errorf("the API with reject answered %d", w.Code)
	}
	if err := (&TokenEndpoint{Dialect: "optoro", Hang: true, Status: 500}).Validate(); err == nil {
		t.Error("Validate accepted a contradiction in JSON")
	}
}
