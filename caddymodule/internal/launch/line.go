package launch

import (
	"bufio"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"net"
	"time"
)

// The line between exec and the sidecar works on every platform, as that of `caddy start` does. The standard input of the
// sidecar is a pipe. It begins with a password. When the pipe ends, the sidecar ends. Once the sidecar has its tokens, it
// sends the password to a listener of exec on loopback. The password keeps other programs from doing so.

// lineTimeout limits the time to pass the password on.
const lineTimeout = 5 * time.Second

// Parent is exec, as the sidecar sees it.
type Parent struct {
	in       *bufio.Reader
	address  string
	password string
}

// Attach returns the parent that listens at the address. in is the standard input of the sidecar.
func Attach(in io.Reader, address string) (*Parent, error) {
	p := &Parent{in: bufio.NewReader(in), address: address}
	var err error
	if p.password, err = p.in.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("reading from exec: %w", err)
	}
	return p, nil
}

// Ready reports to the parent that the sidecar is ready.
func (p *Parent) Ready() error {
	conn, err := net.DialTimeout("tcp", p.address, lineTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, p.password)
	return err
}

// Wait returns when the parent has closed the line or has ended.
func (p *Parent) Wait() { _, _ = io.Copy(io.Discard, p.in) }

// readiness is the other end of the line.
type readiness struct {
	listener net.Listener
	password string
	ready    chan struct{} // gets a value when the sidecar is ready
}

func newReadiness() (*readiness, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		if l, err = net.Listen("tcp", "[::1]:0"); err != nil {
			return nil, err
		}
	}
	r := &readiness{listener: l, password: rand.Text() + "\n", ready: make(chan struct{}, 1)}
	go r.listen()
	return r, nil
}

func (r *readiness) listen() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		go r.hear(conn)
	}
}

func (r *readiness) hear(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(lineTimeout))
	heard := make([]byte, len(r.password))
	if _, err := io.ReadFull(conn, heard); err != nil || subtle.ConstantTimeCompare(heard, []byte(r.password)) == 0 {
		return // not the sidecar
	}
	select {
	case r.ready <- struct{}{}:
	default: // known already
	}
}

func (r *readiness) close() { _ = r.listener.Close() }
