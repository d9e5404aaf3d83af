package devserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// basicForm returns a request with the client authentication of the zero Demands.
func basicForm(body string) *http.Request {
	r := post("/token", formType, body)
	r.SetBasicAuth(DefaultClientID, DefaultClientSecret)
	return r
}

func oauth2Endpoint(d Demands) *TokenEndpoint {
	return &TokenEndpoint{Dialect: OAuth2, Demands: d, Registry: NewRegistry()}
}

// judgement returns "" if a request gets a token. Otherwise it returns the status, the code and the reason.
func judgement(t *testing.T, e *TokenEndpoint, r *http.Request) string {
	t.Helper()
	w := serve(e, r)
	reason := w.Header().Get(RefusalHeader)
	if w.Code == http.StatusOK && reason == "" {
		if token := decode[tokenBody](t, w.Body).AccessToken; token != "" {
			return ""
		}
		return "200 without a token"
	}
	return fmt.Sprintf("%d %s: %s", w.Code, decode[map[string]string](t, w.Body)["error"], reason)
}

// checkJudgement checks that the judgement starts with want. With an empty want the request must get a token.
func checkJudgement(t *testing.T, e *TokenEndpoint, r *http.Request, want string) {
	t.Helper()
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	got := judgement(t, e, r)
	if want == "" && got != "" || !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOAuth2Requests(t *testing.T) {
	const grant = "grant_type=client_credentials"
	form := func(body string) func() *http.Request { return func() *http.Request { return basicForm(body) } }
	query := func(method, query string) func() *http.Request {
		return func() *http.Request {
			r := httptest.NewRequest(method, "/token?"+query, nil)
			r.RemoteAddr = "127.0.0.1:1"
			r.SetBasicAuth(DefaultClientID, DefaultClientSecret)
			return r
		}
	}
	body := func(kind, body string) func() *http.Request {
		return func() *http.Request {
			r := basicForm(body)
			r.Header.Set("Content-Type", kind)
			return r
		}
	}
	header := func(name string, values ...string) func() *http.Request {
		return func() *http.Request {
			r := basicForm(grant)
			r.Header[name] = values
			return r
		}
	}
	var (
		scope    = Demands{Scope: "a b"}
		resource = Demands{Params: []Field{{"resource", new("a")}, {"resource", new("b")}}}
		blank    = Demands{Params: []Field{{"x", new("")}}}
		anyValue = Demands{Params: []Field{{"x", nil}}}
		inJSON   = Demands{Encoding: "json", JSONParams: []JSONField{{"n", json.RawMessage(`{"a":[1,null]}`)}}, Params: []Field{{"s", new("1")}}}
		textJSON = Demands{Encoding: "json", JSONParams: []JSONField{{"n", json.RawMessage(`"1"`)}}}
		inQuery  = Demands{Encoding: "query"}
		get      = Demands{Method: "GET"}
		headers  = Demands{Headers: []Field{{"X-Api", new("1")}, {"X-Any", nil}}}
	)
	tests := []struct {
		name    string
		demands Demands
		request func() *http.Request
		want    string
	}{
		{"plain", Demands{}, form(grant), ""},
		{"charset", Demands{}, body(formType+"; charset=utf-8", grant), ""},
		{"method", Demands{}, query("GET", grant), "405 invalid_request: the method must be POST"},
		{"content type", Demands{}, body(typeJSON, `{"grant_type":"client_credentials"}`), "415 invalid_request: the content type"},
		{"no content type", Demands{}, body("", grant), "415 invalid_request"},
		{"query", Demands{}, query("POST", grant), "415 invalid_request"},
		{"broken form", Demands{}, form("grant_type=%zz"), "400 invalid_request: the parameters are not form-encoded"},
		{"no grant", Demands{}, form(""), "400 invalid_request: grant_type is missing"},
		{"other grant", Demands{}, form("grant_type=password"), "400 unsupported_grant_type"},
		{"two grants", Demands{}, form(grant + "&" + grant), "400 invalid_request: grant_type is repeated"},
		{"own grant", Demands{Grant: new("account_credentials")}, form("grant_type=account_credentials"), ""},
		{"without grant", Demands{Grant: new("")}, form(""), ""},
		{"surplus grant", Demands{Grant: new("")}, form(grant), "400 invalid_request: the parameter grant_type is not described"},

		{"scope", scope, form(grant + "&scope=a+b"), ""},
		{"other scope", scope, form(grant + "&scope=b+a"), "400 invalid_scope"},
		{"comma scope", scope, form(grant + "&scope=a,b"), "400 invalid_scope"},
		{"no scope", scope, form(grant), "400 invalid_scope"},
		{"two scopes", scope, form(grant + "&scope=a+b&scope=a+b"), "400 invalid_request: scope is repeated"},
		{"surplus scope", Demands{}, form(grant + "&scope=a"), "400 invalid_request: the parameter scope is not described"},

		{"repeated", resource, form(grant + "&resource=a&resource=b"), ""},
		{"other order", resource, form(grant + "&resource=b&resource=a"), "400 invalid_request: the parameter resource has the wrong value"},
		{"once", resource, form(grant + "&resource=a"), "400 invalid_request: the parameter resource occurs 1 times, not 2"},
		{"thrice", resource, form(grant + "&resource=a&resource=b&resource=b"), "400 invalid_request: the parameter resource occurs 3 times"},
		{"empty", blank, form(grant + "&x="), ""},
		{"not empty", blank, form(grant + "&x=1"), "400 invalid_request"},
		{"absent", blank, form(grant), "400 invalid_request"},
		{"any value", anyValue, form(grant + "&x=7"), ""},
		{"any absent", anyValue, form(grant), "400 invalid_request"},
		{"undescribed", Demands{}, form(grant + "&x=1"), "400 invalid_request: the parameter x is not described"},
		{"client id", Demands{}, form(grant + "&client_id=dev-client"), "400 invalid_request: the parameter client_id is not described"},
		{"unusual name", Demands{}, form(grant + `&{"secret":"CANARY"}=`), "400 invalid_request: a parameter with an unusual name is not described"},
		{"form with query", Demands{}, func() *http.Request {
			r := basicForm(grant)
			r.URL.RawQuery = "x=1"
			return r
		}, "400 invalid_request: the URL has a query"},

		{"json", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":{"a":[1.0,null]},"s":"1"}`), ""},
		{"json charset", inJSON, body(typeJSONUTF8, `{"grant_type":"client_credentials","n":{"a":[1,null]},"s":"1"}`), ""},
		{"json as form", inJSON, form(grant + "&s=1"), "415 invalid_request"},
		{"json text for a number", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":"x","s":"1"}`), "400 invalid_request: the member n"},
		{"json number for a text", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":{"a":[1,null]},"s":1}`), "400 invalid_request: the parameter s occurs 0 times"},
		{"json other", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":{"a":[2,null]},"s":"1"}`), "400 invalid_request: the member n"},
		{"json null", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":null,"s":"1"}`), "400 invalid_request: the member n"},
		{"json surplus", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":{"a":[1,null]},"s":"1","z":null}`), "400 invalid_request: the parameter z is not described"},
		{"json repeated", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":{"a":[1,null]},"s":"1","s":"1"}`), "400 invalid_request: the body is not"},
		{"json repeated member", inJSON, body(typeJSON, `{"grant_type":"client_credentials","n":1,"n":{"a":[1,null]},"s":"1"}`), "400 invalid_request: the body is not"},
		{"json twice", inJSON, body(typeJSON, `{"grant_type":"client_credentials","s":"1","n":{"a":[1,null]}}{}`), "400 invalid_request: the body is not"},
		{"json list", inJSON, body(typeJSON, `["grant_type"]`), "400 invalid_request: the body is not"},
		{"json cut", inJSON, body(typeJSON, `{"grant_type":"client_credentials"`), "400 invalid_request: the body is not"},
		{"json grant number", inJSON, body(typeJSON, `{"grant_type":1}`), "400 invalid_request: grant_type is missing"},
		{"json text", textJSON, body(typeJSON, `{"grant_type":"client_credentials","n":"1"}`), ""},
		{"json no text", textJSON, body(typeJSON, `{"grant_type":"client_credentials","n":1}`), "400 invalid_request: the member n"},

		{"in query", inQuery, query("POST", grant), ""},
		{"in body", inQuery, form(grant), "400 invalid_request: the request has a body"},
		{"broken query", inQuery, query("POST", "a=%zz"), "400 invalid_request"},
		{"get", get, query("GET", grant), ""},
		{"post for get", get, query("POST", grant), "405 invalid_request: the method must be GET"},

		{"headers", headers, func() *http.Request {
			r := header("X-Api", "1")()
			r.Header.Set("X-Any", "x")
			return r
		}, ""},
		{"header missing", headers, header("X-Api", "1"), "400 invalid_request: the header field X-Any occurs 0 times"},
		{"header other", headers, header("X-Api", "2"), "400 invalid_request: the header field X-Api has the wrong value"},
		{"header twice", headers, header("X-Api", "1", "1"), "400 invalid_request: the header field X-Api occurs 2 times"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			checkJudgement(t, oauth2Endpoint(tc.demands), tc.request(), tc.want)
		})
	}
}

func TestOAuth2RefusalHeaders(t *testing.T) {
	wrong := basicForm("grant_type=client_credentials")
	wrong.SetBasicAuth(DefaultClientID, "CANARY")
	w := serve(oauth2Endpoint(Demands{}), wrong)
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || !strings.HasPrefix(got, "Basic ") {
		t.Errorf("with Basic: got %d, %q", w.Code, got)
	}
	if all := fmt.Sprint(w.Header(), w.Body); strings.Contains(all, "CANARY") || strings.Contains(all, DefaultClientSecret) {
		t.Errorf("a secret is in %s", all)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control: got %q", got)
	}
	w = serve(oauth2Endpoint(Demands{}), post("/token", formType, formGood))
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || got != "" {
		t.Errorf("without Basic: got %d, %q", w.Code, got)
	}
	w = serve(oauth2Endpoint(Demands{Method: "GET"}), basicForm(""))
	if got := w.Header().Get("Allow"); w.Code != 405 || got != "GET" {
		t.Errorf("got %d, Allow %q", w.Code, got)
	}
	w = serve(oauth2Endpoint(Demands{Failure: `{"errors":[{"code":"$code"}]}`}), basicForm(""))
	if got := w.Body.String(); w.Code != 400 || got != `{"errors":[{"code":"invalid_request"}]}` {
		t.Errorf("failure: got %d %s", w.Code, got)
	}
}

func TestOAuth2Answers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock starts at 2000-01-01T00:00:00Z
		const at = 946684800
		tests := []struct{ answer, want string }{
			{"", `{"access_token":"TOKEN","token_type":"Bearer","expires_in":3600}`},
			{`"$token"`, `"TOKEN"`},
			{`{"data":{"t":"$token"},"e":"$expires_in"}`, `{"data":{"t":"TOKEN"},"e":"3600"}`},
			{`[$expires_in_ms,$expires_at,$expires_at_ms,"$expires_at_rfc3339"]`,
				fmt.Sprintf(`[3600000,%d,%d000,"2000-01-01T01:00:00Z"]`, at+3600, at+3600)},
			{`[$issued_at,"$issued_at_ms"]`, fmt.Sprintf(`[%d,"%d000"]`, at, at)},
			{`{"scope":"$scope"}`, `{"scope":"a \"b\""}`},
		}
		for _, tc := range tests {
			e := oauth2Endpoint(Demands{Answer: tc.answer, Scope: `a "b"`})
			w := serve(e, basicForm(`grant_type=client_credentials&scope=a+%22b%22`))
			token := e.Registry.order[0].Value
			if got := strings.ReplaceAll(w.Body.String(), token, "TOKEN"); w.Code != 200 || got != tc.want {
				t.Errorf("%s: got %d %s", tc.answer, w.Code, got)
			}
			if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != typeJSON {
				t.Errorf("got %v", w.Header())
			}
		}
	})
}

func TestOAuth2Modes(t *testing.T) {
	ask := func(e *TokenEndpoint) tokenBody {
		return decode[tokenBody](t, serve(e, basicForm("grant_type=client_credentials")).Body)
	}
	synctest.Test(t, func(t *testing.T) {
		e := oauth2Endpoint(Demands{})
		e.Mode, e.Lifetime = ModeReuse, time.Minute
		first := ask(e)
		advance(20 * time.Second)
		if again := ask(e); again.AccessToken != first.AccessToken || string(again.ExpiresIn) != "40" {
			t.Errorf("reuse: got %s s", again.ExpiresIn)
		}
		advance(time.Minute)
		if again := ask(e); again.AccessToken == first.AccessToken {
			t.Error("a dead token was reused")
		}
		e = oauth2Endpoint(Demands{})
		e.Mode = ModeRevokePrevious
		first = ask(e)
		ask(e)
		if _, state := e.Registry.Lookup(first.AccessToken); state != Revoked {
			t.Errorf("revoke_previous: the first is %v", state)
		}
	})
}

func TestOAuth2Faults(t *testing.T) {
	const two = `{"e":"$expires_in","access_token":"$token","n":{"expires_in": $expires_in}, "token_type":"bearer","ms":$expires_in_ms}`
	tests := []struct {
		answer     string
		fault      Fault
		wantStatus int
		want       string // with TOKEN in place of the token
	}{
		{"", Fault{Status: 503}, 503, ""},
		{"", Fault{Status: 401}, 401, `{"error":"invalid_client"}`},
		{"", Fault{Status: 400}, 400, `{"error":"invalid_request"}`},
		{"", Fault{Error: "invalid_scope"}, 400, `{"error":"invalid_scope"}`},
		{"", Fault{Error: "slow_down", Status: 429, RetryAfter: "3"}, 429, `{"error":"slow_down"}`},
		{"", Fault{Garbage: GarbageEmpty}, 200, ""},
		{"", Fault{Garbage: GarbageNoToken}, 200, `{"token_type":"Bearer","expires_in":3600}`},
		{"", Fault{Garbage: GarbageWrongType}, 200, `{"access_token":"TOKEN","token_type":"mac","expires_in":3600}`},
		{"", Fault{Garbage: GarbageControlChars}, 200, `{"access_token":"TOKEN\r\nX-Injected: 1","token_type":"Bearer","expires_in":3600}`},
		{"", Fault{ExpiresIn: "0"}, 200, `{"access_token":"TOKEN","token_type":"Bearer","expires_in":0}`},
		{"", Fault{ExpiresIn: `"$1"`}, 200, `{"access_token":"TOKEN","token_type":"Bearer","expires_in":"$1"}`},
		{"", Fault{ExpiresIn: "missing"}, 200, `{"access_token":"TOKEN","token_type":"Bearer"}`},
		{two, Fault{ExpiresIn: `"7"`}, 200, `{"e":"7","access_token":"TOKEN","n":{"expires_in": "7"}, "token_type":"bearer","ms":3600000}`},
		{two, Fault{ExpiresIn: "missing"}, 200, `{"access_token":"TOKEN","n":{}, "token_type":"bearer","ms":3600000}`},
		{two, Fault{Garbage: GarbageNoToken}, 200, `{"e":"3600","n":{"expires_in": 3600}, "token_type":"bearer","ms":3600000}`},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%+v", tc.fault), func(t *testing.T) {
			e := oauth2Endpoint(Demands{Answer: tc.answer})
			e.SetFault(tc.fault)
			w := serve(e, basicForm("grant_type=client_credentials"))
			got := w.Body.String()
			if len(e.Registry.order) > 0 {
				got = strings.ReplaceAll(got, e.Registry.order[0].Value, "TOKEN")
			}
			if w.Code != tc.wantStatus || got != tc.want {
				t.Errorf("got %d %s", w.Code, got)
			}
			if w.Header().Get("Retry-After") != tc.fault.RetryAfter {
				t.Errorf("got %v", w.Header())
			}
		})
	}
	for _, kind := range []Garbage{GarbageHuge, GarbageBomb, GarbageTruncated} {
		e := oauth2Endpoint(Demands{})
		e.SetFault(Fault{Garbage: kind})
		if w := serve(e, basicForm("grant_type=client_credentials")); w.Code != 200 || len(e.Registry.order) != 1 {
			t.Errorf("%s: got %d", kind, w.Code)
		}
		if w := serve(e, basicForm("")); w.Code != 400 {
			t.Errorf("%s made a bad request good", kind)
		}
	}
}

func TestOAuth2Metadata(t *testing.T) {
	get := func(e *TokenEndpoint, method, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr = "127.0.0.1:1"
		return serve(e, r)
	}
	e := oauth2Endpoint(Demands{Issuer: "https://as.example/t", MTLSTokenURL: "https://mtls.example/token"})
	const want = `{"grant_types_supported":["client_credentials"],"issuer":"https://as.example/t",` +
		`"mtls_endpoint_aliases":{"token_endpoint":"https://mtls.example/token"},"response_types_supported":[],` +
		`"token_endpoint":"https://as.example/t/token","token_endpoint_auth_methods_supported":["client_secret_basic"]}`
	for _, path := range []string{
		"/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server/t",
		"/t/.well-known/openid-configuration",
	} {
		if w := get(e, "GET", path); w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != typeJSON {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	if w := get(e, "POST", "/.well-known/openid-configuration"); w.Code != 404 || w.Header().Get(RefusalHeader) == "" {
		t.Errorf("POST: got %d", w.Code)
	}
	if w := get(oauth2Endpoint(Demands{}), "GET", "/.well-known/openid-configuration"); w.Code != 404 {
		t.Errorf("without issuer: got %d", w.Code)
	}
	e = oauth2Endpoint(Demands{Issuer: "https://as.example", TokenURL: "https://x.example/y", ClientAuth: "none", Grant: new("")})
	body := get(e, "GET", "/.well-known/openid-configuration").Body.String()
	if !strings.Contains(body, `"token_endpoint":"https://x.example/y"`) || strings.Contains(body, "grant_types") {
		t.Errorf("got %s", body)
	}
	e.SetFault(Fault{Status: 503})
	if w := get(e, "GET", "/.well-known/openid-configuration"); w.Code != 503 {
		t.Errorf("with a fault: got %d", w.Code)
	}
}
