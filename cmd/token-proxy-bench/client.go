package main

import (
	"bufio"
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
	request []byte
	answer  *bufio.Reader
	forget  func() bool // stops the wait for the end of the context
}

// dial opens a connection, which closes at the end of ctx at the latest.
func dial(ctx context.Context, addr, path string) (*connection, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: token-proxy-bench\r\nAccept: application/json\r\n\r\n", path, addr)
	return &connection{
		Conn:    c,
		request: []byte(request),
		answer:  bufio.NewReader(c),
		forget:  context.AfterFunc(ctx, func() { _ = c.Close() }),
	}, nil
}

func (c *connection) close() {
	c.forget()
	_ = c.Close()
}

// get sends the request, and reads the whole answer.
func (c *connection) get() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	res, err := http.ReadResponse(c.answer, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}
