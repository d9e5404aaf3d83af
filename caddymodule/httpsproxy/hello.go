package httpsproxy

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
)

// alertUnrecognizedName is a TLS record with the fatal alert unrecognized_name, RFC 6066 section 3.
var alertUnrecognizedName = []byte{21, 3, 1, 0, 2, 2, 112}

var errHelloRead = errors.New("the ClientHello is read")

// peekServerName reads the ClientHello, and returns its SNI or "". It puts what it has read back. The parser is that of
// crypto/tls, which reads at most one handshake message of 64 KiB.
func (c *conn) peekServerName() (string, error) {
	var name string
	peeked := &peekedConn{Conn: c}
	err := tls.Server(peeked, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errHelloRead
		},
	}).Handshake()
	c.unread = append(peeked.read, c.unread...)
	if !errors.Is(err, errHelloRead) {
		return "", err
	}
	return name, nil
}

// peekedConn keeps what is read from a connection, and lets nothing be written to it.
type peekedConn struct {
	net.Conn
	read []byte
}

// Read implements net.Conn.
func (p *peekedConn) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.read = append(p.read, b[:n]...)
	return n, err
}

// Write implements net.Conn. It drops the alert that reports errHelloRead to the client.
func (*peekedConn) Write(b []byte) (int, error) { return len(b), nil }

// sameName reports whether two names in ASCII are the same host.
func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
