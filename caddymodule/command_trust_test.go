package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// registeredCommand returns a command of the binary.
func registeredCommand(name string) *cobra.Command {
	cmd := &cobra.Command{Use: name}
	caddycmd.Commands()[name].CobraFunc(cmd)
	return cmd
}

// certificatesIn returns the certificates in a bundle, which has nothing else.
func certificatesIn(t *testing.T, bundle []byte) (found []*x509.Certificate) {
	t.Helper()
	for {
		block, rest := pem.Decode(bundle)
		if block == nil {
			if len(bytes.TrimSpace(bundle)) > 0 {
				t.Errorf("the bundle ends with %q", bundle)
			}
			return found
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		found, bundle = append(found, cert), rest
	}
}

// systemAuthorities puts two authorities in the place of those of the system.
func systemAuthorities(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "system.pem")
	var content []byte
	for _, name := range []string{"one.test", "two.test"} {
		cert := serverCertificate(t, name)
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})...)
	}
	writeFile(t, file, string(content))
	t.Setenv("SSL_CERT_FILE", file)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
}

// TestTrustBundle makes the bundle before the sidecar starts for the first time, and gives it to the application.
func TestTrustBundle(t *testing.T) {
	u := newUnchangeable(t, "hard-coded-url.caddyfile")
	config := u.to(portOfURL(t, u.api.URL), "resolvers "+loopbackDNS(t), u.trustAPI(t))
	systemAuthorities(t)
	output := filepath.Join(t.TempDir(), "bundle.pem")
	out, err := runCommand(registeredCommand("trust-bundle"), "--config", writeConfig(t, "Caddyfile", config), "--output", output)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, out, "Caddy's own: Caddy Local Authority", "the system's: 2 authorities from "+os.Getenv("SSL_CERT_FILE"))
	bundle := readExample(t, output)
	root := certificatesIn(t, []byte(readExample(t, u.authority())))[0]
	found := certificatesIn(t, []byte(bundle))
	if len(found) != 3 || !found[0].Equal(root) {
		t.Errorf("the bundle has %d certificates, the first of %v", len(found), found[0].Subject)
	}
	if info, err := os.Stat(output); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}

	// The sidecar uses that authority, and the application trusts it by the bundle.
	u.start(t, config)
	client := u.application(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	res, err := client.Get("https://" + hardCoded + "/orders")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()

	t.Run("curl", func(t *testing.T) {
		requireProgram(t, "curl")
		cmd := exec.Command("curl", "-sS", "--fail", "--connect-to", hardCoded+":443:"+u.addr, "https://"+hardCoded+"/orders")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CURL_CA_BUNDLE=" + output}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), `"path":"/orders"`) {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("keytool", func(t *testing.T) { // the recipe of the reference
		requireProgram(t, "keytool")
		store := filepath.Join(t.TempDir(), "trust.p12")
		for _, args := range [][]string{
			{"-importcert", "-noprompt", "-alias", "token-proxy", "-file", output, "-keystore", store, "-storepass", "changeit"},
			{"-list", "-alias", "token-proxy", "-keystore", store, "-storepass", "changeit"},
		} {
			out, err := exec.Command("keytool", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if args[0] != "-list" {
				continue
			}
			fingerprint := sha256.Sum256(root.Raw)
			if !strings.Contains(strings.ReplaceAll(string(out), ":", ""), strings.ToUpper(hex.EncodeToString(fingerprint[:]))) {
				t.Errorf("the store has another certificate: %s", out)
			}
		}
	})
}

// TestTrustBundleKeepsTheRoot makes a second bundle. It has the same root, also if SSL_CERT_FILE names the first one.
func TestTrustBundleKeepsTheRoot(t *testing.T) {
	storage, output := t.TempDir(), filepath.Join(t.TempDir(), "bundle.pem")
	systemAuthorities(t)
	config := writeConfig(t, "Caddyfile", "{\n storage file_system "+storage+"\n}\n")
	var bundles [2]string
	for i := range bundles {
		if out, err := runCommand(registeredCommand("trust-bundle"), "--config", config, "-o", output); err != nil {
			t.Fatal(err, out)
		}
		bundles[i] = readExample(t, output)
	}
	if bundles[0] != bundles[1] {
		t.Error("the second bundle differs")
	}
	// Without --output, the command prints the bundle and nothing else.
	out, err := runCommand(registeredCommand("trust-bundle"), "--config", config)
	if err != nil || out != bundles[0] {
		t.Errorf("%v: it prints %d bytes, want %d", err, len(out), len(bundles[0]))
	}
	// When the root is replaced, the old one is gone from the next bundle.
	t.Setenv("SSL_CERT_FILE", output)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	if err := os.RemoveAll(filepath.Join(storage, "pki")); err != nil {
		t.Fatal(err)
	}
	old := certificatesIn(t, []byte(bundles[0]))[0]
	if out, err := runCommand(registeredCommand("trust-bundle"), "--config", config, "-o", output); err != nil {
		t.Fatal(err, out)
	}
	for i, cert := range certificatesIn(t, []byte(readExample(t, output))) {
		if cert.Equal(old) {
			t.Errorf("certificate %d is the old root", i)
		}
	}
}

// TestTrustBundleOfOtherAuthorities takes the authorities that the configuration uses, and creates no other.
func TestTrustBundleOfOtherAuthorities(t *testing.T) {
	storage := t.TempDir()
	systemAuthorities(t)
	out, err := runCommand(registeredCommand("trust-bundle"), "--config", writeConfig(t, "Caddyfile", `{
		storage file_system `+storage+`
		pki {
			ca shop {
				root_cn "Shop Root"
			}
			ca unused
		}
	}
	https://a.test {
		tls {
			issuer internal {
				ca shop
			}
		}
	}
	`))
	if err != nil {
		t.Fatal(err)
	}
	if found := certificatesIn(t, []byte(out)); len(found) != 3 || found[0].Subject.CommonName != "Shop Root" {
		t.Errorf("the bundle has %d certificates, the first of %v", len(found), found[0].Subject)
	}
	if _, err := os.Stat(filepath.Join(storage, "pki/authorities/local")); err == nil {
		t.Error("it has created Caddy's default authority, which the configuration does not use")
	}
}

func TestTrustBundleFailures(t *testing.T) {
	config := writeConfig(t, "Caddyfile", "{\n storage file_system "+t.TempDir()+"\n}\n")
	t.Setenv("SSL_CERT_FILE", "/nowhere.pem")
	_, err := runCommand(registeredCommand("trust-bundle"), "--config", config)
	wantError(t, err, "the authorities of the system", "SSL_CERT_FILE", "/nowhere.pem")
	t.Setenv("SSL_CERT_FILE", "")
	_, err = runCommand(registeredCommand("trust-bundle"), "--config", config, "--output", "/nowhere/bundle.pem")
	wantError(t, err, "/nowhere")
	_, err = runCommand(registeredCommand("trust-bundle"), "--config", writeConfig(t, "Caddyfile", "nonsense {"))
	wantError(t, err, "syntax error")
	file := writeConfig(t, "file", "")
	_, err = runCommand(registeredCommand("trust-bundle"), "--config", writeConfig(t, "Caddyfile", "{\n storage file_system "+file+"\n}\n"))
	wantError(t, err, "Caddy's own authority")
}

// requireProgram skips a test whose program is missing.
func requireProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("SKIPPED: %s is not installed", name)
	}
}

// TestTrustBundleIsQuiet runs the command by itself, because the log of Caddy is global. It prints the file and nothing else.
func TestTrustBundleIsQuiet(t *testing.T) {
	systemAuthorities(t)
	stdout, stderr, status := runBinary(t, "trust-bundle", "--config", writeConfig(t, "Caddyfile", "{\n\tadmin off\n}\n"))
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("status %d, stderr %q, stdout %.100q", status, stderr, stdout)
	}
}
