package option

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// A value that is not a placeholder is the secret itself, to the letter. Caddy's replacer would change some of these
// values, such as p{a}ss and \{env.
func TestLiteral(t *testing.T) {
	for _, text := range []string{
		"x", "p{a}ss", "p{env}ss", "{", "}", `\{env`, "$X", "a$", " x ", "100%", "env.HOME", "file./etc/passwd",
		"${", "${}", "a${X}", "${X}b", "${X:-c}", "$(x)", "ключ", "{{x}}", "{}", "{2,3}", `{"kty":"oct"}`, "{two words}", "{1}", "{a=b}", "a\\b", "`", "'", `"`, "#", "+/=", strings.Repeat("x", 100_000),
	} {
		r, err := NewReader(text)
		if err != nil {
			t.Errorf("%.40q: %v", text, err)
			continue
		}
		if got, err := r.Read(); err != nil || got.Reveal() != text || !r.IsLiteral() {
			t.Errorf("%.40q: got %.40q, %v", text, got.Reveal(), err)
		}
	}
}

// NewReader returns an error for a value that could be a mistyped placeholder. Without the error, the proxy would send the
// text of the placeholder as the secret. The error does not quote the value.
func TestMistypedPlaceholder(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", "empty"},
		{" ", "empty"},
		{"\t\r\n", "empty"},
		{"c4n4ry{env.HOME}", "whole value"},
		{"{env.HOME}c4n4ry", "whole value"},
		{" {env.HOME}", "whole value"},
		{"{env.HOME} ", "whole value"},
		{"{env.HOME}{env.PATH}", "whole value"},
		{"Bearer {file./run/c4n4ry}", "whole value"},
		{"{file.{env.HOME}/c4n4ry}", "whole value"},
		{"{env.}", "placeholder"},
		{"{file.}", "placeholder"},
		{"{c4n4ry}", "unknown placeholder"},
		{"{env}", "unknown placeholder"},
		{"{ENV.HOME}", "unknown placeholder"},
		{"{environment.HOME}", "unknown placeholder"},
		{"{$HOME}", "unknown placeholder"},
		{"{system.hostname}", "unknown placeholder"},
		{"{http.request.header.X-Secret}", "unknown placeholder"},
		// placeholders with the characters of a path
		{"{files./run/secrets/c4n4ry}", "unknown placeholder"},
		{"{File./run/secrets/c4n4ry}", "unknown placeholder"},
		{"{file:/run/secrets/c4n4ry}", "unknown placeholder"},
		{"{env:C4N4RY}", "unknown placeholder"},
		{"{vault.secret/data/c4n4ry#key}", "unknown placeholder"},
		{"{ c4n4ry }", "unknown placeholder"},
		{"{args[0]}", "unknown placeholder"},
		// variables of a shell
		{"${C4N4RY}", "use {env.NAME} or {$NAME}"},
		{"${_c4n4ry1}", "use {env.NAME} or {$NAME}"},
	} {
		r, err := NewReader(tc.text)
		if err == nil {
			t.Errorf("%q is accepted, literal: %v", tc.text, r.IsLiteral())
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got error %q, want one about %q", tc.text, err, tc.want)
		}
		if strings.Contains(strings.ToLower(err.Error()), "c4n4ry") {
			t.Errorf("%q: the error quotes the value: %v", tc.text, err)
		}
	}
}

// The reader removes the white space that editors and secret managers put around a value. It changes nothing else.
func TestContent(t *testing.T) {
	for content, want := range map[string]string{
		"x":                 "x",
		"x\n":               "x",
		"x\r\n":             "x",
		"\n\tx \n\n":        "x",
		"\ufeffx\r\n":       "x", // as Windows writes it
		"\r\n\ufeffx\ufeff": "x",
		"x\u0085\u2028":     "x",
		"\u00a0x\u00a0":     "x", // as it is copied from a web page
		"x\r":               "x",
		"\ufeff":            "",
		"\ufeff \r\n":       "",
		"x\ufeffc4n4ry":     "x\ufeffc4n4ry",
		"a b":               "a b",
		"p{a}ss":            "p{a}ss",
		"{env.HOME}":        "{env.HOME}", // content is never a placeholder
		"{file./x}":         "{file./x}",
		`"x"`:               `"x"`,
		"ключ\n":            "ключ",
		"-----x-----\n":     "-----x-----",
		"":                  "",
		"\n":                "",
		" \t\r\n":           "",
		"a\nb":              "",
		"a\r\nb\r\n":        "",
		"a\tb":              "",
		"a\x00b":            "",
		"a\x00":             "",
		"\x1b[2Ja":          "",
		"a\x7f":             "",
		"a\u0085b":          "",
		"c4n4ry\nc4n4ry":    "",
	} {
		sources := map[string]string{"the file": caddytest.SecretFile(t, content)}
		if !strings.Contains(content, "\x00") { // no environment variable can hold NUL
			t.Setenv("TOKEN_PROXY_TEST_SECRET", content)
			sources["the environment variable TOKEN_PROXY_TEST_SECRET"] = "{env.TOKEN_PROXY_TEST_SECRET}"
		}
		for name, configured := range sources {
			r, err := NewReader(configured)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Read()
			if want != "" {
				if err != nil || got.Reveal() != want {
					t.Errorf("%q: got %q, %v", content, got.Reveal(), err)
				}
				continue
			}
			if err == nil {
				t.Errorf("%q is accepted as %q", content, got.Reveal())
				continue
			}
			if unset := strings.HasSuffix(err.Error(), "is empty or not set"); unset && strings.HasPrefix(name, "the file") {
				t.Errorf("%q: a file cannot be unset: %v", content, err)
			}
			if !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("%q: got error %q, want one that names %s and not its content", content, err, name)
			}
		}
	}
}

func TestLiteralWithControlCharacters(t *testing.T) {
	r, err := NewReader("c4n4ry\nc4n4ry")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Read(); err == nil || strings.Contains(err.Error(), "c4n4ry") {
		t.Errorf("got %q, %v", got.Reveal(), err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int{1, 64 << 10} {
		r, err := NewReader(caddytest.SecretFile(t, strings.Repeat("x", size)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Read(); err != nil || len(got.Reveal()) != size {
			t.Errorf("%d bytes: got %d, %v", size, len(got.Reveal()), err)
		}
	}
	for what, configured := range map[string]string{
		"missing":     "{file." + filepath.Join(dir, "missing") + "}",
		"a directory": "{file." + dir + "}",
		"too large":   caddytest.SecretFile(t, strings.Repeat("c4n4ry", 11_000)),
		"no end":      "{file./dev/zero}",
		"empty":       "{file." + os.DevNull + "}",
	} {
		r, err := NewReader(configured)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(configured, "{file."), "}")
		if got, err := r.Read(); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%s: got %d bytes and error %v, want one that names the file", what, len(got.Reveal()), err)
		}
	}
}

// Windows PowerShell writes UTF-16. The error names the encoding, not the content.
func TestUTF16(t *testing.T) {
	for _, content := range []string{"\xff\xfec\x004\x00n\x004\x00r\x00y\x00\r\x00\n\x00", "\xfe\xff\x00c\x004\x00n\x004\x00r\x00y"} {
		configured := caddytest.SecretFile(t, content)
		r, err := NewReader(configured)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Read(); err == nil || !strings.Contains(err.Error(), "is UTF-16") || strings.Contains(err.Error(), "c\x004") {
			t.Errorf("got %q, %v", got.Reveal(), err)
		}
	}
}

// Each call of Read reads the file or the variable again. Caddy ignores a reload of an unchanged configuration, so a reload
// would not pick up a rotated secret.
func TestReadIsNotCached(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	fromFile, err := NewReader("{file." + name + "}")
	if err != nil {
		t.Fatal(err)
	}
	fromEnv, err := NewReader("{env.TOKEN_PROXY_TEST_SECRET}")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		want := fmt.Sprint("version-", i)
		t.Setenv("TOKEN_PROXY_TEST_SECRET", want)
		if err := os.WriteFile(name, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, r := range []Reader{fromFile, fromEnv} {
			if got, err := r.Read(); err != nil || got.Reveal() != want {
				t.Errorf("got %q, %v, want %q", got.Reveal(), err, want)
			}
		}
	}
}
