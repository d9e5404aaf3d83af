package redis

import (
	"context"
	"encoding/json"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
)

// The probe of go-redis for a server that is down sleeps for a second before it looks whether it is still wanted.
func TestMain(m *testing.M) {
	flag.Parse()
	apart.WaitTogether()
	goleak.VerifyTestMain(m)
}

// options are the options of a store in JSON.
type options map[string]any

// provision returns a store with these options, as the app loads it.
func provision(t *testing.T, o options) (*Store, error) {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	module, err := ctx.LoadModuleByID("token_proxy.stores.redis", raw)
	if err != nil {
		return nil, err
	}
	return module.(*Store), nil
}

// open returns the engine of a store with these options.
func open(t *testing.T, o options) *engine {
	t.Helper()
	s, err := provision(t, o)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := share.Opener(s).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := opened.(*engine)
	t.Cleanup(func() { _ = e.client.Close() }) // the context does the same, a moment later
	return e
}

func at(addresses ...string) options { return options{"addresses": addresses} }

// with returns options with one more.
func (o options) with(name string, value any) options {
	o[name] = value
	return o
}

// within is the time that the package share gives to one call.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// patiently is for a call that must succeed, however much else the machine does.
func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

const name = "token_proxy/v1/0123/token"

// save saves a value for a minute, and load expects it, without an error.
func save(t *testing.T, e *engine, value string) {
	t.Helper()
	if err := e.Save(patiently(t), name, []byte(value), time.Minute); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, e *engine, want string) {
	t.Helper()
	value, err := e.Load(patiently(t), name)
	if err != nil || string(value) != want {
		t.Fatalf("%q, %v, want %q", value, err, want)
	}
}

// works reports whether a value can be saved and loaded.
func works(t *testing.T, e *engine) bool {
	t.Helper()
	if err := e.Save(within(t), name, []byte("value"), time.Minute); err != nil {
		return false
	}
	value, err := e.Load(within(t), name)
	return err == nil && string(value) == "value"
}

// wantError expects an error with these parts, that does not hold a password.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in the error: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), otherPassword) {
		t.Errorf("the error holds a password: %v", err)
	}
}

const (
	password      = "correct-horse-battery"
	otherPassword = "staple-horse-battery"
)

// file makes a file, and returns its path and its placeholder.
func file(t *testing.T, content string) (path, placeholder string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	write(t, path, content)
	return path, "{file." + path + "}"
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serving starts a server, and returns its address. Each connection is closed when serve returns.
func serving(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}
