package redis

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"syscall"
)

const (
	// maxText bounds a text in an answer, in bytes.
	maxText = 1 << 20

	// maxValues bounds the values in one answer. The largest answer lists the slots of a cluster.
	maxValues = 64 << 10

	// maxAnswer bounds one answer as a whole, in bytes: many texts, or a line that does not end.
	maxAnswer = 2 << 20
)

var errTooLarge = errors.New("the answer is too large")

// bounded is a connection that ends when an answer announces or brings too much. go-redis allocates what is announced before
// it comes, so one line, such as "$1099511627776", would end the process. What comes, it keeps until the answer is complete.
type bounded struct {
	net.Conn
	answer scanner
}

// bound returns a bounded connection. Of one in the clear, go-redis can see before a call whether the server has ended it.
func bound(conn net.Conn) net.Conn {
	b := &bounded{Conn: conn}
	if raw, ok := conn.(syscall.Conn); ok {
		return struct {
			*bounded
			syscall.Conn
		}{b, raw}
	}
	return b
}

// Read implements net.Conn.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if !b.answer.accepts(p[:n]) {
		return 0, errTooLarge
	}
	return n, err
}

// scanner follows the answers of a server (RESP2 and RESP3) as far as their sizes go.
type scanner struct {
	line   []byte // what has come of a line
	text   int    // bytes to come of a text, with the end of its line
	values int    // values to come of the answer
	all    int    // values that the answer has announced
	bytes  int    // of the answer, with those that are to come of a text
}

// accepts takes a piece of the stream.
func (s *scanner) accepts(p []byte) bool {
	for len(p) > 0 {
		if s.text > 0 {
			n := min(s.text, len(p))
			s.text -= n
			p = p[n:]
			continue
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.keep(p)
			return s.bytes <= maxAnswer
		}
		s.keep(p[:end])
		p = p[end+1:]
		if !s.acceptsLine() || s.bytes > maxAnswer {
			return false
		}
		if s.values == 0 { // the answer ends here, or with the text
			s.bytes = 0
		}
		s.line = s.line[:0]
	}
	return true
}

// keep keeps as much of a line as a size can have.
func (s *scanner) keep(p []byte) {
	const enough = 32
	s.bytes += len(p)
	s.line = append(s.line, p[:min(len(p), enough-len(s.line))]...)
}

func (s *scanner) acceptsLine() bool {
	if s.values == 0 {
		s.values, s.all = 1, 1
	}
	s.values--
	line := bytes.TrimRight(s.line, "\r")
	if len(line) == 0 {
		return true
	}
	switch line[0] {
	case '$', '=', '!':
		n, ok := size(line[1:], maxText)
		if n >= 0 {
			s.text = n + len("\r\n")
			s.bytes += s.text
		}
		return ok
	case '*', '~', '>':
		n, ok := size(line[1:], maxValues)
		return ok && s.announce(n)
	case '%', '|':
		n, ok := size(line[1:], maxValues)
		return ok && s.announce(2*n)
	}
	return true
}

func (s *scanner) announce(n int) bool {
	n = max(n, 0)
	s.values += n
	s.all += n
	return s.all <= maxValues
}

// size reads a size, which is -1 for no value at all.
func size(text []byte, most int) (int, bool) {
	n, err := strconv.Atoi(string(text))
	return n, err == nil && n >= -1 && n <= most
}
