package oauth

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"testing"
)

// The id and the secret that pitfalls section 4 has the exact encoding of.
const (
	oddID     = "a:b c"
	oddSecret = "p%&+ü /~*"
)

func TestFormRequest(t *testing.T) {
	req, err := NewFormRequest(t.Context(), "https://login.example/token?tenant=a%20b", url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {oddID},
		"client_secret": {oddSecret},
		"resource":      {"https://b.example", "https://a.example"}, // RFC 8707 section 2: may stand more than once
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

// Whatever a value holds, one form parameter with this value arrives, and no other (EP-06).
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

// Whatever a value holds, JSON carries it as one string (OPT-08).
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

// awkward are secrets that a careless encoding would change.
var awkward = []string{
	oddSecret, `s+e%25 c:=&/<>"\`, `{"a":1}`, `","scope":"admin`, "&scope=admin", "p{a}ss", `\u0041`, "%41", "=", "100%",
	"ключ", "😀", "\u2028\u2029", "a;b", "a#b?c", "'--",
}

func TestJSONRequestThatCannotBeMade(t *testing.T) {
	if req, err := NewJSONRequest(t.Context(), "https://login.example/", func() {}); err == nil {
		t.Errorf("got %v for a body that JSON has no form for", req)
	}
	if req, err := NewJSONRequest(t.Context(), "https://login.example/\x00", 1); err == nil {
		t.Errorf("got %v for a URL that is none", req)
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

// requestBody returns the body, which must have a length: not every endpoint takes chunks.
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
