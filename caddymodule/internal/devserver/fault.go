package devserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Garbage names an answer that is not a valid token response.
type Garbage string

// The kinds of garbage. All but GarbageRedirect have status 200. The kinds from GarbageTruncated on spoil the answer to
// a good request. They leave the answer to a bad request as it is.
const (
	GarbageHTML     Garbage = "html"     // a login page, as from a proxy on the way
	GarbageEmpty    Garbage = "empty"    // no body
	GarbageNotJSON  Garbage = "not_json" // a body that is not JSON, with the content type of JSON
	GarbageRedirect Garbage = "redirect" // 307 to Fault.RedirectTo

	GarbageTruncated    Garbage = "truncated"     // the first half of the JSON
	GarbageNoToken      Garbage = "no_token"      // no access_token
	GarbageHuge         Garbage = "huge"          // 10 MiB
	GarbageBomb         Garbage = "bomb"          // gzip that inflates to 10 MiB
	GarbageDrip         Garbage = "drip"          // one byte a second
	GarbageControlChars Garbage = "control_chars" // a token with a line break, which would split a header
	GarbageWrongType    Garbage = "wrong_type"    // token_type "mac"
)

var garbageKinds = []Garbage{
	GarbageHTML, GarbageEmpty, GarbageNotJSON, GarbageRedirect, GarbageTruncated, GarbageNoToken, GarbageHuge,
	GarbageBomb, GarbageDrip, GarbageControlChars, GarbageWrongType,
}

// ExpiresInMissing is the Fault.ExpiresIn that leaves the field out.
const ExpiresInMissing = "missing"

const hugeSize = 10 << 20

// Fault is a misbehaviour of a TokenEndpoint. The zero Fault is none. Status and Error may go together. They exclude
// Hang, Reset, Garbage and ExpiresIn, which also exclude each other. Latency goes with any of them, or alone.
type Fault struct {
	// Status is the status to answer with, 200 to 599. The body is that of the service for this status. Default: none.
	Status int
	// Error is the OAuth error code to answer with. Without Status, the status is 401 for invalid_client and 400 for any
	// other code. Default: none.
	Error string
	// RetryAfter is the header Retry-After that goes with Status or Error, in seconds or as an HTTP date. Default: none.
	RetryAfter string
	// Latency is how long to wait before anything else. Default: 0.
	Latency time.Duration
	// Hang sends no answer and waits until the client closes the connection.
	Hang bool
	// Reset closes the connection without an answer, over TCP with a reset.
	Reset bool
	// Garbage is the invalid answer to send. Default: none.
	Garbage Garbage
	// RedirectTo is the target of GarbageRedirect, which requires it.
	RedirectTo string
	// ExpiresIn is the JSON to send as expires_in, such as 0, "3600", 1e20 or null, or ExpiresInMissing. Default: the
	// real value.
	ExpiresIn string
	// Count is how many of the next calls the fault hits. Default: 0, all calls.
	Count int
}

var errorCode = regexp.MustCompile(`^[a-z_]+$`)

// Validate returns an error that names the first wrong field, as the Caddyfile calls it.
func (f Fault) Validate() error {
	answers := f.Status != 0 || f.Error != ""
	switch {
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status %d: must be 200 to 599", f.Status)
	case f.Error != "" && !errorCode.MatchString(f.Error):
		return fmt.Errorf("error %q: must be an OAuth error code", f.Error)
	case f.RetryAfter != "" && !answers:
		return errors.New("retry_after: needs status or error")
	case f.RetryAfter != "" && !validRetryAfter(f.RetryAfter):
		return fmt.Errorf("retry_after %q: must be seconds or an HTTP date", f.RetryAfter)
	case f.Latency < 0:
		return fmt.Errorf("latency %s: must not be negative", f.Latency)
	case f.Garbage != "" && !slices.Contains(garbageKinds, f.Garbage):
		return fmt.Errorf("garbage %q: must be one of %s", f.Garbage, garbageKinds)
	case (f.Garbage == GarbageRedirect) != (f.RedirectTo != ""):
		return fmt.Errorf("garbage: %s needs a target, and no other kind has a target", GarbageRedirect)
	case f.ExpiresIn != "" && f.ExpiresIn != ExpiresInMissing && !json.Valid([]byte(f.ExpiresIn)):
		return fmt.Errorf("expires_in %q: must be JSON or %s", f.ExpiresIn, ExpiresInMissing)
	case f.Count < 0:
		return fmt.Errorf("count %d: must not be negative", f.Count)
	case f == Fault{Count: f.Count} && f.Count > 0:
		return errors.New("count: needs a fault")
	}
	outcomes := 0
	for _, set := range []bool{answers, f.Hang, f.Reset, f.Garbage != "", f.ExpiresIn != ""} {
		if set {
			outcomes++
		}
	}
	if outcomes > 1 {
		return errors.New("status or error, hang, reset, garbage and expires_in contradict each other")
	}
	return nil
}

// validRetryAfter follows RFC 9110, section 10.2.3.
func validRetryAfter(s string) bool {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return true
	}
	_, err := http.ParseTime(s)
	return err == nil
}

// strike applies a fault that does not depend on the request, and reports whether the request is finished. refuse is
// that of the dialect.
func (f Fault) strike(w http.ResponseWriter, r *http.Request, refuse func(status int, code string) answer) bool {
	if !pause(r.Context(), f.Latency) {
		return true
	}
	switch {
	case f.Hang:
		<-r.Context().Done()
	case f.Reset:
		reset(w)
	case f.Status != 0 || f.Error != "":
		a := refuse(f.status(), f.Error)
		if f.RetryAfter != "" {
			a.header["Retry-After"] = f.RetryAfter
		}
		a.write(w)
	case f.Garbage == GarbageHTML:
		answer{http.StatusOK, map[string]string{"Content-Type": typeHTML},
			[]byte("<!doctype html><title>Sign in</title><form method=post><input name=user></form>\n")}.write(w)
	case f.Garbage == GarbageEmpty:
		empty(http.StatusOK, typeJSON).write(w)
	case f.Garbage == GarbageNotJSON:
		answer{http.StatusOK, map[string]string{"Content-Type": typeJSON}, []byte("access_token=none\n")}.write(w)
	case f.Garbage == GarbageRedirect:
		answer{http.StatusTemporaryRedirect, map[string]string{"Location": f.RedirectTo}, nil}.write(w)
	default:
		return false
	}
	return true
}

func (f Fault) status() int {
	switch {
	case f.Status != 0:
		return f.Status
	case f.Error == "invalid_client":
		return http.StatusUnauthorized
	}
	return http.StatusBadRequest
}

// send writes a good answer, and spoils its bytes if the fault is of that kind.
func (f Fault) send(w http.ResponseWriter, r *http.Request, a answer) {
	switch f.Garbage {
	case GarbageTruncated:
		a.body = a.body[:len(a.body)/2]
	case GarbageHuge:
		a.body = inflate(a.body)
	case GarbageBomb:
		a.body = compress(inflate(a.body))
		a.header["Content-Encoding"] = "gzip"
	case GarbageDrip:
		drip(w, r, a)
		return
	}
	a.write(w)
}

// inflate returns a huge object. It is valid JSON, so that the client can reject it for its size only.
func inflate(object []byte) []byte {
	head := append(bytes.TrimSuffix(object, []byte("}")), `,"padding":"`...)
	return append(append(head, bytes.Repeat([]byte("x"), hugeSize)...), `"}`...)
}

func compress(body []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(body) // a bytes.Buffer returns no error
	_ = z.Close()
	return out.Bytes()
}

// drip writes one byte a second. Each byte resets an idle timeout. Only a deadline for the whole answer ends it.
func drip(w http.ResponseWriter, r *http.Request, a answer) {
	body := a.body
	a.body = nil
	a.write(w)
	for i := range body {
		if i > 0 && !pause(r.Context(), time.Second) {
			return
		}
		_, _ = w.Write(body[i : i+1])
		_ = http.NewResponseController(w).Flush()
	}
}

// reset closes the connection with a TCP reset. It aborts a request whose connection cannot be hijacked, as in HTTP/2.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		raw = wrapped.NetConn()
	}
	if tcp, ok := raw.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = raw.Close()
}

// pause waits for d and reports whether the client is still connected.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
