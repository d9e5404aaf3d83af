package caddymodule

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/oauth2"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/optoro"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/stores/redis"
)

// strayed are secrets as they may get onto a place that is not theirs: alone, and with what stands before them.
var strayed = []string{
	"Hq7vRt2mKp9x", "correct-horse-battery-staple", "hunterhunter", "SECRETSECRET", "tr0ub4dor", "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln",
	"-----BEGIN", "dGhlIHNlY3JldA==", "{hunterhunter}", "hunter/hunter", "5tr0ub4dors", "client_secret=Hq7vRt2mKp9x", "client_secret:hunterhunter",
	"clientsecret:hunterhunter", "password:Hq7vRt2mKp9x", "id:hunterhunter", "https://id:hunterhunter@as.example", "ключключключ", "0x5tr0ub4dors",
}

// No error shows a secret that stands where something else belongs, whatever that is.
func TestStrayedSecretIsNotShown(t *testing.T) {
	const (
		credential = "{\n token_proxy {\n credential a {\n provider optoro\n client_id b\n client_secret {env.C}\n %s\n}\n}\n}\n"
		provider   = "{\n token_proxy {\n credential a {\n provider %s\n client_id b\n client_secret {env.C}\n}\n}\n}\n"
		oauth2     = "{\n token_proxy {\n credential a {\n provider oauth2 {\n token_url https://as.example/token\n %s\n}\n client_id b\n client_secret {env.C}\n}\n}\n}\n"
		directive  = "{\n token_proxy {\n credential a {\n provider optoro\n client_id b\n client_secret {env.C}\n}\n}\n}\n:80 {\n token_proxy a https://b.example {\n %s\n}\n}\n"
	)
	for name, config := range map[string]string{
		"of the global option":      "{\n token_proxy %s {\n}\n}\n",
		"in the global option":      "{\n token_proxy {\n %s\n}\n}\n",
		"after a credential's name": "{\n token_proxy {\n credential a %s {\n}\n}\n}\n",
		"in a credential's name":    "{\n token_proxy {\n credential /%s {\n}\n}\n}\n",

		"as an option":         fmt.Sprintf(credential, "%s"),
		"as an option, and on": fmt.Sprintf(credential, "%s and more"),
		"refresh_margin":       fmt.Sprintf(credential, "refresh_margin %s"),
		"fetch_timeout":        fmt.Sprintf(credential, "fetch_timeout %s more"),
		"prefetch":             fmt.Sprintf(credential, "prefetch %s"),
		"api_hosts":            fmt.Sprintf(credential, "api_hosts a.example /%s"),
		"api_hosts, a port":    fmt.Sprintf(credential, "api_hosts a.example:%s"),
		"allow_plaintext":      fmt.Sprintf(credential, "allow_plaintext %s"),
		"header":               fmt.Sprintf(credential, "header \"%s:\""),
		"transport":            fmt.Sprintf(credential, "transport %s"),
		"in transport":         fmt.Sprintf(credential, "transport {\n %s\n}"),
		"dial_timeout":         fmt.Sprintf(credential, "transport {\n dial_timeout %s\n}"),

		"a provider":                 fmt.Sprintf(provider, "%s"),
		"an environment":             fmt.Sprintf(provider, "optoro %s"),
		"after an environment":       fmt.Sprintf(provider, "optoro sandbox %s"),
		"in optoro":                  fmt.Sprintf(provider, "optoro {\n %s\n}"),
		"a region":                   fmt.Sprintf(provider, "elastic_path %s"),
		"after a region":             fmt.Sprintf(provider, "elastic_path euwest %s"),
		"in elastic_path":            fmt.Sprintf(provider, "elastic_path {\n %s\n}"),
		"a grant of elastic_path":    fmt.Sprintf(provider, "elastic_path {\n grant %s\n}"),
		"after oauth2":               fmt.Sprintf(provider, "oauth2 %s {\n token_url https://as.example\n}"),
		"a token URL":                fmt.Sprintf(provider, "optoro {\n token_url %s\n}"),
		"in oauth2":                  fmt.Sprintf(oauth2, "%s"),
		"client_auth":                fmt.Sprintf(oauth2, "client_auth %s"),
		"basic_encoding":             fmt.Sprintf(oauth2, "basic_encoding %s"),
		"encoding":                   fmt.Sprintf(oauth2, "encoding %s"),
		"method":                     fmt.Sprintf(oauth2, "method %s"),
		"param":                      fmt.Sprintf(oauth2, "param %s"),
		"json_param":                 fmt.Sprintf(oauth2, "json_param a %s"),
		"in response":                fmt.Sprintf(oauth2, "response {\n %s\n}"),
		"response, token":            fmt.Sprintf(oauth2, "response {\n token a..%s\n}"),
		"response, expires_in":       fmt.Sprintf(oauth2, "response {\n expires_in a %s\n}"),
		"response, default":          fmt.Sprintf(oauth2, "response {\n default %s\n}"),
		"response, keep":             fmt.Sprintf(oauth2, "response {\n keep -%s a\n}"),
		"in the directive":           fmt.Sprintf(directive, "%s"),
		"in its transport":           fmt.Sprintf(directive, "transport http {\n %s\n}"),
		"client_authorization":       fmt.Sprintf(directive, "client_authorization %s"),
		"on_unauthorized":            fmt.Sprintf(directive, "on_unauthorized %s"),
		"rejected_status":            fmt.Sprintf(directive, "rejected_status %s"),
		"forwarded":                  fmt.Sprintf(directive, "forwarded %s"),
		"after client_authorization": fmt.Sprintf(directive, "client_authorization keep %s"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, secret := range strayed {
				_, err := adapt(fmt.Sprintf(config, secret))
				if err == nil {
					if name == "a token URL" || name == "json_param" || strings.HasPrefix(name, "api_hosts") { // where it may be right
						continue
					}
					t.Errorf("%s is accepted", secret)
					continue
				}
				for _, part := range []string{"Hq7vRt2mKp9x", "hunterhunter", "tr0ub4dor", "SECRETSECRET", secret} {
					if strings.Contains(secret, part) && strings.Contains(err.Error(), part) {
						t.Errorf("%s: %v", secret, err)
					}
				}
				if !strings.Contains(err.Error(), "Caddyfile:") {
					t.Errorf("%s: the error names no line: %v", secret, err)
				}
			}
		})
	}
}

// A mistyped option is told by the name that it is like, so that the error is of use.
func TestMistypedOptions(t *testing.T) {
	for word, want := range map[string]string{
		"client_secert": "perhaps client_secret is meant", "clientid": "perhaps client_id is meant", "tokenurl": "perhaps token_url is meant",
		"scopes": "perhaps scope is meant", "params": "perhaps param is meant", "client_secret=x": "client_secret…", "scope": "scope", "{": "{",
		"cb": "it is not shown", "x": "it is not shown", "": "it is not shown", "=": "it is not shown", "hunterhunter": "it is not shown",
	} {
		if got := option.AboutWord(word); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	for _, name := range option.Names {
		if got := option.AboutWord(name); got != name {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// The list of names knows every option that the configuration has.
func TestOptionNamesAreComplete(t *testing.T) {
	singular := map[string]string{
		"credentials": "credential", "params": "param", "json_params": "json_param", "headers": "header", "assertion_claims": "assertion_claim",
		"addresses": "address",
		"region":    "", "environment": "", // which stand beside the provider's name
		"format": "", "name": "", // which stand beside their option
	}
	for _, module := range []any{App{}, Credential{}, TokenTransport{}, oauth2.Provider{}, oauth2.Response{}, elasticpath.Provider{}, optoro.Provider{}, redis.Store{}, redis.TLS{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(module)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if option, ok := singular[name]; ok {
				name = option
			}
			if name != "" && !slices.Contains(option.Names, name) {
				t.Errorf("%T: %s is missing", module, name)
			}
		}
	}
	for _, name := range []string{"client_authorization", "on_unauthorized", "rejected_status", "forwarded", "replay_buffer", "clients", "token_stub"} {
		if !slices.Contains(option.Names, name) || new(Handler).option(name) == nil {
			t.Errorf("%s is missing", name)
		}
	}
}
