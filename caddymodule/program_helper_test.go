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

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// binaryFolder is where the product is built, if a test needs it.
var binaryFolder = filepath.Join(os.TempDir(), fmt.Sprint("token-proxy-test-", os.Getpid()))

// binary is the product, built once.
var binary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaryFolder, "token-proxy")
	out, err := exec.Command("go", "build", "-ldflags=-w", "-o", path, "../cmd/token-proxy").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

// TestMain builds the product beside the first tests, if all of them run. The garbage collector runs seldom, because Caddy's
// configurations make much garbage. A test that measures memory collects it first.
func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400)
	apart.WaitTogether()
	var build sync.WaitGroup
	if flag.Lookup("test.run").Value.String() == "" && !testing.Short() {
		build.Go(func() { _, _ = binary() }) // a failure is told to those who need it
	}
	status := m.Run()
	build.Wait()
	_ = os.RemoveAll(binaryFolder)
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
	if testing.Short() {
		t.Skip("it takes a build")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "XDG_DATA_HOME="), environment...)
	err = cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
