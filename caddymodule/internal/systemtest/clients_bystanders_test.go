package systemtest

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// farContent is a file of a farServer.
const farContent = "a file of a server without a site"

// farServer is a server without a site, with a certificate of its own and a repository of git.
type farServer struct {
	*httptest.Server
	repository         string // its folder
	requests, withAuth atomic.Int64
}

func newFarServer(t *testing.T) *farServer {
	t.Helper()
	folder := t.TempDir()
	f := &farServer{repository: filepath.Join(folder, "shop.git")}
	git, _ := exec.LookPath("git")
	backend := &cgi.Handler{
		Path: git, Args: []string{"http-backend"},
		Env: []string{"GIT_PROJECT_ROOT=" + folder, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + folder},
	}
	f.Server = caddytest.ServeHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		if r.Header.Get("Authorization") != "" {
			f.withAuth.Add(1)
		}
		if strings.HasPrefix(r.URL.Path, "/shop.git/") {
			backend.ServeHTTP(w, r)
			return
		}
		fmt.Fprint(w, farContent)
	}), func(srv *httptest.Server) { srv.TLS = new(tls.Config) })
	return f
}

// TestBystanders lets git and apt reach a server by a tunnel, with the settings of the reference. The server proves itself
// with its own certificate, and gets no token. The proxy denies another server, which the bystanders could reach without it.
func TestBystanders(t *testing.T) {
	t.Parallel()
	allowed, other := newFarServer(t), newFarServer(t)
	s := newSidecar(t, "tunnel "+allowed.Listener.Addr().String())
	s.start()

	t.Run("git", func(t *testing.T) {
		client{name: "git", command: []string{"git"}}.mustBeInstalled(t, s)
		environment := append(s.settings(t, "git"), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0")
		git := func(arguments string) (string, error) {
			return s.run(t, environment, append([]string{"git"}, strings.Fields(arguments)...)...)
		}
		work := filepath.Join(s.folder, "work")
		for _, arguments := range []string{
			"init --quiet --bare " + allowed.repository,
			"-C " + allowed.repository + " config http.receivepack true",
			"clone --quiet " + allowed.URL + "/shop.git " + work,
			"-C " + work + " -c user.name=a -c user.email=a@example.com commit --quiet --allow-empty --message=order",
			"-C " + work + " push --quiet origin HEAD:main",
			"ls-remote --exit-code " + allowed.URL + "/shop.git main",
		} {
			if out, err := git(arguments); err != nil {
				t.Fatalf("git %s: %v: %s", arguments, err, out)
			}
		}
		if out, err := git("ls-remote " + other.URL + "/shop.git"); err == nil || !strings.Contains(out, "403") {
			t.Errorf("a host that tunnel does not allow: %v: %s", err, out)
		}
	})
	t.Run("apt", func(t *testing.T) {
		const helper = "/usr/lib/apt/apt-helper" // fetches as apt-get does
		if _, err := os.Stat(helper); err != nil {
			t.Skip("SKIPPED: apt is not installed")
		}
		file := filepath.Join(s.folder, "file")
		environment := s.settings(t, "apt")
		if out, err := s.run(t, environment, helper, "download-file", allowed.URL+"/file", file); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got, err := os.ReadFile(file); string(got) != farContent {
			t.Errorf("it got %q, %v", got, err)
		}
		if out, err := s.run(t, environment, helper, "-o", "Acquire::Retries=0", "download-file", other.URL+"/file", file+"2"); err == nil || !strings.Contains(out, "403") {
			t.Errorf("a host that tunnel does not allow: %v: %s", err, out)
		}
	})
	if allowed.requests.Load() == 0 && !t.Failed() {
		t.Skip("SKIPPED: neither git nor apt is installed")
	}
	if a, o := allowed.withAuth.Load(), other.requests.Load(); a != 0 || o != 0 || s.reached() != 0 {
		t.Errorf("the server got %d requests with a token; the other server got %d requests, the API %d", a, o, s.reached())
	}
}
