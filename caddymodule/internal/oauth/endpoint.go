package oauth

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// ParseEndpoint parses and checks the URL of a token endpoint. Its errors do not quote the URL, which may contain a secret.
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
		return nil, errors.New("the URL must not hold a user name or a password; use client_id and client_secret")
	case u.Fragment != "": // RFC 6749 section 3.2
		return nil, errors.New("the URL must not have a fragment")
	}
	if looksSecret(u.RawQuery) {
		return nil, errors.New("the URL must not hold a secret, because servers and proxies log URLs; use client_secret")
	}
	return u, nil
}

// looksSecret reports whether a parameter of the query has the name of a secret. Some servers separate parameters by ";".
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

// secretWords are the last words of names of secrets.
var secretWords = []string{
	"secret", "clientsecret", "appsecret", "password", "passwd", "passphrase", "passcode", "assertion", "token", "accesstoken", "authtoken",
	"key", "apikey", "authkey", "accesskey",
}

// namesSecret reports whether the last word of a name is one of secretWords, in any case and with or without a number at the
// end. The names client_secret and subscription-key qualify, but requested_token_type and keyspace do not.
func namesSecret(name string) bool {
	words := strings.FieldsFunc(camelCase.ReplaceAllString(name, "$1 $2"), func(r rune) bool { return !unicode.IsLetter(r) })
	return len(words) > 0 && slices.Contains(secretWords, strings.ToLower(words[len(words)-1]))
}

// camelCase matches the beginning of a word in the middle of a name, as in clientSecret.
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

// CheckEndpoint returns the error of ParseEndpoint.
func CheckEndpoint(text string) error {
	_, err := ParseEndpoint(text)
	return err
}
