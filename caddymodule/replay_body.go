package caddymodule

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
)

// replayBody lets a request body be sent more than once. It keeps the bytes that have been read, up to a limit. The next
// attempt gets those bytes first, and then the rest as it comes from the client.
//
// The transport of an attempt may still be reading when the next attempt begins, because an API can answer 401 before it has
// all of the body. The bytes of such a late read belong to the next attempt, and the earlier attempt gets an error.
type replayBody struct {
	source  io.ReadCloser
	trailer http.Header // filled in by source when it ends
	names   http.Header // the trailer before that, which has the names only
	limit   int

	mu       sync.Mutex
	arrived  sync.Cond
	attempt  *bodyAttempt // the attempt that may read
	initial  bodyAttempt
	kept     keptBytes // what the next attempt begins with
	reading  bool      // source.Read is running
	lost     bool      // more has been sent than could be kept
	end      error     // what source ended with
	closed   bool      // the transport of the attempt is done with the body
	settled  bool      // no further attempt will follow
	released bool      // source is closed
	over     bool      // the request has ended
	held     bool      // whether another attempt follows is not known yet
}

// newReplayBody returns nil for a request without a body, and its methods accept nil. Reading the body to its end fills in
// the request's trailer.
func newReplayBody(req *http.Request, limit int) *replayBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &replayBody{source: req.Body, trailer: req.Trailer, limit: limit}
	if len(req.Trailer) > 0 {
		b.names = maps.Clone(req.Trailer)
	}
	b.arrived.L = &b.mu
	return b
}

// first returns the body for the first attempt.
func (b *replayBody) first() io.ReadCloser {
	if b == nil {
		return nil
	}
	b.initial = bodyAttempt{body: b, trailer: b.announced()}
	b.attempt = &b.initial
	return b.attempt
}

// hold reports whether the body could be sent again now. If so, the attempt reads no more than can be kept until again or finish
// is called. Without that, the body would be lost while the request waits for another token.
func (b *replayBody) hold() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = b.intact()
	return b.held
}

// whole reports whether all of the body has been read from the source, or that the request has none.
func (b *replayBody) whole() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end == io.EOF
}

// resume ends what hold began.
func (b *replayBody) resume() {
	b.held = false
	b.arrived.Broadcast()
}

// intact reports whether nothing is lost that the next attempt needs.
func (b *replayBody) intact() bool {
	return !b.lost && !b.settled && (b.end == nil || b.end == io.EOF)
}

// again takes the body from the attempt before and returns it for the next attempt, if nothing of it is lost.
func (b *replayBody) again() (io.ReadCloser, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next(b.announced())
}

// rewind is again in the form of Request.GetBody. net/http sends the same request once more, so the attempt uses the same map
// for the trailer. That is safe, because net/http waits until the attempt before is done with both.
func (b *replayBody) rewind() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.next(b.attempt.trailer)
	if !ok {
		return nil, errNotKept
	}
	return body, nil
}

// announced returns a trailer of its own for an attempt. It is nil only if that of the request is nil.
func (b *replayBody) announced() http.Header {
	if b.names == nil && b.trailer != nil {
		return make(http.Header)
	}
	return maps.Clone(b.names)
}

var errNotKept = errors.New("the request cannot be sent again: its body is not kept")

func (b *replayBody) next(trailer http.Header) (io.ReadCloser, bool) {
	if !b.intact() {
		return nil, false
	}
	b.attempt = &bodyAttempt{body: b, trailer: trailer}
	b.closed = false
	b.resume()
	return b.attempt, true
}

// finish announces that no further attempt will follow. From then on, kept bytes are freed as soon as they have been read, and
// closing the body closes its source.
func (b *replayBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled = true
	b.release()
	b.resume()
}

// discard frees the memory at the end of the request. It does so even if the transport is not done with the body, because
// such a transport could hold the memory for ever.
func (b *replayBody) discard() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled, b.over = true, true
	b.kept.free()
	b.resume()
}

// release frees the kept bytes once they have been read. It closes the source once no attempt needs it and no read of it is
// running.
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
	trailer http.Header // its own, because its transport may read it while the read of another attempt fills in the trailer
	pos     int         // how much of the body it has read
}

// errAttemptOver ends the reads of an attempt that a later attempt has replaced, or whose request has ended.
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
		case b.reading: // for an earlier attempt; the bytes will be for this one
			b.arrived.Wait()
		case !b.held:
			return a.readSource(p)
		case b.kept.end < b.limit && replayMemory.hasRoom():
			return a.readSource(p[:min(len(p), b.limit-b.kept.end)])
		default:
			b.arrived.Wait()
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

// keep keeps bytes that have been read from the source. Those of a late read go beyond all limits, because the current attempt has
// not seen them. Those of a read that was running when the hold began go beyond the limit of the body.
func (b *replayBody) keep(p []byte, late bool) {
	switch {
	case b.over:
	case late:
		b.kept.append(p)
	case b.settled || b.lost: // no other attempt needs them
		b.kept.skip(p)
	case b.kept.end+len(p) > b.limit && !b.held || !b.kept.tryAppend(p):
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
		b.arrived.Broadcast()
	}
	return nil
}

const (
	defaultReplayBuffer = 64 << 10
	maxReplayBuffer     = 64 << 20 // of memory, for each request in flight
)
