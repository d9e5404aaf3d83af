package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// SecretSource is where a secret comes from, as configured: one whole-value placeholder, {env.NAME} or
// {file./path}, or the secret itself. In JSON configuration it is a plain string; printed in any other way, it
// shows as "[redacted]".
type SecretSource string

// String implements fmt.Stringer.
func (SecretSource) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (SecretSource) GoString() string { return "[redacted]" }

// Format implements fmt.Formatter, which covers the verbs that String does not.
func (SecretSource) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue implements slog.LogValuer.
func (SecretSource) LogValue() slog.Value { return slog.StringValue("[redacted]") }

var (
	wholePlaceholder = regexp.MustCompile(`^\{(env|file)\.([^{}]+)\}$`)
	partPlaceholder  = regexp.MustCompile(`\{(env|file)\.[^{}]*\}`)
	anyPlaceholder   = regexp.MustCompile(`^\{[^{}"]*\}$`) // but no JSON, as keys are written in
)

// secretReader reads one configured value. A file is read at each call, so that a rotated secret needs no reload.
// Caddy's own {file.*} is not used, because it turns an unreadable file into an empty value.
type secretReader struct {
	literal Secret
	env     string
	file    string
}

// newSecretReader parses a configured value. Its errors do not repeat it.
func newSecretReader(configured string) (secretReader, error) {
	if m := wholePlaceholder.FindStringSubmatch(configured); m != nil {
		if m[1] == "env" {
			return secretReader{env: m[2]}, nil
		}
		return secretReader{file: m[2]}, nil
	}
	switch {
	case strings.TrimSpace(configured) == "":
		return secretReader{}, errors.New("it is empty")
	case partPlaceholder.MatchString(configured):
		return secretReader{}, errors.New("a placeholder must be the whole value")
	case anyPlaceholder.MatchString(configured):
		return secretReader{}, errors.New("unknown placeholder: use {env.NAME} or {file./path}")
	}
	return secretReader{literal: token.NewSecret(configured)}, nil
}

// isLiteral reports whether the configuration holds the value itself.
func (r secretReader) isLiteral() bool { return r.env == "" && r.file == "" }

// identity is what the value is known by in an identity key: where it comes from, or a digest of it. The content of
// a file is left out, so that the token obtained with the old content is served until the new one is needed.
func (r secretReader) identity(b *token.KeyBuilder, option string) {
	if r.isLiteral() {
		b.Secret(option, r.literal)
		return
	}
	b.Field(option+" source", r.env, r.file)
}

// read returns the present value, which is one line. Its errors name the variable or the file, never the content.
func (r secretReader) read() (Secret, error) {
	value, err := r.readLines()
	if err != nil {
		return Secret{}, err
	}
	if strings.ContainsFunc(value.Reveal(), unicode.IsControl) {
		return Secret{}, fmt.Errorf("%s holds control characters or more than one line", r.where())
	}
	return value, nil
}

// readLines returns the present value, which may be of many lines, as keys and certificates are.
func (r secretReader) readLines() (Secret, error) {
	value, err := r.content()
	if err != nil {
		return Secret{}, err
	}
	if value == "" {
		return Secret{}, fmt.Errorf("%s is empty or not set", r.where())
	}
	if !utf8.ValidString(value) { // JSON would change it
		return Secret{}, fmt.Errorf("%s is not UTF-8", r.where())
	}
	return token.NewSecret(value), nil
}

// content removes the white space that editors and secret managers put around a value.
func (r secretReader) content() (string, error) {
	switch {
	case r.env != "":
		return strings.TrimSpace(os.Getenv(r.env)), nil
	case r.file != "":
		content, err := readSmallFile(r.file)
		return strings.TrimSpace(content), err
	default:
		return r.literal.Reveal(), nil
	}
}

// where names the place that the value comes from, for errors.
func (r secretReader) where() string {
	switch {
	case r.env != "":
		return "the environment variable " + r.env
	case r.file != "":
		return "the file " + r.file
	default:
		return "it"
	}
}
