package option

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2"
)

// replaceable matches the parts of a text that ReplaceGlobals replaces, which are escaped braces and placeholders. All other
// braces are text, such as those of JSON. (Caddy's own replacer takes every pair of braces for a placeholder.)
var replaceable = regexp.MustCompile(`\\[{}]|` + PartPlaceholder.String() + `|` + likePlaceholder.String())

var errNotReplaced = errors.New(`unknown placeholder; use {env.NAME} or {file./path}, or write \{ for a brace that is text`)

// ReplaceGlobals replaces global placeholders, and \{ and \} by braces. It returns an error for a placeholder that is
// unknown or empty, or whose variable or file a Reader cannot read as one line. Braces that cannot be a placeholder stay as
// they are.
func ReplaceGlobals(text string) (string, error) {
	replacer := caddy.NewReplacer().WithoutFile()
	var failed error
	replaced := replaceable.ReplaceAllStringFunc(text, func(part string) string {
		if part[0] == '\\' {
			return part[1:]
		}
		value, err := global(replacer, part)
		if err != nil && failed == nil {
			failed = err
		}
		return value
	})
	if failed != nil {
		return "", failed
	}
	return replaced, nil
}

// global returns the value of a global placeholder. A Reader reads {file.*}, because Caddy's own {file.*} waits for a FIFO
// for ever and turns an unreadable file into an empty text.
func global(replacer *caddy.Replacer, placeholder string) (string, error) {
	if WholePlaceholder.MatchString(placeholder) {
		r, err := NewReader(placeholder)
		if err != nil {
			return "", err
		}
		value, err := r.Read()
		return value.Reveal(), err
	}
	name := strings.Trim(placeholder, "{}")
	value, ok := replacer.GetString(name)
	if !ok {
		return "", errNotReplaced
	}
	if value == "" {
		return "", fmt.Errorf("the placeholder {%s} is empty", name)
	}
	return value, nil
}

// ReplaceGlobal replaces global placeholders in the value of an option, which must be one line. An error names the option.
func ReplaceGlobal(option string, value *string) error {
	replaced, err := ReplaceGlobals(*value)
	if err == nil && strings.ContainsFunc(replaced, unicode.IsControl) {
		err = errors.New("it holds control characters or more than one line")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	*value = replaced
	return nil
}

// Resolve replaces global placeholders in the value of an option and returns what resolve makes of the result. An error
// names the option.
func Resolve(option, value string, resolve func(string) (string, error)) (string, error) {
	if err := ReplaceGlobal(option, &value); err != nil {
		return "", err
	}
	resolved, err := resolve(value)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	return resolved, nil
}
