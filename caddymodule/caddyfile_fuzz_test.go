package caddymodule

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/devmodules"
)

// FuzzCaddyfile parses the global option, and each directive, of any Caddyfile. Nothing may panic; what is accepted
// must survive JSON; and no error may repeat what stands in the place of a secret.
//
// The lexer alone reads the input, without imports and environment variables: an input must not be able to read files.
func FuzzCaddyfile(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(strings.ReplaceAll(g.input, adaptCanary, "secret"))
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil || strings.Contains(input, adaptCanary) {
			return
		}
		plantCanaries(tokens)
		for d := caddyfile.NewDispenser(tokens); d.Next(); {
			switch d.Val() {
			case "token_proxy": // the global option and the directive have the same name
				fuzzUnmarshal(t, d, new(App))
				fuzzUnmarshal(t, d, new(Handler))
			case "dev_token_endpoint":
				fuzzUnmarshal(t, d, new(devmodules.TokenEndpoint))
			case "dev_api":
				fuzzUnmarshal(t, d, new(devmodules.API))
			}
		}
	})
}

// plantCanaries puts a secret before each value on a line that begins with client_secret. (What stands on another line,
// such as a name that is mistyped so that it takes the value in, is no value of a client_secret to the parser. A quoted
// brace is left alone, because it cannot be told from a block's.)
func plantCanaries(tokens []caddyfile.Token) {
	secret := false
	for i := range tokens {
		if i == 0 || startsLine(tokens[i-1], tokens[i]) {
			secret = tokens[i].Text == "client_secret"
			continue
		}
		if secret && tokens[i].Text != "{" && tokens[i].Text != "}" {
			tokens[i].Text = adaptCanary + tokens[i].Text
		}
	}
}

// startsLine is how the dispenser sees it, for tokens of one file.
func startsLine(before, token caddyfile.Token) bool {
	return before.Line+before.NumLineBreaks() < token.Line
}

// fuzzUnmarshal parses the segment that begins at d into a module, without moving d.
func fuzzUnmarshal(t *testing.T, d *caddyfile.Dispenser, module caddyfile.Unmarshaler) {
	t.Helper()
	at := *d
	if err := module.UnmarshalCaddyfile(at.NewFromNextSegment()); err != nil {
		// The secret of a development server is none, and errors about what is reverse_proxy's are Caddy's.
		if _, ok := module.(*App); ok && strings.Contains(err.Error(), adaptCanary) {
			t.Errorf("the error repeats a secret: %v", err)
		}
		return
	}
	if h, ok := module.(*Handler); ok {
		h.Handler = new(Handler).Handler // what Caddy's part makes of it is not ours
	}
	text, err := json.Marshal(module)
	if err != nil {
		t.Fatalf("%+v: %v", module, err)
	}
	again := reflect.New(reflect.TypeOf(module).Elem()).Interface()
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if textAgain, err := json.Marshal(again); err != nil || string(textAgain) != string(text) {
		t.Errorf("JSON changed it from %s to %s, %v", text, textAgain, err)
	}
}
