package caddymodule

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// productName is the name by which this test binary runs the product.
const productName = "token-proxy"

// productFolder is where the product is, if a test needs it.
var productFolder = filepath.Join(os.TempDir(), fmt.Sprint("token-proxy-test-", os.Getpid()))

// makeProduct returns the path of the product, which is this test binary by another name: to link another binary takes
// seconds. With the race detector, which finds a race of Caddy's own, and if the binary is on another file system, the
// product is built.
var makeProduct = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(productFolder, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(productFolder, productName)
	if !caddytest.RaceDetector() && os.Link(self, path) == nil {
		return path, nil
	}
	out, err := exec.Command("go", "build", "-ldflags=-w", "-o", path, "../cmd/token-proxy").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

// product returns the path of the product.
func product(t *testing.T) string {
	t.Helper()
	path, err := makeProduct()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMain also runs the product, for the tests that start it. The garbage collector runs seldom in tests, because Caddy's
// configurations make much garbage. A test that measures memory collects it first.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == productName {
		caddy.CustomBinaryName = productName
		caddycmd.Main()
		return
	}
	flag.Parse()
	debug.SetGCPercent(400)
	apart.WaitTogether()
	status := m.Run()
	_ = os.RemoveAll(productFolder)
	os.Exit(status)
}

// runBinary returns what the product writes, and its exit status.
func runBinary(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return runBinaryWith(t, nil, args...)
}

// runBinaryWith is runBinary with these variables in the environment.
func runBinaryWith(t *testing.T, environment []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), product(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "XDG_DATA_HOME="), environment...)
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
