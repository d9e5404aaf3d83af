package oauth

import (
	"encoding/base64"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// applied returns a token request after Apply.
func applied(a ClientAuth, id string, proof Proof) TokenRequest {
	r := TokenRequest{URL: "https://login.example/token", Params: url.Values{"grant_type": {"client_credentials"}}, Header: make(http.Header)}
	a.Apply(&r, id, proof)
	return r
}

// A request has exactly the parameters and header fields that its method specifies (RFC 6749 section 2.3, RFC 7521
// section 4.2, RFC 8705 section 2).
func TestClientAuth(t *testing.T) {
	const assertionType = "urn:example:type"
	proof := Proof{Secret: oddSecret, Assertion: "a.b.c"}
	assertion := url.Values{"client_id": {oddID}, "client_assertion_type": {assertionType}, "client_assertion": {"a.b.c"}}
	for method, tc := range map[string]struct {
		params        url.Values
		authorization string
	}{
		ClientSecretBasic:       {url.Values{}, "Basic " + base64.StdEncoding.EncodeToString([]byte("a%3Ab+c:p%25%26%2B%C3%BC+%2F~%2A"))},
		ClientSecretPost:        {url.Values{"client_id": {oddID}, "client_secret": {oddSecret}}, ""},
		ClientSecretJWT:         {assertion, ""},
		PrivateKeyJWT:           {assertion, ""},
		TLSClientAuth:           {url.Values{"client_id": {oddID}}, ""},
		SelfSignedTLSClientAuth: {url.Values{"client_id": {oddID}}, ""},
		NoClientAuth:            {url.Values{"client_id": {oddID}}, ""},
	} {
		for _, idParam := range []string{"client_id", "app key", ""} {
			r := applied(ClientAuth{Method: method, IDParam: idParam, SecretParam: "client_secret", AssertionType: assertionType}, oddID, proof)
			want := maps.Clone(tc.params)
			want.Set("grant_type", "client_credentials")
			if id := want["client_id"]; id != nil {
				want.Del("client_id")
				if idParam != "" {
					want[idParam] = id
				}
			}
			if !maps.EqualFunc(r.Params, want, slices.Equal) {
				t.Errorf("%s, id as %q: got params %v, want %v", method, idParam, r.Params, want)
			}
			header := make(http.Header)
			if tc.authorization != "" {
				header.Set("Authorization", tc.authorization)
			}
			if !maps.EqualFunc(r.Header, header, slices.Equal) {
				t.Errorf("%s, id as %q: got header %v, want %v", method, idParam, r.Header, header)
			}
		}
	}
}

func TestClientAuthSecretParam(t *testing.T) {
	r := applied(ClientAuth{Method: ClientSecretPost, IDParam: "appId", SecretParam: "appSecret"}, "id", Proof{Secret: "s"})
	want := url.Values{"grant_type": {"client_credentials"}, "appId": {"id"}, "appSecret": {"s"}}
	if !maps.EqualFunc(r.Params, want, slices.Equal) {
		t.Errorf("got %v, want %v", r.Params, want)
	}
}

// Id and secret are form-encoded, then base64-encoded (RFC 6749 section 2.3.1). With RawBasic, they are only
// base64-encoded.
func TestClientAuthBasic(t *testing.T) {
	for _, tc := range []struct{ id, secret, form string }{
		{oddID, oddSecret, "a%3Ab+c:p%25%26%2B%C3%BC+%2F~%2A"},
		{"id", "secret", "id:secret"},
		{"", "", ":"},
		{"id", "", "id:"},
		{"a:b", "c:d", "a%3Ab:c%3Ad"},
		{"a b", "c+d", "a+b:c%2Bd"},
		{"-_.~", "0Az", "-_.~:0Az"},
		{"ü", "😀\x00\n", "%C3%BC:%F0%9F%98%80%00%0A"},
	} {
		for raw, want := range map[bool]string{false: tc.form, true: tc.id + ":" + tc.secret} {
			r := applied(ClientAuth{Method: ClientSecretBasic, RawBasic: raw}, tc.id, Proof{Secret: tc.secret})
			encoded, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
			got, err := base64.StdEncoding.DecodeString(encoded) // with padding, RFC 7617 section 2
			if !ok || err != nil || string(got) != want {
				t.Errorf("%q, %q, raw %v: got %q, %v, want %q", tc.id, tc.secret, raw, got, err, want)
			}
			if len(r.Header["Authorization"]) != 1 {
				t.Errorf("got %v", r.Header)
			}
		}
	}
}

// A server that follows the specification decodes the configured id and secret, with any characters.
func TestClientAuthRoundTrip(t *testing.T) {
	for _, value := range append([]string{"x:y", ":", "plain"}, awkward...) {
		for _, method := range []string{ClientSecretBasic, ClientSecretPost} {
			var id, secret string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if user, password, ok := r.BasicAuth(); ok {
					id, _ = url.QueryUnescape(user)
					secret, _ = url.QueryUnescape(password)
					return
				}
				id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
			}))
			r := applied(ClientAuth{Method: method, IDParam: "client_id", SecretParam: "client_secret"}, value, Proof{Secret: "s" + value})
			r.URL = srv.URL
			req, err := r.Build(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := NewClient(Options{}).Do(req); err != nil {
				t.Error(err)
			}
			srv.Close()
			if id != value || secret != "s"+value {
				t.Errorf("%s: sent %q, and %q and %q arrived", method, value, id, secret)
			}
		}
	}
}
