package option

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// ReplaceGlobals replaces placeholders and leaves all other braces alone. The values come from a Reader.
func TestReplaceGlobals(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_VALUE", "\ufeffread write\r\n")
	t.Setenv("TOKEN_PROXY_TEST_BRACES", `{env.HOME}`)
	file := caddytest.SecretFile(t, "from a file\n")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                                 "",
		"plain":                            "plain",
		"{env.TOKEN_PROXY_TEST_VALUE}":     "read write",
		"a-{env.TOKEN_PROXY_TEST_VALUE}-b": "a-read write-b",
		file:                               "from a file",
		"x" + file + file:                  "xfrom a filefrom a file",
		"{system.hostname}":                host,
		"{system.os}/{env.TOKEN_PROXY_TEST_VALUE}": runtime.GOOS + "/read write",
		"{env.TOKEN_PROXY_TEST_BRACES}":            "{env.HOME}", // a value is never a placeholder
		// braces that are text
		`[{"type":"x"}]`: `[{"type":"x"}]`,
		`{"id_token":{"acr":{"essential":true,"values":["a"]}}}`: `{"id_token":{"acr":{"essential":true,"values":["a"]}}}`,
		`[{"type":"{env.TOKEN_PROXY_TEST_VALUE}"}]`:              `[{"type":"read write"}]`,
		"{}": "{}", "{ }": "{ }", "{": "{", "}": "}", "}{": "}{", "a{2,3}": "a{2,3}", "{0}": "{0}", "{a, b}": "{a, b}", "{two words}": "{two words}",
		"{{}}": "{{}}", `{'a':1}`: `{'a':1}`, "{a=b}": "{a=b}", "{\n}": "{\n}", "{é}": "{é}", "${1}": "${1}",
		// braces that look like a placeholder, escaped
		`\{tenant\}`: "{tenant}", `\{"type":"x"\}`: `{"type":"x"}`, `\{env.HOME\}`: "{env.HOME}", `a\b`: `a\b`, `\`: `\`, `\{`: "{",
	} {
		got, err := ReplaceGlobals(text)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

// ReplaceGlobals returns an error for a text that the proxy would send with the text of a placeholder in it.
func TestReplaceGlobalsFails(t *testing.T) {
	t.Setenv("TOKEN_PROXY_TEST_LINES", "c4n4ry\nc4n4ry")
	t.Setenv("TOKEN_PROXY_TEST_BLANK", " \r\n")
	for text, want := range map[string]string{
		"{tenant}":                          "unknown placeholder",
		"https://as.example/{tenant}/token": "unknown placeholder",
		"{c4n4ry.x}":                        `\{`,
		"{http.request.host}":               "unknown placeholder",
		"{uuid}":                            "unknown placeholder",
		"{$HOME}":                           "unknown placeholder",
		"{ENV.HOME}":                        "unknown placeholder",
		"{env:HOME}":                        "unknown placeholder",
		"{ env.HOME }":                      "unknown placeholder",
		"{vault.secret/data/c4n4ry#key}":    "unknown placeholder",
		"{args[0]}":                         "unknown placeholder",
		"{{tenant}}":                        "unknown placeholder",
		`[{"tenant":"{tenant}"}]`:           "unknown placeholder",
		"{env.}":                            "empty",
		"{file.}":                           "unknown placeholder",
		"{env.TOKEN_PROXY_TEST_UNSET}":      "TOKEN_PROXY_TEST_UNSET",
		"a {env.TOKEN_PROXY_TEST_BLANK}":    "TOKEN_PROXY_TEST_BLANK",
		"{env.TOKEN_PROXY_TEST_LINES}":      "more than one line",
		"{file./nonexistent/secret}":        "/nonexistent/secret",
		caddytest.SecretFile(t, "c4n4ry\nc4n4ry"): "more than one line",
		caddytest.SecretFile(t, "\ufeff\r\n"):     "is empty",
	} {
		got, err := ReplaceGlobals(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%q: got %q, error %v, want one about %q", text, got, err, want)
		}
	}
	value := "a\nb"
	if err := ReplaceGlobal("audience", &value); err == nil || !strings.HasPrefix(err.Error(), "audience: ") {
		t.Errorf("got %v", err)
	}
}
