package oauth

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// maxKept limits the length of a kept value. Such a value is a URL or an identifier.
const maxKept = 2 << 10

// kept returns the values at the paths, by name. It leaves out values that a header field or a URL cannot carry, and values
// that show the token.
func (f fields) kept(paths map[string]string, secret token.Secret) map[string]string {
	var kept map[string]string
	for name, path := range paths {
		value, ok := f.scalar(path)
		if !ok || len(value) > maxKept || strings.IndexFunc(value, notVisibleASCII) >= 0 || secret.In(value) {
			continue
		}
		if kept == nil {
			kept = make(map[string]string, len(paths))
		}
		kept[name] = value
	}
	return kept
}

func (f fields) scalar(path string) (string, bool) {
	switch v := f.at(path).(type) {
	case string:
		return v, v != ""
	case json.Number:
		return v.String(), true
	default:
		return "", false
	}
}

// narrowed returns a note if the token endpoint granted less than the requested scope (RFC 6749 section 5.1), or else "".
// The note quotes only the configuration, because the answer is untrusted.
func narrowed(f fields, l Layout) string {
	granted := f.scopes(l.Scope)
	if len(granted) == 0 { // the same as requested (section 5.1)
		return ""
	}
	missing := slices.DeleteFunc(splitScope(strings.Join(l.AskedScope, " ")), func(scope string) bool {
		return slices.Contains(granted, scope)
	})
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("with a narrower scope: requested %q, granted without %q",
		strings.Join(l.AskedScope, " "), strings.Join(missing, " "))
}

// scopes returns the granted scopes. They are a string, separated by spaces (RFC 6749 section 3.3) or commas, or an array.
func (f fields) scopes(paths []string) []string {
	switch v := f.find(paths).(type) {
	case string:
		return splitScope(v)
	case []any:
		return texts(v)
	default:
		return nil
	}
}

func splitScope(scope string) []string {
	return strings.FieldsFunc(scope, func(r rune) bool { return r == ' ' || r == ',' })
}
