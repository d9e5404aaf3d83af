package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"

	_ "github.com/tokenproxy/caddy-token-proxy/examples/provider" // a provider that cannot be imitated
)

// stubbed is a provider whose token endpoint is imitated, and what the real one is asked and answers.
type stubbed struct {
	provider string // with ENDPOINT in the place of the token endpoint's base URL
	path     string
	dialect  devserver.Dialect
	grant    string
	answer   string // if there is no development server that has one
}

var stubs = map[string]stubbed{
	"optoro": {provider: "optoro {\n token_url ENDPOINT\n}", path: "/oauth/token",
		dialect: devserver.Optoro, grant: elasticpath.GrantClientCredentials},
	"elastic_path, client_credentials": {provider: "elastic_path {\n token_url ENDPOINT\n}", path: "/oauth/access_token",
		dialect: devserver.ElasticPath, grant: elasticpath.GrantClientCredentials},
	"elastic_path, implicit": {provider: "elastic_path {\n token_url ENDPOINT\n grant implicit\n}", path: "/oauth/access_token",
		dialect: devserver.ElasticPath, grant: elasticpath.GrantImplicit},
	// RFC 6749 section 5.1
	"oauth2": {provider: "oauth2 {\n token_url ENDPOINT/a/token\n}", path: "/a/token",
		answer: `{"access_token": "t", "token_type": "Bearer", "expires_in": 3600}`},
	"oauth2 with a scope": {provider: "oauth2 {\n token_url ENDPOINT/token\n scope read write\n}", path: "/token",
		answer: `{"access_token": "t", "token_type": "Bearer", "expires_in": 3600, "scope": "read write"}`},
}

// realAnswer is what an SDK gets from the real endpoint.
func (s stubbed) realAnswer(t *testing.T) string {
	t.Helper()
	if s.answer != "" {
		return s.answer
	}
	endpoint := serveHTTP(t, &devserver.TokenEndpoint{Dialect: s.dialect, Registry: devserver.NewRegistry()})
	form := url.Values{"grant_type": {s.grant}, "client_id": {devserver.DefaultClientID}}
	if s.grant != elasticpath.GrantImplicit {
		form.Set("client_secret", devserver.DefaultClientSecret)
	}
	a := send(t, http.MethodPost, endpoint.URL+s.path, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	a.wantStatus(t, http.StatusOK)
	return a.body
}

// TestStubAnswersLikeTheEndpoint compares the answer to an SDK with the real one: the same fields with values that fit,
// and a token that nobody takes for a real one.
func TestStubAnswersLikeTheEndpoint(t *testing.T) {
	for name, s := range stubs {
		t.Run(name, func(t *testing.T) {
			want := fieldsOf(t, s.realAnswer(t))
			secret := "client_secret b\n"
			if s.grant == elasticpath.GrantImplicit {
				secret = ""
			}
			_, base := startProxy(t, "credential api {\n provider "+strings.ReplaceAll(s.provider, "ENDPOINT", "http://127.0.0.1:1")+
				"\n client_id a\n "+secret+"}\n", "token_proxy api http://127.0.0.1:1 {\n token_stub\n}")

			start := time.Now().Unix()
			a := send(t, http.MethodPost, base+s.path, "")
			a.wantStatus(t, http.StatusOK)
			if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("the header is %v", a.Header)
			}
			got := fieldsOf(t, a.body)
			if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
				t.Fatalf("the fields are %q, those of the real answer %q", g, w)
			}
			const lifetime = int64(stubLifetime / time.Second)
			for field, value := range got {
				switch field {
				case "access_token":
					wantField(t, field, value, stubToken)
				case "expires_in":
					wantField(t, field, value, float64(lifetime))
				case "expires":
					wantTime(t, field, value, start+lifetime)
				case "created_at":
					wantTime(t, field, value, start)
				default:
					wantField(t, field, value, want[field])
				}
			}
		})
	}
}

func fieldsOf(t *testing.T, answer string) map[string]any {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(answer), &fields); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	return fields
}

func wantField(t *testing.T, field string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %#v, want %#v", field, got, want)
	}
}

// wantTime checks a time of a request that began at a time and has just been answered.
func wantTime(t *testing.T, field string, got any, since int64) {
	t.Helper()
	if seconds, ok := got.(float64); !ok || int64(seconds) < since || int64(seconds) > since+30 {
		t.Errorf("%s is %#v, want %d or a moment later", field, got, since)
	}
}

func TestStubTakes(t *testing.T) {
	s := &tokenStub{paths: []string{"/oauth/token", "/other"}}
	for _, test := range []struct {
		method, target string
		want           bool
	}{
		{"POST", "/oauth/token", true},
		{"POST", "/other", true},
		{"POST", "/oauth/token?a=b", true},
		{"POST", "/oauth%2Ftoken", true},
		{"POST", "http://api.example.com/oauth/token", true},
		{"GET", "/oauth/token", false},
		{"HEAD", "/oauth/token", false},
		{"PUT", "/oauth/token", false},
		{"OPTIONS", "/oauth/token", false},
		{"post", "/oauth/token", false},
		{"POST", "/oauth/token/", false},
		{"POST", "/oauth/tokens", false},
		{"POST", "/oauth", false},
		{"POST", "/OAUTH/TOKEN", false},
		{"POST", "/v2/oauth/token", false},
		{"POST", "/", false},
	} {
		r := httptest.NewRequest(test.method, test.target, nil)
		if got := s.takes(r); got != test.want {
			t.Errorf("%s %s: got %v", test.method, test.target, got)
		}
		if (*tokenStub)(nil).takes(r) {
			t.Errorf("%s %s is taken without the option", test.method, test.target)
		}
	}
}

// TestStubLeavesTheRestAlone checks that other requests for the same paths get to the API, with the real token.
func TestStubLeavesTheRestAlone(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n token_stub default /login\n}")

	for _, path := range []string{"/oauth/token", "/login"} {
		if a := send(t, http.MethodPost, base+path, "grant_type=client_credentials"); !strings.Contains(a.body, stubToken) {
			t.Errorf("POST %s: got %q", path, a.body)
		}
	}
	if n := tokens.Calls(); n != 0 || api.connectionCount() != 0 {
		t.Errorf("the token endpoint got %d calls, the API %d connections", n, api.connectionCount())
	}
	for _, r := range []struct{ method, path string }{{"GET", "/oauth/token"}, {"PUT", "/login"}, {"POST", "/login/"}, {"POST", "/orders"}} {
		if echo := echoOf(t, send(t, r.method, base+r.path, "")); echo.Path != r.path || echo.Client != tokens.ClientID {
			t.Errorf("%s %s: the API saw %+v", r.method, r.path, echo)
		}
	}
	wantCalls(t, tokens.TokenEndpoint, 1)
}

// TestStubAnswersWithoutTheEndpoint: an SDK that starts during an outage must not give up over its own token.
func TestStubAnswersWithoutTheEndpoint(t *testing.T) {
	_, base := startProxy(t, credentialConfig("api", "http://"+freeAddr(t)+"/oauth/token", newClientID()),
		"token_proxy api http://"+freeAddr(t)+" {\n token_stub\n}")
	send(t, http.MethodPost, base+"/oauth/token", "").wantStatus(t, http.StatusOK)
}

func TestStubObeysClients(t *testing.T) {
	tokens := newTokenServer(t)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api http://127.0.0.1:1 {\n token_stub\n clients 192.0.2.0/24\n}")
	a := send(t, http.MethodPost, base+"/oauth/token", "")
	a.wantProblem(t, http.StatusForbidden, "http_request_denied")
	if strings.Contains(a.body, stubToken) {
		t.Error("it got the placeholder")
	}
}

// TestStubIsRefused is about what could never work. The errors name the option.
func TestStubIsRefused(t *testing.T) {
	handler := func(options string) string { return strings.TrimSuffix(goodHandler, "}") + ", " + options + "}" }
	issuer := `{"provider": {"name": "oauth2", "issuer": "ISSUER"}, "client_id": "a", "client_secret": "b"}`
	for name, test := range map[string]struct{ credential, options, want string }{
		"issuer": {strings.Replace(issuer, "ISSUER", "https://login.example.com", 1), `"token_stub": ["default"]`, "path of the token endpoint is not known"},
		"issuer with a path, which is not the token endpoint's": {
			strings.Replace(issuer, "ISSUER", "https://login.example.com/realms/a", 1), `"token_stub": ["default"]`, "path of the token endpoint is not known"},
		"token_url without a path": {
			`{"provider": {"name": "oauth2", "token_url": "https://login.example.com"}, "client_id": "a", "client_secret": "b"}`,
			`"token_stub": ["default"]`, "path of the token endpoint is not known"},
		"provider that has no stub":   {`{"provider": {"name": "ticket_office", "url": "https://tickets.example.com", "badge_file": "../go.mod"}, "client_id": "a", "client_secret": "b"}`, `"token_stub": ["/a"]`, "cannot be imitated"},
		"placeholder would be kept":   {goodCredential, `"token_stub": ["default"], "client_authorization": "keep"`, "client_authorization must be replace"},
		"placeholder would be denied": {goodCredential, `"token_stub": ["default"], "client_authorization": "reject"`, "client_authorization must be replace"},
		"relative":                    {goodCredential, `"token_stub": ["oauth/token"]`, "this is not the path of a token endpoint"},
		"empty":                       {goodCredential, `"token_stub": [""]`, "this is not the path of a token endpoint"},
		"wildcard":                    {goodCredential, `"token_stub": ["/oauth/*"]`, "this is not the path of a token endpoint"},
		"query":                       {goodCredential, `"token_stub": ["/token?a=b"]`, "this is not the path of a token endpoint"},
		"URL":                         {goodCredential, `"token_stub": ["https://a.example.com/token"]`, "is not the path"},
		"placeholder":                 {goodCredential, `"token_stub": ["/{env.PATH}"]`, "is not the path"},
		"second":                      {goodCredential, `"token_stub": ["/token", "token"]`, "this is not the path of a token endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, validateJSON(configJSON(nowhere, test.credential, handler(test.options))), "token_stub: ", test.want)
		})
	}
	t.Run("issuer, and the path", func(t *testing.T) {
		credential := strings.Replace(issuer, "ISSUER", "https://login.example.com/realms/a", 1)
		if err := validateJSON(configJSON(nowhere, credential, handler(`"token_stub": ["/realms/a/token"]`))); err != nil {
			t.Error(err)
		}
	})
}

// TestStubKeepsTheSDKsCredentials checks that the id and the secret that an SDK sends get nowhere, whichever way it
// sends them, and that its placeholder does not get to the API.
func TestStubKeepsTheSDKsCredentials(t *testing.T) {
	const id, secret = "id-of-the-sdk-7Q", "secret-of-the-sdk-9Z"
	tokens := newTokenServer(t)
	var got lockedBuffer
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.dump(r)
		tokens.ServeHTTP(w, r)
	}))
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		got.dump(r)
		tokens.api().ServeHTTP(w, r)
	})
	addr := freeAddr(t)
	server := startCaddy(t, globalOptions(credentialConfig("api", endpoint.URL+"/oauth/token", tokens.ClientID))+
		siteConfig(addr, "log\n token_proxy api "+api.URL+" {\n token_stub\n}"))

	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}.Encode()
	var answers strings.Builder
	for _, sdk := range []struct {
		body   string
		header []string
	}{
		{form, []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{`{"client_id": "` + id + `", "client_secret": "` + secret + `"}`, []string{"Content-Type", "application/json"}},
		{"grant_type=client_credentials", []string{"Authorization", basicAuthorization(id, secret)}},
		{strings.Repeat("a", 1<<20) + form, []string{"Expect", "100-continue"}}, // more than is read of a body that nobody wants
	} {
		a := send(t, http.MethodPost, "http://"+addr+"/oauth/token", sdk.body, sdk.header...)
		a.wantStatus(t, http.StatusOK)
		answers.WriteString(wholeAnswer(a))

		a = get(t, "http://"+addr+"/orders", "Authorization", "Bearer "+stubToken)
		if echo := echoOf(t, a); echo.Client != tokens.ClientID {
			t.Errorf("the API saw %+v", echo)
		}
		answers.WriteString(wholeAnswer(a))
	}
	wantCalls(t, tokens.TokenEndpoint, 1)
	if n := len(api.received()); n != 4 {
		t.Errorf("the API got %d requests, want 4", n)
	}
	if err := caddy.Stop(); err != nil { // now all is logged
		t.Fatal(err)
	}
	logs := server.logs()
	if strings.Count(logs, `"uri":"/oauth/token"`) == 0 || !strings.Contains(logs, `"level":"debug"`) {
		t.Error("the log has no access log, or nothing at debug level: it proves nothing")
	}
	for what, text := range map[string]string{"the SDK's id": id, "its secret": secret, "its Basic credentials": basicAuthorization(id, secret)} {
		wantNowhere(t, what, text, map[string]string{"the log": logs, "requests": got.String(), "answers": answers.String()})
	}
	wantNowhere(t, "the placeholder", stubToken, map[string]string{"the log": logs, "requests": got.String()})
}

func basicAuthorization(id, secret string) string {
	r := http.Request{Header: make(http.Header)}
	r.SetBasicAuth(id, secret)
	return r.Header.Get("Authorization")
}

// lockedBuffer collects requests.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// dump keeps all that there is of a request, which can be read again.
func (l *lockedBuffer) dump(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.WriteString(r.Method + " " + r.RequestURI + " " + r.Host + "\n")
	_ = r.Header.Write(&l.b)
	_ = r.Trailer.Write(&l.b)
	l.b.Write(body)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
