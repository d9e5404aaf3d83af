package oauth

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
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
		if secretWord.MatchString(name) {
			return true
		}
	}
	return false
}

var secretWord = regexp.MustCompile(`(?i)secret|passw|assertion|token|key`)
