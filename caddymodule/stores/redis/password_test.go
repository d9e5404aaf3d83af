package redis

import (
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

// A password that was replaced in its file is used for the next connection; connections that are open stay.
func TestPasswordIsReplaced(t *testing.T) {
	server := redistest.Start(t, "--requirepass "+password)
	path, placeholder := file(t, otherPassword+"\n")
	e := open(t, at(server.Addr).with("password", placeholder))

	_, err := e.Load(within(t), name)
	wantError(t, err, "WRONGPASS")
	write(t, path, password+"\n")
	exercise(t, e)

	server.Do("CONFIG", "SET", "requirepass", otherPassword)
	exercise(t, e)
	server.Do("CLIENT", "KILL", "TYPE", "normal")
	_, err = e.Load(within(t), name)
	wantError(t, err, "WRONGPASS")
	write(t, path, otherPassword)
	exercise(t, e)

	server.Do("CLIENT", "KILL", "TYPE", "normal")
	write(t, path, "")
	_, err = e.Load(within(t), name)
	wantError(t, err, "password: the file "+path, "empty")
}

func TestUserIsReplaced(t *testing.T) {
	const rights = " ~token_proxy/* -@all +getrange +get +set +del +eval"
	server := redistest.Start(t, "--user one on >"+password+rights, "--user two on >"+otherPassword+rights)
	namePath, username := file(t, "one")
	passwordPath, secret := file(t, password)
	e := open(t, at(server.Addr).with("username", username).with("password", secret))
	exercise(t, e)
	write(t, namePath, "two")
	write(t, passwordPath, otherPassword)
	server.Do("ACL", "DELUSER", "one") // ends the connection as well
	exercise(t, e)
}

func TestPasswordIsMissing(t *testing.T) {
	server := redistest.Start(t, "--requirepass "+password)
	_, err := open(t, at(server.Addr)).Load(within(t), name)
	wantError(t, err, "NOAUTH")
}

// A user without a password accepts any.
func TestPasswordIsNotWanted(t *testing.T) {
	exercise(t, open(t, at(redistest.Start(t).Addr).with("password", password)))
}
