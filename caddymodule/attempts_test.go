package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// renewedAPI is at an address that only the second token leads to, and accepts only what belongs to that token.
type renewedAPI struct {
	tokens *gatedTokens // the first one serves one attempt, and the second call is gated
	api    *recordingAPI
	hosts  string // for api_hosts
}

func newRenewedAPI(t *testing.T, path string) *renewedAPI {
	t.Helper()
	r := &renewedAPI{tokens: newGatedTokens(t, 2)}
	r.api = newRecordingAPI(t, func(w http.ResponseWriter, req *http.Request) {
		if got := credentialOf(req); got != "Bearer token-2" && got != "Bearer other" || req.Header.Get("X-Value") != "second" || req.URL.RequestURI() != path {
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "%s, %q, %s", got, req.Header.Get("X-Value"), req.URL)
		}
	})
	dead := freeAddr(t)
	_, port, _ := strings.Cut(r.api.addr(), ":")
	_, deadPort, _ := strings.Cut(dead, ":")
	r.hosts = "api_hosts " + dead + " " + r.api.addr()
	r.tokens.answering = func(call int64) string {
		if call == 1 {
			return fmt.Sprintf(`"expires_in":0,"instance":"http://%s","port":%q,"value":"first"`, dead, deadPort)
		}
		return fmt.Sprintf(`"expires_in":3600,"instance":"http://%s","port":%q,"value":"second"`, r.api.addr(), port)
	}
	return r
}

const keepRenewed = "response {\n keep instance instance\n keep port port\n keep value value\n }"

// While reverse_proxy tries a dead upstream, a token may expire. The very next attempt is made with the values of the next token, and
// the upstream is free while the request waits for it.
func TestAttemptHasTheValuesOfItsToken(t *testing.T) {
	for name, tc := range map[string]struct{ upstream, options, path string }{
		"upstream":         {"{http.token_proxy.instance.hostport}", "", "/a?b=c"},
		"dynamic upstream": {"", "dynamic a 127.0.0.1 {http.token_proxy.port}", "/a?b=c"},
		"rewritten":        {"{http.token_proxy.instance.hostport}", "rewrite /{http.token_proxy.value}{uri}", "/second/a?b=c"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRenewedAPI(t, tc.path)
			directive := func(credential string) string {
				return "token_proxy " + credential + " " + tc.upstream + " {\n" + tc.options +
					"\n unhealthy_request_count 1\n lb_retries 1\n header_up X-Value {http.token_proxy.value}\n}\n"
			}
			other := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":"other",%s}`, r.tokens.answering(2))
			}))
			addr := freeAddr(t)
			startCaddy(t, globalOptions(
				oauth2Credential("api", "token_url "+r.tokens.url+"\n"+keepRenewed, withSecret, r.hosts),
				oauth2Credential("other", "token_url "+other.URL+"\n"+keepRenewed, withSecret, r.hosts),
			)+siteConfig(addr, "handle_path /other/* {\n"+directive("other")+"}\n"+directive("api")))
			waiting := inBackground(t, newRequest(t, http.MethodPost, "http://"+addr+"/a?b=c", strings.NewReader("hello")))
			r.tokens.waitUntilHeld(t)
			get(t, "http://"+addr+"/other/a?b=c").wantStatus(t, 200)
			r.tokens.open()
			(<-waiting).wantStatus(t, 200)
			if n := r.tokens.calls.Load(); n != 2 {
				t.Errorf("%d token calls, want 2", n)
			}
		})
	}
}

// If there is no next token, the answer is the same as if there had been none in the first place.
func TestAttemptWithoutAToken(t *testing.T) {
	r := newRenewedAPI(t, "/")
	r.tokens.fails.Store(true)
	r.tokens.open()
	_, base := startProxy(t, oauth2Credential("api", "token_url "+r.tokens.url+"\n"+keepRenewed, withSecret, r.hosts),
		"token_proxy api {http.token_proxy.instance.hostport} {\n lb_try_duration 1m\n lb_try_interval 20ms\n}")
	get(t, base).wantProblem(t, 502, "proxy_configuration_error")
}

// A token may also expire while reverse_proxy has no upstream for the request.
func TestAttemptAfterNoUpstreamWasFree(t *testing.T) {
	tokens, entered := newGatedTokens(t, 2), make(chan struct{})
	tokens.answering = func(call int64) string {
		if call == 1 {
			return `"expires_in":0`
		}
		return `"expires_in":3600`
	}
	tokens.open()
	state := &revocableAPI{other: func(http.ResponseWriter, *http.Request) {
		close(entered)
		select {
		case <-tokens.held:
		case <-time.After(time.Minute / 2):
			t.Error("the token was not renewed")
		}
	}}
	api := newRecordingAPI(t, state.ServeHTTP)
	const options = "{\n unhealthy_request_count 1\n lb_try_duration 1m\n lb_try_interval 20ms\n}\n"
	addr := freeAddr(t)
	startCaddy(t, globalOptions(tokens.credential("api"), otherTokens(t))+
		siteConfig(addr, "token_proxy /other other "+api.URL+" "+options+"token_proxy api "+api.URL+" "+options))
	other := inBackground(t, newRequest(t, http.MethodGet, "http://"+addr+"/other", nil))
	<-entered
	get(t, "http://"+addr).wantStatus(t, 200)
	(<-other).wantStatus(t, 200)
	if got := api.received(); len(got) != 2 || got[1].Header.Get("Authorization") != "Bearer token-2" {
		t.Errorf("the API got %v", got)
	}
}
