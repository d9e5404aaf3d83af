package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// TestExecWaitsForTheCertificates holds the certificate of one site back, as a slow machine does. Caddy serves meanwhile.
// A certificate that another authority issues does not count, nor does one that a handshake asks for.
func TestExecWaitsForTheCertificates(t *testing.T) {
	caddytest.SkipRaceOfCertificates(t)
	if apart.Run(t) {
		return
	}
	storage := t.TempDir()
	lock := filepath.Join(storage, "locks", "issue_cert_api.example.com.lock")
	if err := os.Mkdir(filepath.Dir(lock), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, lock, `{"updated":"2999-01-01T00:00:00Z"}`)
	addr := freeAddr(t)
	site := func(name, directives string) string {
		port := ":" + portNumber(addr)
		return "https://" + strings.ReplaceAll(name, ", ", port+", https://") + port + " {\n bind 127.0.0.1\n" + directives + "\n}\n"
	}
	caddytest.Start(t, "{\n auto_https disable_redirects\n skip_install_trust\n storage file_system "+storage+"\n}\n"+
		site("api.example.com, *.wild.example.com, localhost", "tls internal")+
		site("public.example.com", "tls {\n issuer acme {\n dir https://127.0.0.1:1/directory\n}\n}")+
		site("later.example.com", "tls internal {\n on_demand\n}"))
	eventually(t, "the other certificate", func() bool {
		found, _ := filepath.Glob(filepath.Join(storage, "certificates", "local", "localhost", "*.crt"))
		return len(found) == 1
	})
	if allCertified(caddy.ActiveContext()) {
		t.Error("exec does not wait for the certificate")
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all certificates", func() bool { return allCertified(caddy.ActiveContext()) })
}

// TestExecWithoutCertificates does not wait for a certificate of a site without TLS.
func TestExecWithoutCertificates(t *testing.T) {
	caddytest.SkipRaceOfCertificates(t)
	caddytest.Start(t, "{\n auto_https disable_redirects\n skip_install_trust\n storage file_system "+t.TempDir()+"\n}\n"+
		"http://plain.localhost:"+portNumber(freeAddr(t))+" {\n bind 127.0.0.1\n}\n"+
		"https://localhost:"+portNumber(freeAddr(t))+" {\n bind 127.0.0.1\n}\n")
	eventually(t, "all certificates", func() bool { return allCertified(caddy.ActiveContext()) })
}
