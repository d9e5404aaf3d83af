package httpsproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

// recordTypeHandshake is the first byte of TLS, RFC 8446 section 5.1. No HTTP request begins with it.
const recordTypeHandshake = 22

// listener finds out what each connection of the listener below carries. Accept returns those with TLS for a site. The others
// go to plain. A connection that is not decided when the listener closes goes to the listener of the new configuration. The
// server of the old one would drop its first request, because net/http does so during a shutdown.
type listener struct {
	net.Listener
	plain         *queue
	headerTimeout time.Duration
	status        ListenerStatus
	accepted      chan acceptance
	closed        chan struct{}
	close         func() error
}

type acceptance struct {
	conn net.Conn
	err  error
}

func newListener(below net.Listener, headerTimeout time.Duration) *listener {
	l := &listener{
		Listener:      below,
		plain:         newQueue(below.Addr()),
		headerTimeout: headerTimeout,
		accepted:      make(chan acceptance),
		closed:        make(chan struct{}),
	}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		return below.Close()
	})
	return l
}

// run accepts connections until the listener is closed. It hands errors to Accept, because net/http knows which of them are
// temporary, and waits until Accept takes them.
func (l *listener) run() {
	for {
		below, err := l.Listener.Accept()
		if err == nil {
			go l.sniff(&conn{Conn: below, listener: l})
			continue
		}
		select {
		case l.accepted <- acceptance{err: err}:
		case <-l.closed:
			return
		}
	}
}

// sniff waits for the first byte of a connection.
func (l *listener) sniff(c *conn) {
	var first [1]byte
	_ = c.SetReadDeadline(time.Now().Add(l.headerTimeout))
	if _, err := io.ReadFull(c.Conn, first[:]); err != nil {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	c.unread = []byte{first[0]}
	c.deliver(first[0] == recordTypeHandshake)
}

func (l *listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	if l.isClosed() {
		return nil, net.ErrClosed
	}
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error { return l.close() }

// conn is a connection of a listener. It knows what was read of it ahead.
type conn struct {
	net.Conn
	listener *listener
	unread   []byte
}

// connKey is the context key of the *conn of a request to the proxy.
type connKey struct{}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.unread) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.unread)
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		c.unread = nil
	}
	return n, nil
}

// CloseWrite ends the half that the proxy writes to. A wrapper below may have no such method, so the socket does it.
func (c *conn) CloseWrite() error {
	socket, ok := peer.Socket(c.Conn).(halfCloser)
	if !ok {
		return errors.ErrUnsupported
	}
	return socket.CloseWrite()
}

// halfCloser is a connection with two halves, such as *net.TCPConn.
type halfCloser interface{ CloseWrite() error }

// deliver hands the connection to the Accept of its listener if it carries TLS, or else to the proxy's own HTTP server.
func (c *conn) deliver(carriesTLS bool) {
	for !c.listener.isClosed() || c.handOver() {
		accepted, plain := c.listener.accepted, c.listener.plain.conns
		if carriesTLS {
			plain = nil
		} else {
			accepted = nil
		}
		select {
		case accepted <- acceptance{conn: c}:
			return
		case plain <- c:
			return
		case <-c.listener.closed:
		}
	}
}

// handOver gives the connection to the listener that has come into the place of its own. If none has, it closes the
// connection and reports false.
func (c *conn) handOver() bool {
	next := inForce.successor(c.listener)
	if next == nil {
		_ = c.Close()
		return false
	}
	c.listener = next
	return true
}

// queue is a net.Listener for connections that another listener has accepted.
type queue struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
	addr   net.Addr
}

func newQueue(addr net.Addr) *queue {
	q := &queue{conns: make(chan net.Conn), closed: make(chan struct{}), addr: addr}
	q.close = sync.OnceFunc(func() { close(q.closed) })
	return q
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }

// Close implements net.Listener.
func (q *queue) Close() error {
	q.close()
	return nil
}
