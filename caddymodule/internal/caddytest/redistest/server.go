// Package redistest runs Redis servers on loopback for tests.
package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
)

// Server is a process of redis-server with a folder of its own. It ends with the test.
type Server struct {
	// Addr is the address on loopback.
	Addr string

	// Socket is the path of the server's unix socket.
	Socket string

	t       *testing.T
	args    []string
	process *exec.Cmd
	output  *lines
	ended   chan struct{}
}

// admin is an ACL user with all rights, for the test itself.
const (
	admin       = "test-admin"
	adminRights = admin + " on nopass ~* &* +@all"
)

// Start starts a server with these options of redis-server, such as "--requirepass secret". The test is skipped if
// redis-server is not installed.
func Start(t *testing.T, options ...string) *Server {
	t.Helper()
	Need(t)
	addr := caddytest.FreeAddr(t)
	return start(t, addr, append([]string{"--port", portOf(addr)}, options...))
}

// StartTLS starts a server that speaks only TLS on the network, with these files in PEM.
func StartTLS(t *testing.T, ca, certificate, key string, options ...string) *Server {
	t.Helper()
	Need(t)
	addr := caddytest.FreeAddr(t)
	return start(t, addr, append([]string{"--port", "0", "--tls-port", portOf(addr),
		"--tls-ca-cert-file", ca, "--tls-cert-file", certificate, "--tls-key-file", key}, options...))
}

func start(t *testing.T, addr string, args []string) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{Addr: addr, Socket: filepath.Join(dir, "s"), t: t}
	for _, arg := range args {
		s.args = append(s.args, strings.Fields(arg)...) // redis-server takes an argument with spaces for one word
	}
	s.args = append(s.args, "--bind", "127.0.0.1", "--unixsocket", s.Socket, "--dir", dir, "--save", "", "--repl-diskless-sync-delay", "0")
	s.args = append(s.args, strings.Fields("--user "+adminRights)...)
	s.Restart()
	t.Cleanup(s.Kill)
	return s
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// Need skips the test if Redis is not installed.
func Need(t *testing.T) {
	t.Helper()
	for _, program := range []string{"redis-server", "redis-cli"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: %s is not installed (on Debian, it is in redis-server and redis-tools), so nothing is known of Redis", program)
		}
	}
}

// Restart starts the server again after Kill, at the same address, with nothing of what it held.
func (s *Server) Restart() {
	s.t.Helper()
	_ = os.Remove(s.Socket)
	s.output = new(lines)
	s.process = exec.Command("redis-server", s.args...)
	s.process.Stdout, s.process.Stderr = s.output, s.output
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.ended = make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		_ = process.Wait()
		close(ended)
	}(s.process, s.ended)
	s.await("redis-server answers", func() bool {
		select {
		case <-s.ended:
			s.t.Fatal("redis-server has ended")
		default:
		}
		return s.try("PING") == "PONG"
	})
}

// Kill ends the server at once, without a word to its clients.
func (s *Server) Kill() {
	_ = s.process.Process.Kill()
	<-s.ended
}

// Do runs a command as an administrator, and returns the answer as redis-cli prints it.
func (s *Server) Do(command ...string) string {
	s.t.Helper()
	answer := s.try(command...)
	if code, _, _ := strings.Cut(answer, " "); code == "ERR" || code == "NOAUTH" || strings.HasPrefix(answer, "Could not") {
		s.t.Fatalf("redis-cli %s: %s", strings.Join(command, " "), answer)
	}
	return answer
}

// Await waits until the answer to a command has a text in it.
func (s *Server) Await(text string, command ...string) {
	s.t.Helper()
	s.await(fmt.Sprintf("%s has %q in its answer", strings.Join(command, " "), text),
		func() bool { return strings.Contains(s.try(command...), text) })
}

// await asks until the condition holds. Each question starts a process, and Sentinel takes its time to make an old primary
// a replica.
func (s *Server) await(what string, condition func() bool) {
	s.t.Helper()
	for began := time.Now(); !condition(); time.Sleep(30 * time.Millisecond) {
		if time.Since(began) > 90*time.Second {
			s.t.Log(s.output.String())
			s.t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (s *Server) try(command ...string) string {
	login := []string{"-s", s.Socket, "--user", admin, "--pass", "any", "--no-auth-warning"}
	out, _ := exec.Command("redis-cli", append(login, command...)...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// lines is the output of a process.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
