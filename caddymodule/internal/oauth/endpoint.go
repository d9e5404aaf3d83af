package oauth

import (
	"errors"
	"net/netip"
	"net/url"
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
	for name := range u.Query() {
		if looksSecret(name) {
			return nil, errors.New("the URL must not hold a secret, because URLs are logged: use client_secret")
		}
	}
	return u, nil
}

func looksSecret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"secret", "password", "passwd", "assertion", "token", "api_key", "apikey"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// IsLoopback reports whether host, a name or an IP address without a port, can only be this machine.
func IsLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") { // RFC 6761 section 6.3
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}
