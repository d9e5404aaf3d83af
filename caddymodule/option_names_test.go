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

// An option in the wrong place, or a mistyped one, is reported with the name and the place that are meant, so that the error is
// of use. The error shows no other word.
func TestMistypedOptions(t *testing.T) {
	const hidden = "it is not shown, because it could be a secret"
	for _, tc := range []struct {
		place      option.Place
		word, want string
	}{
		{option.OfCredential, "client_secert", "perhaps client_secret is meant"},
		{option.OfCredential, "client-secret", "perhaps client_secret is meant"},
		{option.OfCredential, "client-id", "perhaps client_id is meant"},
		{option.OfCredential, "clientId", "perhaps client_id is meant"},
		{option.OfCredential, "max-wait", "perhaps max_wait is meant"},
		{option.OfCredential, "api-hosts", "perhaps api_hosts is meant"},
		{option.OfCredential, "client_secret=x", "perhaps client_secret is meant, followed by a space"},
		{option.OfCredential, "client-secret:", "perhaps client_secret is meant, followed by a space"},
		{option.OfCredential, "scope", "scope, which is an option of provider oauth2"},
		{option.OfCredential, "token_url", "token_url, which is an option of provider oauth2 and of provider optoro and of provider elastic_path"},
		{option.OfCredential, "on_unauthorized", "on_unauthorized, which is an option of the directive token_proxy"},
		{option.OfCredential, "scopes", "perhaps scope is meant, which is an option of provider oauth2"},
		{option.OfOAuth2, "client_id", "client_id, which is an option of a credential"},
		{option.OfOAuth2, "client-id", "perhaps client_id is meant, which is an option of a credential"},
		{option.OfOAuth2, "client_id=x", "perhaps client_id is meant, which is an option of a credential"},
		{option.OfOAuth2, "token-url", "perhaps token_url is meant"},
		{option.OfOAuth2, "tokenurl", "perhaps token_url is meant"},
		{option.OfOAuth2, "params", "perhaps param is meant"},
		{option.OfTenant, "new-rate", "perhaps new_rate is meant"},
		{option.OfTenant, "keep_haeder", "perhaps keep is meant"},
		{option.OfTenant, "keep-header", "perhaps keep is meant"},
		{option.OfTransport, "dial_timeuot", "perhaps dial_timeout is meant"},
		{option.OfDirective, "max_wait", "max_wait, which is an option of a credential"},
		{option.OfDirective, "api-hosts", "perhaps api_hosts is meant, which is an option of a credential"},
		{option.OfDirective, "header_upp", "perhaps header_up is meant"},
		{option.OfDirective, "tls_server_name", "tls_server_name, which is an option of transport http of the directive"},
		{option.OfOptoro, "{", "{"},
		{option.OfOptoro, "cb", hidden}, {option.OfOptoro, "x", hidden}, {option.OfOptoro, "", hidden}, {option.OfOptoro, "=", hidden},
		{option.OfOptoro, "hunterhunter", hidden}, {option.OfOptoro, "-----BEGIN", hidden}, {option.OfOptoro, "keep_hunter", hidden},
	} {
		if got := tc.place.About(tc.word); got != tc.want {
			t.Errorf("%s: %q: %q, want %q", tc.place.Name(), tc.word, got, tc.want)
		}
	}
}

// No place has an option that its parser does not know, or lacks one of another place that its parser knows. So no error suggests
// an option that does not exist.
func TestPlacesHaveTheirOptions(t *testing.T) {
	const (
		global     = "{\n token_proxy {\n%s\n}\n}\n"
		credential = "credential a {\n%s\n}"
		directive  = "{\n token_proxy {\n credential a {\n provider optoro\n client_id b\n client_secret c\n}\n}\n}\n:80 {\n token_proxy a https://b.example {\n%s\n}\n}\n"
	)
	within := func(outer string, inner ...string) string {
		for _, one := range inner {
			outer = fmt.Sprintf(outer, one)
		}
		return outer
	}
	configs := map[string]string{
		option.OfGlobal.Name():        global,
		option.OfCredential.Name():    within(global, credential),
		option.OfTenant.Name():        within(global, credential, "tenant {http.request.host} {\n%s\n}"),
		option.OfTransport.Name():     within(global, credential, "transport {\n%s\n}"),
		option.OfOAuth2.Name():        within(global, credential, "provider oauth2 {\n%s\n}"),
		option.OfResponse.Name():      within(global, credential, "provider oauth2 {\nresponse {\n%s\n}\n}"),
		option.OfOptoro.Name():        within(global, credential, "provider optoro {\n%s\n}"),
		option.OfElasticPath.Name():   within(global, credential, "provider elastic_path {\n%s\n}"),
		option.OfShare.Name():         within(global, "share {\n%s\n}"),
		option.OfRedis.Name():         within(global, "share {\nstore redis {\n%s\n}\n}"),
		option.OfRedisTLS.Name():      within(global, "share {\nstore redis {\ntls {\n%s\n}\n}\n}"),
		option.OfHTTPSProxy.Name():    "{\n servers {\n listener_wrappers {\n https_proxy {\n%s\n}\n}\n}\n}\n",
		option.OfDirective.Name():     directive,
		option.OfHTTPTransport.Name(): within(directive, "transport http {\n%s\n}"),
	}
	all := make(map[string]bool)
	for _, place := range option.Places {
		for _, name := range place.Options() {
			all[name] = true
		}
	}
	for _, place := range option.Places {
		config, ok := configs[place.Name()]
		if !ok {
			t.Errorf("%s: the test has no configuration", place.Name())
			continue
		}
		for name := range all {
			_, err := adapt(fmt.Sprintf(config, name))
			unknown := err != nil && strings.Contains(err.Error(), "unrecognized ")
			if has := slices.Contains(place.Options(), name); has == unknown {
				t.Errorf("%s: the list has %s: %t, and the parser: %v", place.Name(), name, has, err)
			}
		}
	}
}

// The places know every option that the configuration has.
func TestOptionNamesAreComplete(t *testing.T) {
	singular := map[string]string{
		"credentials": "credential", "params": "param", "json_params": "json_param", "headers": "header", "assertion_claims": "assertion_claim",
		"addresses": "address", "keys": "key", "keep_header": "keep",
		"region": "", "environment": "", "credential": "", // which stand beside the name of the provider or the directive
		"format": "", "name": "", // which stand beside their option
	}
	for place, module := range map[*option.Place]any{
		&option.OfGlobal: App{}, &option.OfCredential: Credential{}, &option.OfTransport: TokenTransport{}, &option.OfOAuth2: oauth2.Provider{},
		&option.OfResponse: oauth2.Response{}, &option.OfElasticPath: elasticpath.Provider{}, &option.OfOptoro: optoro.Provider{},
		&option.OfRedis: redis.Store{}, &option.OfRedisTLS: redis.TLS{}, &option.OfTenant: Tenant{}, &option.OfShare: Share{},
		&option.OfDirective: Handler{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(module)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if option, ok := singular[name]; ok {
				name = option
			}
			if name != "" && len(field.Index) == 1 && !slices.Contains(place.Options(), name) {
				t.Errorf("%T: %s is missing", module, name)
			}
		}
	}
}
