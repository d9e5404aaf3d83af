package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// --api shows the challenge of an API. The request has no token, and what the challenge names is not requested.
func TestCheckAPI(t *testing.T) {
	var followed atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer other.Close()
	var asked []http.Header
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header)
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/odd":
			w.Header().Set("WWW-Authenticate", `Bearer scope="a\"b", resource_metadata="javascript:alert(1)"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer scope="orders.read", resource_metadata="%s/meta"`, other.URL))
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	down := httptest.NewServer(nil)
	down.Close()

	endpoint := newTokenServer(t)
	config := writeConfig(t, "Caddyfile", globalOptions(endpoint.credential("good")))
	for _, tc := range []struct {
		url  string
		want []string
	}{
		{api.URL + "/orders", []string{"answers 401 to a request without a token", "  scope: orders.read\n", "  resource_metadata: " + other.URL + "/meta\n"}},
		{api.URL + "/moved", []string{"answers 302 to a request without a token"}},
		{api.URL + "/odd", []string{"answers 401 to a request without a token"}},
		{down.URL, []string{"does not answer: "}},
	} {
		out, err := runCommand(checkCommand(), "--config", config, "--api", tc.url)
		if err != nil {
			t.Errorf("%s: %v", tc.url, err)
		}
		_, shown, _ := strings.Cut(out, "- "+tc.url+" ")
		wantText(t, shown, tc.want...)
		if lines := strings.Count(shown, "\n"); lines != len(tc.want) {
			t.Errorf("%s: %d lines, want %d:\n%s", tc.url, lines, len(tc.want), out)
		}
	}
	for _, header := range asked {
		if header.Get("Authorization") != "" || header.Get("DPoP") != "" {
			t.Errorf("the API got credentials: %v", header)
		}
	}
	if len(asked) != 3 || followed.Load() != 0 {
		t.Errorf("the API got %d requests, want 3, and the servers that it names got %d, want none", len(asked), followed.Load())
	}

	var results []map[string]any
	out, err := runCommand(checkCommand(), "--json", "--config", config, "--api", api.URL+"/orders")
	if err != nil {
		t.Fatal(err)
	}
	decodeStrictly(t, out, &results)
	if r := results[len(results)-1]; r["api"] != api.URL+"/orders" || r["status"] != 401.0 || r["scope"] != "orders.read" || r["resource_metadata"] != other.URL+"/meta" {
		t.Errorf("JSON: %v", r)
	}

	calls := endpoint.Calls()
	for _, url := range []string{"api.example.com", "ftp://api.example.com", "https://", "https://user:password@api.example.com/"} {
		_, err := runCommand(checkCommand(), "--config", config, "--api", url)
		wantError(t, err, "--api")
		if err != nil && strings.Contains(err.Error(), "user:") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
	if endpoint.Calls() != calls {
		t.Error("there were token calls before the mistake was found")
	}
}
