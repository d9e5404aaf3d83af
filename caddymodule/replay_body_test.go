package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// scriptedBody is a request body whose reads a test controls: each takes one chunk, and waits for it.
type scriptedBody struct {
	chunks  chan string
	end     error        // after the last chunk; default: io.EOF
	waiting atomic.Int64 // reads that are there
	reads   atomic.Int64 // reads that have been
	closed  atomic.Int64
}

func newScriptedBody(chunks ...string) *scriptedBody {
	b := &scriptedBody{chunks: make(chan string, len(chunks)), end: io.EOF}
	for _, c := range chunks {
		b.chunks <- c
	}
	return b
}

func (b *scriptedBody) Read(p []byte) (int, error) {
	if b.waiting.Add(1) > 1 {
		panic("two reads of a request body at the same time")
	}
	defer b.waiting.Add(-1)
	defer b.reads.Add(1)
	chunk, ok := <-b.chunks
	if !ok {
		return 0, b.end
	}
	return copy(p, chunk), nil
}

func (b *scriptedBody) Close() error {
	b.closed.Add(1)
	return nil
}

// unsized is a request with a body of unknown length.
func unsized(body io.ReadCloser) *http.Request { return &http.Request{Body: body, ContentLength: -1} }

// keptForTest is newReplayBody for a request that ends with the test.
func keptForTest(t *testing.T, req *http.Request, limit int) *replayBody {
	t.Helper()
	b := newReplayBody(req, limit)
	t.Cleanup(b.discard)
	return b
}

func readSome(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	p := make([]byte, n)
	n, err := io.ReadFull(r, p)
	if err != nil {
		t.Fatalf("reading: %q, %v", p[:n], err)
	}
	return string(p)
}

func wantAll(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Fatalf("got %d bytes %.60q, %v, want %d bytes %.60q", len(got), got, err, len(want), want)
	}
}

func TestReplayBodyIsWholeBothTimes(t *testing.T) {
	readers := map[string]func(io.Reader) io.Reader{
		"as it comes":                 func(r io.Reader) io.Reader { return r },
		"byte by byte":                iotest.OneByteReader,
		"in halves":                   iotest.HalfReader,
		"with the end at once":        iotest.DataErrReader,
		"with the end, byte by byte":  func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
		"with reads that bring none":  func(r io.Reader) io.Reader { return &stutteringReader{Reader: r} },
		"in reads larger than limits": func(r io.Reader) io.Reader { return bufio.NewReaderSize(r, 1<<10) },
	}
	const limit = 100
	for name, reader := range readers {
		for _, size := range []int{0, 1, limit - 1, limit, limit + 1, 3 * limit} {
			for _, firstTakes := range []int{0, 1, size / 2, limit, limit + 1, size} {
				if firstTakes > size {
					continue
				}
				t.Run(fmt.Sprintf("%s, %d of %d bytes", name, firstTakes, size), func(t *testing.T) {
					content := strings.Repeat("0123456789", size/10+1)[:size]
					source := &closeCounter{Reader: reader(strings.NewReader(content))}
					b := keptForTest(t, &http.Request{Body: source, ContentLength: int64(size)}, limit)
					first := b.first()
					if firstTakes == size {
						wantAll(t, first, content)
					} else if got := readSome(t, first, firstTakes); got != content[:firstTakes] {
						t.Fatalf("the first attempt got %q", got)
					}
					replayable := b.hold()
					second, ok := b.again()
					if ok != replayable {
						t.Errorf("replayable is %t, again %t", replayable, ok)
					}
					if ok != (firstTakes <= limit) {
						t.Fatalf("replayable is %t after %d bytes with a limit of %d", ok, firstTakes, limit)
					}
					if !ok {
						if firstTakes < size {
							wantAll(t, first, content[firstTakes:]) // the first attempt goes on as if nothing had been
						}
						return
					}
					wantAll(t, second, content)
					if n, err := second.Read(make([]byte, 1)); n != 0 || err != io.EOF {
						t.Errorf("a read after the end gave %d, %v", n, err)
					}
				})
			}
		}
	}
}

// stutteringReader returns nothing at every other read, as io.Reader may.
type stutteringReader struct {
	io.Reader
	stutter bool
}

func (s *stutteringReader) Read(p []byte) (int, error) {
	if s.stutter = !s.stutter; s.stutter {
		return 0, nil
	}
	return s.Reader.Read(p)
}

func TestReplayBodyWithoutABody(t *testing.T) {
	for name, source := range map[string]io.ReadCloser{"nil": nil, "NoBody": http.NoBody} {
		b := keptForTest(t, unsized(source), 0)
		if b != nil || b.first() != nil || !b.hold() {
			t.Errorf("%s: it is not taken for no body", name)
		}
		if again, ok := b.again(); again != nil || !ok {
			t.Errorf("%s: again gave %v, %t", name, again, ok)
		}
		b.finish()
	}
}

// With a limit of 0, a body that nobody has begun to read can still be sent.
func TestReplayBodyWithLimitZero(t *testing.T) {
	b := keptForTest(t, unsized(newClosedBody("hello")), 0)
	b.first()
	again, ok := b.again()
	if !ok {
		t.Fatal("an untouched body cannot be sent")
	}
	wantAll(t, again, "hello")

	b = keptForTest(t, unsized(newClosedBody("hello")), 0)
	readSome(t, b.first(), 5)
	if _, ok := b.again(); ok || b.hold() {
		t.Error("a body that has been begun counts as whole")
	}
}

// newClosedBody is a scriptedBody that gives these chunks and then ends.
func newClosedBody(chunks ...string) *scriptedBody {
	b := newScriptedBody(chunks...)
	close(b.chunks)
	return b
}

// The first attempt's transport may wait for the client when the second begins. What comes then is the second's.
func TestReplayBodyGivesLateReadsToTheSecondAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newScriptedBody()
		b := keptForTest(t, unsized(source), 10)
		first := b.first()
		early := make(chan error, 1)
		go func() {
			n, err := first.Read(make([]byte, 100))
			if n != 0 {
				t.Errorf("the attempt that is over got %d bytes", n)
			}
			early <- err
		}()
		synctest.Wait()
		second, ok := b.again()
		if !ok {
			t.Fatal("a body of which nothing has been read cannot be sent again")
		}
		got := make(chan string, 1)
		go func() {
			all, err := io.ReadAll(second)
			if err != nil {
				t.Error(err)
			}
			got <- string(all)
		}()
		synctest.Wait() // both wait; two reads at once would panic
		const late = "more than the limit of ten bytes"
		source.chunks <- late
		if err := <-early; err == nil || err == io.EOF {
			t.Errorf("the attempt that is over ended with %v: a transport would take its body for whole", err)
		}
		source.chunks <- " and the rest"
		close(source.chunks)
		if all := <-got; all != late+" and the rest" {
			t.Errorf("the second attempt got %q", all)
		}
		if _, err := first.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a read of the attempt that is over gave %v", err)
		}
	})
}

// A client that breaks off must not look like one that has finished.
func TestReplayBodySourceErrors(t *testing.T) {
	broken := errors.New("the client is gone")
	t.Run("before the second attempt", func(t *testing.T) {
		source := newClosedBody("hel")
		source.end = broken
		b := keptForTest(t, unsized(source), 10)
		if got, err := io.ReadAll(b.first()); string(got) != "hel" || err != broken {
			t.Errorf("the first attempt got %q, %v", got, err)
		}
		if _, ok := b.again(); ok || b.hold() {
			t.Error("half a body counts as whole")
		}
	})
	t.Run("with bytes at the same time", func(t *testing.T) {
		source := &closeCounter{Reader: iotest.DataErrReader(io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(broken)))}
		b := keptForTest(t, unsized(source), 10)
		if got, err := io.ReadAll(b.first()); string(got) != "hel" || err != broken {
			t.Errorf("the first attempt got %q, %v", got, err)
		}
		if _, ok := b.again(); ok {
			t.Error("half a body counts as whole")
		}
	})
	t.Run("during the second attempt", func(t *testing.T) {
		source := newClosedBody("hel", "lo")
		source.end = broken
		b := keptForTest(t, unsized(source), 10)
		readSome(t, b.first(), 3)
		second, _ := b.again()
		if got, err := io.ReadAll(second); string(got) != "hello" || err != broken {
			t.Errorf("the second attempt got %q, %v", got, err)
		}
	})
	t.Run("in a late read of the first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			source := newScriptedBody()
			source.end = broken
			b := keptForTest(t, unsized(source), 10)
			first := b.first()
			go first.Read(make([]byte, 10))
			synctest.Wait()
			second, _ := b.again()
			source.chunks <- "hel"
			close(source.chunks)
			if got, err := io.ReadAll(second); string(got) != "hel" || err != broken {
				t.Errorf("the second attempt got %q, %v", got, err)
			}
		})
	})
}

// A transport closes the body as soon as it is done, which may be before or after the answer, and more than once.
// The source must stay open while it may be needed, and be closed in the end.
func TestReplayBodyCloses(t *testing.T) {
	type bodies struct {
		b             *replayBody
		first, second io.ReadCloser
	}
	again := func(x *bodies) { x.second, _ = x.b.again() }
	finish := func(x *bodies) { x.b.finish() }
	closeFirst := func(x *bodies) { _ = x.first.Close() }
	closeSecond := func(x *bodies) { _ = x.second.Close() }
	const open, closed = false, true
	tests := []struct {
		name  string
		steps []func(*bodies)
		want  bool // whether the source is closed
	}{
		{"nothing", nil, open},
		{"first closed: it may be needed again", []func(*bodies){closeFirst}, open},
		{"no answer of 401, then closed", []func(*bodies){finish, closeFirst}, closed},
		{"closed, then no answer of 401", []func(*bodies){closeFirst, finish}, closed},
		{"no answer of 401, still being read", []func(*bodies){finish}, open},
		{"closed, then again", []func(*bodies){closeFirst, again}, open},
		{"again, then first closed", []func(*bodies){again, closeFirst}, open},
		{"again, finished, then first closed", []func(*bodies){again, finish, closeFirst}, open},
		{"again, second closed", []func(*bodies){again, closeSecond}, open},
		{"again, second closed, finished", []func(*bodies){again, closeSecond, finish}, closed},
		{"again, finished, second closed", []func(*bodies){again, finish, closeSecond}, closed},
		{"all, in the usual order", []func(*bodies){closeFirst, again, closeSecond, finish}, closed},
		{"all, the first last", []func(*bodies){again, closeSecond, finish, closeFirst}, closed},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			source := newScriptedBody("hello")
			x := &bodies{b: keptForTest(t, unsized(source), 10)}
			x.first = x.b.first()
			for _, step := range tc.steps {
				step(x)
			}
			if got := source.closed.Load() > 0; got != tc.want {
				t.Errorf("the source is closed: %t, want %t", got, tc.want)
			}
		})
	}
}

// A transport may close a body while it still reads it, and reverse_proxy's own wrapper around the client's body does
// not bear that (the race detector sees it there without us, too). The close can wait for the read.
func TestReplayBodyIsNotClosedWhileItIsRead(t *testing.T) {
	for name, end := range map[string]func(*replayBody, io.Closer){
		"closed, then finished": func(b *replayBody, first io.Closer) { _ = first.Close(); b.finish() },
		"finished, then closed": func(b *replayBody, first io.Closer) { b.finish(); _ = first.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newScriptedBody()
				b := keptForTest(t, unsized(source), 10)
				first := b.first()
				go first.Read(make([]byte, 10))
				synctest.Wait()
				ended := make(chan struct{})
				go func() {
					end(b, first)
					close(ended)
				}()
				synctest.Wait()
				if n := source.closed.Load(); n != 0 {
					t.Errorf("the source was closed %d times during a read", n)
				}
				close(source.chunks)
				<-ended
				synctest.Wait()
				if source.closed.Load() == 0 {
					t.Error("the source was not closed after the read")
				}
			})
		})
	}
}

func TestReplayBodyCannotBeReadAfterClose(t *testing.T) {
	b := keptForTest(t, unsized(newClosedBody("he", "llo")), 10)
	first := b.first()
	readSome(t, first, 2)
	_ = first.Close()
	if n, err := first.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("a read after Close gave %d, %v", n, err)
	}
	second, ok := b.again()
	if !ok {
		t.Fatal("the close of the first attempt took the body from the second")
	}
	wantAll(t, second, "hello")
	_ = second.Close()
	if n, err := second.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("a read after Close gave %d, %v", n, err)
	}
}

// What a client claims of its body costs no memory.
func TestReplayBodyDoesNotTrustTheLength(t *testing.T) {
	for _, length := range []int64{math.MaxInt64, maxReplayBuffer, defaultReplayBuffer + 1, 0, -1, math.MinInt64} {
		for _, limit := range []int{10, defaultReplayBuffer, maxReplayBuffer} {
			b := keptForTest(t, &http.Request{Body: io.NopCloser(&patternReader{size: 10}), ContentLength: length}, limit)
			wantAll(t, b.first(), readSome(t, &patternReader{size: 10}, 10))
			if n := len(b.kept.chunks); n != 1 {
				t.Errorf("%d chunks are kept of one that claims to have %d bytes, with a buffer of %d", n, length, limit)
			}
		}
	}
}

// Whatever the moment at which the second attempt takes over, it gets the whole body, once.
func TestReplayBodyTakeoverAtAnyMoment(t *testing.T) {
	const size, limit = 8 << 10, 4 << 10
	want := make([]byte, size)
	_, _ = io.ReadFull(&patternReader{size: size}, want)
	for round := range 100 {
		random := rand.New(rand.NewPCG(1, uint64(round)))
		pr, pw := io.Pipe()
		chunk := 1 + random.IntN(700)
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(chunk, len(rest))
				_, _ = pw.Write(rest[:n])
				rest = rest[n:]
			}
			_ = pw.Close()
		}()
		b := keptForTest(t, unsized(pr), limit)
		first := b.first()
		progress, takeover := make(chan struct{}, size), random.IntN(20)
		var firstRead bytes.Buffer
		var wg sync.WaitGroup
		wg.Go(func() {
			p := make([]byte, 300)
			for {
				n, err := first.Read(p)
				firstRead.Write(p[:n])
				progress <- struct{}{}
				if err != nil {
					_ = first.Close()
					return
				}
			}
		})
		for range takeover {
			<-progress
		}
		second, ok := b.again()
		if ok {
			got, err := io.ReadAll(second)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("round %d: the second attempt got %d bytes, %v", round, len(got), err)
			}
			b.finish()
			_ = second.Close()
		}
		wg.Wait()
		if !bytes.HasPrefix(want, firstRead.Bytes()) || !ok && firstRead.Len() != size {
			t.Fatalf("round %d: the first attempt got %d bytes, replayed: %t", round, firstRead.Len(), ok)
		}
	}
}

const invalidToken = `Bearer error="invalid_token"`

// refusing answers 401 to the tokens that refused says, and 200 to others.
func refusing(refused func(credential string) bool, challenge string) roundTrip {
	return func(req *http.Request) (*http.Response, error) {
		if req.Body != nil {
			_, _ = io.Copy(io.Discard, req.Body)
			_ = req.Body.Close()
		}
		if refused(credentialOf(req)) {
			return apiResponse(401, "refused", "WWW-Authenticate", challenge), nil
		}
		return apiResponse(200, "welcome"), nil
	}
}

func anyToken(string) bool { return true }

func onlyTheFirst(credential string) bool { return credential == "Bearer token-1" }

// What an answer costs: attempts at the API, and token calls in all.
func TestWhatA401Costs(t *testing.T) {
	tests := []struct {
		name       string
		change     func(*injector)
		api        roundTrip
		body       string
		status     int
		attempts   int
		tokenCalls int64
	}{
		{"replayed", nil, refusing(onlyTheFirst, invalidToken), "", 200, 2, 2},
		{"replayed with its body", nil, refusing(onlyTheFirst, invalidToken), "body", 200, 2, 2},
		{"replayed for a doubtful reason", nil, refusing(onlyTheFirst, `Basic realm="x"`), "", 200, 2, 2},
		{"replayed without any reason", nil, refusing(onlyTheFirst, ""), "", 200, 2, 2},
		{"once only", nil, refusing(anyToken, invalidToken), "body", 401, 2, 2},
		{"insufficient_scope", nil, refusing(anyToken, `Bearer error="insufficient_scope"`), "", 401, 1, 1},
		{"DPoP nonce", nil, refusing(anyToken, `DPoP error="use_dpop_nonce"`), "", 401, 1, 1},
		{"pass", func(i *injector) { i.replay = false }, refusing(onlyTheFirst, invalidToken), "", 401, 1, 2},
		{"pass, insufficient_scope", func(i *injector) { i.replay = false }, refusing(anyToken, `Bearer error="insufficient_scope"`), "", 401, 1, 1},
		{"no buffer, no body", func(i *injector) { i.replayBuffer = 0 }, refusing(onlyTheFirst, invalidToken), "", 200, 2, 2},
		{"no buffer, body", func(i *injector) { i.replayBuffer = 0 }, refusing(onlyTheFirst, invalidToken), "b", 401, 1, 2},
		{"exactly the buffer", func(i *injector) { i.replayBuffer = 4 }, refusing(onlyTheFirst, invalidToken), "body", 200, 2, 2},
		{"one more than the buffer", func(i *injector) { i.replayBuffer = 3 }, refusing(onlyTheFirst, invalidToken), "body", 401, 1, 2},
		{"403", nil, func(*http.Request) (*http.Response, error) {
			return apiResponse(403, "", "WWW-Authenticate", invalidToken), nil
		}, "", 403, 1, 1},
		{"400", nil, func(*http.Request) (*http.Response, error) {
			return apiResponse(400, "", "WWW-Authenticate", invalidToken), nil
		}, "", 400, 1, 1},
		{"407", nil, func(*http.Request) (*http.Response, error) {
			return apiResponse(407, "", "WWW-Authenticate", invalidToken), nil
		}, "", 407, 1, 1},
		{"200 that mentions an error", nil, func(*http.Request) (*http.Response, error) {
			return apiResponse(200, "", "WWW-Authenticate", invalidToken), nil
		}, "", 200, 1, 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tokens := new(numberedTokens)
				var bodies []string
				i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
					body := ""
					if req.Body != nil {
						all, err := io.ReadAll(req.Body)
						if err != nil {
							t.Error(err)
						}
						body = string(all)
						_ = req.Body.Close()
						req.Body = nil
					}
					bodies = append(bodies, body)
					return tc.api(req)
				}))
				if tc.change != nil {
					tc.change(i)
				}
				source := &closeCounter{Reader: strings.NewReader(tc.body)}
				req := outbound(http.MethodPost, nil, 1)
				if tc.body != "" {
					req.Body, req.ContentLength = source, int64(len(tc.body))
				}
				res, err := i.RoundTrip(asProxied(t, i, req, "127.0.0.1"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(res.Body); res.StatusCode != tc.status || err != nil {
					t.Errorf("got status %d, %v, want %d", res.StatusCode, err, tc.status)
				}
				if want := slices.Repeat([]string{tc.body}, tc.attempts); !reflect.DeepEqual(bodies, want) {
					t.Errorf("the API got the bodies %q, want %q", bodies, want)
				}
				synctest.Wait() // for calls in the background
				if got := tokens.calls.Load(); got != tc.tokenCalls {
					t.Errorf("%d token calls, want %d", got, tc.tokenCalls)
				}
				if tc.body != "" && source.closed.Load() == 0 {
					t.Error("the client's body was not closed")
				}
			})
		})
	}
}

// Where the 401 passes, the next request has another token all the same.
func TestNextRequestAfterAPassed401HasAnotherToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		tokens := &numberedTokens{before: func(_ context.Context, call int) error {
			<-time.After(time.Second) // so that the next request comes while the call is under way
			return nil
		}}
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, credentialOf(req))
			return refusing(onlyTheFirst, invalidToken)(req)
		}))
		i.replay = false
		for _, want := range []int{401, 200, 200} {
			res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1"))
			if err != nil || res.StatusCode != want {
				t.Errorf("got %v, %v, want %d", res, err, want)
			}
		}
		if want := []string{"Bearer token-1", "Bearer token-2", "Bearer token-2"}; !reflect.DeepEqual(sent, want) {
			t.Errorf("sent %q", sent)
		}
	})
}

// Pitfall 5.25: an API that answers 401 whatever it gets must not turn each request into a token call.
func TestAPIThatAlwaysAnswers401CostsFewTokenCalls(t *testing.T) {
	for challenge, limit := range map[string]int64{invalidToken: 10, `Basic realm="x"`: 9, "": 9} {
		synctest.Test(t, func(t *testing.T) {
			tokens := new(numberedTokens)
			i := newTestInjector(t, tokens, refusing(anyToken, challenge))
			for range 100 * 60 { // 100 requests a second for a minute
				res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1"))
				if err != nil || res.StatusCode != 401 {
					t.Fatalf("got %v, %v", res, err)
				}
				<-time.After(10 * time.Millisecond)
			}
			if got := tokens.calls.Load(); got > limit {
				t.Errorf("challenge %q: %d token calls in a minute, want %d at most", challenge, got, limit)
			}
		})
	}
}

// Requests are seldom, and each one's token has been revoked since the last: what the API answers to a replay proves the
// new token, so that its revocation is news again.
func TestReplaysProveTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(numberedTokens)
		revoked := int64(0)
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			if credentialOf(req) == fmt.Sprintf("Bearer token-%d", revoked) {
				return refusing(anyToken, invalidToken)(req)
			}
			return apiResponse(200, ""), nil
		}))
		for range 10 {
			res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1"))
			if err != nil || res.StatusCode != 200 {
				t.Errorf("token %d: got %v, %v", revoked, res, err)
			}
			revoked = tokens.calls.Load()
			<-time.After(1100 * time.Millisecond) // the interval begins at a second
		}
	})
}

// Requests for a path that rejects every token are seldom too: what the API answers to a replay tells that the token is
// not to blame.
func TestReplaysTellAPathThatRejectsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(numberedTokens)
		bad := false
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			if bad {
				return refusing(anyToken, invalidToken)(req)
			}
			return apiResponse(200, ""), nil
		}))
		for range 30 {
			for _, bad = range []bool{false, true} {
				res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1"))
				if err != nil || (res.StatusCode == 200) == bad {
					t.Errorf("got %v, %v", res, err)
				}
			}
			<-time.After(1100 * time.Millisecond)
		}
		if n := tokens.calls.Load(); n > 6 { // at the start, and after 0, 1.1, 3.3, 7.7 and 16.5 s
			t.Errorf("%d token calls in 33 seconds", n)
		}
	})
}

// A 401 to an older token says nothing about the one that is current by then.
func TestTwoGenerationsRacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(numberedTokens)
		slow := make(chan struct{})
		var mu sync.Mutex
		sent := make(map[string][]string)
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			who := req.Header.Get("X-Who")
			sent[who] = append(sent[who], credentialOf(req))
			first := len(sent[who]) == 1
			mu.Unlock()
			if who == "slow" && first {
				<-slow
			}
			return refusing(onlyTheFirst, invalidToken)(req)
		}))
		ask := func(who string) int {
			req := outbound(http.MethodGet, nil, 0)
			req.Header.Set("X-Who", who)
			res, err := i.RoundTrip(asProxied(t, i, req, "127.0.0.1"))
			if err != nil {
				t.Error(err)
				return 0
			}
			return res.StatusCode
		}
		status := make(chan int, 1)
		go func() { status <- ask("slow") }()
		synctest.Wait()
		if got := ask("quick"); got != 200 {
			t.Errorf("the quick one got %d", got)
		}
		<-time.After(time.Minute) // no limit on invalidations may hide the mistake
		close(slow)
		if got := <-status; got != 200 {
			t.Errorf("the slow one got %d", got)
		}
		want := map[string][]string{"slow": {"Bearer token-1", "Bearer token-2"}, "quick": {"Bearer token-1", "Bearer token-2"}}
		if !reflect.DeepEqual(sent, want) {
			t.Errorf("sent %v, want %v", sent, want)
		}
		if n := tokens.calls.Load(); n != 2 {
			t.Errorf("%d token calls: the late 401 cost a good token", n)
		}
	})
}

// A 401 whose body does not end must not keep the replay waiting: what is left of it is of no use to anybody.
func TestReplayDoesNotWaitForTheRefusedResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		endless, never := io.Pipe()
		defer never.Close()
		i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
			if onlyTheFirst(credentialOf(req)) {
				res := apiResponse(401, "", "WWW-Authenticate", invalidToken)
				res.Body, res.ContentLength = endless, -1
				context.AfterFunc(ctx, func() { never.CloseWithError(ctx.Err()) }) // as a transport does
				return res, nil
			}
			return apiResponse(200, "welcome"), nil
		}))
		start := time.Now()
		res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1).WithContext(ctx), "127.0.0.1"))
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v, %v", res, err)
		}
		if waited := time.Since(start); waited > 5*time.Second {
			t.Errorf("the replay waited %s for the rest of the refused response", waited)
		}
	})
}

// A refused response is closed, though nobody waits for it, and not read to its end, which may be far away.
func TestRefusedResponseIsClosed(t *testing.T) {
	for _, size := range []int{0, 100, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			refusedBody := &closeCounter{Reader: &patternReader{size: size}}
			i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
				if onlyTheFirst(credentialOf(req)) {
					res := apiResponse(401, "", "WWW-Authenticate", invalidToken)
					res.Body, res.ContentLength = refusedBody, int64(size)
					return res, nil
				}
				return apiResponse(200, "welcome"), nil
			}))
			if res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodGet, nil, 1), "127.0.0.1")); err != nil || res.StatusCode != 200 {
				t.Fatalf("got %v, %v", res, err)
			}
			synctest.Wait()
			read := refusedBody.Reader.(*patternReader).given
			if refusedBody.closed.Load() == 0 || read > 64<<10 {
				t.Errorf("a refused response of %d bytes: %d read, closed %d times", size, read, refusedBody.closed.Load())
			}
		})
	}
}

// When no other token can be had, the application gets the API's own answer, whole.
func TestRefusedWithoutAnotherToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := &numberedTokens{before: func(_ context.Context, call int) error {
			if call > 1 {
				return &token.Error{Kind: token.Unavailable, Reason: "test"}
			}
			return nil
		}}
		attempts := 0
		i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
			attempts++
			return refusing(anyToken, invalidToken)(req)
		}))
		res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodPost, strings.NewReader("body"), 1), "127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != 401 || string(body) != "refused" || err != nil || attempts != 1 {
			t.Errorf("got %d with %q, %v after %d attempts", res.StatusCode, body, err, attempts)
		}
	})
}

// reverse_proxy fills in the trailer in the body's last read. When a late read of the first attempt is that one, the
// second attempt's transport may be writing its header, with the names of the trailer in it: with a map that both
// have, the race detector, or the runtime, ends the process.
func TestReplayDoesNotRaceForTheTrailer(t *testing.T) {
	trailer := http.Header{"X-Sum": nil}
	release, ended := make(chan struct{}), make(chan struct{})
	source := &trailerSource{release: release, trailer: trailer}
	i := newTestInjector(t, new(numberedTokens), roundTrip(func(req *http.Request) (*http.Response, error) {
		if onlyTheFirst(credentialOf(req)) {
			go func() {
				defer close(ended)
				_, _ = io.Copy(io.Discard, req.Body)
			}()
			<-source.reading()
			return apiResponse(401, "", "WWW-Authenticate", invalidToken), nil
		}
		close(release)
		names := 0
		for range 1000 {
			for range req.Trailer { // as net/http does for the field Trailer
				names++
			}
		}
		body, err := io.ReadAll(req.Body)
		if err != nil || string(body) != "hello" {
			t.Errorf("the second attempt got %q, %v", body, err)
		}
		if got := req.Trailer.Get("X-Sum"); got != "42" || names == 0 {
			t.Errorf("the second attempt got the trailer %v", req.Trailer)
		}
		return apiResponse(200, ""), nil
	}))
	req := outbound(http.MethodPost, nil, 1)
	req.Body, req.ContentLength, req.Trailer = source, -1, trailer
	res, err := i.RoundTrip(asProxied(t, i, req, "127.0.0.1"))
	if err != nil || res.StatusCode != 200 && res.StatusCode != 401 {
		t.Errorf("got %v, %v", res, err)
	}
	if res.StatusCode == 401 { // to pass it on is right too
		close(release)
	}
	<-ended
}

// trailerSource is a body that ends, and then fills in its trailer, when it is released.
type trailerSource struct {
	release <-chan struct{}
	trailer http.Header
	once    sync.Once
	first   chan struct{}
	begun   sync.Once
	given   bool
}

// reading is closed once the body is being read.
func (s *trailerSource) reading() chan struct{} {
	s.once.Do(func() { s.first = make(chan struct{}) })
	return s.first
}

func (s *trailerSource) Read(p []byte) (int, error) {
	first := s.reading()
	s.begun.Do(func() { close(first) })
	<-s.release
	if s.given {
		return 0, io.EOF
	}
	s.given = true
	clear(s.trailer)
	s.trailer["X-Sum"] = []string{"42"}
	return copy(p, "hello"), io.EOF
}

func (s *trailerSource) Close() error { return nil }

// sums remembers what request bodies arrived as.
type sums struct {
	mu  sync.Mutex
	all []string
}

// take reads a body and remembers it: its hash, or why it is none.
func (s *sums) take(r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	got := fmt.Sprintf("%d bytes, %v", n, err)
	if err == nil {
		got = hex.EncodeToString(h.Sum(nil))
	}
	s.mu.Lock()
	s.all = append(s.all, got)
	s.mu.Unlock()
}

func (s *sums) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// sibling is another endpoint, with a client of its own, whose tokens the same API takes.
func (s *tokenServer) sibling(t *testing.T) *tokenServer {
	t.Helper()
	other := newTokenServer(t)
	other.tokens, other.Registry = s.tokens, s.tokens
	return other
}

// revoked reports whether a request carries a token that was revoked.
func (s *tokenServer) revoked(r *http.Request) bool {
	_, state := s.tokens.Lookup(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	return state == devserver.Revoked
}

// refuseEarly answers 401 before it has read the body. Over HTTP/1.1 it then reads it, so that the connection ends in
// order; without full duplex, net/http would read first.
func refuseEarly(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex() // HTTP/2 has it anyway
	w.Header().Set("WWW-Authenticate", invalidToken)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusUnauthorized)
	_ = c.Flush()
	if r.ProtoMajor == 1 {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// A token that was revoked before its time costs nobody a request, whatever its body, wherever the API stands when it
// refuses, and whichever protocol it speaks.
func TestRevokedTokenIsReplacedOverTheWire(t *testing.T) {
	const replayBuffer = 64 << 10 // the default
	bodies := []struct {
		name    string
		size    int
		chunked bool
	}{
		{"no body", 0, false},
		{"empty body without a length", 0, true},
		{"small", 100, false},
		{"small, chunked", 100, true},
		{"exactly replay_buffer", replayBuffer, false},
		{"exactly replay_buffer, chunked", replayBuffer, true},
	}
	apis := []struct {
		name      string
		configure func(*httptest.Server)
		scheme    string
		early     bool // it refuses before it has read the body
		expect    bool // client and proxy wait for 100 Continue
		client    func(*testing.T) *http.Client
		options   string
	}{
		{"HTTP/1.1", func(*httptest.Server) {}, "http", false, false, testClient, ""},
		{"HTTP/1.1, early", func(*httptest.Server) {}, "http", true, false, testClient, ""},
		{"HTTP/1.1, Expect", func(*httptest.Server) {}, "http", false, true, testClient, ""},
		{"HTTP/1.1, early, Expect", func(*httptest.Server) {}, "http", true, true, testClient, ""},
		{"h2c", serveH2C, "h2c", false, false, testClient, ""},
		{"h2c, early", serveH2C, "h2c", true, false, testClient, ""},
		{"HTTP/1.1, early, HTTP/2 client", func(*httptest.Server) {}, "http", true, false, h2cClient, ""},
		{"h2c, early, HTTP/2 client", serveH2C, "h2c", true, false, h2cClient, ""},
		{"HTTP/1.1, leaving", func(*httptest.Server) {}, "http", false, false, testClient, leaving},
		{"HTTP/1.1, early, leaving", func(*httptest.Server) {}, "http", true, false, testClient, leaving},
		{"h2c, early, HTTP/2 client, leaving", serveH2C, "h2c", true, false, h2cClient, leaving},
	}
	for _, tc := range apis {
		t.Run(tc.name, func(t *testing.T) {
			all := newTokenServer(t)
			received := new(sums)
			welcome := all.guarded(func(w http.ResponseWriter, r *http.Request) {
				received.take(r)
				_, _ = io.WriteString(w, "welcome")
			})
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if !all.revoked(r) {
					welcome(w, r)
					return
				}
				if tc.early {
					refuseEarly(w, r)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("WWW-Authenticate", invalidToken)
				w.WriteHeader(http.StatusUnauthorized)
			}, tc.configure)
			options := " {\n " + tc.options + "\n}"
			if tc.expect {
				options = " {\n transport http {\n expect_continue_timeout 20s\n}\n}"
			}
			// Each body has a credential of its own, since rejections of one are limited in time.
			var credentials []string
			var routes strings.Builder
			servers := make([]*tokenServer, len(bodies))
			for i := range bodies {
				servers[i] = all.sibling(t)
				credentials = append(credentials, servers[i].credential(fmt.Sprintf("c%d", i)))
				fmt.Fprintf(&routes, "token_proxy /%d c%d %s://%s%s\n", i, i, tc.scheme, api.addr(), options)
			}
			addr := freeAddr(t)
			startCaddy(t, globalOptionsH2C(credentials...)+siteConfig(addr, routes.String()))
			client := tc.client(t)
			client.Transport.(*http.Transport).ExpectContinueTimeout = 20 * time.Second
			for i, b := range bodies {
				t.Run(b.name, func(t *testing.T) {
					target := fmt.Sprintf("http://%s/%d", addr, i)
					get(t, target).wantStatus(t, 200)
					servers[i].revokeAll()
					before := len(api.received())
					req := newRequest(t, http.MethodPost, target, &patternReader{size: b.size})
					if !b.chunked {
						req.ContentLength = int64(b.size)
						if b.size == 0 {
							req.Body = http.NoBody
						}
					}
					if tc.expect && b.size > 0 {
						req.Header.Set("Expect", "100-continue")
					}
					a := ask(t, client, req)
					a.wantStatus(t, 200)
					if a.body != "welcome" {
						t.Errorf("got %q", a.body)
					}
					if sums := received.taken(); sums[len(sums)-1] != patternSum(b.size) {
						t.Errorf("the API got the body %s", sums[len(sums)-1])
					}
					if n := len(api.received()) - before; n != 2 {
						t.Errorf("the API got %d requests, want 2", n)
					}
					if n := servers[i].Calls(); n != 2 {
						t.Errorf("%d token calls, want 2", n)
					}
				})
			}
		})
	}
}

// One new token serves all who held the revoked one, and each of them is sent again once.
func TestRevokedTokenOfManyRequestsCostsOneTokenCall(t *testing.T) {
	const requests = 100
	tokens := newTokenServer(t)
	received := new(sums)
	var first atomic.Int64
	allThere := make(chan struct{})
	check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) { received.take(r) })
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if tokens.revoked(r) {
			if first.Add(1) == requests {
				close(allThere)
			}
			<-allThere // until all have brought the revoked token
		}
		check(w, r)
	})
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	get(t, base).wantStatus(t, 200)
	tokens.revokeAll()

	client := testClient(t)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = requests
	var wg sync.WaitGroup
	for range requests {
		req := newRequest(t, http.MethodPost, base, &patternReader{size: 1000})
		wg.Go(func() {
			if a, err := tryAsk(client, req); err != nil || a.StatusCode != 200 {
				t.Errorf("got %v, %v", a.Response, err)
			}
		})
	}
	wg.Wait()
	if n := tokens.Calls(); n != 2 {
		t.Errorf("%d token calls, want 2", n)
	}
	if n := len(api.received()); n != 1+2*requests {
		t.Errorf("the API got %d requests, want %d", n, 1+2*requests)
	}
	whole, want := 0, patternSum(1000)
	for _, sum := range received.taken() {
		if sum == want {
			whole++
		}
	}
	if whole != requests {
		t.Errorf("%d of %d bodies arrived whole", whole, requests)
	}
}

// The same API, but it refuses every token: a handful of token calls for many requests at once.
func TestAPIThatRefusesEverythingOverTheWire(t *testing.T) {
	tokens := newTokenServer(t)
	check := tokens.api()
	check.Reject = http.StatusUnauthorized
	api := newRecordingAPI(t, check.ServeHTTP)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	client := testClient(t)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 20 {
				a, err := tryAsk(client, newRequest(t, http.MethodGet, base, nil))
				if err != nil || a.StatusCode != 401 || a.Header.Get("Proxy-Status") != "" || !strings.Contains(a.body, "not allowed") {
					t.Errorf("got %v with %q, %v, want the API's own 401", a.Response, a.body, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := tokens.Calls(); n > 5 {
		t.Errorf("%d token calls for 200 requests", n)
	}
	if n := len(api.received()); n > 300 {
		t.Errorf("the API got %d requests for 200", n)
	}
}

// One path of an API names every token invalid, and all others accept it: a handful of token calls, and the requests for
// the others wait for the first of them only.
func TestOnePathThatRejectsEverythingOverTheWire(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const while = 2500 * time.Millisecond
	options := map[string]string{"replay": "", "pass": " {\n on_unauthorized pass\n}"}
	servers := make(map[string]*tokenServer)
	answered, over := make(map[string]*journal), make(map[string]*atomic.Bool) // requests for the path that accepts tokens
	var credentials []string
	var routes strings.Builder
	for name, options := range options {
		tokens := newTokenServer(t)
		servers[name], answered[name], over[name] = tokens, new(journal), new(atomic.Bool)
		var calls atomic.Int32
		tokens.OnRequest = func(r *http.Request, _ []byte) {
			if calls.Add(1) <= 2 { // at the start, and for the first rejection, which could be a revocation
				return
			}
			// The answer is held back until requests that began after the call have been answered. If they waited for
			// it, that would never be.
			called, passed := time.Now(), false
			until(r, func() bool {
				passed = over[name].Load() || slices.ContainsFunc(answered[name].all(), func(x exchange) bool { return x.start.After(called) })
				return passed
			})
			if !passed {
				t.Errorf("%s: requests for the path that accepts tokens waited for a token call", name)
			}
		}
		check := tokens.api()
		api := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/bad") {
				w.Header().Set("WWW-Authenticate", invalidToken)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			check.ServeHTTP(w, r)
		}))
		credentials = append(credentials, tokens.credential(name))
		fmt.Fprintf(&routes, "token_proxy /%s/* %s %s%s\n", name, name, api.URL, options)
	}
	addr := freeAddr(t)
	startCaddy(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))
	var group sync.WaitGroup
	for name, tokens := range servers { // both at once: it is waiting
		group.Go(func() {
			t.Run(name, func(t *testing.T) {
				base := "http://" + addr + "/" + name
				client := testClient(t)
				get(t, base+"/good").wantStatus(t, 200)
				began := time.Now()
				visit := func(path string, want int) exchange {
					x := exchange{start: time.Now()}
					x.answer, x.err = tryAsk(client, newRequest(t, http.MethodGet, base+path, nil))
					x.end = time.Now()
					if x.err != nil || x.answer.StatusCode != want {
						t.Errorf("%s: %v, %v, want %d", path, x.answer.Response, x.err, want)
					}
					time.Sleep(10 * time.Millisecond) // the pace of the client
					return x
				}
				var good, bad sync.WaitGroup
				good.Go(func() {
					for !over[name].Load() && !t.Failed() {
						answered[name].add(visit("/good", 200))
					}
				})
				bad.Go(func() {
					for !t.Failed() && (time.Since(began) < while || tokens.Calls() < 3 && time.Since(began) < 10*while) {
						rejected := visit("/bad", 401).end
						// A token that the API only rejects for a second counts as revoked, and then requests do wait.
						eventually(t, "the other path accepts the token", func() bool {
							return t.Failed() || slices.ContainsFunc(answered[name].all(), func(x exchange) bool { return x.start.After(rejected) })
						})
					}
				})
				bad.Wait()
				over[name].Store(true)
				good.Wait()
				most := 2 // at the start, and at once; then after 1, 3, 7 … seconds
				for after := time.Second; after <= time.Since(began); after = 2*after + time.Second {
					most++
				}
				if n := tokens.Calls(); n < 3 || n > most {
					t.Errorf("%d token calls in %v, want 3 to %d", n, time.Since(began), most)
				}
			})
		})
	}
	group.Wait()
}

// A body larger than replay_buffer: its 401 passes, whole, and the next request has another token.
func TestLargeBodyPassesIts401Through(t *testing.T) {
	const size, refusal = 1 << 20, 300 << 10
	tokens := newTokenServer(t)
	received := new(sums)
	check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) { received.take(r) })
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if tokens.revoked(r) {
			received.take(r)
			w.Header().Set("WWW-Authenticate", invalidToken)
			w.Header().Set("X-Refused", "by the API")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.Copy(w, &patternReader{size: refusal})
			return
		}
		check(w, r)
	})
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	client := testClient(t)
	get(t, base).wantStatus(t, 200)
	tokens.revokeAll()
	send := func() clientAnswer {
		t.Helper()
		return ask(t, client, newRequest(t, http.MethodPut, base, &patternReader{size: size}))
	}
	a := send()
	a.wantStatus401(t)
	if sum := sha256.Sum256([]byte(a.body)); hex.EncodeToString(sum[:]) != patternSum(refusal) || a.Header.Get("X-Refused") == "" {
		t.Errorf("the refusal arrived with %d bytes and %v", len(a.body), a.Header)
	}
	if a := send(); a.StatusCode != 200 {
		t.Errorf("the next request got %d", a.StatusCode)
	}
	want := patternSum(size)
	if got := received.taken(); !reflect.DeepEqual(got, []string{patternSum(0), want, want}) {
		t.Errorf("the API got the bodies %q", got)
	}
	if n := tokens.Calls(); n != 2 {
		t.Errorf("%d token calls, want 2", n)
	}
}

func (a clientAnswer) wantStatus401(t *testing.T) {
	t.Helper()
	if a.StatusCode != http.StatusUnauthorized || a.Header.Get("Proxy-Status") != "" {
		t.Fatalf("got %d %v with %.100q, want the API's own 401", a.StatusCode, a.Header, a.body)
	}
}

// When a large body is refused early, how much of it is out by then is chance. Either it is replayed whole, or the
// refusal passes: never half a body, never a body twice.
func TestLargeBodyThatIsRefusedEarly(t *testing.T) {
	for _, size := range []int{64<<10 + 1, 100 << 10, 8 << 20} {
		for _, scheme := range []string{"http", "h2c"} {
			t.Run(fmt.Sprintf("%s, %d bytes", scheme, size), func(t *testing.T) {
				tokens := newTokenServer(t)
				received := new(sums)
				check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) { received.take(r) })
				api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if tokens.revoked(r) {
						refuseEarly(w, r)
						return
					}
					check(w, r)
				}, serveH2C)
				_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+scheme+"://"+api.addr())
				get(t, base).wantStatus(t, 200)
				tokens.revokeAll()
				a, err := tryAsk(testClient(t), newRequest(t, http.MethodPut, base, &patternReader{size: size}))
				replayed := err == nil && a.StatusCode == 200
				if err == nil && !replayed && a.StatusCode != 401 {
					t.Errorf("got %d with %q", a.StatusCode, a.body)
				}
				want := []string{patternSum(0)}
				if replayed {
					want = append(want, patternSum(size))
				}
				if got := received.taken(); !reflect.DeepEqual(got, want) {
					t.Errorf("replayed: %t, and the API got the bodies %q", replayed, got)
				}
			})
		}
	}
}

// The client's own options, from the Caddyfile on.
func TestReplayOptions(t *testing.T) {
	tests := []struct {
		name, options, body string
		status, requests    int
	}{
		{"pass", "on_unauthorized pass", "", 401, 1},
		{"replay", "on_unauthorized replay", "body", 200, 2},
		{"no buffer", "replay_buffer 0", "", 200, 2},
		{"no buffer, body", "replay_buffer 0", "body", 401, 1},
		{"small buffer, fitting body", "replay_buffer 4B", "body", 200, 2},
		{"small buffer, larger body", "replay_buffer 4B", "bodies", 401, 1},
		{"large buffer", "replay_buffer 1MiB", strings.Repeat("x", 1<<20), 200, 2},
		{"reverse_proxy's own buffer", "replay_buffer 0\n request_buffers 10KiB", "body", 401, 1},
	}
	all := newTokenServer(t)
	var credentials []string
	var routes strings.Builder
	servers, apis := make([]*tokenServer, len(tests)), make([]*recordingAPI, len(tests))
	for i, tc := range tests {
		servers[i] = all.sibling(t)
		apis[i] = newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			all.guarded(func(http.ResponseWriter, *http.Request) {})(w, r)
		})
		credentials = append(credentials, servers[i].credential(fmt.Sprintf("c%d", i)))
		fmt.Fprintf(&routes, "token_proxy /%d c%d %s {\n%s\n}\n", i, i, apis[i].URL, tc.options)
	}
	addr := freeAddr(t)
	startCaddy(t, globalOptions(credentials...)+siteConfig(addr, routes.String()))
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			target := fmt.Sprintf("http://%s/%d", addr, i)
			get(t, target).wantStatus(t, 200)
			servers[i].revokeAll()
			send := func() clientAnswer {
				return ask(t, testClient(t), newRequest(t, http.MethodPost, target, strings.NewReader(tc.body)))
			}
			if a := send(); a.StatusCode != tc.status {
				t.Errorf("got %d with %q, want %d", a.StatusCode, a.body, tc.status)
			}
			if n := len(apis[i].received()) - 1; n != tc.requests {
				t.Errorf("the API got %d requests, want %d", n, tc.requests)
			}
			if a := send(); a.StatusCode != 200 {
				t.Errorf("the next request got %d: it has no new token", a.StatusCode)
			}
			if n := servers[i].Calls(); n != 2 {
				t.Errorf("%d token calls, want 2", n)
			}
		})
	}
}

func TestWebSocketHandshakeIsReplayed(t *testing.T) {
	tokens, api, base := startGuardedProxy(t, upgradeEcho(t))
	conn, r := handshake(t, base)
	wantEcho(t, conn, r)
	tokens.revokeAll()
	// A tunnel outlives its token; a new one gets a new token.
	wantEcho(t, conn, r)
	conn, r = handshake(t, base)
	wantEcho(t, conn, r)
	if n := len(api.received()); n != 3 {
		t.Errorf("the API got %d handshakes, want 3", n)
	}
	if n := tokens.Calls(); n != 2 {
		t.Errorf("%d token calls, want 2", n)
	}
}

// Once a byte of an answer is out, nothing is sent again, even if the token is revoked and the answer breaks off.
func TestAnswerThatHasBegunIsNotReplayed(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.guarded(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		tokens.revokeAll()
		panic(http.ErrAbortHandler)
	}))
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n lb_try_duration 1s\n}")
	res, err := testClient(t).Do(newRequest(t, http.MethodGet, base, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); string(body) != "begun" || err == nil {
		t.Errorf("got %q, %v: the break was hidden", body, err)
	}
	api.only(t)
	if n := tokens.Calls(); n != 1 {
		t.Errorf("%d token calls, want 1", n)
	}
}

// The API refuses while the client is still sending. What comes after that belongs to the replay; and a client that
// breaks off then must not look to the API like one that has sent all.
func TestClientStillSendsDuringAReplay(t *testing.T) {
	for name, goesOn := range map[string]bool{"goes on": true, "breaks off": false} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			received := new(sums)
			inReplay, taken := make(chan struct{}, 1), make(chan struct{}, 1)
			check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					inReplay <- struct{}{}
					received.take(r)
					taken <- struct{}{}
				}
			})
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if tokens.revoked(r) {
					refuseEarly(w, r)
					return
				}
				check(w, r)
			})
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
			get(t, base).wantStatus(t, 200)
			tokens.revokeAll()
			conn := dialSite(t, base)
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
			wantReceived(t, "the replay", inReplay)
			if goesOn {
				fmt.Fprint(conn, "6\r\n world\r\n0\r\n\r\n")
			} else {
				conn.Close()
			}
			wantReceived(t, "the end of the body", taken)
			sum := sha256.Sum256([]byte("hello world"))
			got := received.taken()
			if whole := len(got) == 1 && got[0] == hex.EncodeToString(sum[:]); whole != goesOn {
				t.Errorf("the API got the body %q", got)
			}
			if !goesOn && (len(got) != 1 || !strings.Contains(got[0], " bytes, ")) {
				t.Errorf("the API took a body that broke off for a whole one: %q", got)
			}
		})
	}
}

// A stream whose client waits for the first answer before it goes on.
func TestOpenStreamIsReplayed(t *testing.T) {
	tokens := newTokenServer(t)
	check := tokens.guarded(echoStream)
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if tokens.revoked(r) {
			refuseEarly(w, r)
			return
		}
		check(w, r)
	}, serveH2C)
	base := startH2CProxy(t, tokens.credential("api"), api)
	client := h2cClient(t)
	talk(t, client, base)
	tokens.revokeAll()
	talk(t, client, base)
	if n := len(api.received()); n != 3 {
		t.Errorf("the API got %d streams, want 3", n)
	}
}

// A trailer goes with the replayed body too.
func TestTrailerIsReplayed(t *testing.T) {
	tokens := newTokenServer(t)
	trailers := make(chan string, 2)
	check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		trailers <- r.Trailer.Get("X-Sum")
	})
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		check(w, r)
	}).URL)
	const request = "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"
	for range 2 {
		if status := sendRaw(t, base, request); status != 200 {
			t.Fatalf("got %d", status)
		}
		if got := wantReceived(t, "the trailer", trailers); got != "42" {
			t.Errorf("the trailer is %q", got)
		}
		tokens.revokeAll()
	}
}

// The same as TestReplayDoesNotWaitForTheRefusedResponse, with a real API that keeps its 401 open.
func TestReplayWhileTheRefusalIsStillOpen(t *testing.T) {
	tokens := newTokenServer(t)
	check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "welcome") })
	api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if tokens.revoked(r) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "refused, and")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		check(w, r)
	})
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL)
	get(t, base).wantStatus(t, 200)
	tokens.revokeAll()
	client := testClient(t)
	client.Timeout = 10 * time.Second
	a, err := tryAsk(client, newRequest(t, http.MethodGet, base, nil))
	if err != nil || a.StatusCode != 200 || a.body != "welcome" {
		t.Errorf("got %v with %q, %v", a.Response, a.body, err)
	}
}
