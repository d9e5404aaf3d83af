package caddymodule

import (
	"bytes"
	"io"
	"log"
	"sync"
)

// standardLogFilter keeps out of Go's standard log what net/http quotes of connections to upstreams. Caddy hands the lines
// of that log on to its own.
type standardLogFilter struct {
	next io.Writer
}

// quotations are the beginnings of lines of net/http in which a token can be: bytes that an upstream has sent without
// being asked, and, with GODEBUG=http2debug=1, the header fields that it was sent.
var quotations = [][]byte{
	[]byte("Unsolicited response received on idle HTTP channel"),
	[]byte("http2: Transport encoding header"),
}

// Write implements io.Writer. Package log calls it once for each line.
func (f standardLogFilter) Write(line []byte) (int, error) {
	for _, quotation := range quotations {
		if i := bytes.Index(line, quotation); i >= 0 {
			kept := bytes.Clone(line[:i+len(quotation)])
			if _, err := f.next.Write(append(kept, "; it is not shown, because a token may be in it\n"...)); err != nil {
				return 0, err
			}
			return len(line), nil
		}
	}
	return f.next.Write(line)
}

var standardLogMu sync.Mutex

// guardStandardLog puts the filter into place. Caddy can set the output anew whenever it loads a configuration, also one
// that it then refuses.
func guardStandardLog() {
	if standardLogGuarded() {
		return
	}
	standardLogMu.Lock()
	defer standardLogMu.Unlock()
	if !standardLogGuarded() {
		log.SetOutput(standardLogFilter{log.Writer()})
	}
}

func standardLogGuarded() bool {
	_, guarded := log.Writer().(standardLogFilter)
	return guarded
}
