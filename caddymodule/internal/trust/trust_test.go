package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// newAuthority returns the certificate of an authority with this name.
func newAuthority(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func wantNames(t *testing.T, certificates []*x509.Certificate, names ...string) {
	t.Helper()
	if len(certificates) != len(names) {
		t.Errorf("got %d certificates, want %q", len(certificates), names)
		return
	}
	for i, cert := range certificates {
		if cert.Subject.CommonName != names[i] {
			t.Errorf("certificate %d is %q, want %q", i, cert.Subject.CommonName, names[i])
		}
	}
}

// TestBundle checks the order, and that each certificate is there once.
func TestBundle(t *testing.T) {
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	wantNames(t, parse(Bundle(a, b, a)), "a", "b")
}

// TestParse skips what is no certificate of an authority.
func TestParse(t *testing.T) {
	good := newAuthority(t, "good")
	var content bytes.Buffer
	content.WriteString("# a comment\r\n")
	for _, block := range []*pem.Block{
		{Type: "PRIVATE KEY", Bytes: good.Raw},
		{Type: "TRUSTED CERTIFICATE", Bytes: good.Raw},
		{Type: certificateBlock, Bytes: good.Raw, Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}},
		{Type: certificateBlock, Bytes: []byte("no certificate")},
		{Type: certificateBlock, Bytes: good.Raw},
	} {
		if err := pem.Encode(&content, block); err != nil {
			t.Fatal(err)
		}
	}
	content.WriteString("garbage\n")
	wantNames(t, parse(content.Bytes()), "good")
}

func TestBuiltIn(t *testing.T) {
	if found := builtIn(); len(found.Certificates) < 50 {
		t.Errorf("found %d authorities", len(found.Certificates))
	}
}

// TestWriteFile replaces a file without a moment in which it is incomplete, and leaves nothing else behind.
func TestWriteFile(t *testing.T) {
	folder := t.TempDir()
	name := filepath.Join(folder, "bundle.pem")
	for _, content := range []string{"one", "another"} {
		if err := WriteFile(name, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != content {
			t.Errorf("it holds %q, %v", got, err)
		}
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
	if err := WriteFile(filepath.Join(folder, "missing", "bundle.pem"), nil); err == nil {
		t.Error("it writes into a folder that does not exist")
	}
	// A failure leaves nothing behind. A folder cannot be replaced by a file.
	taken := filepath.Join(folder, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(taken, []byte("x")); err == nil {
		t.Error("it replaces a folder")
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 2 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
}
