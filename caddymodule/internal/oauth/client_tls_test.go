package oauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// authority is a certificate authority whose certificates are full of canaries.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.certificate, a.key = a.issue(&x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	return a
}

func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.Subject = pkix.Name{CommonName: canary + " name", Organization: []string{canary + " organization"}}
	parent, signer := template, key
	if a.certificate != nil {
		parent, signer = a.certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return certificate, key
}

// serve starts a TLS server with a certificate that change has had a hand in. It counts the requests that arrive.
func (a *authority) serve(change func(*x509.Certificate, *tls.Config)) (base string, requests *atomic.Int32) {
	a.t.Helper()
	config := new(tls.Config)
	template := &x509.Certificate{
		NotBefore:   time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(template, config)
	certificate, key := a.issue(template)
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}}
	requests = new(atomic.Int32)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.WriteString(w, goodAnswer)
	}))
	srv.TLS = config
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	a.t.Cleanup(srv.Close)
	return srv.URL, requests
}

// The secret goes to nobody who cannot prove to be the endpoint (OPT-07).
func TestClientTLS(t *testing.T) {
	trusted, unknown := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(trusted.certificate)
	c := NewClient()
	if config := c.transport.TLSClientConfig; config.RootCAs != nil || config.InsecureSkipVerify {
		t.Error("the client does not trust exactly what the system trusts")
	}
	c.transport.TLSClientConfig.RootCAs = roots

	for name, tc := range map[string]struct {
		authority *authority
		change    func(*x509.Certificate, *tls.Config)
		want      string // in the reason; empty: it works
	}{
		"good":    {trusted, func(*x509.Certificate, *tls.Config) {}, ""},
		"TLS 1.2": {trusted, func(_ *x509.Certificate, config *tls.Config) { config.MaxVersion = tls.VersionTLS12 }, ""},
		"TLS 1.1": {trusted, func(_ *x509.Certificate, config *tls.Config) {
			config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, "the exchange failed"},
		"untrusted": {unknown, func(*x509.Certificate, *tls.Config) {}, "not trusted"},
		"expired": {trusted, func(c *x509.Certificate, _ *tls.Config) {
			c.NotAfter = time.Now().Add(-time.Minute)
		}, "expired"},
		"for another host": {trusted, func(c *x509.Certificate, _ *tls.Config) {
			c.IPAddresses, c.DNSNames = nil, []string{canary + ".example"}
		}, "another host"},
		"for a client": {trusted, func(c *x509.Certificate, _ *tls.Config) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, "not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			base, requests := tc.authority.serve(tc.change)
			a, err := post(t.Context(), c, base)
			if tc.want == "" {
				if err != nil || string(a.Body) != goodAnswer {
					t.Errorf("got %+v, %v", a, err)
				}
				return
			}
			if e := wantError(t, err, token.Unavailable); !strings.Contains(e.Reason, tc.want) {
				t.Errorf("got reason %q, want one with %q", e.Reason, tc.want)
			}
			if n := requests.Load(); n != 0 {
				t.Errorf("%d requests reached the server", n)
			}
		})
	}

	t.Run("none", func(t *testing.T) {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			t.Error("a request arrived in the clear")
		}))
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.Start()
		defer srv.Close()
		_, err := post(t.Context(), c, strings.Replace(srv.URL, "http:", "https:", 1))
		if e := wantError(t, err, token.Unavailable); !strings.Contains(e.Reason, "TLS") {
			t.Errorf("got reason %q", e.Reason)
		}
	})
}
