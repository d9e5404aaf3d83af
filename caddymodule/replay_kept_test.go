package caddymodule

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
)

// A request with a rejected token was made with the values of that token. It must not cost the next token, whose values are
// others.
func TestKeptValuesChange(t *testing.T) {
	var moved atomic.Bool
	answer := func(number int, current func() bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !current() || credentialOf(r) != fmt.Sprintf("Bearer token-%d", number) || r.Header.Get("X-Instance") != fmt.Sprint(number) {
				w.Header().Set("WWW-Authenticate", invalidToken)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}
	}
	before := newRecordingAPI(t, answer(1, func() bool { return !moved.Load() }))
	after := newRecordingAPI(t, answer(2, moved.Load))
	var calls atomic.Int64
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call, url := calls.Add(1), before.URL
		if moved.Load() {
			url = after.URL
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":3600,"instance_url":%q,"instance":"%d"}`, call, url, call)
	}))
	_, url := startProxy(t, oauth2Credential("api", "token_url "+endpoint.URL+"\n response {\n keep instance_url instance_url\n keep instance instance\n }",
		withSecret, "api_hosts "+before.addr()+" "+after.addr()),
		"token_proxy api {http.token_proxy.instance_url.hostport} {\n header_up X-Instance {http.token_proxy.instance}\n}")
	get(t, url).wantStatus(t, 200)
	moved.Store(true)
	if a := get(t, url); a.StatusCode != 401 {
		t.Errorf("got %d", a.StatusCode)
	}
	get(t, url).wantStatus(t, 200)
	if b, a, n := len(before.received()), len(after.received()), calls.Load(); b != 2 || a != 1 || n != 2 {
		t.Errorf("the APIs got %d and %d requests after %d token calls, want 2, 1 and 2", b, a, n)
	}
}
