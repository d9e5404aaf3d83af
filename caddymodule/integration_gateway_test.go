package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// What a gateway, a firewall or a captive portal answers in front of the token endpoint, or of the issuer, costs a request as
// little as an outage. A refusal by the token endpoint itself costs one call.
func TestAnswersThatAreNotAboutTheClient(t *testing.T) {
	const page = "<html>blocked</html>"
	for name, tc := range map[string]struct {
		first  http.HandlerFunc
		issuer bool
		calls  int64 // 1: the request gets the failure
	}{
		"404 of a gateway without a route": {first: sendAnswer(404, "text/plain", "default backend - 404"), calls: 2},
		"404 in JSON":                      {first: sendAnswer(404, "application/json", `{"message":"no Route matched with those values"}`), calls: 2},
		"403 of a firewall":                {first: sendAnswer(403, "text/html", page), calls: 2},
		"405":                              {first: sendAnswer(405, "text/html", page), calls: 2},
		"415":                              {first: sendAnswer(415, "text/html", page), calls: 2},
		"redirect of a captive portal":     {first: sendAnswer(302, "text/html", page, "Location", "http://127.0.0.1:1/login"), calls: 2},
		"issuer without a route":           {first: sendAnswer(404, "text/plain", ""), issuer: true, calls: 4},
		"issuer behind a firewall":         {first: sendAnswer(403, "text/html", page), issuer: true, calls: 4},
		"issuer behind a captive portal":   {first: sendAnswer(200, "text/html", page), issuer: true, calls: 4},
		"400 in a format of its own":       {first: sendAnswer(400, "application/json", `{"errors":["no such client"]}`), calls: 1},
		"400 without a body":               {first: sendAnswer(400, "text/html", ""), calls: 1},
		"401 of a page":                    {first: sendAnswer(401, "text/html", page), calls: 1},
		"403 in a format of its own":       {first: sendAnswer(403, "application/json", `{"message":"no such client"}`), calls: 1},
		"404 with an error code":           {first: oauthFailure(404, "invalid_client"), calls: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			var server *httptest.Server
			server = serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := calls.Add(1)
				switch {
				case n == 1, tc.issuer && n == 2: // the metadata have two locations
					tc.first(w, r)
				case r.Method == http.MethodGet:
					sendAnswer(200, "application/json", `{"issuer":"`+server.URL+`","token_endpoint":"`+server.URL+`/token"}`)(w, r)
				default:
					sendAnswer(200, "application/json", goodAnswer(""))(w, r)
				}
			}))
			option := "token_url " + server.URL + "/token"
			if tc.issuer {
				option = "issuer " + server.URL
			}
			api := newRecordingAPI(t, nil)
			_, base := startProxy(t, oauth2Credential("api", option, withSecret), "token_proxy api "+api.URL)
			want := 200
			if tc.calls == 1 {
				want = 502
			}
			get(t, base).wantStatus(t, want)
			if n := calls.Load(); n != tc.calls {
				t.Errorf("%d calls, want %d", n, tc.calls)
			}
		})
	}
}
