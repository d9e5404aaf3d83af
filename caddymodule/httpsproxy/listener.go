package httpsproxy

import (
	"io"
	"net"
	"sync"
	"time"
)

// settleTime is the age at which a connection that has not sent its first request is closed when the listener has closed.
// net/http has the same limit for the new connections of a server that shuts down.
const settleTime = 5 * time.Second

// recordTypeHandshake is the first byte of TLS, RFC 8446 section 5.1. No HTTP request begins with it.
const recordTypeHandshake = 22

// listener finds out what each connection of the listener below carries. Accept returns those with TLS for a site. The others
// go to plain. A connection is pending until that is decided. After Close, Accept still returns what was pending, because the
// client of such a connection may already have the answer to its CONNECT. Caddy's server waits for that when it shuts down.
type listener struct {
	net.Listener
	plain         *queue
	headerTimeout time.Duration

	accepted chan acceptance
	closing  chan struct{}
	drained  chan struct{} // closed when the listener is closed and nothing is pending

	mu      sync.Mutex // guards what follows
	pending map[*conn]bool
	closed  bool
	looping bool // run has not returned
}

type acceptance struct {
	conn net.Conn
	err  error
}

func newListener(below net.Listener, headerTimeout time.Duration) *listener {
	return &listener{
		Listener:      below,
		plain:         newQueue(below.Addr()),
		headerTimeout: headerTimeout,
		accepted:      make(chan acceptance),
		closing:       make(chan struct{}),
		drained:       make(chan struct{}),
		pending:       make(map[*conn]bool),
		looping:       true,
	}
}

// run accepts connections until the listener is closed. It hands errors to Accept, because net/http knows which of them are
// temporary, and waits until Accept takes them.
func (l *listener) run() {
	defer l.loopEnds()
	for {
		below, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.accepted <- acceptance{err: err}:
				continue
			case <-l.closing:
				return
			}
		}
		c := &conn{Conn: below, listener: l}
		if !l.begin(c) {
			_ = c.Close()
			continue
		}
		go l.sniff(c)
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
	if first[0] == recordTypeHandshake {
		l.deliver(c)
		return
	}
	l.plain.deliver(c)
}

// deliver hands a connection with TLS to Accept.
func (l *listener) deliver(c *conn) {
	select {
	case l.accepted <- acceptance{conn: c}:
		l.settle(c)
	case <-l.drained:
		_ = c.Close()
	}
}

// begin makes a connection pending. It reports false if the listener accepts no more.
func (l *listener) begin(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed && !l.pending[c] {
		return false
	}
	c.since = time.Now()
	l.pending[c] = true
	return true
}

// settle ends the pending of a connection.
func (l *listener) settle(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[c] {
		delete(l.pending, c)
		l.checkDrained()
	}
}

func (l *listener) loopEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looping = false
	l.checkDrained()
}

// checkDrained closes drained once, because after that nothing becomes pending.
func (l *listener) checkDrained() {
	if l.closed && !l.looping && len(l.pending) == 0 {
		close(l.drained)
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.drained:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It returns at once, and pending connections have until settleTime.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.closing)
	for c := range l.pending {
		time.AfterFunc(time.Until(c.since.Add(settleTime)), c.closeUnsettled)
	}
	return l.Listener.Close()
}

// conn is a connection of a listener. It knows what was read of it ahead.
type conn struct {
	net.Conn
	listener *listener
	since    time.Time // when it became pending; the listener's mu guards it
	unread   []byte
}

// connKey is the context key of the *conn of a request to the proxy.
type connKey struct{}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		if c.unread = c.unread[n:]; len(c.unread) == 0 {
			c.unread = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.listener.settle(c)
	return c.Conn.Close()
}

// closeUnsettled closes a connection that is still pending.
func (c *conn) closeUnsettled() {
	c.listener.mu.Lock()
	pending := c.listener.pending[c]
	c.listener.mu.Unlock()
	if pending {
		_ = c.Close()
	}
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

func (q *queue) deliver(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.closed:
		_ = c.Close()
	}
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
