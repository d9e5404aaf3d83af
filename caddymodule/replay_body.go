package caddymodule

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
)

// replayBody lets a request body be sent more than once. It keeps what has been read of it, up to a limit; the next
// attempt gets that first and then the rest, as it comes from the client.
//
// An attempt's transport may still be reading when the next one begins, since an API can answer 401 before it has all
// of the body. What such a late read brings belongs to the next attempt; the earlier one gets an error.
type replayBody struct {
	source  io.ReadCloser
	trailer http.Header // filled in by source when it ends
	names   http.Header // the trailer before that
	limit   int

	mu       sync.Mutex
	arrived  sync.Cond
	attempt  *bodyAttempt // the one that may read
	initial  bodyAttempt
	kept     keptBytes // what the next attempt begins with
	reading  bool      // source.Read is running
	lost     bool      // more has been sent than is kept
	end      error     // what source ended with
	closed   bool      // the transport is done with the body
	settled  bool      // there will be no further attempt
	released bool      // source is closed
	over     bool      // the request has ended
}

// newReplayBody returns nil if there is no body: its methods then say so. Reading the body to its end fills in the
// request's trailer.
func newReplayBody(req *http.Request, limit int) *replayBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &replayBody{source: req.Body, trailer: req.Trailer, names: maps.Clone(req.Trailer), limit: limit}
	b.arrived.L = &b.mu
	return b
}

// first returns the body for the first attempt.
func (b *replayBody) first() io.ReadCloser {
	if b == nil {
		return nil
	}
	b.initial = bodyAttempt{body: b, trailer: maps.Clone(b.names)}
	b.attempt = &b.initial
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

func (b *replayBody) intact() bool {
	return !b.lost && !b.settled && (b.end == nil || b.end == io.EOF)
}

// again takes the body from the attempt before and returns it for the next one, if it is still whole.
func (b *replayBody) again() (io.ReadCloser, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next(maps.Clone(b.names))
}

// rewind is again for net/http, as Request.GetBody. The request stays the same, and with it the map for its trailer:
// net/http waits until the attempt before is done with both.
func (b *replayBody) rewind() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.next(b.attempt.trailer)
	if !ok {
		return nil, errNotKept
	}
	return body, nil
}

var errNotKept = errors.New("the request cannot be sent again: its body is not kept")

func (b *replayBody) next(trailer http.Header) (io.ReadCloser, bool) {
	if !b.intact() {
		return nil, false
	}
	b.attempt = &bodyAttempt{body: b, trailer: trailer}
	b.closed = false
	return b.attempt, true
}

// finish says that there will be no further attempt: what is kept goes as soon as it has been read, and closing the body
// closes its source from now on.
func (b *replayBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
	b.release()
}

// discard gives back the memory at the end of the request. Its transport should be done with the body by then, but one
// that is not must not hold it for ever.
func (b *replayBody) discard() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled, b.over = true, true
	b.kept.free()
}

// release lets go of what is kept once it has been read, and closes the source as soon as nobody needs it and nobody is
// reading from it, which only one may do.
func (b *replayBody) release() {
	if !b.settled {
		return
	}
	if b.closed || b.attempt.pos == b.kept.end {
		b.kept.free()
	}
	if b.closed && !b.reading && !b.released {
		b.released = true
		_ = b.source.Close()
	}
}

// bodyAttempt is the body as one attempt sees it.
type bodyAttempt struct {
	body    *replayBody
	trailer http.Header // its own, since its transport may read it while another attempt's read fills it in
	pos     int         // how much of the body it has read
}

// errAttemptOver ends the reading of an attempt that does not count any more.
var errAttemptOver = errors.New("the request is being sent again, or has ended")

// Read implements io.Reader.
func (a *bodyAttempt) Read(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.attempt != a || b.over:
			return 0, errAttemptOver
		case b.closed:
			return 0, http.ErrBodyReadAfterClose
		case a.pos < b.kept.end:
			n := b.kept.copyFrom(a.pos, p)
			a.pos += n
			b.release()
			return n, nil
		case b.end != nil:
			maps.Copy(a.trailer, b.trailer)
			return 0, b.end
		case b.reading: // on behalf of an earlier attempt; what it brings is ours
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
	if late {
		b.release()
		return 0, errAttemptOver
	}
	if err != nil {
		maps.Copy(a.trailer, b.trailer)
	}
	a.pos += n
	b.release()
	return n, err
}

// keep remembers what has been read from the source. What a late read has brought must be kept, whatever it takes: the
// attempt that counts has not seen it.
func (b *replayBody) keep(p []byte, late bool) {
	switch {
	case b.over:
	case late:
		b.kept.append(p)
	case b.settled || b.lost: // no other attempt wants it
		b.kept.skip(p)
	case b.kept.end+len(p) > b.limit || !b.kept.tryAppend(p):
		b.lost = true
		b.kept.free()
		b.kept.skip(p)
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

const (
	defaultReplayBuffer = 64 << 10
	maxReplayBuffer     = 64 << 20 // of memory, for each request in flight
)
