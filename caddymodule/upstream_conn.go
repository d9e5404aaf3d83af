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

// slowStart is the number of bytes of a body that are sent in pieces of chunkSize.
const slowStart = 64 << 10

// ReadFrom implements io.ReaderFrom, with which net/http sends bodies over HTTP/1.1. io.Copy would hold a buffer of 32 KiB while
// the client sends the body, which is more than the rest of the request takes. Only a large body gets that buffer, after its
// first slowStart bytes.
func (c *upstreamConn) ReadFrom(r io.Reader) (int64, error) {
	writer := struct{ io.Writer }{c}
	buffer := chunks.Get().(*chunk)
	n, err := io.CopyBuffer(writer, io.LimitReader(r, slowStart), buffer[:])
	chunks.Put(buffer)
	if err != nil || n < slowStart {
		return n, err
	}
	rest, err := io.Copy(writer, r)
	return n + rest, err
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
