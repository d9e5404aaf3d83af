package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
)

// connection is the load generator's side of one HTTP/1.1 connection. net/http's client would take more of the machine
// than what it measures.
type connection struct {
	net.Conn
	request []byte
	answer  *bufio.Reader
	forget  func() bool
}

// dial opens a connection. It is closed when ctx ends, if not before.
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

// get sends the request, and reads the answer to its end.
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
