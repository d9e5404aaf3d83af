package oauth

import (
	"bytes"
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

// authority is a certificate authority whose certificates contain the canary.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	return newNamedAuthority(t, "")
}

// newNamedAuthority returns an authority with a name of its own.
func newNamedAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.certificate, a.key = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name},
		IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
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
	if template.Subject.CommonName == "" {
		template.Subject = pkix.Name{CommonName: canary + " name", Organization: []string{canary + " organization"}}
	}
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

// serve starts a TLS server. change may modify the template of its certificate and its configuration. serve counts the
// requests that arrive.
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

// The client sends the secret only to a server with a valid certificate for the host.
func TestClientTLS(t *testing.T) {
	trusted, unknown := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(trusted.certificate)
	c := NewClient(Options{})
	if config := c.transport.TLSClientConfig; config.RootCAs != nil || config.InsecureSkipVerify {
		t.Error("the client does not trust exactly the authorities of the system")
	}
	c.transport.TLSClientConfig.RootCAs = roots

	for name, tc := range map[string]struct {
		authority *authority
		change    func(*x509.Certificate, *tls.Config)
		want      string // in the reason; empty for success
	}{
		"good":    {trusted, func(*x509.Certificate, *tls.Config) {}, ""},
		"TLS 1.2": {trusted, func(_ *x509.Certificate, config *tls.Config) { config.MaxVersion = tls.VersionTLS12 }, ""},
		"TLS 1.1": {trusted, func(_ *x509.Certificate, config *tls.Config) {
			config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, "supports no version of TLS from 1.2 on"},
		"untrusted": {unknown, func(*x509.Certificate, *tls.Config) {}, "not trusted"},
		"expired": {trusted, func(c *x509.Certificate, _ *tls.Config) {
			c.NotAfter = time.Now().Add(-time.Minute)
		}, "expired"},
		"for another host": {trusted, func(c *x509.Certificate, _ *tls.Config) {
			c.IPAddresses, c.DNSNames = nil, []string{canary + ".example"}
		}, "another host"},
		"for a client": {trusted, func(c *x509.Certificate, _ *tls.Config) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, "not one for servers"},
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

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// RootCAs replaces the authorities of the system, and ServerName replaces the host of the URL.
func TestClientTLSOptions(t *testing.T) {
	trusted, unknown := newAuthority(t), newAuthority(t)
	named := func(c *x509.Certificate, _ *tls.Config) { c.IPAddresses, c.DNSNames = nil, []string{"login.example"} }
	unnamed := func(*x509.Certificate, *tls.Config) {}
	for name, tc := range map[string]struct {
		authority *authority
		change    func(*x509.Certificate, *tls.Config)
		options   Options
		want      string // in the reason; empty for success
	}{
		"an authority":                     {trusted, unnamed, Options{RootCAs: trusted.pool()}, ""},
		"another authority":                {unknown, unnamed, Options{RootCAs: trusted.pool()}, "not trusted"},
		"no authority":                     {trusted, unnamed, Options{RootCAs: x509.NewCertPool()}, "not trusted"},
		"the system's":                     {trusted, unnamed, Options{}, "not trusted"},
		"a name":                           {trusted, named, Options{RootCAs: trusted.pool(), ServerName: "login.example"}, ""},
		"another name":                     {trusted, named, Options{RootCAs: trusted.pool(), ServerName: "c4n4ry.example"}, "another host"},
		"a name, but not the URL's":        {trusted, named, Options{RootCAs: trusted.pool()}, "another host"},
		"the URL's, but not the name":      {trusted, unnamed, Options{RootCAs: trusted.pool(), ServerName: "login.example"}, "another host"},
		"a name of an authority not known": {unknown, named, Options{RootCAs: trusted.pool(), ServerName: "login.example"}, "not trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			base, requests := tc.authority.serve(tc.change)
			a, err := post(t.Context(), NewClient(tc.options), base)
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
}

// The client presents its certificate to a server that requests one (RFC 8705 section 2). It ignores which authorities the
// server names. A server cannot name the authority of a self-signed certificate and often does not name that of others.
func TestClientCertificate(t *testing.T) {
	server, issuing, other := newAuthority(t), newNamedAuthority(t, "the issuing one"), newNamedAuthority(t, "the other one")
	leaf, key := issuing.issue(&x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	issued := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	selfSigned := &tls.Certificate{Certificate: [][]byte{other.certificate.Raw}, PrivateKey: other.key}

	for name, tc := range map[string]struct {
		shown *tls.Certificate
		auth  tls.ClientAuthType
		names *authority // the authority that the server names
		want  int        // the number of certificates that the server sees; -1: the server ends the connection
	}{
		"requested and verified":       {issued, tls.RequireAndVerifyClientCert, issuing, 1},
		"requested":                    {issued, tls.RequestClientCert, issuing, 1},
		"requested, of any authority":  {issued, tls.RequireAnyClientCert, nil, 1},
		"requested, of another":        {issued, tls.RequireAnyClientCert, other, 1},
		"self-signed":                  {selfSigned, tls.RequireAnyClientCert, issuing, 1},
		"self-signed, requested":       {selfSigned, tls.RequestClientCert, issuing, 1},
		"self-signed and not verified": {selfSigned, tls.RequireAndVerifyClientCert, issuing, -1},
		"not requested":                {issued, tls.NoClientCert, nil, 0},
		"none, but requested":          {nil, tls.RequestClientCert, issuing, 0},
		"none, but required":           {nil, tls.RequireAnyClientCert, issuing, -1},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+", "+tls.VersionName(version), func(t *testing.T) {
				var seen atomic.Pointer[[]*x509.Certificate]
				base, requests := server.serve(func(_ *x509.Certificate, config *tls.Config) {
					config.MaxVersion = version
					config.ClientAuth = tc.auth
					if tc.names != nil {
						config.ClientCAs = tc.names.pool()
					}
					config.VerifyConnection = func(state tls.ConnectionState) error {
						seen.Store(&state.PeerCertificates)
						return nil
					}
				})
				_, err := post(t.Context(), NewClient(Options{RootCAs: server.pool(), Certificate: tc.shown}), base)
				if tc.want < 0 {
					wantError(t, err, token.Unavailable)
					if n := requests.Load(); n != 0 {
						t.Errorf("%d requests reached the server", n)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				certificates := *seen.Load()
				if len(certificates) != tc.want {
					t.Fatalf("the server saw %d certificates, want %d", len(certificates), tc.want)
				}
				if tc.want == 1 && !bytes.Equal(certificates[0].Raw, tc.shown.Certificate[0]) {
					t.Error("the server saw another certificate")
				}
			})
		}
	}
}
