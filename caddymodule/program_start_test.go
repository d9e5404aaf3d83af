package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// logBuffer is what a process has logged so far.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startBinary runs the product until the test ends, and returns what it logs.
func startBinary(t *testing.T, home, config string, wrap ...string) (*logBuffer, *exec.Cmd) {
	t.Helper()
	path := product(t)
	args := append(wrap, path, "run", "--config", config)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	logged := new(logBuffer)
	cmd.Stdout, cmd.Stderr = io.Discard, logged
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return logged, cmd
}

// podConfig writes an example's Caddyfile for this machine, whose token endpoint is tokens, and returns its path and folder.
func podConfig(t *testing.T, example string, tokens *tokenServer) (config, folder string) {
	t.Helper()
	folder, err := os.MkdirTemp("", "tp") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	writeFile(t, filepath.Join(folder, "id"), tokens.ClientID)
	writeFile(t, filepath.Join(folder, "secret"), devserver.DefaultClientSecret)
	text := readExample(t, example)
	text = regexp.MustCompile(`\{file\.\S+-secret\}`).ReplaceAllString(text, "{file."+folder+"/secret}")
	text = regexp.MustCompile(`\{file\.\S+-id\}`).ReplaceAllString(text, "{file."+folder+"/id}")
	text = strings.NewReplacer(
		"/run/token-proxy/", folder+"/", ":8080", ":"+portNumber(freeAddr(t)), ":8082", ":"+portNumber(freeAddr(t)),
		"provider optoro sandbox", "provider optoro {\n\t\t\t\ttoken_url "+tokens.url+"\n\t\t\t}",
	).Replace(text)
	config = filepath.Join(folder, "token-proxy.caddyfile")
	writeFile(t, config, text)
	return config, folder
}

// A healthy start warns of nothing, and the commands print what they were asked for: their standard error is empty.
func TestHealthyStartIsQuiet(t *testing.T) {
	for _, example := range []string{"../examples/kubernetes/secret/token-proxy.caddyfile", "../examples/compose/token-proxy.caddyfile"} {
		t.Run(example, func(t *testing.T) {
			tokens := newTokenServer(t)
			config, folder := podConfig(t, example, tokens)
			logged, _ := startBinary(t, folder, config)
			poll(t, "the token", func() bool {
				_, stderr, status := runBinary(t, "tokens", "list", "--ready", "--config", config)
				return status == 0 && stderr == ""
			})
			stdout, stderr, status := runBinary(t, "tokens", "list", "--config", config)
			if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "CREDENTIAL") {
				t.Errorf("list: status %d\n%s%s", status, stdout, stderr)
			}
			stdout, stderr, status = runBinary(t, "tokens", "check", "--config", config)
			if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "✓ catalog") {
				t.Errorf("check: status %d\n%s%s", status, stdout, stderr)
			}
			if _, stderr, status := runBinary(t, "tokens", "refresh", "nobody", "--config", config); status != 1 || !strings.HasPrefix(stderr, "Error: nobody: unknown credential") {
				t.Errorf("a command that fails: status %d, %s", status, stderr)
			}
			lines := 0
			for line := range strings.Lines(logged.String()) {
				var entry struct{ Level, Msg string }
				if err := json.Unmarshal([]byte(line), &entry); err != nil {
					t.Errorf("it logs %q", line)
				} else if entry.Level != "info" {
					t.Errorf("it logs %s", line)
				}
				lines++
			}
			if lines < 3 {
				t.Errorf("it logs %d lines", lines)
			}
		})
	}
}

// A container whose root is read-only, and whose tmpfs was forgotten, ends with the folder and what to do.
func TestForgottenTmpfs(t *testing.T) {
	config, folder := podConfig(t, "../examples/kubernetes/secret/token-proxy.caddyfile", newTokenServer(t))
	home := filepath.Join(folder, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, strings.Replace(string(text), folder+"/admin.sock", home+"/admin.sock", 1))
	readOnly := []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs -o ro none "$0" && exec "$@"`, home}
	if out, err := exec.Command(readOnly[0], append(readOnly[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: this machine permits no mount: %v: %s", err, out)
	}
	logged, cmd := startBinary(t, home, config, readOnly...)
	if err := cmd.Wait(); err == nil {
		t.Error("it runs")
	}
	for _, want := range []string{`"level":"warn"`, `"folder":"` + home + `"`, "read-only", "mount a tmpfs"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("it logs no %s:\n%s", want, logged)
		}
	}
}
