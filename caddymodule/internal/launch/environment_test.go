package launch

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// valueIn returns the value that a process with this environment sees.
func valueIn(env []string, name string) string {
	value := ""
	for _, variable := range env {
		if v, ok := strings.CutPrefix(variable, name+"="); ok {
			value = v
		}
	}
	return value
}

func TestEnvironmentSetsProxyAndAuthorities(t *testing.T) {
	proxy, err := url.Parse("http://127.0.0.1:3128")
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{"PATH=/bin", "https_proxy=http://corporate.example:8080", "SSL_CERT_FILE=/etc/corporate.pem", "NO_PROXY=10.0.0.0/8"}
	s := Settings{Proxy: proxy, Hosts: []string{"api.example.com"}, Bundle: "/tmp/bundle.pem"}
	env, removed := s.Environment(environ)
	if len(removed) > 0 {
		t.Errorf("it removes %q", removed)
	}
	want := map[string]string{
		"PATH": "/bin", "HTTPS_PROXY": proxy.String(), "HTTP_PROXY": proxy.String(), "NO_PROXY": "localhost,127.0.0.1,::1,10.0.0.0/8",
		"SSL_CERT_FILE": "/tmp/bundle.pem", "REQUESTS_CA_BUNDLE": "/tmp/bundle.pem", "CURL_CA_BUNDLE": "/tmp/bundle.pem",
		"NODE_EXTRA_CA_CERTS": "/tmp/bundle.pem", "GIT_SSL_CAINFO": "/tmp/bundle.pem", "NODE_USE_ENV_PROXY": "1",
	}
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"} {
		want[strings.ToLower(name)] = want[name]
	}
	for name, value := range want {
		if got := valueIn(env, name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}

	// Without a proxy and a bundle, nothing changes.
	if env, _ := (Settings{}).Environment(environ); !slices.Equal(env, environ) {
		t.Errorf("without settings: %q", env)
	}
}

// TestNoProxyKeepsTheAPI drops the entries of NO_PROXY that would lead the application past the sidecar.
func TestNoProxyKeepsTheAPI(t *testing.T) {
	const own = "localhost,127.0.0.1,::1"
	for _, test := range []struct{ before, host, after string }{
		{"", "api.example.com", own},
		{"localhost, db.internal ,10.1.2.3", "api.example.com", own + ",db.internal,10.1.2.3"},
		{"db.internal api.example.com, 10.1.2.3", "api.example.com", own + ",db.internal,10.1.2.3"},
		{"*", "api.example.com", own},
		{"api.example.com,db", "api.example.com", own + ",db"},
		{"API.Example.com:443,db", "api.example.com", own + ",db"},
		{"example.com,db", "api.example.com", own + ",db"},
		{".example.com,db", "api.example.com", own + ",db"},
		{"*.example.com,db", "api.EXAMPLE.com", own + ",db"},
		{"ample.com,i.example.com", "api.example.com", own + ",ample.com,i.example.com"},
		{"eu.example.com,example.com,example.org", "*.example.com", own + ",example.org"},
	} {
		s := Settings{Proxy: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Hosts: []string{"other.test", test.host}}
		for _, name := range []string{"NO_PROXY", "no_proxy"} {
			env, _ := s.Environment([]string{name + "=" + test.before})
			if got := valueIn(env, "no_proxy"); got != test.after {
				t.Errorf("%s=%q for %s: got %q, want %q", name, test.before, test.host, got, test.after)
			}
		}
	}
}
