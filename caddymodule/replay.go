package caddymodule

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
)

// replayBody lets a request body be sent twice. It keeps what has been read of it, up to a limit; the second attempt
// gets that first and then the rest, as it comes from the client.
//
// The first attempt's transport may still be reading when the second begins, since an API can answer 401 before it
// has all of the body. What such a late read brings belongs to the second attempt; the first gets an error.
type replayBody struct {
	source  io.ReadCloser
	trailer http.Header // filled in by source when it ends
	names   http.Header // the trailer before that
	limit   int
	size    int64 // of the body, as far as it is known

	mu       sync.Mutex
	arrived  sync.Cond
	attempt  *bodyAttempt // the one that may read
	second   bool
	reading  bool   // source.Read is running
	kept     []byte // what the second attempt begins with
	lost     bool   // more has been sent than is kept
	end      error  // what source ended with
	closed   bool   // the transport is done with the body
	settled  bool   // there will be no further attempt
	released bool   // source is closed
}

// newReplayBody returns nil if there is no body: its methods then say so. Reading the body to its end fills in the
// request's trailer.
func newReplayBody(req *http.Request, limit int) *replayBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &replayBody{source: req.Body, trailer: req.Trailer, names: maps.Clone(req.Trailer), limit: limit, size: req.ContentLength}
	b.arrived.L = &b.mu
	return b
}

// first returns the body for the first attempt.
func (b *replayBody) first() io.ReadCloser {
	if b == nil {
		return nil
	}
	b.attempt = &bodyAttempt{body: b, trailer: maps.Clone(b.names)}
	return b.attempt
}

// replayable reports whether the body could be sent again now.
func (b *replayBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.intact()
}

func (b *replayBody) intact() bool { return !b.lost && (b.end == nil || b.end == io.EOF) }

// again takes the body from the first attempt and returns it for the second, if it is still whole.
func (b *replayBody) again() (io.ReadCloser, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.intact() {
		return nil, false
	}
	b.attempt = &bodyAttempt{body: b, trailer: maps.Clone(b.names)}
	b.second = true
	b.closed = false
	return b.attempt, true
}

// finish says that there will be no further attempt: closing the body closes its source from now on.
func (b *replayBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
	b.release()
}

// release closes the source as soon as nobody needs it and nobody is reading from it, which only one may do.
func (b *replayBody) release() {
	if b.settled && b.closed && !b.reading && !b.released {
		b.released = true
		_ = b.source.Close()
	}
}

// bodyAttempt is the body as one attempt sees it.
type bodyAttempt struct {
	body    *replayBody
	trailer http.Header // its own, since its transport may read it while another attempt's read fills it in
	pos     int         // in body.kept
}

// errAttemptOver ends the reading of an attempt that does not count any more.
var errAttemptOver = errors.New("the request is being sent again")

// Read implements io.Reader.
func (a *bodyAttempt) Read(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.attempt != a:
			return 0, errAttemptOver
		case b.closed:
			return 0, http.ErrBodyReadAfterClose
		case a.pos < len(b.kept):
			n := copy(p, b.kept[a.pos:])
			a.pos += n
			return n, nil
		case b.end != nil:
			maps.Copy(a.trailer, b.trailer)
			return 0, b.end
		case b.reading: // on behalf of the first attempt; what it brings is ours
			b.arrived.Wait()
		default:
			return a.readSource(p)
		}
	}
}

// readSource reads from the client, with b.mu released while it waits.
func (a *bodyAttempt) readSource(p []byte) (int, error) {
	b := a.body
	b.reading = true
	b.mu.Unlock()
	n, err := b.source.Read(p)
	b.mu.Lock()
	b.reading = false
	b.end = err
	late := b.attempt != a
	b.keep(p[:n], late)
	b.arrived.Broadcast()
	b.release()
	if late {
		return 0, errAttemptOver
	}
	if err != nil {
		maps.Copy(a.trailer, b.trailer)
	}
	if !b.second && !b.lost {
		a.pos = len(b.kept)
	}
	return n, err
}

// keep remembers what has been read from the source. What the second attempt reads itself need not be kept.
func (b *replayBody) keep(p []byte, late bool) {
	switch {
	case late:
		b.kept = append(b.kept, p...)
	case b.second || b.lost:
	case len(b.kept)+len(p) > b.limit:
		b.lost, b.kept = true, nil
	default:
		if b.kept == nil { // a body that comes piece by piece does not grow so, unless it only claims to be large
			b.kept = make([]byte, 0, min(max(0, b.size), int64(b.limit), defaultReplayBuffer))
		}
		b.kept = append(b.kept, p...)
	}
}

// Close implements io.Closer. The source stays open while the body may be needed again.
func (a *bodyAttempt) Close() error {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attempt == a {
		b.closed = true
		b.release()
	}
	return nil
}
