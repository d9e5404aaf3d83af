package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const tenantsExample = "../examples/tenants"

// TestTenantsExample runs the commands in the README of the example, and compares their output with the README.
func TestTenantsExample(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("NOT TESTED: curl is not installed, so the commands of examples/tenants/README.md did not run")
	}
	program := product(t)
	e := newTenantsExample(t)
	e.replace = append(e.replace, "go run ../../cmd/token-proxy", program)

	start := commandsIn(e.readme, "sh")
	if len(start) != 2 || start[0].line != "cd examples/tenants" {
		t.Fatalf("the README starts the example with %v", start)
	}
	server := &process{t: t, command: []string{"sh", "-c", "exec " + e.here(start[1].line)}, folder: e.folder, isUp: e.isUp}
	server.start()
	steps := commandsIn(e.readme, "console")
	if len(steps) < 10 {
		t.Fatalf("found %d commands: the test no longer sees them", len(steps))
	}
	for _, step := range steps {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", e.here(step.line))
		cmd.Dir = e.folder
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "NO_PROXY=*", "no_proxy=*")
		cmd.Stderr = t.Output()
		got, err := cmd.Output()
		if err != nil {
			t.Errorf("$ %s\n%v", step.line, err)
		}
		if !step.shows(string(got)) {
			t.Errorf("$ %s\n%s\nthe README shows:\n%s", step.line, got, step.output)
		}
	}
	logged := commandsIn(e.readme, "json")
	if len(logged) != 1 {
		t.Fatalf("the README shows %d lines of the log, want 1", len(logged))
	}
	eventually(t, "a line of the log with "+logged[0].line, func() bool {
		return strings.Contains(readExample(t, server.log.Name()), logged[0].line)
	})
}

// exampleCommand is a command in a document, and what it writes. "…" in the output stands for any text.
type exampleCommand struct{ line, output string }

func (c exampleCommand) shows(got string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(c.output)), "…", `.*`)
	return regexp.MustCompile(`^` + pattern + `$`).MatchString(strings.TrimSpace(got))
}

// commandsIn returns the commands in the blocks of a language. In a console, "$ " precedes a command, and its output follows.
func commandsIn(markdown, language string) (commands []exampleCommand) {
	for _, block := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(markdown, -1) {
		for line := range strings.Lines(block[1]) {
			command, isCommand := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ ")
			switch {
			case isCommand || language != "console":
				commands = append(commands, exampleCommand{line: command})
			case len(commands) > 0:
				commands[len(commands)-1].output += line
			}
		}
	}
	return commands
}

// runningExample is a copy of examples/tenants for free ports.
type runningExample struct {
	t       *testing.T
	folder  string
	readme  string
	replace []string // pairs of what differs on this machine
	addrs   []string
}

func newTenantsExample(t *testing.T) *runningExample {
	t.Helper()
	e := &runningExample{t: t, folder: t.TempDir(), readme: readExample(t, tenantsExample+"/README.md")}
	if err := os.CopyFS(e.folder, os.DirFS(tenantsExample)); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"2019", "8080", "9080"} {
		addr := freeAddr(t)
		e.addrs = append(e.addrs, addr)
		e.replace = append(e.replace, ":"+port, ":"+portNumber(addr))
	}
	writeFile(t, filepath.Join(e.folder, "token-proxy.caddyfile"), e.config())
	return e
}

// here is a text with this machine's ports.
func (e *runningExample) here(text string) string {
	return strings.NewReplacer(e.replace...).Replace(text)
}

func (e *runningExample) config() string {
	e.t.Helper()
	return e.here(readExample(e.t, tenantsExample+"/token-proxy.caddyfile"))
}

// isUp reports whether all of the servers take connections.
func (e *runningExample) isUp() bool {
	for _, addr := range e.addrs {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		conn.Close()
	}
	return true
}

// TestTenantsExampleKeepsStoresApart has two stores whose names, ids and secrets give the same text together. It asks for
// both, removes the credential, so that only their keys tell their tokens apart, and adds it again.
func TestTenantsExampleKeepsStoresApart(t *testing.T) {
	e := newTenantsExample(t)
	stores := []struct{ name, id string }{{"oslo", "2-client"}, {"oslo2", "-client"}}
	clients := ""
	for _, store := range stores {
		if !strings.Contains(e.readme, fmt.Sprintf("a store `%s` with the client `%s`", store.name, store.id)) {
			t.Errorf("the README does not name the store %s", store.name)
		}
		folder := filepath.Join(e.folder, "stores", store.name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(folder, "client_id"), store.id)
		writeFile(t, filepath.Join(folder, "client_secret"), "one-secret")
		clients += "import client " + store.id + " one-secret\n"
	}
	config := strings.ReplaceAll(e.config(), "{file.stores/", "{file."+e.folder+"/stores/")
	config = strings.Replace(config, "import client berlin", clients+"import client berlin", 1)
	server := startCaddy(t, config)
	tokens := make(map[string]string)
	for range 3 {
		for _, store := range stores {
			req := newRequest(t, http.MethodGet, "http://"+e.addrs[1]+"/v2/products", nil)
			req.Header.Set("X-Store", store.name)
			echo := echoOf(t, ask(t, testClient(t), req))
			if echo.Client != store.id {
				t.Errorf("store %s has a token of the client %s", store.name, echo.Client)
			}
			if first := tokens[store.name]; first != "" && echo.Token != first {
				t.Errorf("store %s has another token than before", store.name)
			}
			tokens[store.name] = echo.Token
		}
		without := regexp.MustCompile(`(?s)\ttoken_proxy \{\n.*?\n\t\}\n`).ReplaceAllString(config, "")
		without = regexp.MustCompile(`\ttoken_proxy stores .*`).ReplaceAllString(without, "")
		for _, c := range []string{without, config} {
			if err := server.load(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(server.logged("token obtained")); n != len(stores) {
		t.Errorf("%d tokens were fetched, want one for each store", n)
	}
}

// TestTenantsExamplePorts runs the sites of the example for applications that cannot name a store.
func TestTenantsExamplePorts(t *testing.T) {
	p := newTenantPlatform(t, "berlin", "milan", "oslo")
	config := strings.NewReplacer(
		"{file./run/stores/", "{file."+p.folder+"/", "provider elastic_path euwest", "provider elastic_path {\n token_url "+p.url+"\n}",
		"https://euwest.api.elasticpath.com", p.api.URL, "euwest.api.elasticpath.com", "127.0.0.1",
	).Replace(readExample(t, tenantsExample+"/one-port-for-each-store.caddyfile"))
	stores := map[string]string{"8081": "berlin", "8082": "milan", "8083": "oslo"}
	urls := make(map[string]string)
	for port, store := range stores {
		addr := freeAddr(t)
		urls[store] = "http://" + addr
		config = strings.ReplaceAll(config, ":"+port, ":"+portNumber(addr))
	}
	startCaddy(t, config)
	for store, url := range urls {
		p.wantTenant(p.ask(url), store)
		p.wantTenant(p.ask(url, "berlin"), store) // whatever the client says
	}
	if n := p.calls(); n != len(stores) {
		t.Errorf("%d token calls, want one for each store", n)
	}
}

// The configuration that the reference has for names which need a translation, and the name that an authentication handler
// has set.
func TestTenantNamesFromHandlers(t *testing.T) {
	snippet := regexp.MustCompile(`(?m)^map \{http\.request\.header\.X-Merchant\}[^}]*\} \{(?s:.*?)^\}\nvars .*\n`).FindString(readExample(t, reference))
	if snippet == "" {
		t.Fatal("the reference has no such configuration")
	}
	const hash = "$2a$04$RxZjC3XXLDv7hw/U3.LDw.NErKh9.NZ8JQa8i5KvSY41exKtdxOJG" // bcrypt, of "a password"
	p := newTenantPlatform(t, "acme", "globex")
	mapped, authenticated := freeAddr(t), freeAddr(t)
	startCaddy(t, globalOptions(p.credentialFor("mapped", "{http.vars.tenant}")+p.credentialFor("authenticated", "{http.auth.user.id}"))+
		siteConfig(mapped, snippet+"token_proxy mapped "+p.api.addr())+
		siteConfig(authenticated, "basic_auth {\n acme "+hash+"\n}\ntoken_proxy authenticated "+p.api.addr()))
	askAs := func(merchants ...string) clientAnswer {
		req := mustRequest(t, "http://"+mapped+"/orders")
		req.Header["X-Merchant"] = merchants
		return ask(t, testClient(t), req)
	}
	p.wantTenant(askAs("4711"), "acme")
	p.wantTenant(askAs("Globex Ltd"), "globex")
	for _, merchants := range [][]string{nil, {""}, {"acme"}, {"4712"}, {"4711", "4711"}} {
		p.wantDenied(askAs(merchants...), http.StatusBadRequest, "tenant-name-not-valid")
	}
	req := mustRequest(t, "http://"+authenticated+"/orders")
	req.Header.Set("X-Tenant", "globex")
	req.SetBasicAuth("acme", "a password")
	p.wantTenant(ask(t, testClient(t), req), "acme")
	req.SetBasicAuth("acme", "another password")
	if a := ask(t, testClient(t), req); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a client with a wrong password: %d %s", a.StatusCode, a.body)
	}
}

// TestTenantOfClientCertificate names the tenant by the certificate of the client, whatever the client sends.
func TestTenantOfClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"acme"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	p := newTenantPlatform(t, "acme", "globex")
	addr := freeAddr(t)
	contents := exampleContents()
	startCaddy(t, strings.Replace(globalOptions(p.credentialFor("api", "{http.request.tls.client.san.dns_names.0}")), "{\n", "{\n auto_https disable_redirects\n", 1)+
		fmt.Sprintf("https://localhost:%s {\n bind 127.0.0.1\n tls %s %s {\n client_auth {\n mode require_and_verify\n trust_pool file %s\n}\n}\n token_proxy api %s\n}\n",
			portNumber(addr), writeExampleFile(t, contents.certificate), writeExampleFile(t, contents.key),
			writeExampleFile(t, pemText("CERTIFICATE", der, nil)), p.api.addr()))
	client := testClient(t)
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	req := mustRequest(t, "https://localhost:"+portNumber(addr)+"/orders")
	req.Header.Set("X-Tenant", "globex")
	p.wantTenant(ask(t, client, req), "acme")
	transport.CloseIdleConnections()
	transport.TLSClientConfig.Certificates = nil
	if a, err := tryAsk(client, req); err == nil {
		t.Errorf("a client without a certificate: %d %s", a.StatusCode, a.body)
	}
}
