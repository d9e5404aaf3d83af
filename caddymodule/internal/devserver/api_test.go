package devserver

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func apiRequest(method, target, token string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = "[::1]:50000"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func TestAPIEcho(t *testing.T) {
	tokens := NewRegistry()
	token := tokens.Issue("shop", time.Hour)
	srv := httptest.NewServer(&API{Registry: tokens})
	defer srv.Close()
	// The struct hides the length, so that the body is chunked.
	body := struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 300_000))}
	r, err := http.NewRequest(http.MethodPut, srv.URL+"/v1/things?b=1&a=%20", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "api.example.com"
	r.Trailer = http.Header{"X-Sum": {"1"}}
	for name, value := range map[string]string{
		"Authorization": "bearer " + token.Value, "User-Agent": "tester", "X-Request-Source": "legacy-shop",
		"Content-Type": "text/plain", "Cookie": "session=1",
	} {
		r.Header.Set(name, value)
	}
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	if strings.Contains(string(raw), token.Value) || strings.Contains(string(raw), "session") {
		t.Error("the answer shows a credential")
	}
	want := Echo{
		Method: "PUT", Path: "/v1/things", Query: "b=1&a=%20", Token: Fingerprint(token.Value), Client: "shop",
		BodyBytes:    300_000,
		HeaderNames:  []string{"Accept-Encoding", "Authorization", "Content-Type", "Cookie", "User-Agent", "X-Request-Source"},
		TrailerNames: []string{"X-Sum"},
		Host:         "api.example.com", UserAgent: "tester", XRequestSource: "legacy-shop", ContentType: "text/plain",
	}
	if got := decode[Echo](t, strings.NewReader(string(raw))); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if resp.Header.Get(HeaderName) != HeaderValue || resp.Header.Get("Content-Type") != typeJSON {
		t.Errorf("got header %v", resp.Header)
	}
	head, err := http.NewRequest(http.MethodHead, srv.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	head.Header.Set("Authorization", "Bearer "+token.Value)
	resp, err = srv.Client().Do(head)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, _ := io.Copy(io.Discard, resp.Body); n != 0 || resp.StatusCode != http.StatusOK {
		t.Errorf("HEAD got %d with %d bytes", resp.StatusCode, n)
	}
}

func TestFingerprint(t *testing.T) {
	if a := Fingerprint("a"); len(a) != 8 || a != Fingerprint("a") || a == Fingerprint("b") {
		t.Errorf("got %q", a)
	}
}

func TestAPICredential(t *testing.T) {
	tokens := NewRegistry()
	live := tokens.Issue("c", time.Hour).Value
	tests := []struct {
		name   string
		api    *API
		header []string // name, value, …
		target string
		want   int
	}{
		{"good", &API{}, []string{"Authorization", "Bearer " + live}, "/", 200},
		{"scheme in lower case", &API{}, []string{"Authorization", "bearer " + live}, "/", 200},
		{"none", &API{}, nil, "/", 401},
		{"scheme alone", &API{}, []string{"Authorization", "Bearer "}, "/", 401},
		{"other scheme", &API{}, []string{"Authorization", "Token " + live}, "/", 401},
		{"colon after the scheme", &API{}, []string{"Authorization", "Bearer: " + live}, "/", 401},
		{"unknown", &API{}, []string{"Authorization", "Bearer x"}, "/", 401},
		{"two", &API{}, []string{"Authorization", "Bearer " + live, "Authorization", "Bearer " + live}, "/", 400},
		{"access_token in the query", &API{}, []string{"Authorization", "Bearer " + live}, "/?access_token=x", 400},
		{"bearer_token in the query", &API{}, nil, "/?bearer_token=" + live, 400},
		{"own name in the query", &API{}, []string{"Authorization", "Bearer " + live}, "/?t=" + live, 400},
		{"in the path", &API{}, []string{"Authorization", "Bearer " + live}, "/" + live, 400},
		{"own header", &API{Header: "X-Token"}, []string{"X-Token", "Bearer " + live}, "/", 200},
		{"own header, wrong one", &API{Header: "X-Token"}, []string{"Authorization", "Bearer " + live}, "/", 401},
		{"own prefix", &API{Prefix: new("Token ")}, []string{"Authorization", "token " + live}, "/", 200},
		{"own prefix, wrong one", &API{Prefix: new("Token ")}, []string{"Authorization", "Bearer " + live}, "/", 401},
		{"no prefix", &API{Header: "X-Token", Prefix: new("")}, []string{"X-Token", live}, "/", 200},
		{"reject", &API{Reject: 403}, []string{"Authorization", "Bearer " + live}, "/", 403},
		{"unknown token with reject", &API{Reject: 403}, nil, "/", 401},
		{"reject with 401", &API{Reject: 401}, []string{"Authorization", "Bearer " + live}, "/", 401},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tc.api.Registry = tokens
			r := apiRequest(http.MethodGet, tc.target, "")
			for i := 0; i < len(tc.header); i += 2 {
				r.Header.Add(tc.header[i], tc.header[i+1])
			}
			w := serve(tc.api, r)
			if w.Code != tc.want || strings.Contains(w.Body.String(), live) {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, tc.want)
			}
			unauthorized := 0
			if tc.want == 401 {
				unauthorized = 1
			}
			if tc.api.Calls() != 1 || tc.api.Unauthorized() != unauthorized {
				t.Errorf("got %d calls, %d unauthorized", tc.api.Calls(), tc.api.Unauthorized())
			}
		})
	}
}

// As in Doorkeeper, the body is empty and calls itself HTML, and the reason is in the header.
func TestAPIReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := NewRegistry()
		api := &API{Registry: tokens}
		expired, revoked := tokens.Issue("c", time.Minute), tokens.Issue("c", time.Hour)
		tokens.Revoke(revoked.Value)
		advance(2 * time.Minute)
		for _, tc := range []struct{ token, reason string }{
			{"", "The access token is invalid"},
			{"x", "The access token is invalid"},
			{expired.Value, "The access token expired"},
			{revoked.Value, "The access token was revoked"},
		} {
			w := serve(api, apiRequest(http.MethodGet, "/", tc.token))
			want := `Bearer realm="Doorkeeper", error="invalid_token", error_description="` + tc.reason + `"`
			if got := w.Header().Get("WWW-Authenticate"); got != want || w.Code != 401 {
				t.Errorf("got %d %s, want %s", w.Code, got, want)
			}
			if w.Body.Len() != 0 || w.Header().Get("Content-Type") != typeHTML {
				t.Errorf("got %q as %s", w.Body, w.Header().Get("Content-Type"))
			}
		}
		if api.Calls() != 4 || api.Unauthorized() != 4 || api.SeenExpired() != 2 {
			t.Errorf("got %d calls, %d unauthorized, %d expired", api.Calls(), api.Unauthorized(), api.SeenExpired())
		}
	})
}

func TestAPIBrokenBody(t *testing.T) {
	tokens := NewRegistry()
	r := apiRequest(http.MethodPost, "/", tokens.Issue("c", time.Hour).Value)
	r.Body = io.NopCloser(iotest.ErrReader(errors.New("gone")))
	if w := serve(&API{Registry: tokens}, r); w.Code != http.StatusBadRequest {
		t.Errorf("got status %d", w.Code)
	}
}

func TestAPIValidate(t *testing.T) {
	for _, tc := range []struct {
		api  *API
		want string
	}{
		{&API{}, ""},
		{&API{Reject: 399}, "reject 399: must be 400 to 599"},
		{&API{Reject: 600}, "reject 600: must be 400 to 599"},
		{&API{DPoP: DPoP{Mode: "on"}}, `dpop "on": must be`},
		{&API{DPoP: DPoP{Nonce: true}}, "dpop: nonce needs"},
		{&API{DPoP: DPoP{Mode: dpopRequired}, Header: "X-Token"}, "dpop: the token is in Authorization"},
		{&API{DPoP: DPoP{Mode: dpopOptional}, Prefix: new("Token ")}, "dpop: the token is in Authorization"},
		{&API{DPoP: DPoP{Mode: dpopOff}, Header: "X-Token"}, ""},
		{&API{ClaimsChallenge: json.RawMessage(`{"a":1}`)}, ""},
		{&API{ClaimsChallenge: json.RawMessage(`[]`)}, "claims_challenge: must be"},
		{&API{ClaimsChallenge: json.RawMessage(`{`)}, "claims_challenge: must be"},
	} {
		checkError(t, tc.api.Validate(), tc.want)
	}
}
