package option

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// ReplaceGlobals replaces global placeholders. Files are read as those of all other options are: Caddy's own {file.*}
// would wait for a FIFO for ever, and turns a file that cannot be read into an empty text.
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
			return nil, errors.New("unknown placeholder: use {env.NAME} or {file./path}")
		}
		if caddy.ToString(value) == "" {
			return nil, fmt.Errorf("the placeholder {%s} stands for nothing", name)
		}
		return value, nil
	})
}

// ReplaceGlobal replaces global placeholders in the value of an option.
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
