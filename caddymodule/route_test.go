package caddymodule

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// net/http takes a connection by the URL's scheme and host: they must tell what is dialed, and nothing else.
func TestRouteDirects(t *testing.T) {
	plain := &route{destinations: &destinations{}}
	tls := &route{destinations: &destinations{transport: transportSecurity{tls: true, exceptPorts: []string{"8080"}}}}
	forClients := &route{destinations: &destinations{}, proxyProtocol: true}
	tcp := func(host, port, address string) reverseproxy.DialInfo {
		return reverseproxy.DialInfo{Network: "tcp", Host: host, Port: port, Address: address}
	}
	socket := reverseproxy.DialInfo{Network: "unix", Host: "127.0.0.1:8080", Port: "0", Address: "127.0.0.1:8080"}
	for _, tc := range []struct {
		what             string
		route            *route
		di               reverseproxy.DialInfo
		before, url, req string // the URL before and after, and the request's host after
	}{
		{"as reverse_proxy makes it", plain, tcp("api.example.com", "8080", "api.example.com:8080"), "//api.example.com:8080", "http://api.example.com:8080", "app.example"},
		{"the scheme of an upstream before", tls, tcp("api.example.com", "443", "api.example.com:443"), "http://api.example.com:443", "https://api.example.com:443", "app.example"},
		{"an excepted port after one that is not", tls, tcp("127.0.0.1", "8080", "127.0.0.1:8080"), "https://127.0.0.1:8080", "http://127.0.0.1:8080", "app.example"},
		{"IPv6 on a retry, as reverse_proxy strips its port", plain, tcp("fd00::1", "80", "[fd00::1]:80"), "http://fd00::1", "http://[fd00::1]:80", "app.example"},
		{"a health check of health_upstream", plain, tcp("127.0.0.1", "81", "127.0.0.1:81"), "http://tcp", "http://127.0.0.1:81", "app.example"},
		{"a client of its own", forClients, tcp("127.0.0.1", "8080", "127.0.0.1:8080"), "//192.0.2.1%3A5000-%3E127.0.0.1%3A8080", "http://192.0.2.1%3A5000-%3E127.0.0.1%3A8080", "app.example"},
		{"a socket", plain, socket, "//127.0.0.1:8080", "http://unix%2F127.0.0.1%3A8080", "app.example"},
		{"a health check of a socket", plain, socket, "http://localhost", "http://unix%2F127.0.0.1%3A8080", "app.example"},
		{"a socket and a client of its own", forClients, socket, "//192.0.2.1%3A5000-%3E127.0.0.1%3A8080", "http://unix%2F192.0.2.1%253A5000-%253E127.0.0.1%253A8080", "app.example"},
		{"a socket, HTTP/1.0", plain, socket, "//127.0.0.1:8080", "http://unix%2F127.0.0.1%3A8080", "127.0.0.1:8080"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			scheme, host, _ := strings.Cut(tc.before, "//")
			scheme = strings.TrimSuffix(scheme, ":")
			req := &http.Request{URL: &url.URL{Scheme: scheme, Host: host}, Host: "app.example"}
			if tc.req != "app.example" {
				req.Host = ""
			}
			tc.route.direct(req, tc.di)
			if got := req.URL.Scheme + "://" + req.URL.Host; got != tc.url || req.Host != tc.req {
				t.Errorf("got %s and the host %s, want %s and %s", got, req.Host, tc.url, tc.req)
			}
		})
	}
}
