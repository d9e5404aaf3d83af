package caddymodule

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// lastWords is the limit for how long a failed write waits for an answer that may have arrived before the failure.
const lastWords = 500 * time.Millisecond

// wrapConnections puts an upstreamConn around each connection of a transport.
func wrapConnections(transport http.RoundTripper) {
	t, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok || t.Transport.DialContext == nil {
		return
	}
	dial := t.Transport.DialContext
	t.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &upstreamConn{Conn: conn, ended: make(chan struct{})}, nil
	}
}

// upstreamConn is a connection whose failed writes wait for the end of its reads. A write fails because the upstream has closed
// the connection, perhaps after it answered without reading all of the request. net/http takes the answer or the error,
// whichever it sees first. If it sees the error first, it closes the connection and loses the answer. But when the write fails,
// everything that the upstream sent has arrived. It can still be read, and the end of the stream follows at once.
type upstreamConn struct {
	net.Conn
	once  sync.Once
	ended chan struct{} // closed when nothing more can be read
}

// Read implements net.Conn.
func (c *upstreamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.end()
	}
	if n > 0 { // net/http may log the bytes
		guardStandardLog()
	}
	return n, err
}

// Write implements net.Conn.
func (c *upstreamConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !isTimeout(err) {
		timer := time.NewTimer(lastWords)
		defer timer.Stop()
		select {
		case <-c.ended:
		case <-timer.C:
		}
	}
	return n, err
}

// largeBuffers is the pool of the buffers for bodies that arrive fast.
var largeBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadFrom implements io.ReaderFrom, with which net/http sends bodies over HTTP/1.1. io.Copy would hold a buffer of 32 KiB while
// the client sends the body, which is more than the rest of the request takes. Here, a body has such a buffer only while each read
// brings at least a chunk.
func (c *upstreamConn) ReadFrom(r io.Reader) (int64, error) {
	small := chunks.Get().(*chunk)
	defer chunks.Put(small)
	sent, n := int64(0), 0
	for {
		var err error
		if n < chunkSize {
			n, err = c.forward(r, small[:])
		} else {
			large := largeBuffers.Get().(*[32 << 10]byte)
			n, err = c.forward(r, large[:])
			largeBuffers.Put(large)
		}
		sent += int64(n)
		if err == io.EOF {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
}

// forward sends what one read of a body brings, and returns how much it has sent.
func (c *upstreamConn) forward(r io.Reader, buffer []byte) (int, error) {
	n, err := r.Read(buffer)
	if n == 0 {
		return 0, err
	}
	sent, failed := c.Write(buffer[:n])
	if failed != nil {
		return sent, failed
	}
	return n, err
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Close implements net.Conn.
func (c *upstreamConn) Close() error {
	c.end()
	return c.Conn.Close()
}

// CloseWrite closes one direction of an upgraded connection. reverse_proxy looks for this method.
func (c *upstreamConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return http.ErrNotSupported
}

// end records that nothing more can be read.
func (c *upstreamConn) end() { c.once.Do(func() { close(c.ended) }) }
