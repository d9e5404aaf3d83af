package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// An endpoint that answers with what it was sent has issued no token: the API would get the client's secret, its key, or
// its assertion.
func TestReflectedTokenIsRefused(t *testing.T) {
	const secret = "correct horse+battery/staple"
	made := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	oauth2 := func(options string) string {
		return `{"provider": {"name": "oauth2", "token_url": "URL", ` + options + `}, "client_id": "an-id", "client_secret": "` + secret + `"}`
	}
	withoutSecret := func(options string) string {
		return strings.Replace(oauth2(options), `, "client_secret": "`+secret+`"`, "", 1)
	}
	inForm := func(name string) func(r *http.Request, body string) string {
		return func(_ *http.Request, body string) string {
			form, _ := url.ParseQuery(body)
			return form.Get(name)
		}
	}
	header := func(name string) func(r *http.Request, body string) string {
		return func(r *http.Request, _ string) string { return r.Header.Get(name) }
	}
	const tight = "correct-horse-battery"
	noSpace := func(config string) string { return strings.ReplaceAll(config, secret, tight) }
	for name, tc := range map[string]struct {
		config  string
		reflect func(r *http.Request, body string) string
	}{
		"the secret, as a parameter": {noSpace(oauth2(`"client_auth": "client_secret_post"`)), inForm("client_secret")},
		"the secret, from Basic": {noSpace(oauth2(`"client_auth": "client_secret_basic"`)), func(r *http.Request, _ string) string {
			_, secret, _ := r.BasicAuth()
			return secret
		}},
		"the secret, escaped, from Basic": {oauth2(`"client_auth": "client_secret_basic"`), func(r *http.Request, _ string) string {
			_, secret, _ := r.BasicAuth()
			return secret
		}},
		"the credentials of Basic": {oauth2(`"client_auth": "client_secret_basic"`), func(r *http.Request, _ string) string {
			return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
		}},
		"the secret, and more": {noSpace(oauth2(`"client_auth": "client_secret_post"`)), func(*http.Request, string) string { return "token-for-" + tight + "!" }},
		"the whole form":       {oauth2(`"client_auth": "client_secret_post"`), func(_ *http.Request, body string) string { return body }},
		"the secret, from JSON": {noSpace(oauth2(`"client_auth": "client_secret_post", "encoding": "json"`)), func(_ *http.Request, body string) string {
			var object map[string]string
			_ = json.Unmarshal([]byte(body), &object)
			return object["client_secret"]
		}},
		"a parameter, from the URL": {withoutSecret(`"client_auth": "none", "encoding": "query", "params": {"subject": "a-telling-value"}`),
			func(r *http.Request, _ string) string { return r.URL.Query().Get("subject") }},
		"a parameter, from JSON": {withoutSecret(`"client_auth": "none", "encoding": "json", "json_params": {"list": [{"subject": "a-telling-value"}]}`),
			func(_ *http.Request, body string) string {
				if strings.Contains(body, `"a-telling-value"`) {
					return "a-telling-value"
				}
				return ""
			}},
		"the signed assertion":       {withoutSecret(`"client_auth": "private_key_jwt", "signing_key": "` + caddytest.SecretFile(t, made.key) + `"`), inForm("client_assertion")},
		"the assertion of a file":    {withoutSecret(`"client_auth": "private_key_jwt", "client_assertion_file": "FILE"`), inForm("client_assertion")},
		"the assertion of the grant": {withoutSecret(`"client_auth": "none", "grant": "` + oauth.GrantJWTBearer + `", "signing_key": "` + caddytest.SecretFile(t, made.key) + `"`), inForm("assertion")},
		"a header": {withoutSecret(`"client_auth": "none", "headers": {"Authorization": "ApiKey 0123456789abcdef"}`), func(r *http.Request, _ string) string {
			return strings.TrimPrefix(r.Header.Get("Authorization"), "ApiKey ")
		}},
		"a header as a whole": {withoutSecret(`"client_auth": "none", "headers": {"X-Key": "0123456789abcdef"}`), header("X-Key")},
	} {
		t.Run(name, func(t *testing.T) {
			var sent string
			endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				sent = tc.reflect(r, string(body))
				_ = json.NewEncoder(w).Encode(map[string]any{"access_token": sent, "token_type": "Bearer", "expires_in": 60})
			}))
			assertion := strings.TrimSuffix(strings.TrimPrefix(caddytest.SecretFile(t, "an.assertion.of-somebody"), "{file."), "}")
			config := strings.NewReplacer("URL", endpoint.URL, "FILE", assertion).Replace(tc.config)
			_, c, _ := provisionCredential(t, config)
			issued, err := fetchOnce(t, c)
			if sent == "" {
				t.Fatal("the endpoint has reflected nothing")
			}
			e := wantTokenError(t, err, token.Unreadable)
			if !strings.Contains(e.Reason, "a part of the request") || !issued.Token.Empty() {
				t.Errorf("got reason %q", e.Reason)
			}
		})
	}
}

// A key that is not sent at all is no token either.
func TestSecretThatIsNotSentIsNoToken(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	req := httptest.NewRequest(http.MethodPost, "https://as.example", nil)
	read := secrets{client: provider.Client{Secrets: provider.Secrets{"a": token.NewSecret("other"), "b": token.NewSecret(key)}}}
	if !isReflected(token.NewSecret(key), req, read.client.Secret, read.all()) {
		t.Error("it is accepted")
	}
}

// Tokens have much in common with requests, and are tokens all the same.
func TestTokensThatAreNotReflected(t *testing.T) {
	req, err := oauth.NewFormRequest(t.Context(), "https://as.example/token?tenant=acme-tenant",
		url.Values{"client_id": {"an-id"}, "scope": {"read write"}, "subject": {"0123456789"}})
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("an-id", "short")
	read := secrets{client: provider.Client{ID: "an-id", Secret: token.NewSecret("short"), Secrets: provider.Secrets{"a": {}, "b": token.NewSecret("0123456789")}}}
	for _, value := range []string{
		"an-id-1", "acme-tenant.0123456789.x", "read", "01234567890", "a-shortened-token", base64.StdEncoding.EncodeToString([]byte("an-id:other")),
		"urn:ietf:params:oauth:token-type:access_token",
	} {
		if isReflected(token.NewSecret(value), req, read.client.Secret, read.all()) {
			t.Errorf("%q is refused", value)
		}
	}
}
