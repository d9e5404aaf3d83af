package dpop

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestTarget(t *testing.T) {
	for _, tc := range []struct{ name, url, want string }{
		{"as it is", "https://api.example.com/v1/orders", "https://api.example.com/v1/orders"},
		{"query", "https://api.example.com/v1/orders?page=2", "https://api.example.com/v1/orders"},
		{"empty query", "https://api.example.com/v1/orders?", "https://api.example.com/v1/orders"},
		{"question mark in the query", "https://api.example.com/a?b=c?d#e", "https://api.example.com/a"},
		{"fragment", "https://api.example.com/v1/orders#top", "https://api.example.com/v1/orders"},
		{"query and fragment", "https://api.example.com/v1/orders?page=2#top", "https://api.example.com/v1/orders"},
		{"default port of https", "https://api.example.com:443/v1", "https://api.example.com/v1"},
		{"default port of http", "http://localhost:80/v1", "http://localhost/v1"},
		{"another port", "https://api.example.com:8443/v1", "https://api.example.com:8443/v1"},
		{"the port of http with https", "https://api.example.com:80/v1", "https://api.example.com:80/v1"},
		{"the port of https with http", "http://localhost:443/v1", "http://localhost:443/v1"},
		{"a port that ends like the default", "https://api.example.com:8443", "https://api.example.com:8443/"},
		{"empty port", "https://api.example.com:/v1", "https://api.example.com/v1"},
		{"scheme and host in capitals", "HTTPS://API.Example.COM/V1/Orders", "https://api.example.com/V1/Orders"},
		{"empty path", "https://api.example.com", "https://api.example.com/"},
		{"empty path and a query", "https://api.example.com?a=b", "https://api.example.com/"},
		{"trailing slash", "https://api.example.com/v1/", "https://api.example.com/v1/"},
		{"two slashes", "https://api.example.com//v1//orders", "https://api.example.com//v1//orders"},
		{"escape of an unreserved character", "https://api.example.com/%7Euser/%41%2d%5f%2E", "https://api.example.com/%7Euser/%41%2d%5f%2E"},
		{"escape in small letters", "https://api.example.com/a%2fb%3f%c3%a4", "https://api.example.com/a%2fb%3f%c3%a4"},
		{"escaped percent sign", "https://api.example.com/100%25%2541", "https://api.example.com/100%25%2541"},
		{"a letter that needs an escape", "https://api.example.com/bücher", "https://api.example.com/b%C3%BCcher"},
		{"a space and a quote", `https://api.example.com/a b"c`, "https://api.example.com/a%20b%22c"},
		{"reserved characters", "https://api.example.com/a;b=c,d/(e)!*'$&+:@", "https://api.example.com/a;b=c,d/(e)!*'$&+:@"},
		{"dots", "https://api.example.com/a/./b/../c", "https://api.example.com/a/./b/../c"},
		{"dots at the end", "https://api.example.com/a/b/..", "https://api.example.com/a/b/.."},
		{"one dot at the end", "https://api.example.com/a/.", "https://api.example.com/a/."},
		{"more dots than segments", "https://api.example.com/../../a", "https://api.example.com/../../a"},
		{"escaped dots", "https://api.example.com/a/%2e%2E/b", "https://api.example.com/a/%2e%2E/b"},
		{"dots that are names", "https://api.example.com/.well-known/..a/...", "https://api.example.com/.well-known/..a/..."},
		{"IPv4", "http://127.0.0.1:9001/v1", "http://127.0.0.1:9001/v1"},
		{"IPv6", "https://[2001:DB8::1]/v1", "https://[2001:db8::1]/v1"},
		{"IPv6 with the default port", "https://[2001:db8::1]:443/v1", "https://[2001:db8::1]/v1"},
		{"IPv6 with another port", "http://[::1]:9001", "http://[::1]:9001/"},
		{"IPv6 with a zone", "http://[fe80::1%25eth0]:9001/v1", "http://[fe80::1]:9001/v1"},
		{"a host beyond ASCII", "https://Bücher.example/", "https://xn--bcher-kva.example/"},
		{"user", "https://user@api.example.com/v1", "https://api.example.com/v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Target(request(t, http.MethodGet, tc.url))
			if got != tc.want {
				t.Errorf("%s is %s, want %s", tc.url, got, tc.want)
			}
			if again := Target(request(t, http.MethodGet, got)); again != got {
				t.Errorf("the target of %s is %s", got, again)
			}
		})
	}
}

// The server gets the host in Host, which the proxy can set apart from the address that it dials.
func TestTargetHasTheHostThatIsSent(t *testing.T) {
	req := request(t, http.MethodGet, "https://10.0.0.7:8443/v1")
	req.Host = "API.example.com:443"
	if got := Target(req); got != "https://api.example.com/v1" {
		t.Errorf("the target is %s", got)
	}
}

// The target of OPTIONS * has no path (RFC 9110 section 7.1).
func TestTargetOfTheServer(t *testing.T) {
	req := &http.Request{Method: http.MethodOptions, URL: &url.URL{Scheme: "https", Host: "api.example.com", Path: "*"}}
	if got := Target(req); got != "https://api.example.com/" {
		t.Errorf("the target is %s", got)
	}
}

// FuzzTarget compares with net/url: the target is a URL with the same path and without a query, and it stays as it is.
func FuzzTarget(f *testing.F) {
	for _, text := range []string{"https://api.example.com/a%2fb/../c?d#e", "http://[::1%25a]:80", "https://h:/%", "http:///.", "https://a/%2e%2e/%00", "a://:::"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		req, err := http.NewRequest(http.MethodGet, text, nil)
		if err != nil || req.URL.Host == "" || req.URL.Opaque != "" {
			return
		}
		if _, err := url.Parse(req.URL.Scheme + "://" + req.URL.Host); err != nil {
			return
		}
		if name := req.URL.Hostname(); name == "" || strings.Contains(name, ":") && !strings.HasPrefix(req.URL.Host, "[") {
			return // net/http finds no such host
		}
		target := Target(req)
		if strings.ContainsAny(target, "?#") {
			t.Errorf("%q has a query or a fragment", target)
		}
		u, err := url.Parse(target)
		if err != nil {
			return // net/http would not send to such a host either
		}
		again := &http.Request{Method: http.MethodGet, URL: u}
		if Target(again) != target {
			t.Errorf("the target of %q is %q", target, Target(again))
		}
		if u.Path != req.URL.Path && req.URL.Path != "" && strings.HasPrefix(req.URL.Path, "/") {
			t.Errorf("the path of %q is %q, that of %q is %q", text, req.URL.Path, target, u.Path)
		}
	})
}
