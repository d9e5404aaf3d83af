package caddymodule

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

const redisExample = "../examples/kubernetes/redis/"

// TestSharingExamples runs replicas of the product by the examples for Kubernetes and Compose, with a Redis by their
// redis.conf and the files of their secrets.sh, through all that the READMEs describe.
func TestSharingExamples(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"kubernetes": "../examples/kubernetes/sharing/token-proxy.caddyfile",
		"compose":    "../examples/compose/sharing/token-proxy.caddyfile",
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Need(t)
			if _, err := exec.LookPath("openssl"); err != nil {
				t.Skip("SKIPPED: openssl is not installed, so secrets.sh makes no keys")
			}
			s := newSharingExample(t, file)
			one, two := s.newReplica(), s.newReplica()

			token := one.token()
			s.want(1, "the first replica", token, two)

			s.swapKeys()
			one.restart()
			s.want(1, "while the second replica has the keys in the old order", token, one, two)
			two.restart()
			s.want(1, "after the first rollout", token, one, two)

			s.renew("other-key")
			one.restart()
			two.restart()
			token = one.token()
			s.want(2, "after a second rollout before the token has expired", token, one, two)

			s.renew("redis-password")
			s.redis.restart()
			two.refresh()
			token = two.token()
			one.restart()
			s.want(3, "after the password was replaced, without a reload of the second replica", token, one, two)
			one.wantComplaints(0)
			two.wantComplaints(0)

			one.stop() // before Redis, of which they would complain if they noticed
			two.stop()
			s.redis.stop()
			if out, err := s.probe(); err == nil {
				t.Errorf("the probe succeeds without Redis: %s", out)
			}
			one.start()
			two.start()
			one.token()
			two.token()
			one.wantComplaints(1)
			two.wantComplaints(1)
			if n := s.tokenCalls(); n != 5 {
				t.Errorf("without Redis: %d token calls, want 5: one more for each replica", n)
			}
		})
	}
}

// The rights that secrets.sh gives are those of the documentation, which TestLeastRights proves to be enough and all used.
func TestSharingExampleRights(t *testing.T) {
	rights := regexp.MustCompile(`~token_proxy/\* -@all [+a-z ]+`)
	documented := rights.FindString(readExample(t, "stores/redis/redis.go"))
	if given := rights.FindString(readExample(t, redisExample+"secrets.sh")); documented == "" || given != documented {
		t.Errorf("secrets.sh gives %q, but the documentation has %q", given, documented)
	}
}

// The folders in which the READMEs make secrets do not belong to git. TestDockerignore keeps them out of the image's build.
func TestExampleSecretsAreIgnored(t *testing.T) {
	for _, folder := range []string{"compose", "kubernetes"} {
		folder = "examples/" + folder + "/secrets"
		if !strings.Contains(readExample(t, "../"+filepath.Dir(folder)+"/README.md"), " secrets\n") {
			t.Errorf("the README makes another folder than %s", folder)
		}
		if !strings.Contains(readExample(t, "../.gitignore"), "\n/"+folder+"/\n") {
			t.Errorf("git does not ignore %s", folder)
		}
	}
}

// sharingExample is what the replicas of an example have in common.
type sharingExample struct {
	t       *testing.T
	config  string // what is the same for each replica
	secrets string // the folder
	vendor  *recordingAPI
	redis   *process
	port    string // of Redis
}

func newSharingExample(t *testing.T, file string) *sharingExample {
	t.Helper()
	endpoint := &devserver.TokenEndpoint{Dialect: devserver.Optoro, Registry: devserver.NewRegistry()}
	mux := http.NewServeMux()
	mux.Handle("/oauth/token", endpoint)
	mux.Handle("/", &devserver.API{Registry: endpoint.Registry})
	s := &sharingExample{
		t: t, secrets: t.TempDir(), vendor: newRecordingAPI(t, mux.ServeHTTP), port: portNumber(freeAddr(t)),
	}
	s.makeSecrets()
	for _, secret := range []struct{ name, content string }{
		{"client-id", devserver.DefaultClientID}, {"client-secret", devserver.DefaultClientSecret},
	} {
		s.write(secret.name, secret.content)
	}
	s.config = regexp.MustCompile(`\{file\.\S*/(?:optoro-)?([a-z-]+)\}`).ReplaceAllString(readExample(t, file), "{file."+s.secrets+"/$1}")
	s.config = regexp.MustCompile(`(address )\S+:6379`).ReplaceAllString(s.config, "${1}127.0.0.1:"+s.port)
	s.config = strings.NewReplacer(
		"provider optoro sandbox", "provider optoro sandbox {\n token_url "+s.vendor.URL+"/oauth/token\n}",
		"https://catalogs.sandbox.optiturn.com", s.vendor.URL,
		"*.optiturn.com", "127.0.0.1",
	).Replace(s.config)
	s.startRedis()
	return s
}

// startRedis runs Redis as the examples do, on loopback.
func (s *sharingExample) startRedis() {
	s.t.Helper()
	folder := s.t.TempDir()
	config := filepath.Join(folder, "redis.conf")
	text := strings.NewReplacer(
		"\nbind * -::*", "\nbind 127.0.0.1", "\nport 6379", "\nport "+s.port, "/run/secrets/redis/", s.secrets+"/",
	).Replace(readExample(s.t, redisExample+"redis.conf"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.redis = &process{t: s.t, command: []string{"redis-server", config}, folder: folder, isUp: func() bool {
		out, err := s.probe()
		return err == nil && strings.HasPrefix(out, "NOAUTH")
	}}
	s.redis.start()
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 {
		s.t.Errorf("Redis needs a folder that it can write: %v, %v", left, err)
	}
}

// probe is the readinessProbe of Redis.
func (s *sharingExample) probe() (string, error) {
	s.t.Helper()
	if !strings.Contains(readExample(s.t, redisExample+"redis.yaml"), "\n              command: [redis-cli, PING]\n") {
		s.t.Fatal("the probe of redis.yaml is another one")
	}
	out, err := exec.Command("redis-cli", "-p", s.port, "PING").CombinedOutput()
	return string(out), err
}

func (s *sharingExample) makeSecrets() {
	s.t.Helper()
	if out, err := exec.Command(redisExample+"secrets.sh", s.secrets).CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// renew replaces a secret.
func (s *sharingExample) renew(name string) {
	s.t.Helper()
	before := s.read(name)
	if err := os.Remove(filepath.Join(s.secrets, name)); err != nil {
		s.t.Fatal(err)
	}
	s.makeSecrets()
	if s.read(name) == before {
		s.t.Fatalf("%s is the same as before", name)
	}
}

func (s *sharingExample) swapKeys() {
	s.t.Helper()
	first, second := s.read("key"), s.read("other-key")
	s.write("key", second)
	s.write("other-key", first)
}

func (s *sharingExample) read(name string) string {
	s.t.Helper()
	return readExample(s.t, filepath.Join(s.secrets, name))
}

func (s *sharingExample) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.secrets, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sharingExample) tokenCalls() (n int) {
	for _, r := range s.vendor.received() {
		if r.URI == "/oauth/token" {
			n++
		}
	}
	return n
}

// want checks that replicas use a token, and how many token calls all of them have made so far.
func (s *sharingExample) want(calls int, when, token string, replicas ...*replica) {
	s.t.Helper()
	for _, r := range replicas {
		if got := r.token(); got != token {
			s.t.Errorf("%s: a replica has a token of its own", when)
		}
	}
	if n := s.tokenCalls(); n != calls {
		s.t.Errorf("%s: %d token calls, want %d", when, n, calls)
	}
}

// replica is a process of the product.
type replica struct {
	*process
	config, url string
}

func (s *sharingExample) newReplica() *replica {
	s.t.Helper()
	program := product(s.t)
	folder, err := os.MkdirTemp("", "tp") // t.TempDir may be too long for a socket
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(folder) })
	proxy := freeAddr(s.t)
	config := writeConfig(s.t, "Caddyfile", strings.NewReplacer(
		":8080", ":"+portNumber(proxy), ":8082", ":"+portNumber(freeAddr(s.t)), "/run/token-proxy/admin.sock", folder+"/admin.sock",
	).Replace(s.config))
	r := &replica{config: config, url: "http://" + proxy + "/orders"}
	client := testClient(s.t)
	r.process = &process{t: s.t, command: []string{program, "run", "--config", config}, folder: folder, isUp: func() bool {
		answer, err := tryAsk(client, newRequest(s.t, http.MethodGet, r.url, nil))
		if err == nil {
			answer.wantStatus(s.t, http.StatusOK) // not even the first request may fail
		}
		return err == nil
	}}
	r.start()
	return r
}

// token returns the token that the API gets of this replica.
func (r *replica) token() string {
	r.t.Helper()
	return getEcho(r.t, r.url).Token
}

// refresh makes the replica replace its token.
func (r *replica) refresh() {
	r.t.Helper()
	if _, stderr, status := runBinary(r.t, "tokens", "refresh", "catalog", "--config", r.config); status != 0 {
		r.t.Fatalf("status %d: %s", status, stderr)
	}
}

// wantComplaints checks how many warnings and errors the replica has logged, which are those about the store.
func (r *replica) wantComplaints(n int) {
	r.t.Helper()
	var complaints []string
	for line := range strings.Lines(readExample(r.t, r.log.Name())) {
		if strings.Contains(line, `"logger":"`+appName) && !strings.HasPrefix(line, `{"level":"info"`) {
			complaints = append(complaints, line)
		}
	}
	if len(complaints) != n {
		r.t.Errorf("a replica logs %d warnings, want %d: %s", len(complaints), n, complaints)
	}
}

// process is a program that runs until the test ends.
type process struct {
	t       *testing.T
	command []string
	folder  string     // where it runs
	sockets []*os.File // the file descriptors from 3 on
	isUp    func() bool
	running *exec.Cmd
	log     *os.File
}

func (p *process) start() {
	p.t.Helper()
	p.running = exec.Command(p.command[0], p.command[1:]...)
	p.running.Dir, p.running.ExtraFiles = p.folder, p.sockets
	p.running.Env = append(os.Environ(), "HOME="+p.folder, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=")
	if p.log == nil {
		log, err := os.Create(filepath.Join(p.t.TempDir(), "log"))
		if err != nil {
			p.t.Fatal(err)
		}
		p.log = log
		p.t.Cleanup(func() { log.Close() })
	}
	p.running.Stdout, p.running.Stderr = p.log, p.log
	if err := p.running.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.stop)
	caddytest.Eventually(p.t, p.command[0]+" is up", p.isUp)
}

// stop ends the process at once.
func (p *process) stop() {
	if p.running == nil {
		return
	}
	_ = p.running.Process.Kill()
	_ = p.running.Wait()
	p.running = nil
	if p.t.Failed() {
		p.t.Log(readExample(p.t, p.log.Name()))
	}
}

func (p *process) restart() {
	p.t.Helper()
	p.stop()
	p.start()
}
