package oauth

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
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
	case !ValidPort(u.Port()):
		return nil, errors.New("the port of the URL must be a number from 1 to 65535")
	case strings.ContainsFunc(raw, unicode.IsSpace): // url.Parse would escape it in the path and leave it in the query
		return nil, errors.New("the URL must not have white space")
	case strings.ContainsAny(raw, "{}"):
		return nil, errors.New("the URL must not have braces; replace what the braces stand for")
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

// ValidPort reports whether a URL can have this port. Without a port, the scheme determines it.
func ValidPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// looksSecret reports whether a parameter of the query is a secret. Some servers separate parameters by ";".
func looksSecret(query string) bool {
	for param := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(param, "=")
		if unescaped, err := url.QueryUnescape(name); err == nil {
			name = unescaped
		}
		if namesSecret(name) && !harmless.MatchString(value) {
			return true
		}
	}
	return false
}

// harmless matches values that are no secrets in a parameter with the name of one. These are switches, as in
// refresh_token=true, and API keys of Google, which identify a project and which the URLs of Firebase contain.
var harmless = regexp.MustCompile(`^(?:(?i:true|false|yes|no|on|off|none|[01])|AIza[0-9A-Za-z_-]{35})$`)

// secretWords are the last words of names of secrets.
var secretWords = []string{
	"secret", "clientsecret", "appsecret", "password", "passwd", "passphrase", "passcode", "assertion", "token", "accesstoken", "authtoken",
	"key", "apikey", "authkey", "accesskey",
}

// publicKeys are words before "key" in names of identifiers. Several vendors call the client id a client key, an app key or a
// consumer key.
var publicKeys = []string{"client", "app", "consumer", "public", "tenant", "site", "project", "partition"}

// namesSecret reports whether the last word of a name is one of secretWords, in any case and with or without a number at the
// end. The names client_secret and subscription-key qualify, but requested_token_type, keyspace and app_key do not. A capital
// letter can begin a word, as in clientSecret, or it does not matter, as in CLIENT_SeCRET.
func namesSecret(name string) bool {
	return endsInSecret(name) || endsInSecret(camelCase.ReplaceAllString(name, "$1 $2"))
}

// endsInSecret is namesSecret for a name in which only characters that are no letters separate words.
func endsInSecret(name string) bool {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) })
	if len(words) == 0 || !slices.Contains(secretWords, words[len(words)-1]) {
		return false
	}
	return len(words) < 2 || words[len(words)-1] != "key" || !slices.Contains(publicKeys, words[len(words)-2])
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
