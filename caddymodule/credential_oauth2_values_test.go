package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// tokenRequestOf returns the token request of a credential of provider oauth2, with its form and its body.
func tokenRequestOf(t *testing.T, o options) (*http.Request, url.Values, string) {
	t.Helper()
	_, c, _ := provisionCredential(t, oauth2JSON("id", "secret", options{"token_url": "https://login.example/token"}.with(o)))
	secrets, err := c.readSecrets()
	if err != nil {
		t.Fatal(err)
	}
	req, err := c.provider.NewRequest(t.Context(), secrets.client)
	if err != nil {
		t.Fatal(err)
	}
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
	}
	form, _ := url.ParseQuery(string(body))
	return req, form, string(body)
}

// What surrounds a value in a variable or a file reaches no option.
func TestOAuth2ValuesFromOutside(t *testing.T) {
	const value = "some:value"
	for what, content := range map[string]string{
		"a line end": value + "\n", "a line end of Windows": value + "\r\n", "a carriage return": value + "\r", "a BOM": "\ufeff" + value, "all": " \ufeff" + value + " \r\n\r\n",
		"a TAB": "\t" + value + "\t", "a space of a web page": "\u00a0" + value + "\u00a0", "nothing": value,
	} {
		t.Setenv("TOKEN_PROXY_TEST_VALUE", content)
		for _, placeholder := range []string{"{env.TOKEN_PROXY_TEST_VALUE}", inFile(secretPath(t, content))} {
			_, form, _ := tokenRequestOf(t, options{
				"client_auth": "client_secret_post", "client_id_param": placeholder, "client_secret_param": "x" + placeholder, "grant": placeholder,
				"scope": []string{placeholder, "b"}, "audience": placeholder, "resource": []string{placeholder, "urn:" + placeholder},
				"params": options{"whole": placeholder, "part": "a " + placeholder},
			})
			want := url.Values{
				value: {"id"}, "x" + value: {"secret"}, "grant_type": {value}, "scope": {value + " b"}, "audience": {value}, "resource": {value, "urn:" + value},
				"whole": {value}, "part": {"a " + value},
			}
			if !reflect.DeepEqual(form, want) {
				t.Errorf("%s: got %q, want %q", what, form, want)
			}
			req, _, _ := tokenRequestOf(t, options{"headers": options{"X-Whole": placeholder, "X-Part": "a " + placeholder}})
			if req.Header.Get("X-Whole") != value || req.Header.Get("X-Part") != "a "+value {
				t.Errorf("%s: got %q", what, req.Header)
			}
		}
	}
}

// What cannot be a placeholder is text, also without a backslash.
func TestOAuth2BracesAreText(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_VALUE", "v")
	for value, want := range map[string]string{
		`[{"type":"x"}]`:                       `[{"type":"x"}]`,
		`{"id_token":{"acr":null}}`:            `{"id_token":{"acr":null}}`,
		`{"a":"{env.TOKEN_PROXY_TEST_VALUE}"}`: `{"a":"v"}`,
		`\{"type":"x"\}`:                       `{"type":"x"}`, `\{tenant\}`: `{tenant}`, `{}`: `{}`, `{`: `{`, `}`: `}`, `a{2,3}`: `a{2,3}`, `{a, b}`: `{a, b}`, `{{}}`: `{{}}`, `{two words}`: `{two words}`,
		"{\n  \"type\": \"x\"\n}": "{\n  \"type\": \"x\"\n}",
	} {
		_, form, _ := tokenRequestOf(t, options{"params": options{"authorization_details": value}})
		if got := form.Get("authorization_details"); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// A parameter in the token URL is sent there. It replaces a default that contradicts it.
func TestOAuth2QueryOfTokenURL(t *testing.T) {
	const base = "https://login.example/token?"
	for name, tc := range map[string]struct {
		query string
		o     options
		grant []string // in the body
		url   string   // the query that is sent; empty if it is as configured
	}{
		"none":                           {"", nil, []string{"client_credentials"}, ""},
		"another parameter":              {"tenant=7", nil, []string{"client_credentials"}, ""},
		"a grant of the vendor":          {"grant_type=account_credentials&account_id=7", nil, nil, ""},
		"the standard grant":             {"grant_type=client_credentials", nil, []string{"client_credentials"}, ""},
		"a grant in both":                {"grant_type=a", options{"grant": "a"}, []string{"a"}, ""},
		"a grant in the URL alone":       {"grant_type=a", options{"grant": ""}, nil, ""},
		"a scope in both":                {"scope=a+b", options{"scope": []string{"a", "b"}}, []string{"client_credentials"}, ""},
		"an escape":                      {"a=%7Bb%7D+c", nil, []string{"client_credentials"}, ""},
		"the same parameter in the body": {"a=1", options{"params": options{"a": "2"}}, []string{"client_credentials"}, ""},
		"a key that is an id":            {"app_key=7", nil, []string{"client_credentials"}, ""},
		"a switch":                       {"refresh_token=true", nil, []string{"client_credentials"}, ""},
		"a grant, all in the query":      {"grant_type=a", options{"encoding": "query"}, nil, "grant_type=a"},
		"others, all in the query":       {"b=1", options{"encoding": "query", "params": options{"a": "2"}}, nil, "a=2&b=1&grant_type=client_credentials"},
	} {
		req, form, _ := tokenRequestOf(t, options{"token_url": base + tc.query}.with(tc.o))
		want := tc.url
		if want == "" {
			want = tc.query
		}
		if !reflect.DeepEqual(form["grant_type"], tc.grant) || req.URL.RawQuery != want {
			t.Errorf("%s: got grant %q in the body and the query %q, want %q and %q", name, form["grant_type"], req.URL.RawQuery, tc.grant, want)
		}
	}
}

// What cannot be meant is refused when the configuration is loaded. The error names the option.
func TestOAuth2ValuesRefused(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_LINES", "CANARY\nCANARY")
	type refused struct {
		o     options
		wants []string
	}
	tests := map[string]refused{
		"jwt-bearer alone":           {options{"grant": oauth.GrantJWTBearer}, []string{"grant: ", "signing_key", "param assertion"}},
		"jwt-bearer with a scope":    {options{"grant": oauth.GrantJWTBearer, "scope": []string{"a"}}, []string{"grant: "}},
		"jwt-bearer in the URL":      {options{"token_url": "https://login.example/?grant_type=" + url.QueryEscape(oauth.GrantJWTBearer)}, []string{"grant: "}},
		"jwt-bearer with a file":     {options{"grant": oauth.GrantJWTBearer, "client_auth": "private_key_jwt", "client_assertion_file": secretPath(t, "CANARY")}, []string{"grant: "}},
		"saml2-bearer alone":         {options{"grant": "urn:ietf:params:oauth:grant-type:saml2-bearer"}, []string{"grant: ", "param assertion"}},
		"refresh_token alone":        {options{"grant": "refresh_token"}, []string{"grant: ", "param refresh_token"}},
		"the grant in the URL too":   {options{"token_url": "https://login.example/?grant_type=a", "grant": "b"}, []string{"grant: ", "token_url"}},
		"the scope in the URL too":   {options{"token_url": "https://login.example/?scope=a", "scope": []string{"b"}}, []string{"scope: ", "token_url"}},
		"audience in the URL too":    {options{"token_url": "https://login.example/?audience=a", "audience": "b"}, []string{"audience: ", "token_url"}},
		"resource in the URL too":    {options{"token_url": "https://login.example/?resource=a", "resource": []string{"b"}}, []string{"resource: ", "token_url"}},
		"a param in the query twice": {options{"token_url": "https://login.example/?a=b", "encoding": "query", "params": options{"a": "CANARY"}}, []string{"param a: ", "token_url"}},
		"json_param, a placeholder":  {options{"encoding": "json", "json_params": options{"a": "{env.HOME}"}}, []string{"json_param a: ", "use param"}},
		"json_param, deep in it":     {options{"encoding": "json", "json_params": options{"a": options{"b": []string{"x {host}"}}}}, []string{"json_param a: ", "use param"}},
		"json_param, a tenant":       {options{"encoding": "json", "json_params": options{"a": options{"b": []string{"x {tenant}"}}}}, []string{"json_params.a.b: ", "{tenant} is not possible here"}},
		"a param's name":             {options{"params": options{"{env.HOME}": "CANARY"}}, []string{"param", "name", "placeholder"}},
		"response: token":            {options{"response": options{"token": []string{"{env.HOME}"}}}, []string{"response: token", "placeholder"}},
		"response: keep":             {options{"response": options{"keep": options{"a": "{path}"}}}, []string{"response: keep a", "placeholder"}},
		"response: retry":            {options{"response": options{"retry": []string{"{env.CODE}"}}}, []string{"response: retry", "placeholder"}},
		"response: retry_text":       {options{"response": options{"retry_text": "try {when}"}}, []string{"response: retry_text", "placeholder"}},
		"response: header path":      {options{"response": options{"token": []string{"header:a b"}}}, []string{"response: token", "header field"}},
		"response: pointer":          {options{"response": options{"token": []string{"/a~2"}}}, []string{"response: token", "~"}},
		"token_type, a placeholder":  {options{"response": options{"token_type": []string{"{env.HOME}"}}}, []string{"response: token_type", "placeholder"}},
		"token_type, any and more":   {options{"response": options{"token_type": []string{"JWT", "any"}}}, []string{"response: token_type", "any"}},
		"token_type, empty":          {options{"response": options{"token_type": []string{""}}}, []string{"response: token_type"}},
		"token_type, a line break":   {options{"response": options{"token_type": []string{"JWT\r\n"}}}, []string{"response: token_type"}},
		"token_type, white space":    {options{"response": options{"token_type": []string{" JWT"}}}, []string{"response: token_type"}},
		"expires_at in minutes":      {options{"response": options{"expires_at": options{"path": "a", "unit": "min"}}}, []string{"response: expires_at", "expires_in"}},
	}
	for text, want := range map[string]string{
		"https://login.example:0/": "port", "https://login.example:65536": "port", "https://login.example:123456/": "port", "https://login.example/a b": "white space",
		"https://login.example/token ": "white space", "https://login.example/?a=b c": "white space", "https://login example/": "not a URL",
		"https://login.example/{tenant}/token": "{tenant}", "https://login.example/{realm}/token": "placeholder", "https://login.example/\\{tenant\\}/token": "braces", "https://login.example/\tx": "token_url",
		"https://login.example/{http.request.host}": "placeholder",
	} {
		tests["token_url "+text] = refused{options{"token_url": text}, []string{"token_url: ", want}}
		issuer := want
		if want == "token_url" {
			issuer = "issuer"
		}
		if !strings.Contains(text, "?") {
			tests["issuer "+text] = refused{options{"token_url": nil, "issuer": text}, []string{"issuer: ", issuer}}
		}
	}
	for _, scope := range []string{`a"CANARY`, `a\CANARY`, "a\nCANARY", "a\tCANARY", "éCANARY", "a\u00a0CANARY", "a\x7fCANARY", "a\x00CANARY", " ", "\u200bCANARY", "ｒｅａｄ", "“CANARY”"} {
		tests["scope "+strconv.Quote(scope)] = refused{options{"scope": []string{"ok", scope}}, []string{"scope: "}}
	}
	for _, name := range []string{
		"grant", "scope_separator", "audience", "signing_key_id", "signing_alg", "assertion_audience", "assertion_typ", "client_assertion_type", "client_id_param",
		"client_secret_param",
	} {
		for what, value := range map[string]string{"a placeholder": "x{CANARY}", "a request's placeholder": "{http.request.host}", "lines": "{env.TOKEN_PROXY_TEST_LINES}"} {
			tests[name+" with "+what] = refused{options{"scope": []string{"a"}, name: value}, []string{name + ": "}}
		}
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			config := oauth2JSON("id", "CANARY", options{"token_url": "https://login.example/token"}.with(tc.o))
			wantRefused(t, validateJSON(configJSON(nowhere, config, goodHandler)), append(tc.wants, `"catalog"`)...)
		})
	}
	for name, tc := range map[string]struct {
		more  options
		wants []string
	}{
		"header format, env":     {options{"header": options{"name": "X-T", "format": "{token} {env.HOME}"}}, []string{"header: ", "placeholder"}},
		"header format, request": {options{"header": options{"format": "Bearer {token};u={http.request.host}"}}, []string{"header: ", "placeholder"}},
		"header format, unknown": {options{"header": options{"format": "{scheme} {token}"}}, []string{"header: ", "placeholder"}},
		"server_name":            {options{"transport": options{"server_name": "{host}"}}, []string{"transport: server_name: ", "placeholder"}},
		"proxy's port":           {options{"transport": options{"proxy": "http://proxy.example:99999"}}, []string{"proxy", "URL"}},
		"proxy's port 0":         {options{"transport": options{"proxy": "http://proxy.example:0"}}, []string{"proxy", "URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := oauth2JSON("id", "CANARY", options{"token_url": "https://login.example/token"}, tc.more)
			wantRefused(t, validateJSON(configJSON(nowhere, config, goodHandler)), append(tc.wants, `"catalog"`)...)
		})
	}
}

// What looks odd and is permitted is sent as it is.
func TestOAuth2ValuesAccepted(t *testing.T) {
	for name, tc := range map[string]struct {
		o    options
		want url.Values
	}{
		"all characters of a scope": {options{"scope": []string{"!#$%&'()*+,-./0:;<=>?@AZ[]^_`az{|}~"}}, url.Values{"scope": {"!#$%&'()*+,-./0:;<=>?@AZ[]^_`az{|}~"}}},
		"several in one value":      {options{"scope": []string{"a b", "c"}}, url.Values{"scope": {"a b c"}}},
		"a separator of a vendor":   {options{"scope": []string{"a", "b"}, "scope_separator": ", "}, url.Values{"scope": {"a, b"}}},
		"a separator of plus signs": {options{"scope": []string{"a", "b"}, "scope_separator": "+"}, url.Values{"scope": {"a+b"}}},
		"a URL as a scope":          {options{"scope": []string{"https://api.example/.default"}}, url.Values{"scope": {"https://api.example/.default"}}},
		"jwt-bearer with a param":   {options{"grant": oauth.GrantJWTBearer, "params": options{"assertion": "a.b.c"}}, url.Values{"assertion": {"a.b.c"}}},
		"jwt-bearer with a file":    {options{"grant": oauth.GrantJWTBearer, "params": options{"assertion": inFile(secretPath(t, "a.b.c\n"))}}, url.Values{"assertion": {"a.b.c"}}},
		"saml2-bearer":              {options{"grant": "urn:ietf:params:oauth:grant-type:saml2-bearer", "params": options{"assertion": "PHM="}}, url.Values{"assertion": {"PHM="}}},
		"refresh_token":             {options{"grant": "refresh_token", "params": options{"refresh_token": "r"}}, url.Values{"refresh_token": {"r"}}},
		"a token exchange":          {options{"grant": "urn:ietf:params:oauth:grant-type:token-exchange"}, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}}},
		"a grant of the vendor":     {options{"grant": "account_credentials"}, url.Values{"grant_type": {"account_credentials"}}},
		"an audience of text":       {options{"audience": `a "b" ü {"c":1}`}, url.Values{"audience": {`a "b" ü {"c":1}`}}},
		"the last port":             {options{"token_url": "https://login.example:65535/"}, url.Values{"grant_type": {"client_credentials"}}},
	} {
		_, form, _ := tokenRequestOf(t, tc.o)
		for param, want := range tc.want {
			if !reflect.DeepEqual(form[param], want) {
				t.Errorf("%s: got %q, want %q", name, form[param], want)
			}
		}
	}
	if _, _, body := tokenRequestOf(t, options{"encoding": "json", "json_params": options{"auth": json.RawMessage(`{"a":{"b":"{}"}}`)}}); !strings.Contains(body, `"auth":{"a":{"b":"{}"}}`) {
		t.Errorf("got %s", body)
	}
}

// A token endpoint answers in its own way. The options of response describe it.
func TestOAuth2ResponseOptions(t *testing.T) {
	in10 := strconv.FormatInt(time.Now().Add(10*time.Minute).Unix(), 10)
	const tenMinutes, jwt = 10 * time.Minute, "e30.e30.c2ln"
	for name, tc := range map[string]struct {
		response options
		header   map[string]string
		status   int
		body     string
		token    string // empty if it is refused
		lifetime time.Duration
		note     string
	}{
		"an epoch in expires_in":          {options{"expires_at": options{"path": "expires_in", "unit": "s"}}, nil, 200, `{"access_token":"T","expires_in":` + in10 + `}`, "T", tenMinutes, ""},
		"an epoch in ms":                  {options{"expires_at": options{"path": "expires_in", "unit": "ms"}}, nil, 200, `{"access_token":"T","expires_in":` + in10 + `000}`, "T", tenMinutes, ""},
		"an epoch, as text":               {options{"expires_at": options{"path": "expires_in"}}, nil, 200, `{"access_token":"T","expires_in":"` + in10 + `"}`, "T", tenMinutes, ""},
		"an epoch that cannot be read":    {options{"expires_at": options{"path": "expires_in"}}, nil, 200, `{"access_token":"T","expires_in":"soon"}`, "T", token.UnknownLifetime, "expires_in"},
		"expires_at before the default":   {options{"expires_at": options{"path": "until"}}, nil, 200, `{"access_token":"T","expires_in":5,"until":` + in10 + `}`, "T", tenMinutes, ""},
		"both are options":                {options{"expires_in": options{"path": "ttl"}, "expires_at": options{"path": "until"}}, nil, 200, `{"access_token":"T","ttl":600,"until":5}`, "T", tenMinutes, ""},
		"expires_in without the option":   {nil, nil, 200, `{"access_token":"T","expires_in":` + in10 + `}`, "T", 2048000 * time.Hour, "time of expiry"},
		"minutes at the path of refresh":  {options{"expires_in": options{"path": "refresh_in", "unit": "min"}}, nil, 200, `{"access_token":"T","refresh_in":10}`, "T", tenMinutes, ""},
		"the token where the scope is":    {options{"token": []string{"scope"}}, nil, 200, `{"scope":"T","expires_in":600}`, "T", tenMinutes, ""},
		"the token where an error is":     {options{"token": []string{"error"}}, nil, 200, `{"error":"T","expires_in":600}`, "T", tenMinutes, ""},
		"minutes":                         {options{"expires_in": options{"path": "expires_in", "unit": "min"}}, nil, 200, `{"access_token":"T","expires_in":10}`, "T", tenMinutes, ""},
		"hours":                           {options{"expires_in": options{"path": "expires_in", "unit": "h"}}, nil, 200, `{"access_token":"T","expires_in":"0.5"}`, "T", 30 * time.Minute, ""},
		"no zone":                         {options{"expires_at": options{"path": "at", "unit": "rfc3339"}}, nil, 200, `{"access_token":"T","at":"2099-01-01T00:00:00"}`, "T", token.UnknownLifetime, "zone"},
		"a unit in the text":              {nil, nil, 200, `{"access_token":"T","expires_in":"600s"}`, "T", token.UnknownLifetime, "number of seconds"},
		"OpenStack":                       {options{"token": []string{"header:X-Subject-Token"}, "expires_at": options{"path": "token.expires_at", "unit": "rfc3339"}}, map[string]string{"X-Subject-Token": "T"}, 201, `{"token":{"expires_at":"` + time.Now().Add(tenMinutes).UTC().Format("2006-01-02T15:04:05.000000Z") + `"}}`, "T", tenMinutes, ""},
		"the whole text":                  {options{"token": []string{"$"}}, map[string]string{"Content-Type": "text/plain"}, 200, jwt + "\n", jwt, token.UnknownLifetime, ""},
		"a name with dots":                {options{"token": []string{"/data/access.token"}, "expires_in": options{"path": "/data/expires.in"}}, nil, 200, `{"data":{"access.token":"T","expires.in":600}}`, "T", tenMinutes, ""},
		"its scheme in it":                {nil, nil, 200, `{"access_token":"Bearer T","token_type":"Bearer","expires_in":600}`, "T", tenMinutes, ""},
		"JSON as UTF-8":                   {nil, map[string]string{"Content-Encoding": "UTF-8"}, 200, `{"access_token":"T","expires_in":600}`, "T", tenMinutes, ""},
		"JSON as Identity":                {nil, map[string]string{"Content-Encoding": "Identity"}, 200, `{"access_token":"T","expires_in":600}`, "T", tenMinutes, ""},
		"JSON as a form":                  {nil, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 200, `{"access_token":"T","expires_in":600}`, "T", tenMinutes, ""},
		"type access_token":               {nil, nil, 200, `{"access_token":"T","token_type":"access_token","expires_in":600}`, "", 0, ""},
		"type access_token, permitted":    {options{"token_type": []string{"access_token"}}, nil, 200, `{"access_token":"T","token_type":"Access_Token","expires_in":600}`, "T", tenMinutes, ""},
		"type JWT, permitted with Bearer": {options{"token_type": []string{"Bearer", "JWT"}}, nil, 200, `{"access_token":"T","token_type":"JWT","expires_in":600}`, "T", tenMinutes, ""},
		"type mac, any":                   {options{"token_type": []string{"any"}}, nil, 200, `{"access_token":"T","token_type":"mac","expires_in":600}`, "T", tenMinutes, ""},
		"type Bearer, not permitted":      {options{"token_type": []string{"JWT"}}, nil, 200, `{"access_token":"T","token_type":"Bearer","expires_in":600}`, "", 0, ""},
		"a type with a line break":        {nil, nil, 200, `{"access_token":"T","token_type":"Bearer\r\nX-Evil: 1","expires_in":600}`, "", 0, ""},
		"a clock 20 min ahead":            {options{"expires_at": options{"path": "at"}}, map[string]string{"Date": time.Now().Add(20 * time.Minute).UTC().Format(http.TimeFormat)}, 200, `{"access_token":"T","at":` + strconv.FormatInt(time.Now().Add(30*time.Minute).Unix(), 10) + `}`, "T", tenMinutes, ""},
		"a clock 20 min behind":           {options{"expires_at": options{"path": "at"}}, map[string]string{"Date": time.Now().Add(-20 * time.Minute).UTC().Format(http.TimeFormat)}, 200, `{"access_token":"T","at":` + strconv.FormatInt(time.Now().Add(-10*time.Minute).Unix(), 10) + `}`, "T", tenMinutes, ""},
		"a fresh token that seems over":   {options{"expires_at": options{"path": "at"}}, nil, 200, `{"access_token":"T","at":` + strconv.FormatInt(time.Now().Add(-5*time.Minute).Unix(), 10) + `}`, "T", 0, "expired 5m ago"},
		"errors that are none":            {nil, nil, 200, `{"access_token":"T","expires_in":600,"error":"","errors":[],"errorcode":"0"}`, "T", tenMinutes, ""},
	} {
		t.Run(name, func(t *testing.T) {
			srv := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for field, value := range tc.header {
					w.Header().Set(field, value)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}), func(*httptest.Server) {})
			_, c, _ := provisionCredential(t, oauth2JSON("id", "s3cret-of-the-client", options{"token_url": srv.URL, "response": tc.response}))
			issued, err := fetchOnce(t, c)
			if tc.token == "" {
				wantTokenError(t, err, token.Refused)
				return
			}
			if err != nil || issued.Token.Reveal() != tc.token || issued.RefreshIn != 0 {
				t.Fatalf("got %q, advice %s, %v", issued.Token.Reveal(), issued.RefreshIn, err)
			}
			if tc.lifetime < 1000*time.Hour && (issued.Lifetime-tc.lifetime).Abs() > 10*time.Second {
				t.Errorf("got lifetime %s, want %s", issued.Lifetime, tc.lifetime)
			}
			if (issued.Note == "") != (tc.note == "") || !strings.Contains(issued.Note, tc.note) {
				t.Errorf("got note %q, want %q", issued.Note, tc.note)
			}
		})
	}
}
