package oauth

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// full is a layout with all fields.
var full = Layout{
	Token:           []string{"access_token", "$"},
	Type:            []string{"token_type"},
	ExpiresIn:       []string{"expires_in"},
	ExpiresAt:       []string{"expires_at"},
	ExpiresAtUnit:   RFC3339,
	RefreshIn:       []string{"refresh_in"},
	DefaultLifetime: 20 * time.Minute,
	Scope:           []string{"scope"},
	AskedScope:      []string{"read", "write"},
	Keep:            map[string]string{"url": "instance_url", "id": "ids.0"},
	Code:            []string{"error"},
	Transient:       []string{"busy"},
	TransientStatus: []int{404},
	TransientText:   "try again",
	RetryAfter:      []string{"retry_after"},
}

// Requests use kept values in URLs and header fields, and logs show them.
func TestKept(t *testing.T) {
	const secret = "c4n4ry-0123456789abcdef" // the token
	for name, tc := range map[string]struct {
		value string // JSON
		want  string // empty if kept leaves it out
	}{
		"a URL":                      {`"https://eu1.example.com:8443/a?b=c"`, "https://eu1.example.com:8443/a?b=c"},
		"a word":                     {`"abc"`, "abc"},
		"a number":                   {`12345678901234567890`, "12345678901234567890"},
		"a fraction":                 {`1.50`, "1.50"},
		"zero":                       {`0`, "0"},
		"all visible characters":     {`"!#$%&'()*+,-./:;<=>?@[]^_{|}~"`, "!#$%&'()*+,-./:;<=>?@[]^_{|}~"},
		"2 KiB":                      {`"` + strings.Repeat("x", 2048) + `"`, strings.Repeat("x", 2048)},
		"more than 2 KiB":            {`"` + strings.Repeat("x", 2049) + `"`, ""},
		"a long number":              {strings.Repeat("1", 2049), ""},
		"absent":                     {`null`, ""},
		"empty":                      {`""`, ""},
		"true":                       {`true`, ""},
		"false":                      {`false`, ""},
		"an array":                   {`["https://eu1.example.com"]`, ""},
		"an object":                  {`{"url":"https://eu1.example.com"}`, ""},
		"CR and LF":                  {`"x\r\nX-Injected: 1"`, ""},
		"LF at the end":              {`"x\n"`, ""},
		"NUL":                        {`"x\u0000"`, ""},
		"TAB":                        {`"x\ty"`, ""},
		"ESC":                        {`"\u001b[2J"`, ""},
		"DEL":                        {`"x\u007f"`, ""},
		"C1":                         {`"x\u0085"`, ""},
		"a space":                    {`"x y"`, ""},
		"a space before":             {`" x"`, ""},
		"Latin-1":                    {`"é"`, ""},
		"a letter that looks ok":     {`"https://еxample.com"`, ""},
		"a line separator":           {`"x\u2028"`, ""},
		"bytes that are no UTF-8":    {"\"x\xff\"", ""},
		"the token":                  {`"` + secret + `"`, ""},
		"the token in a URL":         {`"https://example.com/?t=` + secret + `"`, ""},
		"most of the token":          {`"x` + secret[3:20] + `"`, ""},
		"a piece of the token":       {`"` + secret[:6] + `"`, secret[:6]}, // too short to count as the token
		"the token, escaped in JSON": {`"\u00634n4ry-0123456789abcdef"`, ""},
	} {
		body := `{"access_token":"` + secret + `","instance_url":` + tc.value + `,"ids":["7"]}`
		issued, err := jsonAnswer(body).Read(full)
		want := map[string]string{"id": "7"}
		if tc.want != "" {
			want["url"] = tc.want
		}
		if err != nil || issued.Token.Reveal() != secret || !maps.Equal(issued.Kept, want) {
			t.Errorf("%s: got %q, %v, want %q", name, issued.Kept, err, want)
		}
	}
	for _, body := range []string{`{"access_token":"` + secret + `"}`, `"` + secret + `"`, `{"access_token":"` + secret + `","ids":[]}`} {
		if issued, err := jsonAnswer(body).Read(full); err != nil || len(issued.Kept) > 0 {
			t.Errorf("%s: got %q, %v", body, issued.Kept, err)
		}
	}
	// a failure has no kept values
	if issued, _ := answerOf(400, "application/json", `{"instance_url":"https://x.example"}`).Read(full); issued.Kept != nil {
		t.Errorf("got %q from a failure", issued.Kept)
	}
	// the whole body is not a kept value if it is the token
	l := full
	l.Keep = map[string]string{"all": "$"}
	if issued, err := jsonAnswer(`"` + secret + `"`).Read(l); err != nil || issued.Kept != nil {
		t.Errorf("got %q, %v", issued.Kept, err)
	}
}

// An answer contains the scope if it differs from the requested one (RFC 6749 section 5.1). The note quotes only the
// configuration.
func TestNarrowedScope(t *testing.T) {
	for _, tc := range []struct {
		asked []string
		scope string // JSON
		want  string // the missing scope; empty for no note
	}{
		{[]string{"read", "write"}, `"read write"`, ""},
		{[]string{"read", "write"}, `"write read"`, ""},
		{[]string{"read", "write"}, `"c4n4ry write  read more"`, ""},
		{[]string{"read", "write"}, `"read,write"`, ""},
		{[]string{"read", "write"}, `["read","write"]`, ""},
		{[]string{"read", "write"}, `["read",7,null,"write"]`, ""},
		{[]string{"read", "write"}, `"read"`, `"write"`},
		{[]string{"read", "write"}, `["write"]`, `"read"`},
		{[]string{"read", "write"}, `"READ write"`, `"read"`}, // case-sensitive, section 3.3
		{[]string{"read", "write"}, `"c4n4ry"`, `"read write"`},
		{[]string{"read", "write"}, `"readwrite"`, `"read write"`},
		{[]string{"read", "write"}, `"read\twrite"`, `"read write"`}, // a TAB is no separator
		{[]string{"read write"}, `"read write"`, ""},                 // two scopes in one value
		{[]string{"read write"}, `"write"`, `"read"`},
		{[]string{"read,write"}, `"read,write"`, ""},
		{[]string{"read,write"}, `"read write"`, ""},
		// an answer without a scope grants the requested scope
		{[]string{"read"}, `null`, ""},
		{[]string{"read"}, `""`, ""},
		{[]string{"read"}, `" "`, ""},
		{[]string{"read"}, `[]`, ""},
		{[]string{"read"}, `7`, ""},
		{[]string{"read"}, `{"c4n4ry":1}`, ""},
		{[]string{"read"}, `true`, ""},
		{nil, `"c4n4ry"`, ""},
		{[]string{""}, `"c4n4ry"`, ""},
	} {
		l := full
		l.AskedScope = slices.Clone(tc.asked)
		issued, err := jsonAnswer(`{"access_token":"T","scope":` + tc.scope + `}`).Read(l)
		if err != nil {
			t.Errorf("%s: %v", tc.scope, err)
		}
		if (issued.Note == "") != (tc.want == "") || !strings.HasSuffix(issued.Note, tc.want) {
			t.Errorf("requested %q, granted %s: got %q, want %s", tc.asked, tc.scope, issued.Note, tc.want)
		}
		if strings.Contains(issued.Note, canary) || strings.Contains(issued.Note, "READ") {
			t.Errorf("the note quotes the answer: %q", issued.Note)
		}
		if !slices.Equal(l.AskedScope, tc.asked) {
			t.Errorf("Read has changed AskedScope to %q", l.AskedScope)
		}
	}
}

// FuzzLayout checks that Read does not panic with a layout that has all fields. A header field must be able to carry every kept
// value, and no kept value and no note may show the token.
func FuzzLayout(f *testing.F) {
	for _, body := range []string{
		`{"access_token":"T","expires_in":"60","refresh_in":1e400,"scope":"read","instance_url":"https://x.example","ids":[7]}`,
		`{"access_token":"` + jwtWith(`{"exp":1700003600}`) + `","scope":["c4n4ry"]}`,
		`{"access_token":"abcdefghijklmnop","instance_url":"https://abcdefghijklmnop","expires_at":"2023-11-14T23:13:20Z"}`,
		`{"access_token":"T","expires_at":"0000-01-01T00:00:00Z","ids":["\r\n"]}`, `{"error":"busy","retry_after":-1e400}`,
		`"abcdefghijklmnop"`, `"a.b.c"`, `try again`, `{"access_token":"e30.e30.","ids":[1e99999]}`, "",
	} {
		for _, unit := range []string{"s", "ms", "rfc3339", ""} {
			f.Add(200, "application/json", unit, []byte(body))
		}
		f.Add(429, "application/x-www-form-urlencoded", "ms", []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, contentType, unit string, body []byte) {
		l := full
		l.ExpiresInUnit, l.ExpiresAtUnit = Unit(unit), Unit(unit)
		a := answerOf(status, contentType, string(body))
		issued, err := a.Read(l)
		if e, ok := err.(*token.Error); ok {
			if e.RetryAfter < 0 || strings.Contains(e.Reason, canary) || !issued.Token.Empty() || issued.Kept != nil {
				t.Fatalf("got %+v, %v", e, issued)
			}
			return
		}
		checkIssued(t, a, issued)
		if issued.Lifetime == token.UnknownLifetime || issued.RefreshIn < 0 || issued.RefreshIn > maxSeconds*time.Second {
			t.Fatalf("got lifetime %s, RefreshIn %s", issued.Lifetime, issued.RefreshIn)
		}
		for name, value := range issued.Kept {
			if l.Keep[name] == "" || value == "" || len(value) > maxKept || issued.Token.In(value) || strings.Trim(value, visible) != "" {
				t.Fatalf("kept %q as %q", value, name)
			}
		}
		for _, note := range strings.Split(issued.Note, "; ") {
			switch missing := strings.TrimPrefix(note, `with a narrower scope: requested "read write", granted without `); missing {
			case "", `"read"`, `"write"`, `"read write"`:
				continue
			}
			if !strings.HasPrefix(note, "its lifetime ") && !strings.HasPrefix(note, "it seems to have expired ") {
				t.Fatalf("got note %q", issued.Note)
			}
		}
	})
}

// visible contains the characters that a header field can carry, except the space.
const visible = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
