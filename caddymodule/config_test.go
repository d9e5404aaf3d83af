package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/goleak"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// configJSON is a configuration with one credential, "catalog", and one site on the address, with one handler.
func configJSON(addr, credential, handler string) string {
	return appsJSON(`"token_proxy": {"credentials": {"catalog": `+credential+`}}`, siteJSON(addr, handler))
}

func appsJSON(apps ...string) string {
	return `{"apps": {` + strings.Join(apps, ", ") + `}}`
}

func siteJSON(addr, handler string) string {
	return fmt.Sprintf(`"http": {"servers": {"app": {"listen": [%q], "routes": [{"handle": [%s]}]}}}`, addr, handler)
}

// goodCredential and goodHandler make a configuration that is accepted, and that nobody listens or answers to.
const (
	goodCredential = `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "literal"}`
	goodHandler    = `{"handler": "token_proxy", "credential": "catalog", "transport": {"protocol": "http", "tls": {}},
		"upstreams": [{"dial": "api.example.com:443"}]}`
	nowhere = "127.0.0.1:0"
)

// validateJSON does what `caddy validate` does, without the log.
func validateJSON(config string) error {
	var root map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &root); err != nil {
		return err
	}
	root["logging"] = json.RawMessage(`{"logs": {"default": {"writer": {"output": "discard"}}}}`)
	silent, err := json.Marshal(root)
	if err != nil {
		return err
	}
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(silent, cfg); err != nil {
		return err
	}
	return caddy.Validate(cfg)
}

// wantRefused checks that the error says all of this, and nothing secret.
func wantRefused(t *testing.T, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it is accepted; want an error with %q in it", wants)
	}
	if strings.Contains(err.Error(), adaptCanary) {
		t.Errorf("the error repeats a secret: %v", err)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got error %q, want %q in it", err, want)
		}
	}
}

// sourceCounts returns how many loaded configurations hold each source.
func sourceCounts() map[string]int {
	var keys []any
	sources.Range(func(key, _ any) bool {
		keys = append(keys, key)
		return true
	})
	counts := make(map[string]int)
	for _, key := range keys {
		if references, ok := sources.References(key); ok {
			counts[string(key.(token.Key))] = references
		}
	}
	return counts
}

// wantSourcesBack fails if, when the test ends, configurations hold other sources than now.
func wantSourcesBack(t *testing.T) {
	t.Helper()
	before := fmt.Sprintf("%x", sourceCounts())
	t.Cleanup(func() {
		if after := fmt.Sprintf("%x", sourceCounts()); after != before {
			t.Errorf("sources held before: %s, after: %s", before, after)
		}
	})
}

func TestConfigCredentialRefused(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_EMPTY", "")
	t.Setenv("TOKEN_PROXY_TEST_BLANK", " \t\n")
	t.Setenv("TOKEN_PROXY_TEST_LINES", "CANARY\nCANARY")
	t.Setenv("TOKEN_PROXY_TEST_USER", "client:CANARY")
	t.Setenv("TOKEN_PROXY_TEST_URL", "https://client:CANARY@auth.example.com/oauth/token")
	directory := "{file." + t.TempDir() + "}"
	credential := func(fields string) string {
		return `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "CANARY", ` + fields + `}`
	}
	provider := func(provider string) string {
		return `{"provider": ` + provider + `, "client_id": "a", "client_secret": "CANARY"}`
	}
	tests := []struct {
		name, credential string
		wants            []string
	}{
		{"null", `null`, nil},
		{"empty", `{}`, []string{"provider"}},
		{"provider null", provider(`null`), []string{"provider"}},
		{"provider without name", provider(`{}`), []string{"provider"}},
		{"provider unknown", provider(`{"name": "okta"}`), []string{"provider", "okta"}},
		{"provider of another kind", provider(`{"name": "../http"}`), []string{"provider"}},
		{"provider not an object", provider(`"optoro"`), []string{"provider"}},
		{"optoro: unknown environment", provider(`{"name": "optoro", "environment": "staging"}`), []string{"environment", "sandbox"}},
		{"optoro: unknown field", provider(`{"name": "optoro", "region": "euwest"}`), []string{"region"}},
		{"elastic_path: unknown region", provider(`{"name": "elastic_path", "region": "apac"}`), []string{"region", "euwest"}},
		{"elastic_path: unknown grant", provider(`{"name": "elastic_path", "grant": "password"}`), []string{"grant", "implicit"}},
		{"elastic_path: unknown field", provider(`{"name": "elastic_path", "scope": "all"}`), []string{"scope"}},
		{"elastic_path: implicit with a secret", provider(`{"name": "elastic_path", "grant": "implicit"}`), []string{"client_secret"}},
		{
			"elastic_path: implicit with the placeholder of a secret",
			`{"provider": {"name": "elastic_path", "grant": "implicit"}, "client_id": "a", "client_secret": "{env.TOKEN_PROXY_TEST_EMPTY}"}`,
			[]string{"client_secret"},
		},
		{
			"elastic_path: client_credentials without a secret",
			`{"provider": {"name": "elastic_path"}, "client_id": "a"}`, []string{"client_secret"},
		},

		{"client_id missing", `{"provider": {"name": "optoro"}, "client_secret": "CANARY"}`, []string{"client_id"}},
		{"client_secret missing", `{"provider": {"name": "optoro"}, "client_id": "a"}`, []string{"client_secret"}},

		{"negative refresh_margin", credential(`"refresh_margin": -1`), []string{"refresh_margin"}},
		{"negative fetch_timeout", credential(`"fetch_timeout": "-5s"`), []string{"fetch_timeout"}},
		{"negative max_wait", credential(`"max_wait": -1`), []string{"max_wait"}},
		{"negative default_lifetime", credential(`"default_lifetime": -1`), []string{"default_lifetime"}},
		{"api_hosts with a URL", credential(`"api_hosts": ["https://api.example.com"]`), []string{"api_hosts", "host 1", "scheme"}},
		{"api_hosts with an unset variable", credential(`"api_hosts": ["{env.TOKEN_PROXY_TEST_UNSET}"]`), []string{"api_hosts", "TOKEN_PROXY_TEST_UNSET"}},
		{"api_hosts with a wildcard alone", credential(`"api_hosts": ["api.example.com", "*"]`), []string{"api_hosts"}},
		{"header name", credential(`"header": {"name": "X Token"}`), []string{"header"}},
		{"header forbidden", credential(`"header": {"name": "host"}`), []string{"header", "Host"}},
		{"header format", credential(`"header": {"name": "X-Token", "format": "CANARY"}`), []string{"header", "{token}"}},
		{"header with a line break", credential(`"header": {"name": "X-Token", "format": "{token}\r\nX-Injected: 1"}`), []string{"header"}},
	}
	for _, value := range []struct{ name, value, cause string }{
		{"empty", "", "missing"},
		{"blank", " ", "empty"},
		{"variable not set", "{env.TOKEN_PROXY_TEST_UNSET}", "TOKEN_PROXY_TEST_UNSET"},
		{"variable empty", "{env.TOKEN_PROXY_TEST_EMPTY}", "TOKEN_PROXY_TEST_EMPTY"},
		{"variable blank", "{env.TOKEN_PROXY_TEST_BLANK}", "TOKEN_PROXY_TEST_BLANK"},
		{"variable with lines", "{env.TOKEN_PROXY_TEST_LINES}", "TOKEN_PROXY_TEST_LINES"},
		{"file missing", "{file./nonexistent/secret}", "/nonexistent/secret"},
		{"file empty", caddytest.SecretFile(t, ""), "secret"},
		{"file blank", caddytest.SecretFile(t, "\r\n \n"), "secret"},
		{"file with lines", caddytest.SecretFile(t, "CANARY\nCANARY\n"), "secret"},
		{"file with a NUL", caddytest.SecretFile(t, "CANARY\x00"), "secret"},
		{"file too large", caddytest.SecretFile(t, strings.Repeat("CANARY", 20_000)), "secret"},
		{"file a directory", directory, "not a regular file"},
		{"literal with lines", "CANARY\nCANARY", "line"},
		{"partial placeholder", "CANARY{env.HOME}", "placeholder"},
		{"two placeholders", "{env.HOME}{env.PATH}", "placeholder"},
		{"unknown placeholder", "{vault.CANARY}", "placeholder"},
		{"placeholder without a name", "{env.}", "placeholder"},
		{"placeholder of a request", "{http.request.header.Authorization}", "placeholder"},
	} {
		quoted, err := json.Marshal(value.value)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf(`{"provider": {"name": "optoro"}, "client_id": %s, "client_secret": "CANARY"}`, quoted)
		secret := fmt.Sprintf(`{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": %s}`, quoted)
		for option, config := range map[string]string{"client_id": id, "client_secret": secret} {
			tests = append(tests, struct {
				name, credential string
				wants            []string
			}{option + ": " + value.name, config, []string{option, value.cause}})
		}
	}
	for _, url := range []string{
		"http://auth.example.com/oauth/token", "http://127.0.0.1.example.com/oauth/token", "http://0.0.0.0/oauth/token",
		"http://[::]/oauth/token", "http://192.168.0.1/", "http://localhost.example.com", "ftp://auth.example.com", "auth.example.com",
		"https://", "https://client:CANARY@auth.example.com", "https://auth.example.com/?client_secret=CANARY",
		"https://auth.example.com:port/?x=CANARY", "https://auth.example.com/#CANARY", "{env.TOKEN_PROXY_TEST_UNSET}", "{env.TOKEN_PROXY_TEST_URL}",
		"https://{env.TOKEN_PROXY_TEST_USER}@auth.example.com", "https://{http.request.host}/", "https://client:CANARY@{env.TOKEN_PROXY_TEST_UNSET}/",
	} {
		for _, name := range []string{"optoro", "elastic_path"} {
			tests = append(tests, struct {
				name, credential string
				wants            []string
			}{name + ": token_url " + url, provider(fmt.Sprintf(`{"name": %q, "token_url": %q}`, name, url)), []string{"token_url"}})
		}
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			wantSourcesBack(t)
			wantRefused(t, validateJSON(configJSON(nowhere, tc.credential, goodHandler)), append(tc.wants, `"catalog"`)...)
		})
	}
}

func TestConfigCredentialAccepted(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_ID", "a")
	t.Setenv("TOKEN_PROXY_TEST_SECRET", " b\n")
	t.Setenv("TOKEN_PROXY_TEST_HOST", "auth.example.com")
	quoted := func(s string) string {
		q, _ := json.Marshal(s)
		return string(q)
	}
	for name, credential := range map[string]string{
		"variables":                     `{"provider": {"name": "optoro"}, "client_id": "{env.TOKEN_PROXY_TEST_ID}", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}"}`,
		"file":                          `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": ` + quoted(caddytest.SecretFile(t, "b\r\n")) + `}`,
		"file of the largest size":      `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": ` + quoted(caddytest.SecretFile(t, strings.Repeat("b", 64<<10))) + `}`,
		"literal with braces":           `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "p{a}ss{"}`,
		"durations of zero are default": `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "b", "refresh_margin": 0, "fetch_timeout": 0, "max_wait": 0, "default_lifetime": 0}`,
		"durations as text":             `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "b", "refresh_margin": "1m", "default_lifetime": "1d"}`,
		"header without anything":       `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "b", "header": {}}`,
		"implicit without a secret":     `{"provider": {"name": "elastic_path", "grant": "implicit"}, "client_id": "a"}`,
		"token_url of a variable":       `{"provider": {"name": "optoro", "token_url": "https://{env.TOKEN_PROXY_TEST_HOST}/token"}, "client_id": "a", "client_secret": "b"}`,
		"token_url on loopback":         `{"provider": {"name": "optoro", "token_url": "http://127.0.0.1:9080"}, "client_id": "a", "client_secret": "b"}`,
		"token_url on localhost":        `{"provider": {"name": "optoro", "token_url": "http://localhost:9080"}, "client_id": "a", "client_secret": "b"}`,
		"token_url on IPv6 loopback":    `{"provider": {"name": "optoro", "token_url": "http://[::1]:9080"}, "client_id": "a", "client_secret": "b"}`,
		"plaintext token_url allowed":   `{"provider": {"name": "optoro", "token_url": "http://auth.example.com"}, "client_id": "a", "client_secret": "b", "allow_plaintext": true}`,
	} {
		t.Run(name, func(t *testing.T) {
			wantSourcesBack(t)
			if err := validateJSON(configJSON(nowhere, credential, goodHandler)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A name is part of URLs, metrics and logs.
func TestConfigCredentialNames(t *testing.T) {
	config := func(name string) string {
		q, _ := json.Marshal(name)
		return appsJSON(fmt.Sprintf(`"token_proxy": {"credentials": {%s: %s}}`, q, goodCredential))
	}
	for _, name := range []string{"", " ", "a b", "a/b", "ä", "a\n", "{env.HOME}", `a"b`} {
		wantRefused(t, validateJSON(config(name)), fmt.Sprintf("%q", name))
	}
	for _, name := range []string{"a", "A-Z_0.9", "-"} {
		if err := validateJSON(config(name)); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What cannot be decoded is refused by Caddy, which does not say in which credential it stands.
func TestConfigUndecodable(t *testing.T) {
	credential := func(fields string) string {
		return `"token_proxy": {"credentials": {"catalog": {"provider": {"name": "optoro"}, "client_id": "a", ` + fields + `}}}`
	}
	for name, tc := range map[string]struct{ app, want string }{
		"unknown field of the app":        {`"token_proxy": {"credential": {}}`, "credential"},
		"negative replay_memory":          {`"token_proxy": {"replay_memory": -1}`, "replay_memory"},
		"unknown field of a credential":   {credential(`"client_secert": "CANARY"`), "client_secert"},
		"unknown field of a header":       {credential(`"header": {"value": "CANARY"}`), "value"},
		"secret that is a list":           {credential(`"client_secret": ["CANARY"]`), "client_secret"},
		"secret that is an object":        {credential(`"client_secret": {"env": "CANARY"}`), "client_secret"},
		"hosts that are a text":           {credential(`"api_hosts": "api.example.com"`), "api_hosts"},
		"duration without sense":          {credential(`"max_wait": "soon"`), "soon"},
		"credentials that are a list":     {`"token_proxy": {"credentials": [{"client_secret": "CANARY"}]}`, "credentials"},
		"something after the credentials": {`"token_proxy": {"credentials": {"catalog": {"client_secret": "CANARY"}}}}, {`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantSourcesBack(t)
			wantRefused(t, validateJSON(appsJSON(tc.app)), tc.want)
		})
	}
}

func TestConfigHandlerRefused(t *testing.T) {
	wantHandler := func(t *testing.T, handler string, wants ...string) {
		t.Helper()
		wantSourcesBack(t)
		wantRefused(t, validateJSON(configJSON(nowhere, goodCredential, handler)), wants...)
	}
	for name, tc := range map[string]struct {
		fields string
		wants  []string
	}{
		"unknown credential":           {`"credential": "catalogue"`, []string{`"catalogue"`, `"catalog"`}},
		"no credential":                {`"clients": ["any"]`, []string{`credential ""`, `"catalog"`}},
		"credential null":              {`"credential": null`, []string{`credential ""`, `"catalog"`}},
		"unknown client_authorization": {`"credential": "catalog", "client_authorization": "remove"`, []string{`"catalog"`, "client_authorization", "replace"}},
		"unknown on_unauthorized":      {`"credential": "catalog", "on_unauthorized": "retry"`, []string{`"catalog"`, "on_unauthorized", "replay"}},
		"unknown cross_site":           {`"credential": "catalog", "cross_site": "permit"`, []string{`"catalog"`, "cross_site", "allow"}},
		"negative replay_buffer":       {`"credential": "catalog", "replay_buffer": -1`, []string{`"catalog"`, "replay_buffer"}},
		"large replay_buffer":          {`"credential": "catalog", "replay_buffer": 67108865`, []string{`"catalog"`, "replay_buffer"}},
		"clients without sense":        {`"credential": "catalog", "clients": ["lopback"]`, []string{`"catalog"`, "clients", "value 1"}},
		"clients any and more":         {`"credential": "catalog", "clients": ["any", "10.0.0.0/8"]`, []string{`"catalog"`, "clients"}},
		"client empty":                 {`"credential": "catalog", "clients": [""]`, []string{`"catalog"`, "clients"}},
		"unknown field":                {`"credential": "catalog", "on_unauthorised": "pass"`, []string{"on_unauthorised"}},
		"unknown field of a transport": {`"credential": "catalog", "transport": {"protocol": "http", "tsl": {}}`, []string{"tsl"}},
		"unknown transport":            {`"credential": "catalog", "transport": {"protocol": "carrier_pigeon"}`, []string{"transport", "carrier_pigeon"}},
		"transport null":               {`"credential": "catalog", "transport": null`, []string{"transport"}},
	} {
		t.Run(name, func(t *testing.T) {
			wantHandler(t, `{"handler": "token_proxy", `+tc.fields+`, "upstreams": [{"dial": "127.0.0.1:9080"}]}`, tc.wants...)
		})
	}
	t.Run("no upstream", func(t *testing.T) {
		wantHandler(t, `{"handler": "token_proxy", "credential": "catalog"}`, `"catalog"`, "upstream")
	})
	t.Run("no app", func(t *testing.T) {
		wantRefused(t, validateJSON(appsJSON(siteJSON(nowhere, goodHandler))), appName)
	})
	t.Run("app without credentials", func(t *testing.T) {
		wantRefused(t, validateJSON(appsJSON(`"token_proxy": {}`, siteJSON(nowhere, goodHandler))), `"catalog"`)
	})
}

// otherTransport is a transport that is not reverse_proxy's own, but made of it.
type otherTransport struct{ reverseproxy.HTTPTransport }

func init() { caddy.RegisterModule(otherTransport{}) }

// CaddyModule implements caddy.Module.
func (otherTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.test_other",
		New: func() caddy.Module { return new(otherTransport) },
	}
}

// The destination rules that can be checked without a request are checked at load, so that a mistake is refused and
// not answered with 502.
func TestConfigDestinations(t *testing.T) {
	const (
		plaintext = "in the clear"
		host      = "api_hosts"
		tls       = `"transport": {"protocol": "http", "tls": {}}`
		dynamic   = `"dynamic_upstreams": {"source": "a", "name": "api.example.com", "port": "443"}`
	)
	for name, tc := range map[string]struct {
		options string // of the credential
		handler string
		want    string // in the error, or "" if it is accepted
	}{
		"https":                                   {"", tls + `, "upstreams": [{"dial": "api.example.com:443"}]`, ""},
		"plaintext":                               {"", `"upstreams": [{"dial": "api.example.com:80"}]`, plaintext},
		"plaintext on the port of https":          {"", `"upstreams": [{"dial": "api.example.com:443"}]`, plaintext},
		"h2c":                                     {"", `"transport": {"protocol": "http", "versions": ["h2c", "2"]}, "upstreams": [{"dial": "api.example.com:80"}]`, plaintext},
		"second upstream in plaintext":            {"", `"upstreams": [{"dial": "127.0.0.1:80"}, {"dial": "api.example.com:80"}]`, plaintext},
		"plaintext allowed":                       {`"allow_plaintext": true`, `"upstreams": [{"dial": "api.example.com:80"}]`, ""},
		"plaintext on loopback":                   {"", `"upstreams": [{"dial": "127.8.7.6:80"}, {"dial": "localhost:80"}, {"dial": "[::1]:80"}]`, ""},
		"plaintext on every address":              {"", `"upstreams": [{"dial": "0.0.0.0:80"}]`, plaintext},
		"plaintext to a name like loopback":       {"", `"upstreams": [{"dial": "127.0.0.1.example.com:80"}]`, plaintext},
		"plaintext with FastCGI":                  {"", `"transport": {"protocol": "fastcgi"}, "upstreams": [{"dial": "api.example.com:9000"}]`, "fastcgi"},
		"unix socket":                             {"", `"upstreams": [{"dial": "unix//run/api.sock"}]`, ""},
		"unix socket beside api_hosts":            {`"api_hosts": ["api.example.com"]`, `"upstreams": [{"dial": "unix//run/api.sock"}]`, ""},
		"host of api_hosts":                       {`"api_hosts": ["*.example.com"]`, tls + `, "upstreams": [{"dial": "API.example.com.:443"}]`, ""},
		"host not of api_hosts":                   {`"api_hosts": ["api.example.com"]`, tls + `, "upstreams": [{"dial": "api.example.net:443"}]`, host},
		"host below that of api_hosts":            {`"api_hosts": ["example.com"]`, tls + `, "upstreams": [{"dial": "api.example.com:443"}]`, host},
		"host above the wildcard":                 {`"api_hosts": ["*.example.com"]`, tls + `, "upstreams": [{"dial": "example.com:443"}]`, host},
		"host that ends like the wildcard":        {`"api_hosts": ["*.example.com"]`, tls + `, "upstreams": [{"dial": "badexample.com:443"}]`, host},
		"second host not of api_hosts":            {`"api_hosts": ["api.example.com"]`, tls + `, "upstreams": [{"dial": "api.example.com:443"}, {"dial": "api.example.net:443"}]`, host},
		"port not of api_hosts":                   {`"api_hosts": ["api.example.com:8443"]`, tls + `, "upstreams": [{"dial": "api.example.com:443"}]`, host},
		"loopback not of api_hosts":               {`"api_hosts": ["api.example.com"]`, `"upstreams": [{"dial": "127.0.0.1:80"}]`, host},
		"placeholder without api_hosts":           {"", tls + `, "upstreams": [{"dial": "{http.request.header.X-Host}:443"}]`, host},
		"placeholder port without api_hosts":      {"", tls + `, "upstreams": [{"dial": "api.example.com:{http.request.header.X-Port}"}]`, host},
		"one placeholder without api_hosts":       {"", tls + `, "upstreams": [{"dial": "api.example.com:443"}, {"dial": "{env.HOST}:443"}]`, host},
		"placeholder with api_hosts":              {`"api_hosts": ["*.example.com"]`, tls + `, "upstreams": [{"dial": "{http.request.header.X-Host}:443"}]`, ""},
		"dynamic without api_hosts":               {"", tls + `, ` + dynamic, host},
		"dynamic and static without api_hosts":    {"", tls + `, ` + dynamic + `, "upstreams": [{"dial": "api.example.com:443"}]`, host},
		"dynamic with api_hosts":                  {`"api_hosts": ["*.example.com"]`, tls + `, ` + dynamic, ""},
		"api_hosts empty":                         {`"api_hosts": []`, tls + `, ` + dynamic, host},
		"port excepted from TLS":                  {"", `"transport": {"protocol": "http", "tls": {"except_ports": ["8443"]}}, "upstreams": [{"dial": "api.example.com:8443"}]`, plaintext},
		"another port excepted from TLS":          {"", `"transport": {"protocol": "http", "tls": {"except_ports": ["8080"]}}, "upstreams": [{"dial": "api.example.com:8443"}]`, ""},
		"port excepted from TLS, allowed":         {`"allow_plaintext": true`, `"transport": {"protocol": "http", "tls": {"except_ports": ["8443"]}}, "upstreams": [{"dial": "api.example.com:8443"}]`, ""},
		"network proxy and https":                 {"", `"transport": {"protocol": "http", "tls": {}, "network_proxy": {"from": "url", "url": "http://proxy.example.com:3128"}}, "upstreams": [{"dial": "api.example.com:443"}]`, ""},
		"network proxy and plaintext":             {"", `"transport": {"protocol": "http", "network_proxy": {"from": "url", "url": "http://proxy.example.com:3128"}}, "upstreams": [{"dial": "127.0.0.1:80"}]`, plaintext},
		"network proxy and plaintext, allowed":    {`"allow_plaintext": true`, `"transport": {"protocol": "http", "network_proxy": {"from": "url", "url": "http://proxy.example.com:3128"}}, "upstreams": [{"dial": "127.0.0.1:80"}]`, ""},
		"old network proxy and plaintext":         {"", `"transport": {"protocol": "http", "forward_proxy_url": "http://proxy.example.com:3128"}, "upstreams": [{"dial": "127.0.0.1:80"}]`, plaintext},
		"network proxy and a port excepted":       {"", `"transport": {"protocol": "http", "tls": {"except_ports": ["80"]}, "network_proxy": {"from": "url", "url": "http://proxy.example.com:3128"}}, "upstreams": [{"dial": "127.0.0.1:80"}]`, plaintext},
		"network proxy none and plaintext":        {"", `"transport": {"protocol": "http", "network_proxy": {"from": "none"}}, "upstreams": [{"dial": "127.0.0.1:80"}]`, ""},
		"network proxy of another transport":      {"", `"transport": {"protocol": "test_other", "network_proxy": {"from": "url", "url": "http://proxy.example.com:3128"}}, "upstreams": [{"dial": "127.0.0.1:80"}]`, plaintext},
		"another transport":                       {"", `"transport": {"protocol": "test_other"}, "upstreams": [{"dial": "127.0.0.1:80"}]`, ""},
		"udp":                                     {"", `"upstreams": [{"dial": "udp/127.0.0.1:80"}]`, "must be tcp, or unix"},
		"datagrams on a socket":                   {"", `"upstreams": [{"dial": "unixgram//run/api.sock"}]`, "must be tcp, or unix"},
		"file descriptor":                         {"", `"upstreams": [{"dial": "fd/3"}]`, "must be tcp, or unix"},
		"tcp4 and tcp6":                           {"", `"upstreams": [{"dial": "tcp4/127.0.0.1:80"}, {"dial": "tcp6/[::1]:80"}]`, ""},
		"address of a range":                      {`"api_hosts": ["10.0.0.0/8"], "allow_plaintext": true`, `"upstreams": [{"dial": "10.1.2.3:80"}]`, ""},
		"placeholder for a socket":                {`"api_hosts": ["api.example.com"]`, `"upstreams": [{"dial": "unix/{env.SOCKET}"}]`, "unix//run/api.sock"},
		"placeholder for a socket of api_hosts":   {`"api_hosts": ["unix//run/api.sock"]`, `"upstreams": [{"dial": "unix/{env.SOCKET}"}]`, ""},
		"upstream without sense":                  {"", `"upstreams": [{"dial": "api.example.com:port"}]`, "api.example.com:port"},
		"server name is not a host to connect to": {`"api_hosts": ["api.example.com"]`, `"transport": {"protocol": "http", "tls": {"server_name": "api.example.com", "insecure_skip_verify": true}}, "upstreams": [{"dial": "192.0.2.1:443"}]`, host},
		"server name proves the host":             {`"api_hosts": ["api.example.com"]`, `"transport": {"protocol": "http", "tls": {"server_name": "api.example.com"}}, "upstreams": [{"dial": "192.0.2.1:443"}]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantSourcesBack(t)
			credential := goodCredential
			if tc.options != "" {
				credential = strings.TrimSuffix(credential, "}") + ", " + tc.options + "}"
			}
			err := validateJSON(configJSON(nowhere, credential, `{"handler": "token_proxy", "credential": "catalog", `+tc.handler+`}`))
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefused(t, err, `credential "catalog"`, tc.want)
		})
	}
}

// The literal itself must not be in the log, nor must the log be silent about it.
func TestConfigLiteralSecretWarns(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_SECRET", "CANARY")
	credential := func(name, secret string) string {
		return fmt.Sprintf("credential %s {\n provider optoro\n client_id a\n client_secret %s\n}\n", name, secret)
	}
	s := startCaddy(t, globalOptions(
		credential("literal", "CANARY-in-the-configuration"),
		credential("variable", "{env.TOKEN_PROXY_TEST_SECRET}"),
		credential("file", caddytest.SecretFile(t, "CANARY")),
		"credential none {\n provider elastic_path {\n grant implicit\n }\n client_id a\n}\n"))
	var warned []string
	for _, entry := range logEntries(t, s) {
		if entry["level"] == "warn" && strings.Contains(fmt.Sprint(entry["msg"]), "client_secret") {
			warned = append(warned, fmt.Sprint(entry["credential"]))
		}
	}
	if got := strings.Join(warned, " "); got != "literal" {
		t.Errorf("warned of the secrets of %q, want of that of literal", got)
	}
	if strings.Contains(s.logs(), "CANARY") {
		t.Error("the log holds a secret")
	}
}

// logEntries returns what has been logged so far.
func logEntries(t *testing.T, s *caddyServer) []map[string]any {
	t.Helper()
	var entries []map[string]any
	for line := range strings.Lines(s.logs()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("log: %v: %s", err, line)
		}
		entries = append(entries, entry)
	}
	return entries
}

// ristrettoGoroutines are those of the vault, of which there is one in the process, and which is never closed.
var ristrettoGoroutines = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2.(*Cache[...]).processItems"),
	goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2.(*defaultPolicy[...]).processItems"),
}

// Pitfall 7.4: `caddy validate` runs Provision and Cleanup.
func TestConfigValidateLeavesNothing(t *testing.T) {
	wantSourcesBack(t)
	tokens, api := newTokenServer(t), newRecordingAPI(t, nil)
	upstreams := `"upstreams": [{"dial": "` + api.addr() + `"}]`
	credential := fmt.Sprintf(`{"provider": {"name": "optoro", "token_url": %q}, "client_id": %q, "client_secret": %q, "prefetch": true}`,
		tokens.url, tokens.ClientID, devserver.DefaultClientSecret)
	accepted := configJSON(nowhere, credential, `{"handler": "token_proxy", "credential": "catalog", `+upstreams+`}`)
	refused := configJSON(nowhere, credential, `{"handler": "token_proxy", "credential": "catalogue", `+upstreams+`}`)
	validate := func() {
		t.Helper()
		if err := validateJSON(accepted); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, validateJSON(refused), "catalogue")
	}

	// What Caddy itself starts at first use is not ours.
	if err := validateJSON(appsJSON(siteJSON(nowhere, `{"handler": "reverse_proxy", `+upstreams+`}`))); err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	validate()
	if err := goleak.Find(append(ristrettoGoroutines, before)...); err != nil {
		t.Error(err)
	}
	before = goleak.IgnoreCurrent()
	validate()
	if err := goleak.Find(before); err != nil {
		t.Errorf("validating again: %v", err)
	}
	if calls, connections := tokens.Calls(), api.connectionCount(); calls > 0 || connections > 0 {
		t.Errorf("validating made %d calls to the token endpoint and %d connections to the API", calls, connections)
	}
}

// refusedConfig is a configuration with a mistake, and what the error must say.
type refusedConfig struct{ config, want string }

// refusedConfigs returns configurations that differ from a good one in a mistake that is found at different times of
// a load. The good one is a Caddyfile for an address, with the credential "api".
//
// None listens where the good one does: Caddy would open a second socket there, and a connection that falls to that
// one is lost when it is closed.
func refusedConfigs(t *testing.T, good func(addr string) string) map[string]refusedConfig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	taken := l.Addr().String()
	another := func(options string) string {
		return strings.Replace(good(taken), "credential api", "credential zz {\nclient_id a\n"+options+"\n}\ncredential api", 1)
	}
	return map[string]refusedConfig{
		"adapting":            {strings.Replace(good(taken), "token_proxy api", "token_proxy catalog", 1), `unknown credential "catalog"`},
		"variable of another": {another("provider optoro\nclient_secret {env.TOKEN_PROXY_TEST_UNSET}"), "TOKEN_PROXY_TEST_UNSET"},
		"file of another":     {another("provider optoro\nclient_secret {file./nonexistent/secret}"), "/nonexistent/secret"},
		"URL of another":      {another("provider optoro {\ntoken_url http://auth.example.com\n}\nclient_secret CANARY"), "in the clear"},
		"own variable":        {strings.Replace(good(taken), devserver.DefaultClientSecret, "{env.TOKEN_PROXY_TEST_UNSET}", 1), "TOKEN_PROXY_TEST_UNSET"},
		"handler":             {good(taken) + siteConfig(freeAddr(t), "token_proxy api http://api.example.com"), "in the clear"},
		"reverse_proxy":       {good(taken) + siteConfig(freeAddr(t), "reverse_proxy 127.0.0.1:1 {\ntrusted_proxies nonsense\n}"), "nonsense"},
		"start":               {good(taken), "address already in use"},
	}
}

// Pitfall 7.3: a load that fails leaves the running configuration serving, with the token that it has.
func TestConfigFailedLoadChangesNothing(t *testing.T) {
	wantSourcesBack(t)
	tokens := newTokenServer(t)
	upstream := serveHTTP(t, tokens.api())
	addr := freeAddr(t)
	good := func(addr string) string {
		return globalOptions(tokens.credential("api")) + siteConfig(addr, "token_proxy api "+upstream.URL)
	}
	s := startCaddy(t, good(addr))
	// On Linux, Caddy's configurations listen beside each other: when one is taken back, the kernel resets connections
	// that were on their way to it. So this client keeps its connection.
	client := testClient(t)
	ask(t, client, newRequest(t, http.MethodGet, "http://"+addr, nil)).wantStatus(t, http.StatusOK)
	held := sourceCounts()
	for name, tc := range refusedConfigs(t, good) {
		t.Run(name, func(t *testing.T) {
			for range 3 { // Caddy provisions and starts apps in any order
				wantRefused(t, s.load(tc.config), tc.want)
			}
			ask(t, client, newRequest(t, http.MethodGet, "http://"+addr, nil)).wantStatus(t, http.StatusOK)
			if after := sourceCounts(); fmt.Sprintf("%x", after) != fmt.Sprintf("%x", held) {
				t.Errorf("sources held before: %x, after: %x", held, after)
			}
		})
	}
	if calls := tokens.Calls(); calls != 1 {
		t.Errorf("the token endpoint was called %d times, want once", calls)
	}
	if strings.Contains(s.logs(), adaptCanary) {
		t.Error("the log holds a secret of a refused configuration")
	}
}

// The policy of a configuration that could not be started must not stay in force: it may be the reason for which the
// operator went back.
func TestConfigFailedLoadLeavesPolicy(t *testing.T) {
	wantSourcesBack(t)
	tokens := newTokenServer(t)
	upstream := serveHTTP(t, tokens.api())
	addr := freeAddr(t)
	config := func(addr string, options ...string) string {
		return globalOptions(tokens.credential("api", options...)) + siteConfig(addr, "token_proxy api "+upstream.URL)
	}
	s := startCaddy(t, config(addr))
	refused := refusedConfigs(t, func(addr string) string { return config(addr, "max_wait 1ms", "fetch_timeout 1ms") })["start"]
	for range 20 { // Caddy starts apps in any order: it may find out before it starts ours
		wantRefused(t, s.load(refused.config), refused.want)
	}
	tokens.SetFault(devserver.Fault{Latency: 100 * time.Millisecond})
	get(t, "http://"+addr).wantStatus(t, http.StatusOK)
	if calls := tokens.Calls(); calls != 1 {
		t.Errorf("the token endpoint was called %d times, want once", calls)
	}
}

// Two credentials with the same client share its token (design, section 6), but each has its own policy.
func TestConfigCredentialsOfOneClientKeepTheirPolicies(t *testing.T) {
	s := startCaddy(t, "{\n admin off\n}\n")
	for range 10 { // the app starts its credentials in any order
		hasty, calm := freeAddr(t), freeAddr(t)
		tokens := newTokenServer(t)
		answered := make(chan struct{}) // the hasty request
		tokens.OnRequest = func(*http.Request, []byte) { <-answered }
		upstream := serveHTTP(t, tokens.api())
		err := s.load(globalOptions(tokens.credential("calm"), tokens.credential("hasty", "max_wait 1ms")) +
			siteConfig(hasty, "token_proxy hasty "+upstream.URL) + siteConfig(calm, "token_proxy calm "+upstream.URL))
		if err != nil {
			t.Fatal(err)
		}
		get(t, "http://"+hasty).wantProblem(t, http.StatusGatewayTimeout, "http_response_timeout")
		close(answered)
		get(t, "http://"+calm).wantStatus(t, http.StatusOK)
		if calls := tokens.Calls(); calls != 1 {
			t.Fatalf("the token endpoint was called %d times, want once", calls)
		}
	}
}

// Caddy calls Cleanup on modules whose Provision failed, and on those that never had one.
func TestConfigCleanupIsSafe(t *testing.T) {
	wantSourcesBack(t)
	t.Run("never provisioned", func(t *testing.T) {
		for _, module := range []caddy.CleanerUpper{new(App), new(Handler)} {
			for range 2 {
				if err := module.Cleanup(); err != nil {
					t.Errorf("%T: %v", module, err)
				}
			}
		}
	})
	t.Setenv("TOKEN_PROXY_TEST_SECRET", "b")
	const good = `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "{env.TOKEN_PROXY_TEST_SECRET}"}`
	provision := func(t *testing.T, third string) (*App, error) {
		t.Helper()
		app := new(App)
		config := `{"credentials": {"a": ` + good + `, "b": ` + good + `, "c": ` + third + `}}`
		if err := caddy.StrictUnmarshalJSON([]byte(config), app); err != nil {
			t.Fatal(err)
		}
		ctx, err := caddy.ProvisionContext(&caddy.Config{}) // the app uses another, the one for events
		if err != nil {
			t.Fatal(err)
		}
		return app, app.Provision(ctx)
	}
	running, err := provision(t, good)
	if err != nil {
		t.Fatal(err)
	}
	for name, third := range map[string]string{
		"partly provisioned": `{"provider": {"name": "optoro"}, "client_id": "a", "client_secret": "{env.TOKEN_PROXY_TEST_UNSET}"}`,
		"provisioned":        good,
	} {
		t.Run(name, func(t *testing.T) {
			wantSourcesBack(t) // no more and no less: what is left belongs to the running configuration
			app, err := provision(t, third)
			if (err == nil) != (third == good) {
				t.Fatalf("Provision: %v", err)
			}
			for range 2 {
				if err := app.Cleanup(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := running.Cleanup(); err != nil {
		t.Error(err)
	}
}

// reverseProxyUpstreams returns the addresses that reverse_proxy's pool holds, as the admin API shows them.
func reverseProxyUpstreams(t *testing.T) []string {
	t.Helper()
	info, err := caddy.GetModule("admin.api.reverse_proxy")
	if err != nil {
		t.Fatal(err)
	}
	var upstreams []struct{ Address string }
	for _, route := range info.New().(caddy.AdminRouter).Routes() {
		w := httptest.NewRecorder()
		if err := route.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, route.Pattern, nil)); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(w.Body.Bytes(), &upstreams); err != nil {
			t.Fatal(err)
		}
	}
	var addresses []string
	for _, u := range upstreams {
		addresses = append(addresses, u.Address)
	}
	slices.Sort(addresses)
	return addresses
}

// What reverse_proxy holds for us must be released as often as it was taken, however far Provision came: once less, and
// the health of an upstream outlives its configuration; once more, and the running configuration loses it.
func TestConfigRefusedHandlerReleasesUpstreams(t *testing.T) {
	handler := func(upstream, mistake string) string {
		return fmt.Sprintf(`{"handler": "token_proxy", "credential": "catalog", "upstreams": [{"dial": %q}]%s}`, upstream, mistake)
	}
	running := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
	for name, mistake := range map[string]string{
		"accepted":      ``,
		"own option":    `, "clients": ["nonsense"]`,
		"early mistake": `, "trusted_proxies": ["nonsense"]`,                                          // before reverse_proxy takes its upstreams
		"late mistake":  `, "handle_response": [{"routes": [{"handle": [{"handler": "nonsense"}]}]}]`, // after that
		"health checks": `, "health_checks": {"active": {"uri": "/", "expect_body": "("}}`,            // after that
	} {
		validate := func(t *testing.T, upstream string) {
			t.Helper()
			if err := validateJSON(configJSON(nowhere, goodCredential, handler(upstream, mistake))); (err == nil) != (name == "accepted") {
				t.Fatal(err)
			}
		}
		t.Run(name+"/alone", func(t *testing.T) {
			upstream := freeAddr(t)
			validate(t, upstream)
			if slices.Contains(reverseProxyUpstreams(t), upstream) {
				t.Error("the upstream is still held")
			}
		})
		t.Run(name+"/beside a running one", func(t *testing.T) {
			upstream := freeAddr(t)
			if err := running.loadJSON([]byte(configJSON(nowhere, goodCredential, handler(upstream, "")))); err != nil {
				t.Fatal(err)
			}
			validate(t, upstream)
			held := slices.Contains(reverseProxyUpstreams(t), upstream)
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			if !held {
				t.Error("the running configuration lost its upstream")
			}
			if slices.Contains(reverseProxyUpstreams(t), upstream) {
				t.Error("the upstream is still held after the running configuration has stopped")
			}
		})
	}
}

func TestConfigPrefetch(t *testing.T) {
	on, off, silent := newTokenServer(t), newTokenServer(t), newTokenServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	upstream := serveHTTP(t, off.api())
	addr := freeAddr(t)
	s := startCaddy(t, globalOptions(on.credential("on", "prefetch on"), off.credential("off", "prefetch off"), silent.credential("default"))+
		siteConfig(addr, "token_proxy off "+upstream.URL))
	if err := on.WaitCalls(ctx, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token of the prefetch", func() bool { return len(s.logged("token obtained")) == 1 })
	if off.Calls() != 0 || silent.Calls() != 0 {
		t.Errorf("without prefetch, the token endpoints got %d and %d calls before there was a request", off.Calls(), silent.Calls())
	}
	get(t, "http://"+addr).wantStatus(t, http.StatusOK)
	if on.Calls() != 1 || off.Calls() != 1 || silent.Calls() != 0 {
		t.Errorf("the token endpoints got %d, %d and %d calls, want 1, 1 and 0", on.Calls(), off.Calls(), silent.Calls())
	}
}
