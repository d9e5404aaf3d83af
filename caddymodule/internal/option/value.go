package option

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// Source is where a secret comes from, as configured: one whole-value placeholder, {env.NAME} or
// {file./path}, or the secret itself. In JSON configuration it is a plain string; printed in any other way, it
// shows as "[redacted]".
type Source string

// String implements fmt.Stringer.
func (Source) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Source) GoString() string { return "[redacted]" }

// Format implements fmt.Formatter, which covers the verbs that String does not.
func (Source) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// LogValue implements slog.LogValuer.
func (Source) LogValue() slog.Value { return slog.StringValue("[redacted]") }

var (
	WholePlaceholder = regexp.MustCompile(`^\{(env|file)\.([^{}]+)\}$`)
	PartPlaceholder  = regexp.MustCompile(`\{(env|file)\.[^{}]*\}`)
	anyPlaceholder   = regexp.MustCompile(`^\{[^{}"]*\}$`) // but no JSON, as keys are written in
)

// Reader reads one configured value. A file is read at each call, so that a rotated secret needs no reload.
// Caddy's own {file.*} is not used, because it turns an unreadable file into an empty value.
type Reader struct {
	literal token.Secret
	env     string
	file    string
}

// NewReader parses a configured value. Its errors do not repeat it.
func NewReader(configured string) (Reader, error) {
	if m := WholePlaceholder.FindStringSubmatch(configured); m != nil {
		if m[1] == "env" {
			return Reader{env: m[2]}, nil
		}
		return Reader{file: m[2]}, nil
	}
	switch {
	case strings.TrimSpace(configured) == "":
		return Reader{}, errors.New("it is empty")
	case PartPlaceholder.MatchString(configured):
		return Reader{}, errors.New("a placeholder must be the whole value")
	case anyPlaceholder.MatchString(configured):
		return Reader{}, errors.New("unknown placeholder: use {env.NAME} or {file./path}")
	}
	return Reader{literal: token.NewSecret(configured)}, nil
}

// IsLiteral reports whether the configuration holds the value itself.
func (r Reader) IsLiteral() bool { return r.env == "" && r.file == "" }

// Identity is what the value is known by in an identity key: where it comes from, or a digest of it. The content of
// a file is left out, so that the token obtained with the old content is served until the new one is needed.
func (r Reader) Identity(b *token.KeyBuilder, option string) {
	if r.IsLiteral() {
		b.Secret(option, r.literal)
		return
	}
	b.Field(option+" source", r.env, r.file)
}

// Read returns the present value, which is one line. Its errors name the variable or the file, never the content.
func (r Reader) Read() (token.Secret, error) {
	value, err := r.ReadLines()
	if err != nil {
		return token.Secret{}, err
	}
	if strings.ContainsFunc(value.Reveal(), unicode.IsControl) {
		return token.Secret{}, fmt.Errorf("%s holds control characters or more than one line", r.where())
	}
	return value, nil
}

// ReadLines returns the present value, which may be of many lines, as keys and certificates are.
func (r Reader) ReadLines() (token.Secret, error) {
	value, err := r.content()
	if err != nil {
		return token.Secret{}, err
	}
	if value == "" {
		return token.Secret{}, fmt.Errorf("%s is empty or not set", r.where())
	}
	if !utf8.ValidString(value) { // JSON would change it
		return token.Secret{}, fmt.Errorf("%s is not UTF-8", r.where())
	}
	return token.NewSecret(value), nil
}

// content removes the white space that editors and secret managers put around a value.
func (r Reader) content() (string, error) {
	switch {
	case r.env != "":
		return strings.TrimSpace(os.Getenv(r.env)), nil
	case r.file != "":
		content, err := ReadFile(r.file)
		return strings.TrimSpace(content), err
	default:
		return r.literal.Reveal(), nil
	}
}

// where names the place that the value comes from, for errors.
func (r Reader) where() string {
	switch {
	case r.env != "":
		return "the environment variable " + r.env
	case r.file != "":
		return "the file " + r.file
	default:
		return "it"
	}
}

// FromFile returns a reader of a file that an option names by its path alone.
func FromFile(path string) Reader { return Reader{file: path} }

// Permissions returns the file that the value comes from, and who may read it; no path if it comes from elsewhere.
func (r Reader) Permissions() (path string, mode fs.FileMode, err error) {
	if r.file == "" {
		return "", 0, nil
	}
	file, err := files.Read(r.file)
	return r.file, file.mode.Perm(), err
}
