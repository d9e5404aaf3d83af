package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/elasticpath"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/providers/optoro"
)

// provisionCredential provisions an app with one credential, "test", from JSON. What the credential logs later on is
// in the buffer.
func provisionCredential(t *testing.T, config string) (*App, *client, *bytes.Buffer) {
	t.Helper()
	app, err := tryProvisionCredential(t, config)
	if err != nil {
		t.Fatal(err)
	}
	c := app.clients["test"]
	var log bytes.Buffer
	c.logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		zapcore.Lock(zapcore.AddSync(&log)), zap.DebugLevel))
	c.status.LogTo(c.logger)
	return app, c, &log
}

func tryProvisionCredential(t *testing.T, config string) (*App, error) {
	t.Helper()
	return tryProvisionApp(t, `"credentials": {"test": `+config+`}`, "")
}

// tryProvisionApp provisions a configuration with this app, and with more beside the apps.
func tryProvisionApp(t *testing.T, app, more string) (*App, error) {
	t.Helper()
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON([]byte(`{`+more+`
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"apps": {"token_proxy": {`+app+`}}
	}`), cfg); err != nil {
		t.Fatalf("%v: %s", err, app)
	}
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, err
	}
	loaded, err := ctx.App(appName)
	if err != nil {
		t.Fatal(err)
	}
	provisioned := loaded.(*App)
	t.Cleanup(func() {
		if err := provisioned.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return provisioned, nil
}

// quote is JSON for a string.
func quote(s string) string {
	q, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(q)
}

// credentialJSON is a credential of a provider, whose options are given as names and JSON values in turn.
func credentialJSON(provider, id, secret string, options ...string) string {
	members := []string{`"name":` + quote(provider)}
	for i := 0; i+1 < len(options); i += 2 {
		members = append(members, quote(options[i])+`:`+quote(options[i+1]))
	}
	config := `{"provider":{` + strings.Join(members, ",") + `},"client_id":` + quote(id)
	if secret != "" {
		config += `,"client_secret":` + quote(secret)
	}
	return config + `}`
}

// fetchOnce asks the endpoint once, without the engine.
func fetchOnce(t *testing.T, c *client) (provider.Issued, error) {
	t.Helper()
	return (&fetcher{caller: &c.caller}).Prepare().Fetch(t.Context())
}

// wantTokenError fails the test unless err is a *TokenError of this kind. It returns it, or an empty one.
func wantTokenError(t *testing.T, err error, kind token.Kind) *provider.Error {
	t.Helper()
	e, ok := errors.AsType[*provider.Error](err)
	if !ok {
		t.Errorf("got error %v (%T), want a *TokenError of kind %s", err, err, kind)
		return new(provider.Error)
	}
	if e.Kind != kind {
		t.Errorf("got kind %s (%v), want %s", e.Kind, e, kind)
	}
	return e
}

func keyOf(t *testing.T, config string) token.Key {
	t.Helper()
	_, c, _ := provisionCredential(t, config)
	return c.key
}

// jsonFields returns the names of a struct's JSON members.
func jsonFields(v any) []string {
	var names []string
	for field := range reflect.TypeOf(v).Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// Whatever shapes the token is in the key: else one credential would get the token of another.
func TestKeyOfProviderFields(t *testing.T) {
	// for each field, values that must all make another key than the others, and than no value
	fields := map[string]map[string][]string{
		"optoro": {
			"environment": {"sandbox"},
			"token_url":   {"https://a.example/oauth/token", "https://b.example/oauth/token", "https://a.example/oauth/token?x=y", "https://a.example:8443/oauth/token", "https://a.example/oauth/Token"},
		},
		"elastic_path": {
			"region":    {"useast"},
			"token_url": {"https://a.example/oauth/access_token", "https://b.example/oauth/access_token"},
			"store":     {"a", "b", "A", " a"},
		},
	}
	for provider, module := range map[string]any{"optoro": optoro.Provider{}, "elastic_path": elasticpath.Provider{}} {
		for _, field := range jsonFields(module) {
			if fields[provider][field] == nil && field != "grant" {
				t.Errorf("provider %s: nobody says what %s does to the key", provider, field)
			}
		}
	}
	keys := make(map[token.Key]string)
	add := func(what, config string) {
		t.Helper()
		key := keyOf(t, config)
		if other, ok := keys[key]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		keys[key] = what
	}
	for _, provider := range []string{"optoro", "elastic_path"} {
		add(provider, credentialJSON(provider, "id", "secret"))
		for _, field := range slices.Sorted(maps.Keys(fields[provider])) {
			for _, value := range fields[provider][field] {
				add(fmt.Sprintf("%s with %s %s", provider, field, value), credentialJSON(provider, "id", "secret", field, value))
			}
		}
	}
	// an implicit token has other rights
	add("elastic_path with grant implicit", credentialJSON("elastic_path", "id", "", "grant", "implicit"))
	// the same endpoint for both
	add("optoro elsewhere", credentialJSON("optoro", "id", "secret", "token_url", "https://c.example/token"))
	add("elastic_path elsewhere", credentialJSON("elastic_path", "id", "secret", "token_url", "https://c.example/token"))
	// the endpoint itself, and not only what it is made of
	for _, url := range []string{"https://d.example/", "https://e.example/"} {
		t.Setenv("TOKEN_PROXY_TEST_URL", url)
		add("optoro at "+url, credentialJSON("optoro", "id", "secret", "token_url", "{env.TOKEN_PROXY_TEST_URL}"))
	}
	// no confusion of neighbours
	add("a store that ends like a URL", credentialJSON("elastic_path", "id", "secret", "store", `","token_url":"https://a.example/`))
}

// The same for provider oauth2, whose options are many: whatever is in its configuration, or in that of the transport,
// makes another key when it changes. Who adds a field need not add it here.
func TestKeyOfOAuth2(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_SCOPE", "a")
	certificate := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	o := options{
		"token_url": "https://login.example/token", "client_auth": "private_key_jwt", "client_id_param": "cid", "signing_key": pkcs8(signingKeyOf("P-256")),
		"signing_key_id": "1", "signing_alg": "ES256", "assertion_audience": "a", "assertion_typ": "JWT", "assertion_claims": options{"c": "d"},
		"client_assertion_type": "urn:t", "client_certificate": certificate.certificate, "client_certificate_key": certificate.key,
		"grant": oauth.GrantJWTBearer, "scope": []string{"a"}, "scope_separator": ",", "audience": "a", "resource": []string{"urn:r"},
		"params": options{"p": "v"}, "json_params": options{"j": 1}, "headers": options{"X-H": "v"}, "method": "POST", "encoding": "json",
		"response": options{
			"token": []string{"t"}, "expires_in": options{"path": "e", "unit": "ms"}, "expires_at": options{"path": "a", "unit": "ms"}, "refresh_in": "r",
			"default": "1h", "keep": options{"k": "p"}, "error": []string{"e"}, "retry": []string{"r"}, "retry_text": "t", "retry_after": "w",
		},
	}
	transport := options{"transport": options{"ca": certificate.certificate, "server_name": "s.example", "proxy": "http://proxy.example", "dial_timeout": "1s"}}
	full := oauth2JSON("id", "", o, transport)
	least := oauth2JSON("id", "secret", options{"token_url": "https://login.example/token"})
	for name, config := range map[string]string{"all options": full, "few options": least} {
		_, c, _ := provisionCredential(t, config)
		key := func() token.Key {
			t.Helper()
			if err := c.identify(); err != nil {
				t.Fatal(err)
			}
			return c.key
		}
		original := key()
		if keyOf(t, config) != original {
			t.Errorf("%s: another key the next time", name)
		}
		fields := 0
		check := func(field string) {
			fields++
			if key() == original {
				t.Errorf("%s: another %s makes no other key", name, field)
			}
		}
		eachChange(t, "provider", reflect.ValueOf(c.provider).Elem(), check)
		eachChange(t, "transport", reflect.ValueOf(c.Transport).Elem(), check)
		if key() != original {
			t.Fatalf("%s: the test did not put back what it changed", name)
		}
		if fields < 30 {
			t.Errorf("%s: only %d fields were changed", name, fields)
		}
	}
	for _, secret := range []string{"PRIVATE KEY", "proxy.example"} {
		if strings.Contains(string(keyOf(t, full)), secret) {
			t.Errorf("the key has %q in it", secret)
		}
	}

	// What is there and empty is not what is not there; a placeholder is what it stands for, unless it may be secret.
	keys := make(map[token.Key]string)
	add := func(what string, o options) {
		t.Helper()
		key := keyOf(t, oauth2JSON("id", "", options{"token_url": "https://login.example/token", "client_auth": "none"}.with(o)))
		if other, ok := keys[key]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		keys[key] = what
	}
	add("nothing", nil)
	add("no grant", options{"grant": ""})
	add("no client_id", options{"client_id_param": ""})
	add("an empty parameter", options{"params": options{"a": ""}})
	add("an empty header", options{"headers": options{"a": ""}})
	add("issuer", options{"token_url": nil, "issuer": "https://login.example/token"})
	add("scope of a variable", options{"scope": []string{"{env.TOKEN_PROXY_TEST_SCOPE}"}})
	t.Setenv("TOKEN_PROXY_TEST_SCOPE", "b")
	add("scope of the variable when it has changed", options{"scope": []string{"{env.TOKEN_PROXY_TEST_SCOPE}"}})
	add("two scopes", options{"scope": []string{"a", "b"}})
	add("two scopes in one", options{"scope": []string{"a b"}})
	add("a parameter", options{"params": options{"a": "b"}})
	add("a header", options{"headers": options{"a": "b"}})
	add("a JSON parameter", options{"encoding": "json", "json_params": options{"a": "b"}})
	add("a JSON number", options{"encoding": "json", "json_params": options{"a": 1}})
	add("a parameter as JSON", options{"encoding": "json", "params": options{"a": "b"}})
}

// eachChange changes one thing after the other in a configuration, calls check, and changes it back. What is not there
// is added.
func eachChange(t *testing.T, name string, v reflect.Value, check func(string)) {
	t.Helper()
	original := reflect.ValueOf(v.Interface()) // a copy, so far as it is not behind a pointer
	changeTo := func(what string, changed reflect.Value) {
		t.Helper()
		v.Set(changed)
		check(name + what)
		v.Set(original)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i, field := range reflect.VisibleFields(v.Type()) {
			if field.IsExported() {
				eachChange(t, name+"."+field.Name, v.Field(i), check)
			}
		}
	case reflect.Pointer:
		if v.IsNil() {
			changeTo(" that is there", reflect.New(v.Type().Elem()))
			return
		}
		changeTo(" that is not there", reflect.Zero(v.Type()))
		eachChange(t, name, v.Elem(), check)
	case reflect.String:
		changeTo(" that is longer", reflect.ValueOf(v.String()+"x").Convert(v.Type()))
		if v.Len() > 0 {
			changeTo(" that is empty", reflect.Zero(v.Type()))
		}
	case reflect.Int64:
		changeTo(" that is larger", reflect.ValueOf(v.Int()+1).Convert(v.Type()))
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			changeTo(" that is another", reflect.ValueOf(json.RawMessage(`"x"`)))
			return
		}
		changeTo(" that is longer", reflect.Append(original.Slice3(0, v.Len(), v.Len()), reflect.New(v.Type().Elem()).Elem()))
		if v.Len() > 0 {
			changeTo(" that is empty", reflect.Zero(v.Type()))
			eachChange(t, name+"[0]", v.Index(0), check)
		}
	case reflect.Map:
		element := reflect.New(v.Type().Elem()).Elem()
		if element.Type() == reflect.TypeFor[json.RawMessage]() {
			element.Set(reflect.ValueOf(json.RawMessage("null")))
		}
		added := reflect.MakeMap(v.Type())
		for key, value := range v.Seq2() {
			added.SetMapIndex(key, value)
		}
		added.SetMapIndex(reflect.ValueOf("another"), element)
		changeTo(" with one more", added)
		for key, value := range v.Seq2() {
			element.Set(value)
			eachChange(t, name+"["+key.String()+"]", element, func(what string) {
				changed := reflect.MakeMap(v.Type())
				changed.SetMapIndex(key, element)
				changeTo(strings.TrimPrefix(what, name), changed)
			})
		}
	default:
		t.Errorf("nobody says how %s, a %s, is changed", name, v.Type())
	}
}

func TestKeyOfClient(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_A", "a-value")
	t.Setenv("TOKEN_PROXY_TEST_B", "a-value")
	first, second := caddytest.SecretFile(t, "a-value"), caddytest.SecretFile(t, "a-value")
	keys := make(map[token.Key]string)
	for _, client := range [][2]string{
		{"id", "secret"},
		{"ID", "secret"},
		{"id ", "secret"},
		{"i", "dsecret"},
		{"idsecret", "x"},
		{"secret", "id"},
		{"id", "Secret"},
		{"id", "a-value"},
		{"a-value", "id"},
		{"id", "{env.TOKEN_PROXY_TEST_A}"},
		{"id", "{env.TOKEN_PROXY_TEST_B}"},
		{"id", first},
		{"id", second},
		{"{env.TOKEN_PROXY_TEST_A}", "secret"},
		{first, "{env.TOKEN_PROXY_TEST_A}"},
	} {
		what := fmt.Sprintf("%q", client)
		key := keyOf(t, credentialJSON("optoro", client[0], client[1]))
		if other, ok := keys[key]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		keys[key] = what
		if again := keyOf(t, credentialJSON("optoro", client[0], client[1])); again != key {
			t.Errorf("%s has another key the next time: each reload would fetch", what)
		}
		for _, text := range client {
			if len(text) > 3 && strings.Contains(string(key), text) {
				t.Errorf("the key of %s contains %q", what, text)
			}
		}
	}
}

// A rotated secret is another proof of the same client: its token serves until it is due. Another id is
// another client: its requests must not get the token of the old one.
func TestKeyOfFileContent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "value")
	write := func(content string) {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asSecret := credentialJSON("optoro", "id", "{file."+name+"}")
	asID := credentialJSON("optoro", "{file."+name+"}", "secret")
	write("old")
	oldSecret, oldID := keyOf(t, asSecret), keyOf(t, asID)
	write("new")
	if keyOf(t, asSecret) != oldSecret {
		t.Error("a rotated secret file costs the token")
	}
	if keyOf(t, asID) == oldID {
		t.Error("loaded again with another client_id in its file, the credential gets the token of the old client")
	}
}

// Policy changes no token, so it must cost none.
func TestKeyIgnoresPolicy(t *testing.T) {
	base := credentialJSON("optoro", "id", "secret")
	want := keyOf(t, base)
	policy := map[string]string{
		"api_hosts":        `["a.example","*.b.example"]`,
		"allow_plaintext":  `true`,
		"refresh_margin":   `"1m"`,
		"fetch_timeout":    `"1m"`,
		"max_wait":         `"1m"`,
		"default_lifetime": `"1m"`,
		"header":           `{"name":"X-Token"}`,
		"prefetch":         `true`,
	}
	for _, field := range jsonFields(Credential{}) {
		value, ok := policy[field]
		if !ok {
			if !slices.Contains([]string{"provider", "client_id", "client_secret", "transport", "share", "tenant"}, field) {
				t.Errorf("nobody says what %s does to the key", field)
			}
			continue
		}
		if keyOf(t, strings.TrimSuffix(base, "}")+`,"`+field+`":`+value+`}`) != want {
			t.Errorf("%s changes the key", field)
		}
	}
	if keyOf(t, credentialJSON("elastic_path", "id", "secret")) != keyOf(t, credentialJSON("elastic_path", "id", "secret", "grant", "client_credentials")) {
		t.Error("a default that is written out changes the key")
	}
}

// The secret goes in the clear to this machine only, unless somebody says so.
func TestTokenURLInTheClear(t *testing.T) {
	for url, want := range map[string]bool{
		"https://login.example":      true,
		"HTTPS://login.example":      true,
		"http://127.0.0.1:9080":      true,
		"http://127.9.9.9":           true,
		"http://localhost:9080":      true,
		"http://[::1]:9080":          true,
		"http://login.example":       false,
		"http://10.0.0.1":            false,
		"http://0.0.0.0:9080":        false,
		"http://localhost.example":   false,
		"http://127.0.0.1.example":   false,
		"http://[fe80::1]":           false,
		"http://[::ffff:10.0.0.1]":   false,
		"HTTP://login.example/token": false,
	} {
		for _, provider := range []string{"optoro", "elastic_path"} {
			config := credentialJSON(provider, "id", "s3cr3t-canary", "token_url", url)
			_, err := tryProvisionCredential(t, config)
			if (err == nil) != want {
				t.Errorf("%s for %s: got %v", url, provider, err)
			}
			if err != nil {
				for _, word := range []string{`credential "test"`, "token_url", "allow_plaintext"} {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s: %q does not name %s", url, err, word)
					}
				}
				wantNowhere(t, "the secret", "s3cr3t-canary", map[string]string{"the error": err.Error()})
			}
			if _, err := tryProvisionCredential(t, strings.TrimSuffix(config, "}")+`,"allow_plaintext":true}`); err != nil {
				t.Errorf("%s with allow_plaintext: %v", url, err)
			}
		}
	}
}

func TestTokenHeader(t *testing.T) {
	secret := token.NewSecret("T")
	for _, tc := range []struct {
		in          *TokenHeader
		name, value string
	}{
		{nil, "Authorization", "Bearer T"},
		{&TokenHeader{}, "Authorization", "Bearer T"},
		{&TokenHeader{Name: "authorization"}, "Authorization", "Bearer T"},
		{&TokenHeader{Format: "Token {token}"}, "Authorization", "Token T"},
		{&TokenHeader{Name: "x-shopify-access-token"}, "X-Shopify-Access-Token", "T"},
		{&TokenHeader{Name: "X-Token", Format: `key="{token}"; v=1`}, "X-Token", `key="T"; v=1`},
		{&TokenHeader{Name: "X-Token", Format: "{{token}}"}, "X-Token", "{T}"},
		{&TokenHeader{Name: "Cookie", Format: "session={token}"}, "Cookie", "session=T"},
		{&TokenHeader{Name: "Proxy-Authorization", Format: "Bearer {token}"}, "Proxy-Authorization", "Bearer T"},
	} {
		config := credentialJSON("optoro", "id", "secret")
		if tc.in != nil {
			header, err := json.Marshal(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			config = strings.TrimSuffix(config, "}") + `,"header":` + string(header) + `}`
		}
		_, c, _ := provisionCredential(t, config)
		if c.header.Name != tc.name || c.header.value(secret) != tc.value {
			t.Errorf("%+v: got %s: %s", tc.in, c.header.Name, c.header.value(secret))
		}
	}
	for _, refused := range []TokenHeader{
		{Name: "X Token"}, {Name: "X-Token:"}, {Name: "X-Tökén"}, {Name: "X\r\nY"}, {Name: "\x00"},
		{Name: "Connection"}, {Name: "transfer-encoding"}, {Name: "HOST"}, {Name: "te"}, {Name: "Trailer"},
		{Name: "Upgrade"}, {Name: "Content-Length"}, {Name: "Keep-Alive"}, {Name: "Proxy-Connection"},
		{Format: "Bearer"}, {Format: "{token}{token}"}, {Format: "{TOKEN}"}, {Format: "Bearer {token}\r\nX-Injected: 1"},
		{Format: "{token}\x00"},
	} {
		if err := refused.provision(); err == nil {
			t.Errorf("%+v is accepted", refused)
		}
	}
}

// A credential can end up in a log in many ways. None of them shows a literal secret.
func TestPrintingShowsNoSecret(t *testing.T) {
	const secret = "s3cr3t-canary"
	app, c, _ := provisionCredential(t, credentialJSON("optoro", "id", secret))
	source := option.Source(secret)
	values := map[string]any{
		"App": *app, "*App": app, "client": *c, "*client": c, "Credential": *c.Credential, "*Credential": c.Credential, "map of credentials": app.Credentials,
		"SecretSource": source, "*SecretSource": &source,
		"Client": provider.Client{ID: "id", Secret: token.NewSecret(secret)}, "secretReader": c.secret,
		"a struct around": struct{ Credential *Credential }{c.Credential}, "fetcher": &fetcher{caller: &c.caller}, "Config": c.sourceConfig(),
	}
	for what, v := range values {
		printed := make(map[string]string)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			printed[verb] = fmt.Sprintf(verb, v)
		}
		printed["Errorf"] = fmt.Errorf("it failed: %v", v).Error()
		printed["Println"] = fmt.Sprintln(v)

		var text, object, zapped bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&object, nil)).Info("m", "v", v)
		zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&zapped), zap.DebugLevel)).
			Info("m", zap.Any("v", v))
		printed["slog text"], printed["slog JSON"], printed["zap"] = text.String(), object.String(), zapped.String()
		for how, output := range printed {
			for _, form := range append(hideouts(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret)) {
				if strings.Contains(output, form) {
					t.Errorf("%s printed with %s shows the secret: %.200s", what, how, output)
					break
				}
			}
		}
	}
}

// Configuration must survive JSON all the same: the Caddyfile adapter writes it.
func TestSecretSourceInConfiguration(t *testing.T) {
	got, err := json.Marshal(Credential{ClientSecret: `{env.X}`})
	if err != nil || !strings.Contains(string(got), `"client_secret":"{env.X}"`) {
		t.Errorf("got %s, %v", got, err)
	}
}

// A hostile endpoint can answer with what it got, as an error code, which is logged.
func TestErrorCodeThatRepeatsTheSecret(t *testing.T) {
	const secret = "correct_horse_battery_staple" // could be a code by its looks
	for code, want := range map[string]string{
		"invalid_client":         "invalid_client",
		"unsupported_grant_type": "unsupported_grant_type",
		secret:                   "",
		"is_" + secret:           "",
		secret + "_is":           "",
		"correct_horse":          "",
		"battery_staple":         "",
		"it-is-horse_battery":    "",
		"horse":                  "horse", // may be in both by chance
	} {
		srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":%q}`, code)
		}))
		_, c, log := provisionCredential(t, credentialJSON("optoro", newClientID(), secret, "token_url", srv.URL))
		_, err := c.source.Acquire(t.Context())
		if e := wantTokenError(t, err, token.Refused); e.Code != want {
			t.Errorf("%q: got code %q, want %q", code, e.Code, want)
		}
		if !strings.Contains(log.String(), "no token") || want == "" && strings.Contains(log.String(), code) {
			t.Errorf("%q: the log is %s", code, log)
		}
	}
}

// What a credential logs of a token call names it, and shows neither the token nor the secret.
func TestObserveShowsNoSecret(t *testing.T) {
	const secret = "s3cr3t-canary"
	_, c, log := provisionCredential(t, credentialJSON("optoro", "id", secret, "token_url", "https://login.example/token?tenant=q-canary"))
	c.status.Observe(token.Event{Token: token.NewSecret("t0ken-canary"), Lifetime: time.Hour})
	c.status.Observe(token.Event{Token: token.NewSecret("t0ken-canary"), Note: "it is odd"})
	for _, kind := range []token.Kind{token.Unavailable, token.Refused, token.Unreadable} {
		c.status.Observe(token.Event{Err: &token.Error{Kind: kind, Status: 503, Code: "a_code", Reason: "a reason", RetryAt: time.Now()}})
	}
	if lines := strings.Count(log.String(), `"credential":"test"`); lines != 5 {
		t.Errorf("%d of 5 lines name the credential: %s", lines, log)
	}
	for _, text := range []string{secret, "t0ken-canary", "q-canary"} {
		wantNowhere(t, text, text, map[string]string{"the log": log.String()})
	}
}

// A secret file is read for each call, so that rotation needs no reload.
func TestSecretRotation(t *testing.T) {
	write := func(t *testing.T, name, content string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotating := func(t *testing.T, content string) (*devserver.TokenEndpoint, *client, string) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "secret")
		write(t, name, content)
		endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), ClientSecret: "new", Registry: devserver.NewRegistry()}
		srv := serveHTTP(t, endpoint)
		_, c, _ := provisionCredential(t, credentialJSON("optoro", endpoint.ClientID, "{file."+name+"}", "token_url", srv.URL))
		return endpoint, c, name
	}

	t.Run("between two calls", func(t *testing.T) {
		_, c, name := rotating(t, "old")
		_, err := fetchOnce(t, c)
		wantTokenError(t, err, token.Refused)
		write(t, name, "new\n")
		if _, err := fetchOnce(t, c); err != nil {
			t.Error(err)
		}
		write(t, name, "newer")
		_, err = fetchOnce(t, c)
		wantTokenError(t, err, token.Refused)
	})

	t.Run("while a call is on its way", func(t *testing.T) {
		endpoint, c, name := rotating(t, "old")
		endpoint.OnRequest = func(*http.Request, []byte) { write(t, name, "new") }
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Errorf("the new secret was there, and not tried: %v", err)
		}
		if n := endpoint.Calls(); n != 2 {
			t.Errorf("the endpoint got %d calls, want 2", n)
		}
	})

	t.Run("after a refusal", func(t *testing.T) {
		endpoint, c, name := rotating(t, "old")
		_, err := c.source.Acquire(t.Context())
		wantTokenError(t, err, token.Refused)
		write(t, name, "new")
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Errorf("a refusal of the old secret holds for the new one: %v", err)
		}
		if n := endpoint.Calls(); n != 2 {
			t.Errorf("the endpoint got %d calls, want 2", n)
		}
	})

	t.Run("missing for a while", func(t *testing.T) {
		endpoint, c, name := rotating(t, "new")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		_, err := c.source.Acquire(t.Context())
		e := wantTokenError(t, err, token.Refused)
		for _, word := range []string{"client_secret", name} {
			if !strings.Contains(e.Error(), word) {
				t.Errorf("%q does not name %s", e, word)
			}
		}
		if n := endpoint.Calls(); n != 0 {
			t.Errorf("without a secret, the endpoint got %d calls", n)
		}
		write(t, name, "new")
		if _, err := c.source.Acquire(t.Context()); err != nil {
			t.Errorf("the secret is back, and the failure stays: %v", err)
		}
	})

	t.Run("behind a symbolic link, as Kubernetes does", func(t *testing.T) {
		dir := t.TempDir()
		for version, content := range map[string]string{"..1": "old", "..2": "new"} {
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, version, "secret"), content)
		}
		link := func(target string) {
			t.Helper()
			next := filepath.Join(dir, "..next")
			if err := errors.Join(os.Symlink(target, next), os.Rename(next, filepath.Join(dir, "..data"))); err != nil {
				t.Fatal(err)
			}
		}
		link("..1")
		endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: newClientID(), ClientSecret: "new", Registry: devserver.NewRegistry()}
		srv := serveHTTP(t, endpoint)
		_, c, _ := provisionCredential(t, credentialJSON("optoro", endpoint.ClientID, "{file."+dir+"/..data/secret}", "token_url", srv.URL))
		_, err := fetchOnce(t, c)
		wantTokenError(t, err, token.Refused)
		link("..2")
		if _, err := fetchOnce(t, c); err != nil {
			t.Error(err)
		}
	})
}

// What is compared to find out whether a refused client has changed shows no secret.
func TestProof(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	proofs := make(map[string]bool)
	_, c, _ := provisionCredential(t, credentialJSON("optoro", "id", caddytest.SecretFile(t, "s3cr3t-canary")))
	f := &fetcher{caller: &c.caller}
	c.secret = option.FromFile(name)
	for _, content := range []string{"s3cr3t-canary", "s3cr3t-canary2", "", "s3cr3t-canary\ns3cr3t-canary"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		proof := f.Prepare().Proof.Reveal()
		if proofs[proof] || proof != f.Prepare().Proof.Reveal() {
			t.Errorf("%q: the proof %q is not one of this content", content, proof)
		}
		proofs[proof] = true
		wantNowhere(t, "the secret", "s3cr3t-canary", map[string]string{"the proof": fmt.Sprintf("%+v", f.Prepare())})
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if proofs[f.Prepare().Proof.Reveal()] {
		t.Error("a missing file has the proof of a file")
	}
}

// inProcess asks a handler without a network, so that the clock of a synctest bubble can run.
type inProcess struct {
	provider provider.Provider
	client   provider.Client
	handler  http.Handler
}

// Fetch implements token.Fetcher.
func (f *inProcess) Fetch(ctx context.Context) (token.Issued, error) {
	req, err := f.provider.NewRequest(ctx, f.client)
	if err != nil {
		return token.Issued{}, err
	}
	req.RemoteAddr = "127.0.0.1:50000"
	sent := time.Now()
	w := new(memoryResponse)
	f.handler.ServeHTTP(w, req)
	return f.provider.ReadAnswer(&provider.Answer{Status: w.status, Header: w.Header(), Body: w.body.Bytes(), Sent: sent})
}

// Proof implements token.Fetcher.
func (f *inProcess) Prepare() token.Call {
	return token.Call{Proof: token.NewSecret(f.Proof()), Fetch: f.Fetch}
}

func (f *inProcess) Proof() string { return "" }

// memoryResponse keeps a response.
type memoryResponse struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (w *memoryResponse) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *memoryResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *memoryResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// newInProcessSource is a source of a provider's tokens that come from an endpoint in the same bubble.
func newInProcessSource(t *testing.T, p provider.Provider, endpoint *devserver.TokenEndpoint, policy token.Policy) *token.Source {
	t.Helper()
	if err := p.(caddy.Provisioner).Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	if endpoint.Registry == nil {
		endpoint.Registry = devserver.NewRegistry()
	}
	f := &inProcess{p, provider.Client{ID: devserver.DefaultClientID, Secret: token.NewSecret(devserver.DefaultClientSecret)}, endpoint}
	s := token.NewSource(token.Config{Fetcher: f, Policy: policy})
	t.Cleanup(s.Rest)
	return s
}

// demand asks a source for a token every step for a while, in a bubble, and returns how often there was one, and not.
func demand(t *testing.T, s *token.Source, step, while time.Duration) (served, failed int) {
	t.Helper()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(step) {
		lease, err := s.Acquire(t.Context())
		switch {
		case err != nil:
			failed++
		case lease.Value().Empty():
			t.Fatal("got an empty token")
		default:
			served++
		}
	}
	return served, failed
}

// readAnswer has a provider read exact bytes.
func readAnswer(p provider.Provider, status int, contentType, body string, header ...string) (provider.Issued, error) {
	a := &provider.Answer{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body), Sent: time.Now()}
	for i := 0; i+1 < len(header); i += 2 {
		a.Header.Set(header[i], header[i+1])
	}
	return p.ReadAnswer(a)
}

// capturedRequest is a token request as it arrived.
type capturedRequest struct {
	*http.Request
	body string
}

// captureRequest has a credential ask an endpoint over loopback, and returns what arrived. URL replaces the endpoint.
func captureRequest(t *testing.T, provider, id, secret string, options ...string) capturedRequest {
	t.Helper()
	arrived := make(chan capturedRequest, 1)
	srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- capturedRequest{r, string(body)}
		_, _ = io.WriteString(w, `{"access_token":"T","token_type":"Bearer","expires_in":3600}`)
	}))
	_, c, _ := provisionCredential(t, credentialJSON(provider, id, secret, append(options, "token_url", srv.URL)...))
	if _, err := fetchOnce(t, c); err != nil {
		t.Fatal(err)
	}
	return <-arrived
}

// Whatever may have been why a call was refused is in the proof: once it is corrected, nobody waits for the cooldown.
func TestProofCoversTheTransport(t *testing.T) {
	authority := newTestCertificate(t, signingKeyOf("P-256"), time.Hour).certificate
	name := filepath.Join(t.TempDir(), "ca.pem")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(authority)
	config := credentialJSON("optoro", "id", "secret")
	_, c, _ := provisionCredential(t, strings.TrimSuffix(config, "}")+`,"transport":{"ca":"{file.`+name+`}"}}`)
	f := &fetcher{caller: &c.caller}
	good := f.Prepare().Proof.Reveal()
	write("damaged")
	damaged := f.Prepare().Proof.Reveal()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	missing := f.Prepare().Proof.Reveal()
	write(authority)
	if again := f.Prepare().Proof.Reveal(); again != good || good == damaged || damaged == missing || good == missing {
		t.Errorf("the proofs are %q, %q, %q and %q", good, damaged, missing, again)
	}
	c.AllowPlaintext = true
	if f.Prepare().Proof.Reveal() == good {
		t.Error("allow_plaintext is not in the proof")
	}
}
