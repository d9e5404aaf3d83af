package caddymodule

import (
	"bytes"
	"io"
	"log"
	"sync"
)

// standardLogFilter removes from Go's standard log what net/http quotes from connections to upstreams. Caddy copies the lines
// of that log to its own log.
type standardLogFilter struct {
	next io.Writer
}

// quotations are the beginnings of the quotations in net/http's lines that can contain a token. They quote bytes that an
// upstream has sent without a request and, with GODEBUG=http2debug=1, the header fields of requests to it.
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

// guardStandardLog installs the filter, unless it is in place. Caddy can replace the output whenever it loads a configuration,
// even one that then fails to load.
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

// standardLogGuarded reports whether the filter is in place.
func standardLogGuarded() bool {
	_, guarded := log.Writer().(standardLogFilter)
	return guarded
}
