package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"
)

// No error repeats what the server has sent.
func TestErrorsRepeatNothing(t *testing.T) {
	for _, answer := range []string{
		"-ERR unknown command 'HELLO', with args beginning with: '2' 'AUTH' 'default' '%s'",
		"-WRONGPASS %s is not the password",
		"-%s",
		"+%s",
		"$-7 %s",
		"HTTP/1.1 400 Bad Request: %s",
		"*1 %s",
		":%s",
		"_%s",
		"!12\r\n%s",
		"%s",
	} {
		addr := answering(t, fmt.Sprintf(answer, password)+"\r\n")
		e := open(t, at(addr).with("password", password))
		_, err := e.Load(within(t), name)
		wantError(t, err, "GETRANGE")
		t.Log(err)
		wantError(t, e.Save(within(t), name, []byte("value"), 0), "SET")
	}
}

// answering starts a server that gives the same answer to everything.
func answering(t *testing.T, answer string) string {
	t.Helper()
	return serving(t, func(conn net.Conn) {
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			_, _ = io.WriteString(conn, answer)
		}
	})
}

func TestMeanings(t *testing.T) {
	for text, want := range map[string]string{
		"WRONGPASS invalid username-password pair or user is disabled.":                                     "WRONGPASS: ",
		"OOM command not allowed when used memory > 'maxmemory'.":                                           "OOM: ",
		"ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed when used memory": "OOM: ",
		"ERR invalid password":                   "ERR: the server does not accept the password",
		"ERR something else":                     "ERR: the server reports an error that is not shown",
		"SOMETHING else":                         "not known",
		"MOVED 3999 127.0.0.1:6381":              "cluster",
		"ERR max number of clients reached":      "too many clients",
		"ERR unknown command `HELLO`, with args": "Redis 6.2",
	} {
		if got := meaning(text); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// A context's error can be told from others.
func TestContextErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := open(t, at(answering(t, "+OK\r\n"))).Load(ctx, name)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The lines of go-redis are few, and hold no text of a server.
func TestLibraryLog(t *testing.T) {
	var lines []string
	l := newLibraryLog()
	l.write = func(line string, dropped int64) { lines = append(lines, fmt.Sprint(line, " ", dropped)) }
	for range 100 {
		l.Printf(t.Context(), "redis: failed at %s: %v", "127.0.0.1:1", fmt.Errorf("%w", goredis.ErrNoScript))
		l.Printf(t.Context(), "redis: failed at %s: %v", "127.0.0.1:1", errors.New(password))
	}
	if len(lines) == 0 || len(lines) > 5 {
		t.Errorf("%d lines", len(lines))
	}
	if text := strings.Join(lines, "\n"); !strings.Contains(text, "failed at 127.0.0.1:1") || strings.Contains(text, password) || strings.Contains(text, "EVAL") {
		t.Error(text)
	}
}
