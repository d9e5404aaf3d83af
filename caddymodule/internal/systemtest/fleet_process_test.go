package systemtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// replica is a process of the program.
type replica struct {
	t      *testing.T
	folder string
	addr   string // of its sites
	admin  string
	keys   [2]string // files
	client *http.Client
	output bytes.Buffer

	process *exec.Cmd
	ended   chan struct{}

	downs int  // how often it had reported its store when fleet.troubled was called last
	down  bool // whether it could not use its store then
}

// newReplica makes a replica that has yet to start.
func newReplica(t *testing.T) *replica {
	t.Helper()
	r := &replica{t: t, folder: t.TempDir(), addr: caddytest.FreeAddr(t), admin: caddytest.FreeAddr(t), client: caddytest.Client(t)}
	for i := range r.keys {
		r.keys[i] = filepath.Join(r.folder, fmt.Sprint("key", i))
	}
	return r
}

// setKeys writes the keys of the replica.
func (r *replica) setKeys(first, second string) {
	r.t.Helper()
	for i, key := range []string{first, second} {
		write(r.t, r.keys[i], key)
	}
}

// start runs the program until the test ends, and waits until it serves.
func (r *replica) start(caddyfile string) {
	r.t.Helper()
	path := filepath.Join(r.folder, "Caddyfile")
	write(r.t, path, caddyfile)
	r.process = exec.Command(os.Args[0], "run", "--config", path)
	r.process.Env = append(os.Environ(), "TEST_PROGRAM=1", "HOME="+r.folder, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "GOMAXPROCS=1")
	r.process.Stdout, r.process.Stderr = &r.output, &r.output
	if err := r.process.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.ended = make(chan struct{})
	go func() {
		_ = r.process.Wait()
		close(r.ended)
	}()
	r.t.Cleanup(r.kill)
	caddytest.Eventually(r.t, "the replica serves", func() bool {
		res, err := r.client.Get("http://" + r.addr + "/alive")
		if err != nil {
			return false
		}
		res.Body.Close()
		return true
	})
}

// kill ends the process at once.
func (r *replica) kill() {
	_ = r.process.Process.Kill()
	<-r.ended
}

// reload loads a configuration, even if it is the one that runs.
func (r *replica) reload(caddyfile string) {
	r.t.Helper()
	req, _ := http.NewRequest(http.MethodPost, "http://"+r.admin+"/load", strings.NewReader(caddyfile))
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate")
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if answer, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		r.t.Fatalf("the replica refuses a reload: %s", answer)
	}
}

// get requests a path, and returns the status of the answer, or why there is none. It tries again if the connection was
// closed: a reload of Caddy opens a new socket and closes the old one, with the connections that it has not accepted or that
// are idle.
func (r *replica) get(path string) string {
	res, err := r.client.Get("http://" + r.addr + path)
	for (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)) && r.running() {
		res, err = r.client.Get("http://" + r.addr + path)
	}
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.Status
}

func (r *replica) running() bool {
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

// logs returns what the process has logged, at debug level.
func (r *replica) logs() string {
	r.t.Helper()
	content, err := os.ReadFile(r.logFile())
	if err != nil {
		r.t.Fatal(err)
	}
	return string(content)
}

func (r *replica) logFile() string { return filepath.Join(r.folder, "log") }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// page returns a page of the admin API.
func (r *replica) page(t *testing.T, path string) string {
	t.Helper()
	res, err := r.client.Get("http://" + r.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, _ := io.ReadAll(res.Body)
	return string(content)
}
