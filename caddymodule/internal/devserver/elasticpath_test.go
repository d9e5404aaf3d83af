package devserver

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestElasticPathSuccess(t *testing.T) {
	const flat = `\{"access_token":"[0-9a-f]{40}","token_type":"Bearer","expires_in":3600,"expires":[0-9]{10},"identifier":"GRANT"\}`
	const implicit = "grant_type=implicit&client_id=dev-client"
	tests := []struct {
		name, body, grant, shape string
		wrapped                  bool
	}{
		{"client_credentials", formGood, "client_credentials", `^` + flat + `$`, false},
		{"implicit", implicit, "implicit", `^` + flat + `$`, false},
		{"wrapped", implicit, "implicit", `^\{"data":` + flat + `\}$`, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			e := &TokenEndpoint{Dialect: ElasticPath, Wrapped: tc.wrapped, Registry: NewRegistry()}
			w := serve(e, post("/oauth/access_token", formType, tc.body))
			shape := strings.Replace(tc.shape, "GRANT", tc.grant, 1)
			if w.Code != http.StatusOK || !regexp.MustCompile(shape).MatchString(w.Body.String()) {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
			if got := w.Header().Get("Content-Type"); got != typeJSON {
				t.Errorf("got Content-Type %q", got)
			}
		})
	}
}

func TestElasticPathConformance(t *testing.T) {
	const (
		badRequest   = `{"errors":[{"title":"Bad Request","status":"400"`
		unauthorized = `{"errors":[{"title":"Unauthorized","status":"401"}]}`
		notFound     = `{"errors":[{"title":"Not Found","status":"404"}]}`
	)
	tests := []struct {
		name        string
		contentType string // default: form
		body        string
		edit        func(*http.Request)
		wantStatus  int
		wantPrefix  string
	}{
		{name: "form with charset", contentType: formType + "; charset=utf-8", body: formGood, wantStatus: 200},
		{name: "wrong path", body: formGood, edit: func(r *http.Request) { r.URL.Path = "/oauth/token" }, wantStatus: 404, wantPrefix: notFound},
		{name: "wrong method", body: formGood, edit: func(r *http.Request) { r.Method = http.MethodGet }, wantStatus: 404, wantPrefix: notFound},
		{name: "json", contentType: typeJSON, body: jsonGood, wantStatus: 400, wantPrefix: badRequest},
		{name: "form labelled json", contentType: typeJSON, body: formGood, wantStatus: 400, wantPrefix: badRequest},
		{name: "broken form", body: "a=%zz", wantStatus: 400, wantPrefix: badRequest},
		{name: "implicit with secret", body: strings.Replace(formGood, "client_credentials", "implicit", 1), wantStatus: 400, wantPrefix: badRequest},
		{name: "implicit with an empty secret", body: "grant_type=implicit&client_id=dev-client&client_secret=", wantStatus: 400, wantPrefix: badRequest},
		{name: "basic", body: formGood, edit: func(r *http.Request) { r.SetBasicAuth("dev-client", "dev-secret") }, wantStatus: 400, wantPrefix: badRequest},
		{name: "no id", body: "grant_type=implicit", wantStatus: 400, wantPrefix: badRequest},
		{name: "no grant", body: "client_id=dev-client", wantStatus: 400, wantPrefix: badRequest},
		{name: "unknown grant", body: "grant_type=password&client_id=dev-client", wantStatus: 400, wantPrefix: badRequest},
		{
			name: "query", edit: func(r *http.Request) { r.URL.RawQuery = formGood },
			wantStatus: 400, wantPrefix: badRequest,
		},
		{name: "wrong secret", body: strings.Replace(formGood, "dev-secret", "x", 1), wantStatus: 401, wantPrefix: unauthorized},
		{name: "no secret", body: "grant_type=client_credentials&client_id=dev-client", wantStatus: 401, wantPrefix: unauthorized},
		{name: "unknown client", body: "grant_type=implicit&client_id=x", wantStatus: 401, wantPrefix: unauthorized},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			contentType := tc.contentType
			if contentType == "" {
				contentType = formType
			}
			r := post("/oauth/access_token", contentType, tc.body)
			if tc.edit != nil {
				tc.edit(r)
			}
			w := serve(&TokenEndpoint{Dialect: ElasticPath, Registry: NewRegistry()}, r)
			if w.Code != tc.wantStatus || !strings.HasPrefix(w.Body.String(), tc.wantPrefix) {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, tc.wantStatus, tc.wantPrefix)
			}
		})
	}
}

// An implicit token has fewer rights than a token of client_credentials, so it must not replace one.
func TestElasticPathReusesByGrant(t *testing.T) {
	e := &TokenEndpoint{Dialect: ElasticPath, Mode: ModeReuse, Registry: NewRegistry()}
	full := fetch(t, e)
	w := serve(e, post("/oauth/access_token", formType, "grant_type=implicit&client_id=dev-client"))
	if implicit := decode[tokenBody](t, w.Body); implicit.AccessToken == full.AccessToken {
		t.Error("the implicit grant got the token of client_credentials")
	}
	if again := fetch(t, e); again.AccessToken != full.AccessToken {
		t.Error("the token was not reused")
	}
}
