package redis

import (
	"context"
	"fmt"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// login reads a user name and a password, as they are at the moment.
type login struct {
	prefix             string         // of the options' names, for errors
	username, password *option.Reader // nil if not configured
}

// newLogin reads the values once, so that a missing file is reported when the configuration is loaded.
func newLogin(prefix, username string, password option.Source) (login, error) {
	l := login{prefix: prefix}
	if err := newReader(prefix+"username", username, &l.username); err != nil {
		return l, err
	}
	if err := newReader(prefix+"password", string(password), &l.password); err != nil {
		return l, err
	}
	_, _, err := l.read()
	return l, err
}

func (l login) read() (username, password string, err error) {
	if l.username != nil {
		value, err := l.username.Read()
		if err != nil {
			return "", "", fmt.Errorf("%susername: %w", l.prefix, err)
		}
		username = value.Reveal()
	}
	if l.password != nil {
		value, err := l.password.Read()
		if err != nil {
			return "", "", fmt.Errorf("%spassword: %w", l.prefix, err)
		}
		password = value.Reveal()
	}
	return username, password, nil
}

// credentials is called by go-redis for each connection.
func (l login) credentials(context.Context) (username, password string, err error) {
	username, password, err = l.read()
	return username, password, harmless(err)
}
