package oauth

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestPath(t *testing.T) {
	a := jsonAnswer(`{"a":"top","b":{"c":["zero","one"]},"n":5,"access.token":"dots","d":{"x.y":{"z":"deep"}},"a/b":"slash","~":"tilde","~1":"escape",
		"$":"dollar","header:x":"colon","https://example.com/claims/token":"uri","":"empty","e":{"":"inner"},"-":"dash"}`)
	a.Header.Set("X-Subject-Token", "from the header")
	a.Header["X-Twice"] = []string{"first", "second"}
	for path, want := range map[string]string{
		"a": "top", "b.c.0": "zero", "/a": "top", "/b/c/1": "one", "/b/c/2": "", "/b/c/-": "", "/b": "", "/n": "", "/missing": "",
		"/access.token": "dots", "access.token": "", "/d/x.y/z": "deep", "d.x.y.z": "",
		"/a~1b": "slash", "/~0": "tilde", "/~01": "escape", "/$": "dollar", "/header:x": "colon", "/-": "dash", "-": "dash",
		"/https:~1~1example.com~1claims~1token": "uri", "/": "empty", "/e/": "inner",
		"header:X-Subject-Token": "from the header", "header:x-subject-token": "from the header", "header:X-Twice": "first", "header:X-Missing": "",
		"header:": "", "$": "",
	} {
		if got, ok := a.Text(path); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", path, got, ok, want)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for _, path := range []string{
		"a", "a.b", "a.0.b", "$", "/a", "/a.b", "/a/b.c/0", "/a~1b", "/~0~1", "header:X-Subject-Token", "header:x", "a b", "a-b", "@id", "a:b", "a/b", "~a",
	} {
		if err := CheckPath(path); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, path := range []string{
		"", ".", "a.", ".a", "a..c4n4ry", "/", "//", "/a/", "/a//c4n4ry", "/c4n4ry~", "/c4n4ry~2", "/~~0c4n4ry", "header:", "header:c4n4ry x", "header:c4n4ry:",
		"header: c4n4ry", "header:é",
	} {
		err := CheckPath(path)
		if err == nil {
			t.Errorf("%q is accepted", path)
			continue
		}
		wantSilent(t, err)
	}
}

// A token can be in a header field, whatever the body is.
func TestTokenInHeader(t *testing.T) {
	l := Layout{
		Token: []string{"header:X-Subject-Token"}, Type: []string{"token_type"}, Code: []string{"error"},
		ExpiresIn: []string{"header:X-Lifetime"}, ExpiresAt: []string{"token.expires_at"}, ExpiresAtUnit: RFC3339,
	}
	for name, tc := range map[string]struct {
		status       int
		field        string
		lifetime     string
		body         string
		want         string // empty if Read fails
		wantLifetime time.Duration
	}{
		"OpenStack":           {201, "T", "", `{"token":{"expires_at":"2023-11-14T23:13:20.000000Z","methods":["password"]}}`, "T", time.Hour},
		"no body":             {200, "T", "60", "", "T", time.Minute},
		"text":                {200, "T", "60", "welcome", "T", time.Minute},
		"HTML":                {200, "T", "60", "<html>c4n4ry</html>", "T", time.Minute},
		"JSON of another use": {200, "T", "60", `["c4n4ry"]`, "T", time.Minute},
		"with its scheme":     {200, "Bearer T", "60", "{}", "T", time.Minute},
		"scheme in lowercase": {200, "bearer T", "60", "{}", "T", time.Minute},
		"all of base64":       {200, "gAAAA+/-_=T==", "60", "", "gAAAA+/-_=T==", time.Minute},
		"a field of lifetime": {200, "T", "1.5", "{}", "T", 1500 * time.Millisecond},
		"no field":            {200, "", "60", `{"access_token":"c4n4ry"}`, "", 0},
		"a space in it":       {200, "c4n4ry x", "60", `{}`, "", 0},
		"Latin-1":             {200, "c4n4ry\xe9", "60", `{}`, "", 0},
		"an error beside it":  {200, "T", "60", `{"error":"invalid_client"}`, "", 0},
		"a refusal":           {401, "T", "60", `{}`, "", 0},
		"another type":        {200, "T", "60", `{"token_type":"mac"}`, "", 0},
		"too long":            {200, strings.Repeat("c4n4ry", 3000), "60", `{}`, "", 0},
	} {
		a := answerOf(tc.status, "application/json", tc.body)
		for name, value := range map[string]string{"X-Subject-Token": tc.field, "X-Lifetime": tc.lifetime} {
			if value != "" {
				a.Header.Set(name, value)
			}
		}
		issued, err := a.Read(l)
		if tc.want == "" {
			if err == nil {
				t.Errorf("%s: got %q", name, issued.Token.Reveal())
			} else {
				wantSilent(t, err)
			}
			continue
		}
		if err != nil || issued.Token.Reveal() != tc.want || issued.Lifetime != tc.wantLifetime {
			t.Errorf("%s: got %q for %s, %v", name, issued.Token.Reveal(), issued.Lifetime, err)
		}
	}
	// a layout without such a path does not read the header
	a := jsonAnswer(`{}`)
	a.Header = http.Header{"Access_token": {"c4n4ry"}, "Access-Token": {"c4n4ry"}}
	if issued, err := a.Read(both); err == nil {
		t.Errorf("got %q", issued.Token.Reveal())
	}
}
