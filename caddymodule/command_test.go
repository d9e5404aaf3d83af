package caddymodule

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// runCommand runs a subcommand as the root command does.
func runCommand(cmd *cobra.Command, args ...string) (string, error) {
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it succeeds; want an error with %q in it", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %q, want %q in it", err, part)
		}
	}
}

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("it says %q, want %q in it", text, part)
		}
	}
}

func writeConfig(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	writeFile(t, path, content)
	return path
}

// checkResult is what `check --json` says of one credential.
type checkResult struct {
	Name        string         `json:"name"`
	OK          bool           `json:"ok"`
	Duration    float64        `json:"duration"`
	Lifetime    float64        `json:"lifetime"`
	Fingerprint string         `json:"fingerprint"`
	Note        string         `json:"note"`
	Error       *contractError `json:"error"`
	Summary     string         `json:"summary"`
	Advice      string         `json:"advice"`
}

func TestCheckCommand(t *testing.T) {
	good, bad, down := newTokenServer(t), newTokenServer(t), newTokenServer(t)
	bad.SetFault(devserver.Fault{Error: "invalid_client"})
	down.SetFault(devserver.Fault{Status: 503})
	config := writeConfig(t, "Caddyfile", globalOptions(good.credential("good"), bad.credential("bad"), down.credential("down"))+
		siteConfig(freeAddr(t), "token_proxy good https://api.example.com"))

	t.Run("all", func(t *testing.T) {
		out, err := runCommand(checkCommand(), "--config", config)
		wantError(t, err, "2 of 3 credentials do not work")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 5 || !strings.HasPrefix(lines[0], "✗ bad (") || !strings.HasPrefix(lines[2], "✗ down (") || !strings.HasPrefix(lines[4], "✓ good (") {
			t.Fatalf("it says\n%s", out)
		}
		wantText(t, lines[0], "refuses the credential", "invalid_client")
		wantText(t, lines[1], "  Compare client_id and client_secret")
		wantText(t, lines[2], "status 503")
		wantText(t, lines[4], "a token valid for 25 hours, fingerprint ")
		if good.Calls() != 1 || bad.Calls() != 1 || down.Calls() != 1 {
			t.Errorf("calls: %d, %d, %d; want one each", good.Calls(), bad.Calls(), down.Calls())
		}
	})
	t.Run("one that works", func(t *testing.T) {
		out, err := runCommand(checkCommand(), "good", "--config", config)
		if err != nil || strings.Count(out, "\n") != 1 {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("JSON", func(t *testing.T) {
		out, err := runCommand(checkCommand(), "--json", "--config", config, "good", "bad")
		wantError(t, err, "1 of 2")
		var results []checkResult
		decodeStrictly(t, out, &results)
		if len(results) != 2 || results[0].Name != "good" || results[1].Name != "bad" {
			t.Fatalf("got %s", out)
		}
		if r := results[0]; !r.OK || r.Lifetime != 25*3600 || r.Fingerprint == "" || r.Error != nil || r.Duration <= 0 {
			t.Errorf("good: %+v", r)
		}
		if r := results[1]; r.OK || r.Fingerprint != "" || r.Error == nil || r.Error.Code != "invalid_client" || r.Error.Status != 401 || r.Error.Kind != "refused" {
			t.Errorf("bad: %+v", r)
		} else {
			caddytest.WantSentences(t, r.Summary, false)
			caddytest.WantSentences(t, r.Advice, false)
		}
	})
	t.Run("unknown name", func(t *testing.T) {
		calls := good.Calls()
		out, err := runCommand(checkCommand(), "good", "nobody", "--config", config)
		wantError(t, err, `"nobody"`, `"bad" "down" "good"`)
		if out != "" || good.Calls() != calls {
			t.Errorf("there were calls before the mistake was found: %s", out)
		}
	})
	t.Run("header", func(t *testing.T) {
		calls := good.Calls()
		out, err := runCommand(checkCommand(), "--print-header", "good", "--config", config)
		wantError(t, err, "terminal")
		file, ferr := os.Create(filepath.Join(t.TempDir(), "out"))
		if ferr != nil {
			t.Fatal(ferr)
		}
		defer file.Close()
		cmd := checkCommand()
		cmd.SetOut(file)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs([]string{"--print-header", "good", "--config", config})
		wantError(t, cmd.Execute(), "terminal")
		content, _ := os.ReadFile(file.Name())
		if out+string(content) != "" || good.Calls() != calls {
			t.Errorf("it was asked for all the same: %q", out+string(content))
		}
		_, err = runCommand(checkCommand(), "--print-header", "nobody", "--config", config)
		wantError(t, err, `"nobody"`)
	})
	t.Run("no configuration", func(t *testing.T) {
		t.Chdir(t.TempDir())
		_, err := runCommand(checkCommand())
		wantError(t, err, "--config")
		_, err = runCommand(checkCommand(), "--config", "not-there")
		wantError(t, err, "not-there")
		_, err = runCommand(checkCommand(), "--config", writeConfig(t, "caddy.json", `{"apps":{}}`))
		wantError(t, err, "token_proxy", "caddy.json")
		_, err = runCommand(checkCommand(), "--config", writeConfig(t, "caddy.json", `{"apps":`))
		wantError(t, err, "JSON")
		_, err = runCommand(checkCommand(), "--config", writeConfig(t, "Caddyfile", globalOptions(credentialConfig("a", "nonsense", "a"))))
		wantError(t, err, "token_url")
		if err := os.WriteFile("Caddyfile", []byte(globalOptions(good.credential("good"))), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := runCommand(checkCommand()); err != nil { // the Caddyfile that is there
			t.Error(err)
		}
	})
	t.Run("a configuration that cannot run", func(t *testing.T) {
		// the address is in use, and the handler is of a module that is not there
		config := writeConfig(t, "caddy.json", appsJSON(
			`"token_proxy": {"credentials": {"one": {"provider": {"name": "optoro", "token_url": `+quote(good.url)+`},
				"client_id": `+quote(good.ClientID)+`, "client_secret": "dev-secret"}}}`,
			siteJSON("127.0.0.1:1", `{"handler": "not_there"}`)))
		if out, err := runCommand(checkCommand(), "--config", config); err != nil || !strings.HasPrefix(out, "✓ one") {
			t.Errorf("%v %s", err, out)
		}
	})
	t.Run("a note", func(t *testing.T) {
		odd := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"a-good-token","token_type":"Bearer"}`)).URL
		out, err := runCommand(checkCommand(), "--config", writeConfig(t, "Caddyfile", globalOptions(credentialConfig("odd", odd, "a"))))
		if err != nil {
			t.Fatal(err)
		}
		wantText(t, out, "✓ odd", "a token valid for 60 minutes")
	})
	t.Run("a provider that panics", func(t *testing.T) {
		config := globalOptions("credential broken {\n provider redaction_leaky http://127.0.0.1:1 \"panic while asking\"\n client_id a\n client_secret sec-ret-text\n}\n")
		out, err := runCommand(checkCommand(), "--config", writeConfig(t, "Caddyfile", config))
		wantError(t, err, "1 of 1")
		wantText(t, out, "panicked")
		if strings.Contains(out+err.Error(), "sec-ret") {
			t.Errorf("it shows the secret: %s %v", out, err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		hanging := newTokenServer(t)
		hanging.SetFault(devserver.Fault{Hang: true})
		cmd := checkCommand()
		ctx, cancel := context.WithCancel(t.Context())
		cmd.SetContext(ctx)
		done := make(chan error, 1)
		go func() {
			_, err := runCommand(cmd, "--config", writeConfig(t, "Caddyfile", globalOptions(hanging.credential("slow"))))
			done <- err
		}()
		if err := hanging.WaitCalls(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		cancel()
		wantError(t, wantReceived(t, "the command to end", done), "1 of 1")
	})
}

func TestSteeringCommands(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			admin := freeAddr(t)
			if network == "unix" {
				dir, err := os.MkdirTemp("", "admin") // t.TempDir is too long for a socket
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(dir) })
				admin = "unix/" + filepath.Join(dir, "s")
			}
			good, bad := newTokenServer(t), newTokenServer(t)
			one, two := "a-"+newClientID(), "b-"+newClientID()
			bad.SetFault(devserver.Fault{Error: "invalid_scope"})
			caddyfile := globalOptions(good.credential(one), bad.credential(two))
			startOperatedAt(t, admin, caddyfile, nil)
			// the address by flag, or by configuration
			config := writeConfig(t, "Caddyfile", strings.Replace(caddyfile, "{\n", "{\n admin "+admin+"\n", 1))
			at := []string{"--address", admin}
			by := []string{"--config", config}
			run := func(t *testing.T, cmd *cobra.Command, where []string, args ...string) (string, error) {
				t.Helper()
				return runCommand(cmd, append(args, where...)...)
			}

			out, err := run(t, listCommand(), at)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if len(lines) != 3 || !strings.HasPrefix(lines[0], "CREDENTIAL") || !strings.HasPrefix(lines[1], one) || !strings.HasPrefix(lines[2], two) {
				t.Errorf("it says\n%s", out)
			}
			wantText(t, lines[1], "idle", "none", " - ", "The proxy has no token. The next request fetches one.")

			out, err = run(t, refreshCommand(), by, one)
			if err != nil || good.Calls() != 1 {
				t.Fatalf("%v, %d calls: %s", err, good.Calls(), out)
			}
			wantText(t, out, one, "ok", "fresh", "in 24 hours")

			out, err = run(t, refreshCommand(), at, two, one, "nobody", "--json")
			wantError(t, err, two+": The token endpoint does not know the scope", "nobody: unknown credential")
			var reports []contractCredential
			if decodeStrictly(t, out, &reports); len(reports) != 1 || reports[0].Name != one || good.Calls() != 2 {
				t.Errorf("%d calls: %s", good.Calls(), out)
			}
			out, err = run(t, refreshCommand(), at, "nobody", "--json")
			if wantError(t, err, "nobody"); strings.TrimSpace(out) != "[]" {
				t.Errorf("it says %s", out)
			}

			out, err = run(t, purgeCommand(), by, one, "--json")
			if err != nil {
				t.Fatal(err)
			}
			if decodeStrictly(t, out, &reports); len(reports) != 1 || reports[0].State != "none" {
				t.Errorf("it says %s", out)
			}
			out, err = run(t, purgeCommand(), at, "--all")
			if err != nil || out != "purged the tokens of 2 credentials\n" {
				t.Errorf("%v %q", err, out)
			}
			out, err = run(t, purgeCommand(), at, "--all", "--json")
			if err != nil || strings.Join(strings.Fields(out), "") != `{"purged":2}` {
				t.Errorf("%v %q", err, out)
			}
			out, err = run(t, listCommand(), by, "--json")
			if err != nil {
				t.Fatal(err)
			}
			if decodeStrictly(t, out, &reports); len(reports) != 2 || reports[1].Health != "idle" {
				t.Errorf("it says %s", out)
			}

			for name, args := range map[string][]string{"nothing": nil, "both": {"--all", one}} {
				if _, err := run(t, purgeCommand(), at, args...); err == nil || !strings.Contains(err.Error(), "--all") {
					t.Errorf("purging %s: %v", name, err)
				}
			}
			if _, err := run(t, refreshCommand(), at); err == nil {
				t.Error("refreshing nothing")
			}
			_, err = run(t, listCommand(), at, one)
			wantError(t, err, "--ready")
		})
	}
}

// The exit status is what health checks and scripts go by.
func TestListReady(t *testing.T) {
	good, bad := newTokenServer(t), newTokenServer(t)
	one, two := "a-"+newClientID(), "b-"+newClientID()
	bad.SetFault(devserver.Fault{Error: "invalid_client"})
	s := startOperated(t, globalOptions(good.credential(one), bad.credential(two)), nil)
	list := func(args ...string) (string, error) {
		return runCommand(listCommand(), append(args, "--address", s.admin)...)
	}
	if _, err := list(); err != nil { // with no token at all
		t.Error(err)
	}
	if good.Calls()+bad.Calls() > 0 {
		t.Error("without --ready, the command fetches tokens")
	}

	down := devserver.Fault{Status: 503}
	good.SetFault(down)
	_, err := list("--ready", one)
	wantError(t, err, "1 of 1", one)
	good.SetFault(devserver.Fault{})
	poll(t, "the token", func() bool { _, err := list("--ready", one); return err == nil })
	if bad.Calls() > 0 {
		t.Error("a credential is probed that is not named")
	}
	out, err := list("--ready", one)
	if err != nil || strings.Contains(out, two) {
		t.Errorf("%v: %s", err, out)
	}
	wantText(t, out, "CREDENTIAL", one, "fresh")

	for _, args := range [][]string{{"--ready"}, {"--ready", one, two}} {
		poll(t, "the refusal", func() bool { out, err = list(args...); return strings.Contains(out, "invalid_client") })
		wantError(t, err, "1 of 2 credentials have no valid token: "+two)
	}
	out, err = list("--ready", "--json")
	wantError(t, err, two)
	var reports []contractCredential
	if decodeStrictly(t, out, &reports); len(reports) != 2 || !reports[0].Ready || reports[1].Ready {
		t.Errorf("it says %s", out)
	}
	for _, args := range [][]string{{"--ready", "nobody"}, {"--ready", one, "nobody"}, {"--ready", "no&body=x"}} {
		out, err := list(args...)
		wantError(t, err, "unknown credential", one)
		if out != "" {
			t.Errorf("%q lists %s", args, out)
		}
	}

	bad.SetFault(devserver.Fault{})
	if _, err := runCommand(refreshCommand(), two, "--address", s.admin); err != nil {
		t.Fatal(err)
	}
	if out, err := list("--ready"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	good.SetFault(down)
	if _, err := runCommand(purgeCommand(), one, "--address", s.admin); err != nil {
		t.Fatal(err)
	}
	_, err = list("--ready")
	wantError(t, err, "1 of 2", one)
	a := s.ask(http.MethodGet, "/token_proxy/credentials?probe=yes")
	if a.wantStatus(t, 400); !strings.Contains(a.body, "probe must be true or false") {
		t.Errorf("it says %s", a.body)
	}
}

func TestSteeringWithoutAnAdminEndpoint(t *testing.T) {
	address := freeAddr(t)
	for _, cmd := range []*cobra.Command{listCommand(), refreshCommand(), purgeCommand()} {
		args := []string{"--address", address}
		if cmd.Name() != "list" {
			args = append(args, "a")
		}
		_, err := runCommand(cmd, args...)
		wantError(t, err, address, "admin off", "that the process is running")
	}
	// something else answers there
	other := serveHTTP(t, sendAnswer(404, "text/plain", "{not JSON"))
	_, err := runCommand(listCommand(), "--address", other.Listener.Addr().String())
	wantError(t, err, "404")
	_, err = runCommand(listCommand(), "--config", writeConfig(t, "Caddyfile", "nonsense {"))
	wantError(t, err, "syntax error")
}
