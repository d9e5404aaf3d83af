package redis

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
)

// authority issues certificates for loopback.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := new(authority)
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true}
	var err error
	a.pem, _, a.key = a.issue(t, template)
	block, _ := pem.Decode([]byte(a.pem))
	if a.certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

// leaf returns a certificate for loopback and its key, in PEM.
func (a *authority) leaf(t *testing.T) (certificate, key string) {
	t.Helper()
	certificate, key, _ = a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"redis.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	return certificate, key
}

func (a *authority) issue(t *testing.T, template *x509.Certificate) (certificate, private string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.certificate != nil {
		parent, signer = a.certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), key
}

// startTLS starts a server with a certificate of an authority.
func startTLS(t *testing.T, a *authority, options ...string) *redistest.Server {
	t.Helper()
	certificate, key := a.leaf(t)
	ca, _ := file(t, a.pem)
	certificateFile, _ := file(t, certificate)
	keyFile, _ := file(t, key)
	return redistest.StartTLS(t, ca, certificateFile, keyFile, options...)
}

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	server := startTLS(t, a, "--tls-auth-clients no")
	exercise(t, open(t, at(server.Addr).with("tls", options{"ca": a.pem})))
	exercise(t, open(t, at(server.Addr).with("tls", options{"ca": a.pem, "server_name": "redis.internal"})))

	for text, tls := range map[string]options{
		"unknown authority": {},
		"other.internal":    {"ca": a.pem, "server_name": "other.internal"},
		"signed by unknown": {"ca": newAuthority(t).pem, "server_name": "redis.internal"},
	} {
		_, err := open(t, at(server.Addr).with("password", password).with("tls", tls)).Load(within(t), name)
		wantError(t, err, text)
	}
	_, err := open(t, at(server.Addr).with("password", password)).Load(within(t), name) // in the clear
	wantError(t, err)

	plain := redistest.Start(t)
	_, err = open(t, at(plain.Addr).with("tls", options{"ca": a.pem})).Load(within(t), name)
	wantError(t, err)
}

// Unlike a connection in the clear, one with TLS shows its end only to the call that uses it.
func TestServerWithTLSIsKilled(t *testing.T) {
	a := newAuthority(t)
	server := startTLS(t, a, "--tls-auth-clients no")
	e := open(t, at(server.Addr).with("tls", options{"ca": a.pem}))
	exercise(t, e)
	server.Kill()
	server.Restart()
	load(t, e, "")
	exercise(t, e)
}

// Certificates are read again for each connection.
func TestCertificatesAreReplaced(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	server := startTLS(t, a, "--tls-auth-clients yes")
	certificate, key := other.leaf(t)
	caPath, ca := file(t, other.pem)
	certificatePath, certificatePlaceholder := file(t, certificate)
	keyPath, keyPlaceholder := file(t, key)
	e := open(t, at(server.Addr).with("tls", options{
		"ca": ca, "client_certificate": certificatePlaceholder, "client_certificate_key": keyPlaceholder,
	}))

	_, err := e.Load(within(t), name)
	wantError(t, err, "unknown authority")
	write(t, caPath, a.pem)
	_, err = e.Load(within(t), name)
	wantError(t, err) // the server does not know the client's authority

	certificate, key = a.leaf(t)
	write(t, certificatePath, certificate)
	_, err = e.Load(within(t), name)
	wantError(t, err, "client_certificate and client_certificate_key") // while only one of the two is new
	write(t, keyPath, key)
	exercise(t, e)
}

// A handshake that does not end takes no longer than the call.
func TestHandshakeHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := open(t, at(l.Addr().String()).with("tls", options{}))
	began := time.Now()
	_, err = e.Load(within(t), name)
	wantError(t, err, "deadline")
	if took := time.Since(began); took >= callTimeout {
		t.Errorf("a call of 300 ms took %s", took)
	}
}
