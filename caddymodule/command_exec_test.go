//go:build unix

package caddymodule

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// execRun is one run of `token-proxy exec`.
type execRun struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bufio.Reader // of the application
	errs string        // the file that has what exec and the sidecar write
	done chan struct{}
}

// startExec runs exec with a configuration, and a shell script as the application. environ are further variables.
func startExec(t *testing.T, config, script string, environ ...string) *execRun {
	t.Helper()
	path := product(t)
	r := &execRun{t: t, errs: filepath.Join(t.TempDir(), "errors"), done: make(chan struct{})}
	r.cmd = exec.Command(path, "exec", "--config", config, "--wait", "2m", "--", "/bin/sh", "-c", script)
	r.cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
	r.cmd.Env = append(r.cmd.Env, environ...)
	out, program, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	errs, err := os.Create(r.errs)
	if err != nil {
		t.Fatal(err)
	}
	r.out, r.cmd.Stdout, r.cmd.Stderr = bufio.NewReader(out), program, errs
	err = r.cmd.Start()
	_, _ = program.Close(), errs.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // which ends the sidecar
	return r
}

// line returns the next line that the application writes.
func (r *execRun) line() string {
	r.t.Helper()
	line, err := r.out.ReadString('\n')
	if err != nil {
		r.t.Fatalf("%v: %s", err, r.log())
	}
	return strings.TrimSpace(line)
}

func (r *execRun) log() string { return readExample(r.t, r.errs) }

// want waits for the end of exec, and checks its exit status.
func (r *execRun) want(status int) {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		r.t.Fatalf("exec does not end: %s", r.log())
	}
	if got := r.cmd.ProcessState.ExitCode(); got != status {
		r.t.Errorf("the exit status is %d, want %d: %s", got, status, r.log())
	}
}

// wantRefused checks that the sidecar has ended.
func (r *execRun) wantRefused(addr string) {
	r.t.Helper()
	_, err := testClient(r.t).Get("http://" + addr)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		r.t.Errorf("the sidecar still listens: %v", err)
	}
}

// sidecar returns the process of the sidecar, which is a child of exec.
func (r *execRun) sidecar(parent string) int {
	r.t.Helper()
	lists, _ := filepath.Glob("/proc/" + parent + "/task/*/children")
	if len(lists) == 0 {
		r.t.Skip("SKIPPED: the sidecar cannot be found without /proc")
	}
	for _, list := range lists {
		content, _ := os.ReadFile(list) // a thread may have ended
		for _, child := range strings.Fields(string(content)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if pid, err := strconv.Atoi(child); err == nil && bytes.Contains(line, []byte(sidecarCommandName)) {
				return pid
			}
		}
	}
	r.t.Fatal("exec has no sidecar")
	return 0
}

// plainSidecar is a configuration without a proxy, whose credential comes from variables and a file. environ are its
// variables, and those of an operator who uses them in other ways.
func plainSidecar(t *testing.T, s *tokenServer) (config, addr string, environ []string) {
	t.Helper()
	dir := t.TempDir()
	secret := filepath.Join(dir, "client-secret")
	writeFile(t, secret, devserver.DefaultClientSecret)
	api := newRecordingAPI(t, s.api().ServeHTTP)
	addr = freeAddr(t)
	writeFile(t, filepath.Join(dir, "sites.caddyfile"), "import {$EXEC_SITES}")
	writeFile(t, filepath.Join(dir, "site.caddyfile"), siteConfig("127.0.0.1:{$EXEC_PORT}", "token_proxy catalog "+api.URL))
	credential := strings.NewReplacer(s.ClientID, "{env.EXEC_CLIENT_ID}", devserver.DefaultClientSecret, "{file."+secret+"}").Replace(s.credential("catalog"))
	config = filepath.Join(dir, "Caddyfile")
	writeFile(t, config, globalOptions(credential)+"import sites.caddyfile\n")
	return config, addr, []string{
		"EXEC_CLIENT_ID=" + s.ClientID, "EXEC_PORT=" + portNumber(addr), "EXEC_SITES=site.caddyfile", "EXEC_SECRET_FILE=" + secret,
		"HTTPS_PROXY=", "SSL_CERT_FILE=/etc/corporate.pem", "EXEC_OTHER=stays",
	}
}

// TestExec runs an application that finds its token ready, and gets nothing of the credential.
func TestExec(t *testing.T) {
	requireProgram(t, "curl")
	s := newTokenServer(t)
	config, addr, environ := plainSidecar(t, s)
	r := startExec(t, config, "env; echo END; curl -sS --fail http://"+addr+"/orders; echo; read line; exit 42", environ...)
	var seen []string
	for line := r.line(); line != "END"; line = r.line() {
		seen = append(seen, line)
	}
	if n := s.Calls(); n != 1 {
		t.Errorf("the application starts after %d token calls, want 1", n)
	}
	wantText(t, r.line(), `"path":"/orders"`, `"client":"`+s.ClientID+`"`)
	r.want(42) // the standard input is empty
	r.wantRefused(addr)

	all := strings.Join(seen, "\n")
	for _, hidden := range []string{s.ClientID, "client-secret", "EXEC_CLIENT_ID", "EXEC_PORT", "EXEC_SITES", "EXEC_SECRET_FILE"} {
		if strings.Contains(all, hidden) {
			t.Errorf("the environment of the application has %s: %s", hidden, all)
		}
	}
	for _, kept := range []string{"EXEC_OTHER=stays", "SSL_CERT_FILE=/etc/corporate.pem", "HTTPS_PROXY="} {
		if !slices.Contains(seen, kept) {
			t.Errorf("the environment of the application lacks %s", kept)
		}
	}
	wantText(t, r.log(), "variables that the application does not get: EXEC_CLIENT_ID EXEC_PORT EXEC_SECRET_FILE EXEC_SITES\n")
	if n := s.Calls(); n != 1 {
		t.Errorf("the token endpoint got %d calls, want 1", n)
	}
}

// TestExecWaitsForTheToken starts the application only after an outage of the token endpoint.
func TestExecWaitsForTheToken(t *testing.T) {
	s := newTokenServer(t)
	s.SetFault(devserver.Fault{Status: 503, Count: 2})
	config, _, environ := plainSidecar(t, s)
	r := startExec(t, config, "echo started", environ...)
	if r.line() != "started" || s.Calls() != 3 {
		t.Errorf("it starts after %d calls", s.Calls())
	}
	r.want(0)
}

// TestExecWithoutAToken does not start the application, and names the credential. A signal ends the waiting, and so does --wait.
func TestExecWithoutAToken(t *testing.T) {
	s := newTokenServer(t)
	s.SetFault(devserver.Fault{Error: "invalid_client"})
	config, addr, environ := plainSidecar(t, s)
	r := startExec(t, config, "echo application-has-begun", environ...)
	eventually(t, "a refused credential", func() bool { return strings.Contains(r.log(), "invalid_client") })
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.want(128 + 15)
	wantText(t, r.log(), "the credential catalog has no token")
	r.wantRefused(addr)

	path := product(t)
	cmd := exec.Command(path, "exec", "--config", config, "--wait", "1ms", "--", "/bin/echo", "application-has-begun")
	cmd.Env = append(os.Environ(), environ...)
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != 125 {
		t.Errorf("the exit status is %d", status)
	}
	wantText(t, string(out), "the sidecar has no token after 1ms")
	if rest, err := io.ReadAll(r.out); err != nil || strings.Contains(string(rest)+string(out), "application-has-begun") {
		t.Errorf("the application has begun: %v", err)
	}
}

// TestExecWithTenants waits for no token of a credential with tenants, because they come with the requests.
func TestExecWithTenants(t *testing.T) {
	requireProgram(t, "curl")
	p := newTenantPlatform(t, "acme")
	addr := freeAddr(t)
	config := globalOptions(p.credential("shops"), p.basicCredential("clients")) +
		siteConfig(addr, "token_proxy shops "+p.api.addr())
	r := startExec(t, writeConfig(t, "Caddyfile", config), "curl -sS --fail -H 'X-Tenant: acme' http://"+addr+"/orders; echo")
	if got := r.line(); got != "acme" {
		t.Errorf("the application gets %q", got)
	}
	r.want(0)
	if strings.Contains(r.log(), "has no token") {
		t.Errorf("the log misses a token: %s", r.log())
	}
}

// TestExecSignals ends the application by a signal, and the sidecar after it.
func TestExecSignals(t *testing.T) {
	s := newTokenServer(t)
	config, addr, environ := plainSidecar(t, s)
	r := startExec(t, config, "trap 'echo got TERM; exit 5' TERM; echo started; while :; do sleep 0.1; done", environ...)
	r.line()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := r.line(); got != "got TERM" {
		t.Errorf("the application writes %q", got)
	}
	r.want(5)
	r.wantRefused(addr)
}

// TestExecSignalsToAll keeps the sidecar while the application ends, although a service manager sends its signal to both.
func TestExecSignalsToAll(t *testing.T) {
	requireProgram(t, "curl")
	s := newTokenServer(t)
	config, addr, environ := plainSidecar(t, s)
	r := startExec(t, config, "trap 'curl -sS --fail http://"+addr+"/orders; echo; exit 5' TERM; echo $PPID; while :; do sleep 0.1; done", environ...)
	sidecar := r.sidecar(r.line())
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if err := syscall.Kill(sidecar, sig); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantText(t, r.line(), `"path":"/orders"`)
	r.want(5)
	r.wantRefused(addr)
}

// TestExecWhenTheSidecarDies ends the application with an error. Its parent is exec, whose other child is the sidecar.
func TestExecWhenTheSidecarDies(t *testing.T) {
	s := newTokenServer(t)
	config, _, environ := plainSidecar(t, s)
	r := startExec(t, config, "echo $PPID; exec sleep 600", environ...)
	_ = syscall.Kill(r.sidecar(r.line()), syscall.SIGKILL)
	r.want(125)
	wantText(t, r.log(), "the sidecar has ended: signal: killed, so exec has ended the application")
	if rest, err := io.ReadAll(r.out); err != nil || len(rest) > 0 { // ends once the application has
		t.Errorf("%q, %v", rest, err)
	}
}

// TestExecOwnAuthority gives the application the bundle of a sidecar with TLS, and removes it at the end.
func TestExecOwnAuthority(t *testing.T) {
	requireProgram(t, "curl")
	u := newUnchangeable(t, "hard-coded-url.caddyfile")
	config := strings.Replace(u.to(portOfURL(t, u.api.URL), "resolvers "+loopbackDNS(t), u.trustAPI(t)), "{\n", "{\n admin off\n", 1)
	systemAuthorities(t)
	r := startExec(t, writeConfig(t, "Caddyfile", config), `for name in SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO; do
		eval echo \$$name; done
		echo "proxy: $HTTPS_PROXY$https_proxy"
		curl -sS --fail --retry 10 --retry-all-errors --connect-to `+hardCoded+`:443:`+u.addr+` https://`+hardCoded+`/orders; echo`,
		"HTTPS_PROXY=", "https_proxy=", "CURL_CA_BUNDLE=/nowhere")
	bundle := r.line()
	for range 4 {
		if other := r.line(); other != bundle {
			t.Errorf("the variables name %q and %q", bundle, other)
		}
	}
	if got := r.line(); got != "proxy:" {
		t.Errorf("without a proxy, it gets %q", got)
	}
	wantText(t, r.line(), `"path":"/orders"`)
	r.want(0)
	if _, err := os.Stat(filepath.Dir(bundle)); !os.IsNotExist(err) {
		t.Errorf("the bundle stays: %v", err)
	}
}

// TestExecThroughTheProxy runs an application that knows only https:// and the name of the API, and obeys HTTPS_PROXY.
func TestExecThroughTheProxy(t *testing.T) {
	requireProgram(t, "curl")
	u := newUnchangeable(t, "hard-coded-url.caddyfile")
	config := strings.Replace(u.to(portOfURL(t, u.api.URL), "resolvers "+loopbackDNS(t), u.trustAPI(t)), "{\n",
		"{\n admin off\n servers {\n listener_wrappers {\n https_proxy\n tls\n}\n}\n", 1)
	systemAuthorities(t)
	r := startExec(t, writeConfig(t, "Caddyfile", config), `echo $HTTPS_PROXY $https_proxy $HTTP_PROXY $http_proxy; echo $NO_PROXY
		for url in https://`+hardCoded+`/orders http://`+hardCoded+`/plain; do
			curl -sS --fail --retry 10 --retry-all-errors $url; done
		curl -sS https://example.com; exec sleep 600`,
		"HTTPS_PROXY=http://corporate.test", "no_proxy=db.internal,"+hardCoded, "NO_PROXY=")
	proxy := "http://127.0.0.1:" + portNumber(u.addr)
	if got, want := r.line(), strings.Join([]string{proxy, proxy, proxy, proxy}, " "); got != want {
		t.Errorf("the proxy is %s, want %s", got, want)
	}
	if got := r.line(); got != "localhost,127.0.0.1,::1,db.internal" {
		t.Errorf("the hosts without a proxy are %s", got)
	}
	wantText(t, r.line(), `"path":"/orders"`, `"client":"`+u.tokens.ClientID+`"`)
	wantText(t, r.line(), `"path":"/plain"`, `"client":"`+u.tokens.ClientID+`"`)
	eventually(t, "a denied host", func() bool { return strings.Contains(r.log(), "403") })
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.want(128 + 15)
}

func TestExecFailures(t *testing.T) {
	s := newTokenServer(t)
	config, _, environ := plainSidecar(t, s)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	other := serveHTTP(t, http.NotFoundHandler())
	taken := writeConfig(t, "Caddyfile", "{\n admin off\n}\n"+siteConfig(other.Listener.Addr().String(), "respond ok"))
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no command":       {[]string{"--config", config}, "name the application"},
		"standard input":   {[]string{"--config", "-", "--", "true"}, "the standard input"},
		"no configuration": {[]string{"--", "true"}, "no configuration found"},
		"a mistake":        {[]string{"--config", writeConfig(t, "Caddyfile", "nonsense {"), "--", "true"}, "syntax error"},
		"the port in use":  {[]string{"--config", taken, "--", "true"}, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, status := runBinary(t, append([]string{"exec"}, test.args...)...)
			wantText(t, stderr, test.want)
			if status != 125 || stdout != "" {
				t.Errorf("status %d: %s", status, stdout)
			}
		})
	}
	if _, stderr, status := runBinary(t, "exec", "--config", config, "--", "/nowhere/app", "--json"); status != 127 {
		t.Errorf("status %d: %s", status, stderr)
	}
	if stdout, _, _ := runBinary(t, "help"); strings.Contains(stdout, sidecarCommandName) || !strings.Contains(stdout, "exec ") {
		t.Errorf("the help has the wrong commands: %s", stdout)
	}
}

// TestExecNeedsARegularFile refuses a pipe. The sidecar would get the rest of it, which is no configuration.
func TestExecNeedsARegularFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "config.json")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := loadExecConfig(pipe, "")
	wantError(t, err, "must be a regular file")
}

// TestExecFindsTheProxy finds the wrapper https_proxy and its sites in a configuration.
func TestExecFindsTheProxy(t *testing.T) {
	server := func(listen, wrappers string) string {
		return `{"listen": [` + listen + `], "listener_wrappers": [` + wrappers + `],
			"routes": [{"match": [{"host": ["api.example.com", "*.example.org"]}]}, {"match": [{"path": ["/x"]}]}, {}]}`
	}
	config := func(servers ...string) []byte {
		for i := range servers {
			servers[i] = fmt.Sprintf(`"srv%d": %s`, i, servers[i])
		}
		return []byte(`{"apps": {"http": {"servers": {` + strings.Join(servers, ",") + `}}}}`)
	}
	find := func(config []byte) ([]configProxy, error) {
		servers, err := readServers(config)
		if err != nil {
			t.Fatal(err)
		}
		return findProxies(servers)
	}
	const wrapper = `{"wrapper": "https_proxy"}, {"wrapper": "tls"}`
	t.Setenv("EXEC_PORT", "3129")
	for listen, want := range map[string]string{
		`"127.0.0.1:3128"`:          "127.0.0.1:3128",
		`":3128"`:                   "127.0.0.1:3128",
		`"0.0.0.0:3128"`:            "127.0.0.1:3128",
		`"[::]:3128"`:               "127.0.0.1:3128",
		`"[::1]:3128"`:              "[::1]:3128",
		`"tcp6/:3128"`:              "[::1]:3128",
		`"10.0.0.5:3128"`:           "10.0.0.5:3128",
		`"localhost:3128"`:          "localhost:3128",
		`"loopback/localhost:3128"`: "127.0.0.1:3128",
		`"unix//run/proxy.sock", "127.0.0.1:3128"`: "127.0.0.1:3128",
		`"127.0.0.1:{env.EXEC_PORT}"`:              "127.0.0.1:3129",
		`"127.0.0.1:3128-3130"`:                    "127.0.0.1:3128",
	} {
		found, err := find(config(server(`"127.0.0.1:1"`, `{"wrapper": "tls"}`), server(listen, wrapper)))
		if err != nil || len(found) != 1 || found[0].url.String() != "http://"+want || !slices.Equal(found[0].hosts, []string{"api.example.com", "*.example.org"}) {
			t.Errorf("%s: found %v, %v", listen, found, err)
		}
	}
	for listen, want := range map[string]string{
		`"unix//run/proxy.sock"`:     "an application cannot reach it at unix//run/proxy.sock",
		`"fd/3"`:                     "an application cannot reach it",
		`"127.0.0.1:0"`:              "an application cannot reach it",
		`"127.0.0.1:{env.NOT_SET_}"`: "NOT_SET_",
	} {
		_, err := find(config(server(listen, wrapper)))
		wantError(t, err, want)
	}
	file := writeConfig(t, "config.json", string(config(server(`":1"`, wrapper), server(`":2"`, wrapper))))
	_, err := loadExecConfig(file, "")
	wantError(t, err, "on 127.0.0.1:1 and on 127.0.0.1:2", "one HTTPS_PROXY")
}

// TestExecReadsTheWholeCaddyfile finds variables in every file that the Caddyfile imports.
func TestExecReadsTheWholeCaddyfile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("EXEC_FOLDER", "folder")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"Caddyfile":             "(snippet) {\n\trespond {$IN_SNIPPET}\n}\nimport only-imports\nimport \"quoted name\"\nimport numbered one\n",
		"only-imports":          "import {$EXEC_FOLDER}/*.conf\nimport {$NOT_SET_:folder}/by-default\n",
		"folder/a.conf":         "http://a.test {\n\timport snippet\n}\n",
		"folder/b.conf":         "http://b.test {\n\tlog_append x {$IN_B}\n\timport ../nested\n}\n",
		"folder/by-default":     "# {$IN_DEFAULT}\n",
		"nested":                "# {$IN_NESTED}\nrespond ok\n",
		"numbered":              "import arg-{args[0]}\n",
		"arg-one":               "http://c.test {\n\trespond {$IN_ARGUMENT}\n}\n",
		"quoted name":           "http://d.test {\n\trespond {$IN_QUOTED}\n}\n",
		"not-imported":          "{$IN_NONE}",
		"folder/not-a-conf.txt": "{$IN_NONE}",
	} {
		writeFile(t, filepath.Join(dir, name), content)
	}
	file := filepath.Join(dir, "Caddyfile")
	blocks, err := parseCaddyfile(file)
	if err != nil {
		t.Fatal(err)
	}
	texts := configTexts(file, blocks)
	all := strings.Join(texts, "\n")
	wantText(t, all, "IN_SNIPPET", "EXEC_FOLDER", "NOT_SET_", "IN_B", "IN_DEFAULT", "IN_NESTED", "IN_ARGUMENT", "IN_QUOTED")
	if strings.Contains(all, "IN_NONE") || len(texts) != 9 {
		t.Errorf("it reads %d files: %s", len(texts), all)
	}
}
