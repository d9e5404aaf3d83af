package option

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

// Source is the configured value of an option that may be secret. It is either the placeholder {env.NAME} or {file./path}, or the secret
// itself. In JSON it is a plain string. It prints as "[redacted]".
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
	// WholePlaceholder matches a value that is {env.NAME} or {file./path} as a whole.
	WholePlaceholder = regexp.MustCompile(`^\{(env|file)\.([^{}]+)\}$`)

	// PartPlaceholder matches {env.NAME} or {file./path} anywhere in a value.
	PartPlaceholder = regexp.MustCompile(`\{(env|file)\.[^{}]*\}`)

	// likePlaceholder matches a text in braces that an operator probably means as a placeholder. It does not match the
	// braces of JSON, of a regular expression such as {2,3}, or of several words.
	likePlaceholder = regexp.MustCompile(`\{\s*[A-Za-z$][\w.:/$#@%*+~\[\]-]*\s*\}`)

	// shellVariable matches a value that is a variable of a shell as a whole. ($NAME without braces may be a real secret.)
	shellVariable = regexp.MustCompile(`^\$\{[A-Za-z_]\w*\}$`)
)

var (
	errUnknownPlaceholder = errors.New("unknown placeholder; use {env.NAME} or {file./path}")
	errShellVariable      = errors.New("${NAME} is the syntax of a shell; use {env.NAME} or {$NAME}")
)

// LooksLikePlaceholder reports whether an operator probably means a part of the text as a placeholder. An option that does
// not replace placeholders returns an error for such a text, because the proxy would send it as it is.
func LooksLikePlaceholder(text string) bool {
	return PartPlaceholder.MatchString(text) || likePlaceholder.MatchString(text)
}

// Reader reads the current value of a Source. It reads the variable or the file at each call, so a rotated secret needs no
// reload. It does not use Caddy's own {file.*}, which turns an unreadable file into an empty value.
type Reader struct {
	literal token.Secret
	env     string
	file    string
}

// NewReader parses the text of a Source. It returns an error if the text is empty, or looks like a mistyped placeholder.
// Its errors do not quote the text.
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
	case likePlaceholder.FindString(configured) == configured:
		return Reader{}, errUnknownPlaceholder
	case shellVariable.MatchString(configured):
		return Reader{}, errShellVariable
	}
	return Reader{literal: token.NewSecret(configured)}, nil
}

// Literal returns a Reader of the value itself, in which nothing is a placeholder.
func Literal(value token.Secret) Reader { return Reader{literal: value} }

// IsLiteral reports whether the configuration holds the value itself.
func (r Reader) IsLiteral() bool { return r.env == "" && r.file == "" }

// Identity adds the value to a key. It adds the name of the variable or of the file, or a digest of a literal. It does not
// add the content of a file, so that the token obtained with the old content stays in use until it needs a refresh.
func (r Reader) Identity(b *token.KeyBuilder, option string) {
	if r.IsLiteral() {
		b.Secret(option, r.literal)
		return
	}
	b.Field(option+" source", r.env, r.file)
}

// Read returns the current value, which must be one line. Its errors name the variable or the file, never the value.
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

// ReadLines returns the current value, which may have several lines, as keys and certificates do. Its errors name the
// variable or the file, never the value.
func (r Reader) ReadLines() (token.Secret, error) {
	value, err := r.content()
	if err != nil {
		return token.Secret{}, err
	}
	if value == "" && r.env != "" {
		return token.Secret{}, fmt.Errorf("%s is empty or not set", r.where())
	}
	if value == "" {
		return token.Secret{}, fmt.Errorf("%s is empty", r.where())
	}
	if strings.HasPrefix(value, "\xff\xfe") || strings.HasPrefix(value, "\xfe\xff") { // as Windows PowerShell writes text
		return token.Secret{}, fmt.Errorf("%s is UTF-16; save it as UTF-8", r.where())
	}
	if !utf8.ValidString(value) { // JSON would change it
		return token.Secret{}, fmt.Errorf("%s is not UTF-8", r.where())
	}
	return token.NewSecret(value), nil
}

// content returns the current value without its surroundings.
func (r Reader) content() (string, error) {
	switch {
	case r.env != "":
		return trim(os.Getenv(r.env)), nil
	case r.file != "":
		content, err := ReadFile(r.file)
		return trim(content), err
	default:
		return r.literal.Reveal(), nil
	}
}

// trim removes what editors, Windows and `kubectl create secret` leave around a value. These are a byte order mark, white
// space and the ends of lines.
func trim(value string) string {
	return strings.TrimFunc(value, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' })
}

// where describes for errors where the value comes from.
func (r Reader) where() string {
	switch {
	case r.env != "":
		return "the environment variable " + r.env
	case r.file != "":
		return "the file " + shownName(r.file)
	default:
		return "it"
	}
}

// FromFile returns a Reader of the file at the path.
func FromFile(path string) Reader { return Reader{file: path} }
