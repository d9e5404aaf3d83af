package oauth

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// ParseEndpoint checks the URL of a token endpoint. Its errors do not repeat the URL, which may hold a secret.
func ParseEndpoint(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("this is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the URL must begin with https://")
	case u.Hostname() == "":
		return nil, errors.New("the URL names no host")
	case u.User != nil:
		return nil, errors.New("the URL must not hold a user name or a password: use client_id and client_secret")
	case u.Fragment != "": // RFC 6749 section 3.2
		return nil, errors.New("the URL must not have a fragment")
	}
	if looksSecret(u.RawQuery) {
		return nil, errors.New("the URL must not hold a secret, because URLs are logged: use client_secret")
	}
	return u, nil
}

// looksSecret looks at the names of a query's parameters, however they are separated.
func looksSecret(query string) bool {
	for param := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, _, _ := strings.Cut(param, "=")
		if unescaped, err := url.QueryUnescape(name); err == nil {
			name = unescaped
		}
		if namesSecret(name) {
			return true
		}
	}
	return false
}

// secretWords are what names of secrets end in.
var secretWords = []string{
	"secret", "clientsecret", "appsecret", "password", "passwd", "passphrase", "passcode", "assertion", "token", "accesstoken", "authtoken",
	"key", "apikey", "authkey", "accesskey",
}

// namesSecret looks at the last word of a name: client_secret and subscription-key name secrets, requested_token_type and
// keyspace do not. Case does not matter, nor does a number at the end.
func namesSecret(name string) bool {
	words := strings.FieldsFunc(camelCase.ReplaceAllString(name, "$1 $2"), func(r rune) bool { return !unicode.IsLetter(r) })
	return len(words) > 0 && slices.Contains(secretWords, strings.ToLower(words[len(words)-1]))
}

// camelCase finds where a word begins in the middle of a name, as in clientSecret.
var camelCase = regexp.MustCompile(`(\p{Ll})(\p{Lu})`)

// OrStandard returns a function that resolves the configured URL of a token endpoint. An empty URL stands for the
// standard URL. A URL without a path gets the path of the standard URL.
func OrStandard(standard string) func(configured string) (string, error) {
	return func(configured string) (string, error) {
		if configured == "" {
			return standard, nil
		}
		u, err := ParseEndpoint(configured)
		if err != nil {
			return "", err
		}
		if strings.Trim(u.Path, "/") == "" {
			base, err := url.Parse(standard)
			if err != nil {
				return "", err
			}
			u.Path = base.Path
		}
		return u.String(), nil
	}
}

// CheckEndpoint reports why a text is not the URL of a token endpoint.
func CheckEndpoint(text string) error {
	_, err := ParseEndpoint(text)
	return err
}
