package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
)

// connection is the client side of one HTTP/1.1 connection. The client of net/http would use more CPU than the proxies
// that it measures.
type connection struct {
	net.Conn
	answer *bufio.Reader
	forget func() bool // stops the wait for the end of the context
}

// dial opens a connection, which closes at the end of ctx at the latest.
func dial(ctx context.Context, addr string) (*connection, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &connection{
		Conn:   c,
		answer: bufio.NewReader(c),
		forget: context.AfterFunc(ctx, func() { _ = c.Close() }),
	}, nil
}

// requestFor returns the bytes of a request: a GET, or a POST if it has a body.
func requestFor(addr, path string, body int) []byte {
	method, length := http.MethodGet, ""
	if body > 0 {
		method, length = http.MethodPost, fmt.Sprintf("Content-Length: %d\r\n", body)
	}
	request := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: token-proxy-bench\r\nAccept: application/json\r\n%s\r\n", method, path, addr, length)
	return append(request, bytes.Repeat([]byte("x"), body)...)
}

func (c *connection) close() {
	c.forget()
	_ = c.Close()
}

// send sends a request, and reads the whole answer.
func (c *connection) send(request []byte) error {
	res, err := c.open(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// open sends a request, and reads the header of the answer.
func (c *connection) open(request []byte) (*http.Response, error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(c.answer, nil)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return res, err
}
