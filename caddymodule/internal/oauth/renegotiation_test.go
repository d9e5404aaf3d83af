package oauth

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// IIS asks for the client certificate in a second handshake, after it has read the request. crypto/tls cannot serve that, so
// openssl does.
func TestClientRenegotiation(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: renegotiation needs a server that starts it, and openssl is not installed")
	}
	client := newAuthority(t)
	shown := &tls.Certificate{Certificate: [][]byte{client.certificate.Raw}, PrivateKey: client.key}
	for name, tc := range map[string]struct {
		support    tls.RenegotiationSupport
		handshakes int // that the server starts
		shown      *tls.Certificate
		want       string // in the reason; "" for success
	}{
		"never, and the server starts none": {tls.RenegotiateNever, 0, nil, ""},
		"never":                             {tls.RenegotiateNever, 1, shown, "tls_renegotiation is never"},
		"once":                              {tls.RenegotiateOnceAsClient, 1, shown, ""},
		"once, without a certificate":       {tls.RenegotiateOnceAsClient, 1, nil, ""},
		"once, and the server starts none":  {tls.RenegotiateOnceAsClient, 0, shown, ""},
		"once, and the server starts two":   {tls.RenegotiateOnceAsClient, 2, shown, "tls_renegotiation is once"},
		"freely":                            {tls.RenegotiateFreelyAsClient, 1, shown, ""},
		"freely, twice":                     {tls.RenegotiateFreelyAsClient, 2, shown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := newAuthority(t)
			base, output := server.serveRenegotiation(openssl, client, tc.handshakes)
			c := NewClient(Options{RootCAs: server.pool(), Certificate: tc.shown, Renegotiation: tc.support})
			a, err := post(t.Context(), c, base)
			if tc.want != "" {
				if e := wantError(t, err, token.Unavailable); e.Cause != token.CauseRenegotiation || e.Peer != token.PeerEndpoint || !strings.Contains(e.Reason, tc.want) {
					t.Errorf("got %+v, want %q", e, tc.want)
				}
				return
			}
			if err != nil || a.Status != 200 {
				t.Fatalf("got %v, %v", a, err)
			}
			saw := strings.Contains(output(), "verify return:1")
			if want := tc.handshakes > 0 && tc.shown != nil; saw != want {
				t.Errorf("the server saw the client certificate: %t, want %t\n%s", saw, want, output())
			}
		})
	}
}

// serveRenegotiation serves one connection with openssl. Once the request is there, the server starts as many handshakes, in
// which it asks for a certificate of the client's authority, and then it answers. output returns what openssl reports.
func (a *authority) serveRenegotiation(openssl string, client *authority, handshakes int) (base string, output func() string) {
	a.t.Helper()
	certificate, key := a.issue(&x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	folder := a.t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			a.t.Fatal(err)
		}
		return path
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	// TLS 1.3 has no renegotiation
	server := exec.Command(openssl, "s_server", "-accept", addr, "-tls1_2", "-crlf", "-naccept", "1",
		"-cert", file("cert.pem", "CERTIFICATE", certificate.Raw), "-key", file("key.pem", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key))),
		"-CAfile", file("ca.pem", "CERTIFICATE", client.certificate.Raw))
	input := must(server.StdinPipe())
	reports := must(server.StdoutPipe())
	server.Stderr = server.Stdout
	if err := server.Start(); err != nil {
		a.t.Fatal(err)
	}
	var all strings.Builder
	listening, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		left := handshakes
		next := func() {
			if left--; left >= 0 {
				_, _ = io.WriteString(input, "R\n")
				return
			}
			_, _ = fmt.Fprintf(input, "HTTP/1.1 200 OK\nContent-Length: %d\nConnection: close\n\n%s\n", len(goodAnswer), goodAnswer)
		}
		for lines := newLines(reports); lines.Scan(); {
			line := lines.Text()
			all.WriteString(line + "\n")
			switch {
			case line == "ACCEPT":
				close(listening)
			case strings.HasPrefix(line, "client_secret="), strings.Contains(line, "SSL_do_handshake -> 1"):
				next()
			}
		}
	}()
	end := sync.OnceFunc(func() {
		_ = server.Process.Kill()
		<-ended
		_ = server.Wait()
	})
	a.t.Cleanup(end)
	select {
	case <-listening:
	case <-ended:
		a.t.Fatal("openssl does not listen: " + all.String())
	}
	return "https://" + addr, func() string {
		end()
		return all.String()
	}
}

// newLines scans the lines of openssl's reports. The body of a request has no end of a line: it counts as a line as soon as it
// is there.
func newLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if strings.HasPrefix(string(data), "client_secret="+canary) {
			return len("client_secret=" + canary), data[:len("client_secret="+canary)], nil
		}
		return bufio.ScanLines(data, atEOF)
	})
	return lines
}
