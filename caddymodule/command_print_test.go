package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
)

// disguised clears the screen in three ways, forges a line, and writes from right to left.
const disguised = "\x1b[2J\u009b2J\x7f\n✓ forged\u202e\U000e0041"

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "plain": "plain", `a "b" 'c' \d é 日本 ✗`: `a "b" 'c' \d é 日本 ✗`,
		disguised: `\u001b[2J\u009b2J\u007f\u000a✓ forged\u202e\udb40\udc41`,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	var out strings.Builder
	if err := printJSON(&out, map[string]string{"text": disguised}); err != nil {
		t.Fatal(err)
	}
	wantNoControl(t, out.String())
	var read map[string]string
	if err := json.Unmarshal([]byte(out.String()), &read); err != nil || read["text"] != disguised {
		t.Errorf("%s is read as %q, %v", out.String(), read["text"], err)
	}
}

// wantNoControl fails the test if an output has characters that control a terminal.
func wantNoControl(t *testing.T, out string) {
	t.Helper()
	for _, r := range out {
		if r != '\n' && !unicode.IsGraphic(r) {
			t.Fatalf("the output has %U: %q", r, out)
		}
	}
}

// The certificate of an API holds names that its operator has chosen.
func TestCheckAPIPrintsNoControlCharacters(t *testing.T) {
	const name = "a\x1b[2J\x7f\n- forged.example"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewUnstartedServer(http.NotFoundHandler())
	api.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	api.StartTLS()
	defer api.Close()
	url := strings.Replace(api.URL, "127.0.0.1", "localhost", 1)

	config := writeConfig(t, "Caddyfile", globalOptions(newTokenServer(t).credential("good")))
	for _, args := range [][]string{nil, {"--json"}} {
		out, err := runCommand(checkCommand(), append(args, "--config", config, "--api", url)...)
		if err != nil {
			t.Fatal(err)
		}
		wantText(t, out, "forged.example", `\u001b`)
		wantNoControl(t, out)
	}
}

// An upstream can have a host that the client has chosen.
func TestListPrintsNoControlCharacters(t *testing.T) {
	tokens := newTokenServer(t)
	name, addr := newClientID(), freeAddr(t)
	s := startOperated(t, globalOptions(tokens.credential(name, "api_hosts api.example"))+
		fmt.Sprintf("http://%s {\n token_proxy %s {http.request.uri.query.host}:80\n}\n", addr, name), nil)
	res, err := http.Get("http://" + addr + "/?host=%1bc%7f.example")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	for _, args := range [][]string{nil, {"--json"}} {
		out, err := runCommand(listCommand(), append(args, "--address", s.admin)...)
		if err != nil {
			t.Fatal(err)
		}
		wantText(t, out, "api_hosts", `\u001b`)
		wantNoControl(t, out)
	}
}
