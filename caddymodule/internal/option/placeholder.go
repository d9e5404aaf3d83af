package option

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// ReplaceGlobals replaces global placeholders. It returns an error for a placeholder that is unknown, that is empty, or
// whose file cannot be read. It reads {file.*} with ReadFile, because Caddy's own {file.*} waits for a FIFO for ever and
// turns an unreadable file into an empty text.
func ReplaceGlobals(text string) (string, error) {
	return caddy.NewReplacer().WithoutFile().ReplaceFunc(text, func(name string, value any) (any, error) {
		if path, ok := strings.CutPrefix(name, "file."); ok {
			content, err := ReadFile(path)
			if err != nil {
				return nil, err
			}
			if value = strings.TrimSpace(content); value == "" {
				return nil, fmt.Errorf("the file %s is empty", path)
			}
			return value, nil
		}
		if value == nil {
			return nil, errUnknownPlaceholder
		}
		if caddy.ToString(value) == "" {
			return nil, fmt.Errorf("the placeholder {%s} is empty", name)
		}
		return value, nil
	})
}

// ReplaceGlobal replaces global placeholders in the value of an option. An error names the option.
func ReplaceGlobal(option string, value *string) error {
	replaced, err := ReplaceGlobals(*value)
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
