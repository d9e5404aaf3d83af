package oauth

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"testing"
)

// An id and a secret with characters that an encoding must treat specially. The tests have their encoded forms as constants.
const (
	oddID     = "a:b c"
	oddSecret = "p%&+ü /~*"
)

func TestFormRequest(t *testing.T) {
	req, err := NewFormRequest(t.Context(), "https://login.example/token?tenant=a%20b", url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {oddID},
		"client_secret": {oddSecret},
		"resource":      {"https://b.example", "https://a.example"}, // may occur more than once (RFC 8707 section 2)
	})
	if err != nil {
		t.Fatal(err)
	}
	checkRequest(t, req, "application/x-www-form-urlencoded")
	if got := req.URL.String(); got != "https://login.example/token?tenant=a%20b" {
		t.Errorf("the URL became %s", got)
	}
	const want = "client_id=a%3Ab+c&client_secret=p%25%26%2B%C3%BC+%2F~%2A&grant_type=client_credentials" +
		"&resource=https%3A%2F%2Fb.example&resource=https%3A%2F%2Fa.example"
	if got := string(requestBody(t, req)); got != want {
		t.Errorf("got the form\n%s, want\n%s", got, want)
	}
}

// Every value arrives unchanged in its form parameter and adds no other parameter.
func TestFormRequestKeepsValues(t *testing.T) {
	for _, value := range awkward {
		req, err := NewFormRequest(t.Context(), "https://login.example/", url.Values{"client_id": {"id"}, "client_secret": {value}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := url.ParseQuery(string(requestBody(t, req)))
		if err != nil || len(got) != 2 || len(got["client_secret"]) != 1 || got.Get("client_secret") != value {
			t.Errorf("%q: got %q, %v", value, got, err)
		}
	}
}

// Every value arrives unchanged as one JSON string.
func TestJSONRequestKeepsValues(t *testing.T) {
	for _, value := range awkward {
		req, err := NewJSONRequest(t.Context(), "https://login.example/", map[string]string{"client_id": "id", "client_secret": value})
		if err != nil {
			t.Fatal(err)
		}
		checkRequest(t, req, "application/json")
		var got map[string]string
		if err := json.Unmarshal(requestBody(t, req), &got); err != nil {
			t.Errorf("%q: %v", value, err)
		}
		if !maps.Equal(got, map[string]string{"client_id": "id", "client_secret": value}) {
			t.Errorf("%q: got %q", value, got)
		}
	}
}

// awkward contains secrets that a careless encoding would change.
var awkward = []string{
	oddSecret, `s+e%25 c:=&/<>"\`, `{"a":1}`, `","scope":"admin`, "&scope=admin", "p{a}ss", `\u0041`, "%41", "=", "100%",
	"ключ", "😀", "\u2028\u2029", "a;b", "a#b?c", "'--",
}

func TestJSONRequestThatCannotBeMade(t *testing.T) {
	if req, err := NewJSONRequest(t.Context(), "https://login.example/", func() {}); err == nil {
		t.Errorf("got %v for a body that JSON cannot encode", req)
	}
	if req, err := NewJSONRequest(t.Context(), "https://login.example/\x00", 1); err == nil {
		t.Errorf("got %v for an invalid URL", req)
	}
}

func build(t *testing.T, r TokenRequest) *http.Request {
	t.Helper()
	req, err := r.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestTokenRequestForm(t *testing.T) {
	for _, r := range []TokenRequest{
		{},
		{Encoding: Form},
		{Encoding: Form, Method: http.MethodPost},
		{Method: http.MethodGet}, // only for the encoding query, because RFC 6749 section 3.2 has no GET
	} {
		r.URL = "https://login.example/token?tenant=a%20b"
		r.Params = url.Values{"scope": {"a b"}, "resource": {"https://b.example", "https://a.example"}, "empty": {""}, "none": nil}
		req := build(t, r)
		checkRequest(t, req, "application/x-www-form-urlencoded")
		if got := req.URL.String(); got != r.URL {
			t.Errorf("the URL became %s", got)
		}
		const want = "empty=&resource=https%3A%2F%2Fb.example&resource=https%3A%2F%2Fa.example&scope=a+b"
		if got := string(requestBody(t, req)); got != want {
			t.Errorf("got the form\n%s, want\n%s", got, want)
		}
	}
}

func TestTokenRequestJSON(t *testing.T) {
	req := build(t, TokenRequest{
		URL:      "https://login.example/token?tenant=a%20b",
		Encoding: JSON,
		Method:   http.MethodGet, // has no effect
		Params:   url.Values{"scope": {"a b"}, "resource": {"https://b.example", "https://a.example"}, "empty": {""}, "expires": {"60"}},
		JSONParams: map[string]json.RawMessage{
			"expires": json.RawMessage("60"), "nested": json.RawMessage(`{"a":[1,null,true]}`), "large": json.RawMessage("12345678901234567890"),
		},
	})
	checkRequest(t, req, "application/json")
	if got := req.URL.String(); got != "https://login.example/token?tenant=a%20b" {
		t.Errorf("the URL became %s", got)
	}
	const want = `{"empty":"","expires":60,"large":12345678901234567890,"nested":{"a":[1,null,true]},` +
		`"resource":["https://b.example","https://a.example"],"scope":"a b"}`
	if got := string(requestBody(t, req)); got != want {
		t.Errorf("got the JSON\n%s, want\n%s", got, want)
	}
	if got := string(requestBody(t, build(t, TokenRequest{URL: "https://login.example", Encoding: JSON}))); got != "{}" {
		t.Errorf("a request without parameters is %s", got)
	}
}

// Build adds the parameters to the query of the URL. They replace parameters of the same name, because RFC 6749 section 3.1
// permits each parameter only once.
func TestTokenRequestQuery(t *testing.T) {
	for method, want := range map[string]string{"": http.MethodPost, http.MethodPost: http.MethodPost, http.MethodGet: http.MethodGet} {
		req := build(t, TokenRequest{
			URL:      "https://login.example/token?tenant=a%20b&grant_type=old&grant_type=older",
			Encoding: Query,
			Method:   method,
			Params:   url.Values{"grant_type": {"client_credentials"}, "client_secret": {oddSecret}, "resource": {"b", "a"}, "empty": {""}},
		})
		if req.Method != want {
			t.Errorf("got method %s, want %s", req.Method, want)
		}
		const query = "client_secret=p%25%26%2B%C3%BC+%2F~%2A&empty=&grant_type=client_credentials&resource=b&resource=a&tenant=a+b"
		if req.URL.RawQuery != query || req.URL.Path != "/token" || req.URL.Host != "login.example" {
			t.Errorf("got URL\n%s, want query\n%s", req.URL, query)
		}
		if req.Body != nil || req.ContentLength != 0 || req.Header["Content-Type"] != nil {
			t.Errorf("the request has a body of %d bytes, type %q", req.ContentLength, req.Header["Content-Type"])
		}
	}
}

// Header fields of the configuration replace those that every token request has.
func TestTokenRequestHeader(t *testing.T) {
	for _, encoding := range []Encoding{Form, JSON, Query} {
		plain := build(t, TokenRequest{URL: "https://login.example", Encoding: encoding}).Header
		custom := http.Header{"Accept": {"application/vnd.x+json"}, "User-Agent": {"x/1"}, "X-Multi": {"a", "b"}}
		req := build(t, TokenRequest{URL: "https://login.example", Encoding: encoding, Header: custom})
		want := plain.Clone()
		maps.Copy(want, custom)
		if !maps.EqualFunc(req.Header, want, slices.Equal) {
			t.Errorf("%s: got header %v, want %v", encoding, req.Header, want)
		}
		if plain.Get("Accept") != "application/json" || plain.Get("User-Agent") != "caddy-token-proxy" {
			t.Errorf("%s: got header %v", encoding, plain)
		}
	}
}

// A server decodes every request to the parameters that went into it.
func TestTokenRequestArrives(t *testing.T) {
	for _, value := range awkward {
		params := url.Values{"client_id": {"id"}, "client_secret": {value}}
		for _, r := range []TokenRequest{{}, {Encoding: JSON}, {Encoding: Query}, {Encoding: Query, Method: http.MethodGet}} {
			var got url.Values
			var method string
			srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				method = req.Method
				body, _ := io.ReadAll(req.Body)
				object := make(map[string]string)
				if json.Unmarshal(body, &object) == nil {
					got = url.Values{"client_id": {object["client_id"]}, "client_secret": {object["client_secret"]}}
					return
				}
				req.Body = io.NopCloser(bytes.NewReader(body))
				_ = req.ParseForm()
				got = req.Form
			}))
			r.URL, r.Params = srv.URL, params
			if _, err := NewClient(Options{}).Do(build(t, r)); err != nil {
				t.Error(err)
			}
			srv.Close()
			if !reflect.DeepEqual(got, params) || r.Method != "" && method != r.Method {
				t.Errorf("%s %s %q: %q arrived with %s", r.Encoding, r.Method, value, got, method)
			}
		}
	}
}

func TestTokenRequestThatCannotBeMade(t *testing.T) {
	for name, r := range map[string]TokenRequest{
		"an invalid URL":            {URL: "https://login.example/\x00"},
		"an invalid URL, in JSON":   {URL: "https://login.example/\x00", Encoding: JSON},
		"an invalid URL, for query": {URL: "https://login.example/\x00", Encoding: Query},
		"invalid JSON":              {URL: "https://login.example/", Encoding: JSON, JSONParams: map[string]json.RawMessage{"a": json.RawMessage("{")}},
		"an invalid method":         {URL: "https://login.example/", Encoding: Query, Method: "GET /"},
	} {
		if req, err := r.Build(t.Context()); err == nil {
			t.Errorf("%s: got %v", name, req)
		}
	}
}

func checkRequest(t *testing.T, req *http.Request, contentType string) {
	t.Helper()
	if req.Method != http.MethodPost { // RFC 6749 section 3.2
		t.Errorf("got method %s", req.Method)
	}
	want := http.Header{
		"Content-Type": {contentType},
		"Accept":       {"application/json"},
		"User-Agent":   {"caddy-token-proxy"},
	}
	if !maps.EqualFunc(req.Header, want, slices.Equal) {
		t.Errorf("got header %v, want %v", req.Header, want)
	}
}

// requestBody returns the body. The body must have a length, because some token endpoints do not accept chunks.
func requestBody(t *testing.T, req *http.Request) []byte {
	t.Helper()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	if req.ContentLength != int64(len(body)) {
		t.Errorf("the body has %d bytes, and Content-Length %d", len(body), req.ContentLength)
	}
	return body
}
