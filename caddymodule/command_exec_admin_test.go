//go:build unix

package caddymodule

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// adminAttack is an application that loads a configuration into the sidecar. Its site would answer with a variable and the
// secret's file. It reports the exit statuses of curl, of which 7 means that nothing listens, and looks for a saved configuration.
func adminAttack(api, loot, secret string) string {
	config := fmt.Sprintf("{\n admin off\n}\nhttp://%s {\n respond \"{env.EXEC_CLIENT_ID} {file.%s}\"\n}\n", loot, secret)
	return fmt.Sprintf(`
		curl -sS --max-time 30 -H 'Content-Type: text/caddyfile' --data-binary '%s' %s/load; echo "load: $?"
		curl -sS --max-time 30 http://%s; echo "loot: $?"
		find "$HOME" -name 'autosave*'
		echo END`, config, api, loot)
}

// lines returns what the application writes before the line END.
func (r *execRun) lines() (lines []string) {
	r.t.Helper()
	for line := r.line(); line != "END"; line = r.line() {
		lines = append(lines, line)
	}
	return lines
}

// wantNoLoot checks that an attack of the application has got nothing.
func (r *execRun) wantNoLoot() {
	r.t.Helper()
	if got := strings.Join(r.lines(), "\n"); got != "load: 7\nloot: 7" {
		r.t.Errorf("the application gets: %s", got)
	}
}

// addOption adds a global option to a Caddyfile.
func addOption(t *testing.T, config, option string) {
	t.Helper()
	writeFile(t, config, strings.Replace(readExample(t, config), "{\n", "{\n\t"+option+"\n", 1))
}

// socketPath returns a path that is short enough for a unix socket.
func socketPath(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "exec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return filepath.Join(folder, "admin.sock")
}

// TestExecHidesTheAdminAPI runs an application that attacks the sidecar through Caddy's admin API.
func TestExecHidesTheAdminAPI(t *testing.T) {
	requireProgram(t, "curl")
	admin, socket := freeAddr(t), socketPath(t)
	for name, test := range map[string]struct{ option, api, warning string }{
		"by default":               {"# no option", "http://" + admin, ""},
		"at an address":            {"admin " + admin, "http://" + admin, "the admin API at " + admin + " is off"},
		"at a socket for any user": {"admin unix/" + socket + "|0222", "--unix-socket " + socket + " http://localhost", "the admin API at unix/" + socket + "|0222 is off"},
	} {
		t.Run(name, func(t *testing.T) {
			config, _, environ := plainSidecar(t, newTokenServer(t))
			addOption(t, config, test.option)
			secret := filepath.Join(filepath.Dir(config), "client-secret")
			r := startExec(t, config, adminAttack(test.api, freeAddr(t), secret), append(environ, "CADDY_ADMIN="+admin)...) // Caddy's default
			r.wantNoLoot()
			r.want(0)
			wantText(t, r.log(), test.warning)
			if test.warning == "" && strings.Contains(r.log(), "the admin API at") {
				t.Errorf("exec warns without a cause: %s", r.log())
			}
		})
	}
}

// TestExecReloads reloads the sidecar on SIGUSR1, which opens the admin API no more than the start does.
func TestExecReloads(t *testing.T) {
	requireProgram(t, "curl")
	config, addr, environ := plainSidecar(t, newTokenServer(t))
	admin, secret := freeAddr(t), filepath.Join(filepath.Dir(config), "client-secret")
	r := startExec(t, config, "echo $PPID; until curl -sS http://"+addr+"/reloaded | grep yes; do sleep 0.1; done;"+
		adminAttack("http://"+admin, freeAddr(t), secret), append(environ, "CADDY_ADMIN="+admin)...)
	sidecar := r.sidecar(r.line())
	writeFile(t, filepath.Join(filepath.Dir(config), "site.caddyfile"), siteConfig("127.0.0.1:{$EXEC_PORT}", "respond /reloaded yes"))
	addOption(t, config, "admin "+admin)
	if err := syscall.Kill(sidecar, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := r.line(); got != "yes" {
		t.Errorf("the application gets %q", got)
	}
	r.wantNoLoot()
	r.want(0)
}

// TestExecKeepsTheAdminSocket leaves the admin API on a unix socket with permissions.
func TestExecKeepsTheAdminSocket(t *testing.T) {
	requireProgram(t, "curl")
	config, _, environ := plainSidecar(t, newTokenServer(t))
	socket := socketPath(t)
	addOption(t, config, "admin unix/"+socket)
	r := startExec(t, config, "curl -sS --unix-socket "+socket+" http://localhost/token_proxy/credentials; find $HOME -name 'autosave*'; echo END", environ...)
	got := r.lines()
	if len(got) != 1 {
		t.Fatalf("the application gets %q", got)
	}
	wantText(t, got[0], `"name":"catalog"`, `"health":"ok"`)
	r.want(0)
}

// TestSealedConfigurations seals configurations in JSON.
func TestSealedConfigurations(t *testing.T) {
	t.Setenv("EXEC_SOCKET", "unix//run/admin.sock")
	const off, on = `{"config":{"persist":false},"disabled":true}`, `{"config":{"persist":false}`
	for config, want := range map[string]string{
		`null`: `{"admin":` + off + `}`,
		`{"apps":{"x":{"n":12345678901234567890}}}`: `{"admin":` + off + `,"apps":{"x":{"n":12345678901234567890}}}`,
		`{"admin":null}`:            `{"admin":` + off + `}`,
		`{"admin":{"config":null}}`: `{"admin":` + off + `}`,
		`{"admin":{"disabled":true,"listen":"localhost:1","config":{"persist":true}}}`: `{"admin":{"config":{"persist":false},"disabled":true,"listen":"localhost:1"}}`,
		`{"admin":{"origins":[]}}`:                         `{"admin":{"config":{"persist":false},"disabled":true,"origins":[]}}`,
		`{"admin":{"listen":"unix//run/admin.sock"}}`:      `{"admin":` + on + `,"listen":"unix//run/admin.sock"}}`,
		`{"admin":{"listen":"unix//run/admin.sock|0220"}}`: `{"admin":` + on + `,"listen":"unix//run/admin.sock|0220"}}`,
		`{"admin":{"listen":"{env.EXEC_SOCKET}"}}`:         `{"admin":` + on + `,"listen":"{env.EXEC_SOCKET}"}}`,
		`{"admin":{"listen":"unix/@abstract"}}`:            `{"admin":{"config":{"persist":false},"disabled":true,"listen":"unix/@abstract"}}`,
		`{"admin":{"listen":"loopback/localhost:2019"}}`:   `{"admin":{"config":{"persist":false},"disabled":true,"listen":"loopback/localhost:2019"}}`,
		`{"admin":{"listen":"fd/3"}}`:                      `{"admin":{"config":{"persist":false},"disabled":true,"listen":"fd/3"}}`,
		`{"admin":{"listen":"{env.NOT_SET_}"}}`:            `{"admin":{"config":{"persist":false},"disabled":true,"listen":"{env.NOT_SET_}"}}`,
	} {
		sealed, warning, err := sealAdmin([]byte(config))
		if err != nil || string(sealed) != want {
			t.Errorf("%s: got %s, %v", config, sealed, err)
		}
		var c struct{ Admin struct{ Disabled bool } }
		if err := json.Unmarshal([]byte(config), &c); err != nil {
			t.Fatal(err)
		}
		if warns := strings.Contains(want, `"listen"`) && !c.Admin.Disabled; warns != (warning != "") {
			t.Errorf("%s: the warning is %q", config, warning)
		}
	}
	for config, want := range map[string]string{
		`{"admin":{"config":{"load":{"module":"http"}}}}`: "admin.config.load",
		`{"admin":[]}`: "cannot unmarshal",
	} {
		_, _, err := sealAdmin([]byte(config))
		wantError(t, err, want)
	}
	_, _, err := sealedAdapter{"nonsense"}.Adapt(nil, nil)
	wantError(t, err, "unknown config adapter nonsense")
}
