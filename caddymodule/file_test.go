//go:build unix

package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/option"
)

// Each option that names a file refuses what is not one, while the configuration is loaded, and at once.
func TestEveryFileOptionRefusesAFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	caddytest.MakeFIFO(t, fifo)
	oauth2 := func(options string) string {
		return `{"provider": {"name": "oauth2", "token_url": "https://as.example/token", ` + options + `}, "client_id": "id"}`
	}
	const optoro = `"provider": {"name": "optoro"}, `
	made := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	key, certificate := caddytest.SecretFile(t, made.key), caddytest.SecretFile(t, made.certificate)
	for name, config := range map[string]string{
		"client_id":             `{` + optoro + `"client_id": "{file.PATH}", "client_secret": "s"}`,
		"client_secret":         `{` + optoro + `"client_id": "id", "client_secret": "{file.PATH}"}`,
		"ca":                    `{` + optoro + `"client_id": "id", "client_secret": "s", "transport": {"ca": "{file.PATH}"}}`,
		"proxy":                 `{` + optoro + `"client_id": "id", "client_secret": "s", "transport": {"proxy": "{file.PATH}"}}`,
		"api_hosts":             `{` + optoro + `"client_id": "id", "client_secret": "s", "api_hosts": ["{file.PATH}"]}`,
		"api_hosts, in part":    `{` + optoro + `"client_id": "id", "client_secret": "s", "api_hosts": ["{file.PATH}:443"]}`,
		"token_url":             `{"provider": {"name": "optoro", "token_url": "{file.PATH}"}, "client_id": "id", "client_secret": "s"}`,
		"issuer":                `{"provider": {"name": "oauth2", "issuer": "{file.PATH}"}, "client_id": "id", "client_secret": "s"}`,
		"scope":                 oauth2(`"client_auth": "none", "scope": ["{file.PATH}"]`),
		"resource":              oauth2(`"client_auth": "none", "resource": ["{file.PATH}"]`),
		"param":                 oauth2(`"client_auth": "none", "params": {"a": "{file.PATH}"}`),
		"param, in part":        oauth2(`"client_auth": "none", "params": {"a": "x{file.PATH}"}`),
		"header":                oauth2(`"client_auth": "none", "headers": {"a": "{file.PATH}"}`),
		"header, in part":       oauth2(`"client_auth": "none", "headers": {"a": "x{file.PATH}"}`),
		"signing_key":           oauth2(`"client_auth": "private_key_jwt", "signing_key": "{file.PATH}"`),
		"client_assertion_file": oauth2(`"client_auth": "private_key_jwt", "client_assertion_file": "PATH"`),
		"client_certificate": oauth2(`"client_auth": "tls_client_auth", "client_certificate": "{file.PATH}",
			"client_certificate_key": "` + key + `"`),
		"client_certificate_key": oauth2(`"client_auth": "tls_client_auth", "client_certificate": "` + certificate + `",
			"client_certificate_key": "{file.PATH}"`),
	} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			_, err := tryProvisionCredential(t, strings.ReplaceAll(config, "PATH", fifo))
			of, _, _ := strings.Cut(name, ",")
			if err == nil || !strings.Contains(err.Error(), of) || !strings.Contains(err.Error(), fifo+" is not a regular file") {
				t.Errorf("got error %v", err)
			}
			if d := time.Since(started); d > option.FileTimeout/2 {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// A FIFO in the place of a secret does not hold Caddy's configuration lock: what runs goes on, and the next
// configuration can be loaded.
func TestLoadWithAFIFO(t *testing.T) {
	tokens := newTokenServer(t)
	api := serveHTTP(t, tokens.api()).URL
	addr := freeAddr(t)
	config := func(secret string) string {
		return globalOptions(fmt.Sprintf("credential api {\n provider optoro {\n token_url %s\n }\n client_id %s\n client_secret %s\n}\n",
			tokens.url, tokens.ClientID, secret)) + siteConfig(addr, "token_proxy api "+api)
	}
	s := startCaddy(t, config(devserver.DefaultClientSecret))
	get(t, "http://"+addr).wantStatus(t, 200)
	for what, name := range caddytest.IrregularFiles(t) {
		started := time.Now()
		err := s.load(config("{file." + name + "}"))
		if err == nil || !strings.Contains(err.Error(), "client_secret") || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: got error %v", what, err)
		}
		if d := time.Since(started); d > option.FileTimeout {
			t.Errorf("%s: the load took %s", what, d)
		}
		get(t, "http://"+addr).wantStatus(t, 200)
	}
	if err := s.load(config(caddytest.SecretFile(t, devserver.DefaultClientSecret))); err != nil {
		t.Error(err)
	}
	get(t, "http://"+addr).wantStatus(t, 200)
}

// A secret that becomes a FIFO, or anything else without an end, is a failure like that of a missing one: told at once,
// and over as soon as the file is repaired, without a reload.
func TestSecretBecomesIrregular(t *testing.T) {
	for what, irregular := range caddytest.IrregularFiles(t) {
		t.Run(what, func(t *testing.T) {
			tokens := newTokenServer(t)
			file := secretFiles[1].create(t.TempDir()) // renamed onto, since who writes into a FIFO waits for a reader
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
			s.secret = "{file." + file.path + "}"
			s.start(t)
			if err := os.Remove(file.path); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(irregular, file.path); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				started := time.Now()
				get(t, s.url()).wantProblem(t, 502, "proxy_configuration_error")
				if d := time.Since(started); d > option.FileTimeout {
					t.Errorf("a request waited %s", d)
				}
			}
			if n := tokens.Calls(); n != 0 {
				t.Errorf("%d token calls without a secret", n)
			}
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			eventually(t, "to be served", func() bool { return get(t, s.url()).StatusCode == 200 })
			if d := time.Since(back); d > time.Second {
				t.Errorf("served %s after the file was repaired", d)
			}
		})
	}
}
