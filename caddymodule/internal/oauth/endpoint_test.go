package oauth

import (
	"net"
	"net/url"
	"strings"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	for _, raw := range []string{
		"https://login.example/oauth/token",
		"https://login.example",
		"https://login.example:8443/",
		"https://login.example/token?tenant=a&api-version=2", // RFC 6749 section 3.2 permits a query
		"HTTPS://LOGIN.example/token",
		"http://127.0.0.1:9080/oauth/token", // the credential decides about http, not ParseEndpoint
		"https://[2001:db8::1]:8443/token",
		"https://login.example/secret/password", // the path may contain any word
		// names that contain such a word but do not end in it
		"https://login.example/?requested_token_type=a&token_type=b&tokenType=c&client_assertion_type=d&key_id=e&keyId=f",
		"https://login.example/?keyspace=a&monkey=b&tokenize=c&secretary=d&passwords_of=e&turkey=f&tokens=g",
		"https://login.example/?client_id=a&grant_type=client_credentials&a=client_secret",
		// parameters that vendors document
		"https://zoom.example/oauth/token?grant_type=account_credentials&account_id=a1-B_2",
		"https://login.example/?refresh_token=true&rotate_secret=0&token=off&api_key=none",
		"https://open.example/?app_key=7001&client_key=aw1&consumerKey=c&AppKey=8", // Douyin, TikTok and others call the client id a key
		"https://login.example/?tenant_key=a&public-key=b&partitionKey=c&project_key=d",
		"https://securetoken.googleapis.com/v1/token?key=AIzaSyA-0123456789_abcdefghijklmnopqrst", // Firebase
		"https://login.example:1/", "https://login.example:65535/", "https://login.example:/",
		"https://login.example/a%20b%7Bc%7D?d=e%20f+g",
	} {
		u, err := ParseEndpoint(raw)
		if err != nil || u == nil {
			t.Errorf("%s: got error %v", raw, err)
		}
	}
	for _, tc := range []struct{ raw, want string }{
		{"", "must begin with https"},
		{"login.example/" + canary, "must begin with https"},
		{"ftp://login.example/" + canary, "must begin with https"},
		{"//login.example/" + canary, "must begin with https"},
		{"https:login.example/" + canary, "no host"},
		{"https:///" + canary, "no host"},
		{"https://:443/" + canary, "no host"},
		{"https://login.example/" + canary + "\x7f", "not a URL"},
		{"https://login.example/%zz" + canary, "not a URL"},
		{"https://" + canary + " .example/", "not a URL"},
		{"https://login.example:" + canary + "/", "not a URL"},
		{"https://login.example:0/" + canary, "port"},
		{"https://login.example:65536/" + canary, "port"},
		{"https://login.example:99999/" + canary, "port"},
		{"https://login.example:443443443443443443443/" + canary, "port"},
		{"https://[::1]:70000/" + canary, "port"},
		{"https://login.example/ " + canary, "white space"},
		{"https://login.example/" + canary + " ", "white space"},
		{"https://login.example/?a=b " + canary, "white space"},
		{"https://login.example/\u00a0" + canary, "white space"},
		{" https://login.example/" + canary, "not a URL"},
		{"https://login.example/{tenant}/" + canary, "braces"},
		{"https://login.example/?a={" + canary + "}", "braces"},
		{"https://{" + canary + "}.login.example/", "not a URL"},
		{"https://login.example/?refresh_token=" + canary, "secret"},
		{"https://login.example/?token=1234567890", "secret"},
		{"https://login.example/?key=AIza" + canary, "secret"},
		{"https://login.example/?storage_account_key=" + canary, "secret"},
		{"https://user:" + canary + "@login.example/", "user name"},
		{"https://" + canary + "@login.example/", "user name"},
		{"https://@login.example/" + canary, "user name"},
		{"https://login.example/#" + canary, "fragment"}, // RFC 6749 section 3.2
		// RFC 6749 section 2.3.1 forbids secrets in the URI
		{"https://login.example/?client_secret=" + canary, "secret"},
		{"https://login.example/?a=b&CLIENT_SECRET=" + canary, "secret"},
		{"https://login.example/?client%5Fsecret=" + canary, "secret"},
		{"https://login.example/?client_secret", "secret"},
		{"https://login.example/?password=" + canary, "secret"},
		{"https://login.example/?client_assertion=" + canary, "secret"},
		{"https://login.example/?access_token=" + canary, "secret"},
		{"https://login.example/?api_key=" + canary, "secret"},
		{"https://login.example/?apikey=" + canary, "secret"},
		{"https://login.example/?clientSecret=" + canary, "secret"},
		{"https://login.example/?ClientSecret=" + canary, "secret"},
		{"https://login.example/?clientsecret=" + canary, "secret"},
		{"https://login.example/?CLIENTSECRET=" + canary, "secret"},
		{"https://login.example/?client_secret2=" + canary, "secret"},
		{"https://login.example/?secret[]=" + canary, "secret"},
		{"https://login.example/?key=" + canary, "secret"},
		{"https://login.example/?ＴＯＫＥＮ&Client.Secret=" + canary, "secret"},
		{"https://login.example/?CLIENT_SeCRET=" + canary, "secret"},
		// words joined by hyphens
		{"https://login.example/?api-key=" + canary, "secret"},
		{"https://login.example/?subscription-key=" + canary, "secret"},
		// pairs that net/url drops and that the request still contains
		{"https://login.example/?client_secret=" + canary + "%zz", "secret"},
		{"https://login.example/?a=b;client_secret=" + canary, "secret"},
	} {
		u, err := ParseEndpoint(tc.raw)
		if err == nil {
			t.Errorf("%q is accepted as %v, want an error about %s", tc.raw, u, tc.want)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got error %q, want one about %s", tc.raw, err, tc.want)
		}
		wantSilent(t, err)
	}
}

func FuzzEndpoint(f *testing.F) {
	for _, raw := range []string{
		"https://login.example/oauth/token", "http://[::1]:80/?a=b", "https://u:p@h/", "https://h/?client_secret=x%zz",
		"https://h/?a;token=1", "https://h/#f", "http://localhost.", "HTTPS://h?%53ecret", "https://h?Client_seCrEt", "https:opaque", "://", "https://h\\@x/",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ParseEndpoint(raw)
		if err != nil {
			if len(raw) > 12 && strings.Contains(err.Error(), raw) {
				t.Fatalf("the error quotes the URL: %v", err)
			}
			return
		}
		if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			t.Fatalf("%q is accepted as %#v", raw, u)
		}
		if name := secretName(u.RawQuery); name != "" {
			t.Fatalf("%q is accepted with %q in its query", raw, name)
		}
		again, err := ParseEndpoint(u.String())
		if err != nil || again.Host != u.Host || again.Path != u.Path || again.RawQuery != u.RawQuery {
			t.Fatalf("%q becomes another URL when it is parsed again: %v, %v", raw, again, err)
		}
		if ip := net.ParseIP(u.Hostname()); ip != nil && IsLoopback(u.Hostname()) != ip.IsLoopback() {
			t.Fatalf("IsLoopback(%q) is wrong", u.Hostname())
		}
	})
}

// secretName returns the first name of a secret in the query, or "". It is independent of the code under test. It accepts both
// separators and names that cannot be unescaped.
func secretName(query string) string {
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		for _, secret := range []string{"client_secret", "client-secret", "password", "client_assertion", "access_token", "api_key", "apikey"} {
			if strings.ToLower(name) == secret && !harmless.MatchString(value) {
				return name
			}
		}
	}
	return ""
}
