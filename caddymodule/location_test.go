package caddymodule

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The line in the reference for Location fields that name the API changes those, and no others.
func TestLocationRecipe(t *testing.T) {
	line := regexp.MustCompile("(?m)^\theader_down Location .*$").FindString(readExample(t, reference))
	if line == "" {
		t.Fatal("the reference has no such line")
	}
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if to := r.Header.Get("X-To"); to != "" {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		}
	})
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n"+line+"\n}")
	for to, want := range map[string]string{
		"https://api.example.com/v2/orders?page=2#top":             base + "/v2/orders?page=2#top",
		"https://api.example.com:443/v2":                           base + "/v2",
		"http://api.example.com:80/v2":                             base + "/v2",
		"http://api.example.com/v2":                                base + "/v2",
		"https://API.Example.COM/v2":                               base + "/v2",
		"https://api.example.com":                                  base,
		"https://api.example.com?a=1":                              base + "?a=1",
		"https://api.example.com/$1/{hostport}":                    base + "/$1/{hostport}",
		"/v2/orders":                                               "/v2/orders",
		"../orders":                                                "../orders",
		"https://api.example.com:8443/v2":                          "https://api.example.com:8443/v2",
		"https://api.example.com.evil.example/v2":                  "https://api.example.com.evil.example/v2",
		"https://api-example.com/v2":                               "https://api-example.com/v2",
		"https://apixexample.com/v2":                               "https://apixexample.com/v2",
		"https://api.example.com@evil.example/v2":                  "https://api.example.com@evil.example/v2",
		"https://login.example.com/?to=https://api.example.com/v2": "https://login.example.com/?to=https://api.example.com/v2",
	} {
		a := get(t, base+"/orders", "X-To", to)
		if got := a.Header.Get("Location"); got != want {
			t.Errorf("%s: got %s, want %s", to, got, want)
		}
	}
	// The redirect leads back through the proxy, and to the API with a token.
	client := testClient(t)
	client.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		req.Header.Del("X-To")
		return nil
	}
	ask(t, client, newRequest(t, http.MethodGet, base, nil, "X-To", "https://api.example.com/v2/orders")).wantStatus(t, 200)
	last := api.received()[len(api.received())-1]
	if last.URI != "/v2/orders" || !strings.HasPrefix(last.Header.Get("Authorization"), "Bearer ") {
		t.Errorf("the API got %+v", last)
	}
}
