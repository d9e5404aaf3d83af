package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// What an answer that rejects a token means is decided by its challenge, and only without one by its status.
func TestJudgeRejection(t *testing.T) {
	for _, test := range []struct {
		status    int
		challenge string
		doubt     token.Doubt
		ours      bool
	}{
		{401, "", token.Doubtful, true},
		{401, `Bearer error="invalid_token"`, token.Certain, true},
		{401, `Bearer error="insufficient_scope"`, token.Doubtful, false},
		{403, "", token.Doubtful, true},
		{403, `Bearer error="invalid_token"`, token.Certain, true},
		{403, `Bearer error="insufficient_scope", scope="write"`, token.Doubtful, false},
		{403, `Bearer realm="api"`, token.Doubtful, true},
		{400, "", token.Doubtful, true},
		{404, "", token.Doubtful, true},
		{410, "", token.Doubtful, true},
		{419, "", token.Certain, true},
		{440, "", token.Certain, true},
		{498, "", token.Certain, true},
		{499, "", token.Certain, true},
		{498, `Bearer realm="api"`, token.Doubtful, true},
		{498, `Bearer error="insufficient_scope"`, token.Doubtful, false},
	} {
		res := apiResponse(test.status, "")
		if test.challenge != "" {
			res.Header.Set("WWW-Authenticate", test.challenge)
		}
		if doubt, ours := judgeRejection(res, readChallenge(res.Header.Values("WWW-Authenticate"), false)); doubt != test.doubt || ours != test.ours {
			t.Errorf("%d with %q: doubt %t, ours %t", test.status, test.challenge, doubt, ours)
		}
	}
}

// An answer with a rejected_status is healed like a 401, and any other answer passes through.
func TestRejectedStatus(t *testing.T) {
	for name, test := range map[string]struct {
		option  string
		status  int
		healed  bool
		replays int
	}{
		"401 by default":                {"", 401, true, 1},
		"403 by default":                {"", 403, false, 0},
		"498 by default":                {"", 498, false, 0},
		"401 beside 403":                {"rejected_status 401 403", 401, true, 1},
		"403 beside 401":                {"rejected_status 401 403", 403, true, 1},
		"401 in place of nothing":       {"rejected_status 403", 401, false, 0},
		"498":                           {"rejected_status 498", 498, true, 1},
		"498 of several":                {"rejected_status 401 403 498", 498, true, 1},
		"419":                           {"rejected_status 419", 419, true, 1},
		"440":                           {"rejected_status 401 440", 440, true, 1},
		"400":                           {"rejected_status 400 401", 400, true, 1},
		"404":                           {"rejected_status 404", 404, true, 1},
		"404 beside 403":                {"rejected_status 403", 404, false, 0},
		"403 with on_unauthorized pass": {"rejected_status 403\n on_unauthorized pass", 403, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if tokens.revoked(r) {
					w.WriteHeader(test.status)
				}
			})
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n"+test.option+"\n}")
			ask(t, testClient(t), newRequest(t, http.MethodPost, base, strings.NewReader("a body"))).wantStatus(t, 200)
			tokens.revokeAll()
			want := test.status
			if test.healed {
				want = 200
			}
			ask(t, testClient(t), newRequest(t, http.MethodPost, base, strings.NewReader("a body"))).wantStatus(t, want)
			if got := len(api.received()) - 2; got != test.replays {
				t.Errorf("%d replays, want %d", got, test.replays)
			}
			if strings.Contains(test.option, "pass") { // which gets the next token in the background
				eventually(t, "the call for the next token", func() bool { return tokens.Calls() == 2 })
				return
			}
			wantCalls(t, tokens.TokenEndpoint, 1+test.replays)
		})
	}
}

// With rejected_status 403, an API that denies one path for want of permissions costs a few token calls, not one for each
// request, and the paths that it permits go on.
func TestPermissionsCostNoTokenCalls(t *testing.T) {
	for name, challenge := range map[string]string{
		"no challenge":       "",
		"a challenge":        `Bearer realm="api"`,
		"insufficient_scope": `Bearer error="insufficient_scope"`,
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			var denied atomic.Int32
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if _, state := tokens.tokens.Lookup(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")); state != devserver.Live {
					t.Errorf("the API got a token that is %v", state)
				}
				if r.URL.Path == "/admin" {
					denied.Add(1)
					if challenge != "" {
						w.Header().Set("WWW-Authenticate", challenge)
					}
					w.WriteHeader(http.StatusForbidden)
				}
			})
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n rejected_status 401 403\n}")
			const requests = 100
			for range requests {
				get(t, base+"/orders").wantStatus(t, 200)
				get(t, base+"/admin").wantStatus(t, 403)
			}
			most := 4 // the throttle of invalidations: README.md, "one path of the API answers 401 to every token"
			if name == "insufficient_scope" {
				most = 1
			}
			if calls := tokens.Calls(); calls > most {
				t.Errorf("%d token calls for %d denials, want %d at most", calls, requests, most)
			}
			if n := int(denied.Load()); n > requests+most {
				t.Errorf("the API got %d requests that it denied, for %d", n, requests)
			}
		})
	}
}

// A status that cannot mean that the API rejects the token is an error, in JSON as in a Caddyfile.
func TestRejectedStatusMistakes(t *testing.T) {
	for _, statuses := range []string{
		"0", "-1", "200", "302", "399", "500", "503", "599", "600", "40", "4030", "407", "408", "425", "429", "401, 401", "403, 401, 403",
	} {
		wantRefused(t, validateJSON(configJSON(nowhere, goodCredential,
			`{"handler": "token_proxy", "credential": "catalog", "rejected_status": [`+statuses+`], "upstreams": [{"dial": "127.0.0.1:9080"}]}`)),
			`"catalog"`, "rejected_status", "status")
	}
	for _, words := range []string{"", "200", "4xx", "401,403", "401 many", "429", "401 401", "four", `""`, "{env.STATUS}", "401.5", "500"} {
		input, line := withOption("directive", "", "rejected_status "+words)
		_, err := adapt(input)
		checkAdaptError(t, err, "rejected_status", fmt.Sprintf("at Caddyfile:%d", line))
	}
}
