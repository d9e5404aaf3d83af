package devserver

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOptoroSuccess(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
	w := serve(e, optoroRequest())
	shape := regexp.MustCompile(`^\{"access_token":"[A-Za-z0-9_-]{43}","token_type":"Bearer","expires_in":90000,` +
		`"scope":"read write","created_at":[0-9]{10}\}$`)
	if w.Code != http.StatusOK || !shape.MatchString(w.Body.String()) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "Pragma": "no-cache", "Content-Type": "application/json; charset=utf-8",
		HeaderName: HeaderValue,
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestOptoroConformance(t *testing.T) {
	const noBody, object = "", "{}"
	oauthBody := func(code, description string) string {
		return fmt.Sprintf(`{"error":"%s","error_description":"%s"}`, code, description)
	}
	invalidClient := oauthBody("invalid_client", descriptions["invalid_client"])
	basic := func(id, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, secret) }
	}
	tests := []struct {
		name        string
		contentType string // default: JSON
		body        string
		edit        func(*http.Request)
		endpoint    TokenEndpoint
		wantStatus  int
		wantBody    string // not compared for 200
		wantType    string
	}{
		{name: "json", body: jsonGood, wantStatus: 200},
		{name: "json with charset", contentType: "application/json; charset=utf-8", body: jsonGood, wantStatus: 200},
		{name: "form", contentType: formType, body: formGood, wantStatus: 200},
		{name: "basic alone", body: `{"grant_type":"client_credentials"}`, edit: basic("dev-client", "dev-secret"), wantStatus: 200},
		{
			name: "basic is not decoded", contentType: formType, body: "grant_type=client_credentials",
			endpoint: TokenEndpoint{ClientID: "c", ClientSecret: "s+e%25 c:=&/"}, edit: basic("c", "s+e%25 c:=&/"), wantStatus: 200,
		},
		{
			name: "form is decoded", contentType: formType,
			body:     "grant_type=client_credentials&client_id=c&client_secret=s%2Be%2525%20c%3A%3D%26%2F",
			endpoint: TokenEndpoint{ClientID: "c", ClientSecret: "s+e%25 c:=&/"}, wantStatus: 200,
		},
		{
			name:     "json is raw",
			body:     `{"grant_type":"client_credentials","client_id":"c","client_secret":"s+e%25 c:=&/"}`,
			endpoint: TokenEndpoint{ClientID: "c", ClientSecret: "s+e%25 c:=&/"}, wantStatus: 200,
		},
		{
			name: "wrong path", body: jsonGood, edit: func(r *http.Request) { r.URL.Path = "/oauth/tokens" },
			wantStatus: 404, wantType: typeHTML,
		},
		{
			name: "wrong method", body: jsonGood, edit: func(r *http.Request) { r.Method = http.MethodPut },
			wantStatus: 404, wantType: typeHTML,
		},
		{name: "surplus member", body: strings.Replace(jsonGood, "{", `{"scope":"read",`, 1), wantStatus: 422},
		{name: "null", body: strings.Replace(jsonGood, `"dev-secret"`, "null", 1), wantStatus: 422},
		{
			name: "credentials in the query", body: `{"grant_type":"client_credentials"}`,
			edit:       func(r *http.Request) { r.URL.RawQuery = "client_id=dev-client&client_secret=dev-secret" },
			wantStatus: 401, wantBody: invalidClient, wantType: typeJSONUTF8,
		},
		{name: "cut json", body: jsonGood[:20], wantStatus: 400, wantBody: noBody, wantType: typeHTML},
		{name: "form labelled json", body: formGood, wantStatus: 400, wantBody: noBody, wantType: typeHTML},
		{name: "broken form", contentType: formType, body: "a=%zz", wantStatus: 400, wantBody: noBody, wantType: typeHTML},
		{
			name: "no grant", body: `{"client_id":"dev-client"}`, wantStatus: 400,
			wantBody: oauthBody("invalid_request", missingGrantType), wantType: typeJSONUTF8,
		},
		{
			name: "array", body: "[]", wantStatus: 400,
			wantBody: oauthBody("invalid_request", missingGrantType), wantType: typeJSONUTF8,
		},
		{
			name: "empty body", wantStatus: 400,
			wantBody: oauthBody("invalid_request", missingGrantType), wantType: typeJSONUTF8,
		},
		{
			name: "other content type", contentType: "text/plain", body: formGood, wantStatus: 400,
			wantBody: oauthBody("invalid_request", missingGrantType), wantType: typeJSONUTF8,
		},
		{
			name: "unknown grant", body: strings.Replace(jsonGood, "client_credentials", "password", 1), wantStatus: 400,
			wantBody: oauthBody("unsupported_grant_type", descriptions["unsupported_grant_type"]), wantType: typeJSONUTF8,
		},
		{
			name: "basic and body", body: jsonGood, edit: basic("dev-client", "dev-secret"), wantStatus: 400,
			wantBody: oauthBody("invalid_request", multipleAuthMethods), wantType: typeJSONUTF8,
		},
		{
			name: "wrong secret", body: strings.Replace(jsonGood, "dev-secret", "x", 1), wantStatus: 401,
			wantBody: invalidClient, wantType: typeJSONUTF8,
		},
		{
			name: "unknown client", body: strings.Replace(jsonGood, "dev-client", "x", 1), wantStatus: 401,
			wantBody: invalidClient, wantType: typeJSONUTF8,
		},
		{
			name: "wrong secret in basic", body: `{"grant_type":"client_credentials"}`, edit: basic("dev-client", "x"), wantStatus: 401,
			wantBody: invalidClient, wantType: typeJSONUTF8,
		},
		{
			name: "json enforced away", body: jsonGood, endpoint: TokenEndpoint{EnforceForm: true}, wantStatus: 415,
			wantBody: object, wantType: typeJSONUTF8,
		},
		{name: "form enforced", contentType: formType, body: formGood, endpoint: TokenEndpoint{EnforceForm: true}, wantStatus: 200},
		{name: "too large", body: strings.Repeat(" ", maxRequestBody+1), wantStatus: 413},
	}
	for i := range tests {
		tc := &tests[i] // the endpoint must not be copied
		t.Run(tc.name, func(t *testing.T) {
			tc.endpoint.Dialect, tc.endpoint.Registry = Optoro, NewRegistry()
			contentType := tc.contentType
			if contentType == "" {
				contentType = typeJSON
			}
			r := post("/oauth/token", contentType, tc.body)
			if tc.edit != nil {
				tc.edit(r)
			}
			w := serve(&tc.endpoint, r)
			if w.Code != tc.wantStatus {
				t.Fatalf("got status %d with %s, want %d", w.Code, w.Body, tc.wantStatus)
			}
			if tc.wantStatus == http.StatusOK {
				return
			}
			if w.Body.String() != tc.wantBody || w.Header().Get("Content-Type") != tc.wantType {
				t.Errorf("got %q as %q", w.Body, w.Header().Get("Content-Type"))
			}
			hasChallenge := w.Header().Get("WWW-Authenticate") != ""
			if hasChallenge != strings.Contains(tc.wantBody, "error_description") {
				t.Errorf("got WWW-Authenticate %q", w.Header().Get("WWW-Authenticate"))
			}
		})
	}
}

func TestOptoroChallenge(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
	w := serve(e, post("/oauth/token", typeJSON, "{}"))
	want := `Bearer realm="Doorkeeper", error="invalid_request", error_description="Missing required parameter: grant_type."`
	if got := w.Header().Get("WWW-Authenticate"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("got Cache-Control %q", got)
	}
}

func TestModeDefault(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
	first, second := fetch(t, e), fetch(t, e)
	if first.AccessToken == second.AccessToken {
		t.Error("got the same token twice")
	}
	if _, s := e.Registry.Lookup(first.AccessToken); s != Live {
		t.Error("the first token is not live any more")
	}
}

// The seconds count down and created_at stands still.
func TestModeReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &TokenEndpoint{Dialect: Optoro, Mode: ModeReuse, Registry: NewRegistry()}
		first := fetch(t, e)
		began := time.Now()
		for _, tc := range []struct {
			at   time.Duration
			want string
		}{
			{0, "90000"},
			{400 * time.Millisecond, "90000"},
			{600 * time.Millisecond, "89999"},
			{20 * time.Hour, "18000"},
			{25*time.Hour - 501*time.Millisecond, "1"},
			{25*time.Hour - 499*time.Millisecond, "0"},
			{25 * time.Hour, "0"},
		} {
			advance(time.Until(began.Add(tc.at)))
			got := fetch(t, e)
			if string(got.ExpiresIn) != tc.want || got.AccessToken != first.AccessToken || got.CreatedAt != first.CreatedAt {
				t.Errorf("after %s: got expires_in %s, want %s", tc.at, got.ExpiresIn, tc.want)
			}
		}
		advance(1)
		if got := fetch(t, e); got.AccessToken == first.AccessToken || string(got.ExpiresIn) != "90000" {
			t.Error("an expired token was reused")
		}
		e.Registry.RevokeAll(DefaultClientID)
		if _, s := e.Registry.Lookup(fetch(t, e).AccessToken); s != Live {
			t.Error("a revoked token was reused")
		}
	})
}

func TestModeRevokePrevious(t *testing.T) {
	tokens := NewRegistry()
	e := &TokenEndpoint{Dialect: Optoro, Mode: ModeRevokePrevious, Registry: tokens}
	other := fetch(t, &TokenEndpoint{Dialect: ElasticPath, Registry: tokens}) // the same client id
	first, second := fetch(t, e), fetch(t, e)
	for value, want := range map[string]State{first.AccessToken: Revoked, second.AccessToken: Live, other.AccessToken: Live} {
		if _, got := tokens.Lookup(value); got != want {
			t.Errorf("got state %d, want %d", got, want)
		}
	}
}

// A reload makes a new endpoint with the same registry.
func TestModesOutliveTheEndpoint(t *testing.T) {
	tokens := NewRegistry()
	first := fetch(t, &TokenEndpoint{Dialect: Optoro, Mode: ModeReuse, Registry: tokens})
	second := fetch(t, &TokenEndpoint{Dialect: Optoro, Mode: ModeReuse, Registry: tokens})
	if first.AccessToken != second.AccessToken {
		t.Error("the second endpoint did not reuse the token")
	}
	fetch(t, &TokenEndpoint{Dialect: Optoro, Mode: ModeRevokePrevious, Registry: tokens})
	if _, s := tokens.Lookup(first.AccessToken); s != Revoked {
		t.Error("the third endpoint did not revoke the token")
	}
}
