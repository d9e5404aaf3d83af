package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// While a body is held, its attempt reads nothing beyond the limit. It gets what a running read brings, and that is kept.
func TestReplayBodyIsHeld(t *testing.T) {
	type result struct {
		content string
		err     error
	}
	const running, rest = "more than the limit of ten bytes", ", and the rest"
	for name, tc := range map[string]struct {
		end           func(*replayBody, io.ReadCloser) io.ReadCloser
		first, second string
	}{
		"until again": {func(b *replayBody, _ io.ReadCloser) io.ReadCloser {
			second, ok := b.again()
			if !ok {
				t.Error("the body is not whole")
			}
			return second
		}, running, running + rest},
		"until finish":  {func(b *replayBody, first io.ReadCloser) io.ReadCloser { b.finish(); return nil }, running + rest, ""},
		"until Close":   {func(b *replayBody, first io.ReadCloser) io.ReadCloser { _ = first.Close(); return nil }, running, ""},
		"until the end": {func(b *replayBody, first io.ReadCloser) io.ReadCloser { b.discard(); return nil }, running, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newScriptedBody()
				b := keptForTest(t, unsized(source), 10)
				first := b.first()
				read := func(r io.Reader) chan result {
					done := make(chan result, 1)
					go func() {
						content, err := io.ReadAll(r)
						done <- result{string(content), err}
					}()
					return done
				}
				ofFirst := read(first)
				synctest.Wait()
				if !b.hold() {
					t.Fatal("a body of which nothing has been read cannot be sent again")
				}
				source.chunks <- running
				synctest.Wait()
				if n := source.waiting.Load(); n != 0 {
					t.Fatalf("%d reads of a source that is held", n)
				}
				second := tc.end(b, first)
				go func() {
					source.chunks <- rest
					close(source.chunks)
				}()
				if second != nil {
					if got := <-read(second); got != (result{tc.second, nil}) {
						t.Errorf("the second attempt got %+v", got)
					}
				}
				if got := <-ofFirst; got.content != tc.first || (got.err == nil) != (name == "until finish") {
					t.Errorf("the first attempt got %+v, want %q", got, tc.first)
				}
				for range source.chunks { // what was not read
				}
			})
		})
	}
}

// While a body is held, its attempt goes on as long as there is room.
func TestReplayBodyIsReadOnWhileItIsHeld(t *testing.T) {
	const content = "more than the limit of ten bytes"
	for name, tc := range map[string]struct {
		limit  int
		memory int64
		want   int
	}{
		"up to the limit":    {10, 1 << 20, 10},
		"to its end":         {100, 1 << 20, len(content)},
		"no memory":          {100, 0, 0},
		"no replay_buffer":   {0, 1 << 20, 0},
		"exactly to its end": {len(content), 1 << 20, len(content)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limitReplayMemory(t, tc.memory)
				b := newReplayBody(unsized(io.NopCloser(strings.NewReader(content))), tc.limit)
				first := b.first()
				b.hold()
				ended := make(chan struct{})
				go func() {
					_, _ = io.Copy(io.Discard, first)
					close(ended)
				}()
				synctest.Wait()
				if got := first.(*bodyAttempt).pos; got != tc.want {
					t.Errorf("the attempt got %d bytes, want %d", got, tc.want)
				}
				second, ok := b.again()
				if !ok {
					t.Fatal("the body is lost")
				}
				wantAll(t, second, content)
				<-ended
				b.discard()
			})
		})
	}
}

// Whenever a body is held, and whatever follows, one attempt gets the whole body, once.
func TestReplayBodyHeldAtAnyMoment(t *testing.T) {
	const size, limit = 8 << 10, 4 << 10
	want := make([]byte, size)
	_, _ = io.ReadFull(&patternReader{size: size}, want)
	for round := range 100 {
		random := rand.New(rand.NewPCG(2, uint64(round)))
		chunk, moment, replayed := 1+random.IntN(700), random.IntN(20), random.IntN(2) == 0
		source := &stutteringReader{Reader: &limitedReads{bytes.NewReader(want), chunk}}
		b := keptForTest(t, unsized(io.NopCloser(source)), limit)
		first := b.first()
		progress := make(chan struct{}, 2*size)
		var ofFirst bytes.Buffer
		var ended error
		var wg sync.WaitGroup
		wg.Go(func() {
			p := make([]byte, 300)
			for ended == nil {
				var n int
				n, ended = first.Read(p)
				ofFirst.Write(p[:n])
				progress <- struct{}{}
			}
			_ = first.Close()
		})
		for range moment {
			<-progress
		}
		var second io.ReadCloser
		ok := b.hold()
		if ok && replayed {
			if second, ok = b.again(); !ok {
				t.Fatalf("round %d: a body that is held has become incomplete", round)
			}
			got, err := io.ReadAll(second)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("round %d: the second attempt got %d bytes, %v", round, len(got), err)
			}
		}
		b.finish()
		wg.Wait()
		whole := bytes.Equal(ofFirst.Bytes(), want) && ended == io.EOF
		if !bytes.HasPrefix(want, ofFirst.Bytes()) || second == nil && !whole {
			t.Fatalf("round %d: the first attempt got %d bytes, %v", round, ofFirst.Len(), ended)
		}
	}
}

// limitedReads is a reader whose reads bring at most so many bytes.
type limitedReads struct {
	io.Reader
	most int
}

func (l *limitedReads) Read(p []byte) (int, error) { return l.Reader.Read(p[:min(len(p), l.most)]) }

// A 401 in the middle of an upload is healed if nothing was lost when it came, however much the client sends during the token
// call. If that call fails, the upload goes on.
func TestUploadGoesOnDuringTheTokenCall(t *testing.T) {
	for name, fails := range map[string]bool{"replayed": false, "no token": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 3 * defaultReplayBuffer
				goOn, ofFirst := make(chan struct{}), make(chan string, 1)
				tokens := &numberedTokens{before: func(_ context.Context, call int) error {
					if call == 1 {
						return nil
					}
					close(goOn)
					synctest.Wait() // by then, everything that can be read has been read
					if fails {
						return &token.Error{Kind: token.Unavailable, Reason: "test"}
					}
					return nil
				}}
				i := newTestInjector(t, tokens, roundTrip(func(req *http.Request) (*http.Response, error) {
					if !onlyTheFirst(credentialOf(req)) {
						s := new(sums)
						s.take(req)
						return apiResponse(200, s.taken()[0]), nil
					}
					_, _ = io.ReadFull(req.Body, make([]byte, 1<<10))
					go func() { // as a transport that has an answer goes on sending
						n, err := io.Copy(io.Discard, req.Body)
						ofFirst <- fmt.Sprint(n, err)
					}()
					return apiResponse(401, "rejected", "WWW-Authenticate", invalidToken), nil
				}))
				body := &patternReader{size: size, first: 2 << 10, firstGiven: func() {}, mayGoOn: goOn}
				res, err := i.RoundTrip(asProxied(t, i, outbound(http.MethodPost, body, 1), "127.0.0.1"))
				if err != nil {
					t.Fatal(err)
				}
				wantStatus, want := 200, patternSum(size)
				if fails {
					wantStatus, want = 401, "rejected"
				}
				if got, _ := io.ReadAll(res.Body); res.StatusCode != wantStatus || string(got) != want {
					t.Errorf("got %d with %q, want %d with %q", res.StatusCode, got, wantStatus, want)
				}
				if got, all := <-ofFirst, fmt.Sprint(size-1<<10, nil); (got == all) != fails {
					t.Errorf("the first attempt got 1024 bytes and %s", got)
				}
			})
		})
	}
}

// The same over the wire. The token call gives a client that is not held back the time to send too much.
func TestUploadGoesOnDuringTheTokenCallOverTheWire(t *testing.T) {
	if apart.Run(t) {
		return
	}
	const size = 200 << 10
	for _, options := range []string{"", leaving} {
		for _, tc := range []struct {
			scheme string
			want   int
		}{{"http", 200}, {"http", 401}, {"h2c", 200}, {"h2c", 401}} {
			t.Run(fmt.Sprintf("%s, %d, %s", tc.scheme, tc.want, options), func(t *testing.T) {
				scheme, want := tc.scheme, tc.want
				tokens := newTokenServer(t)
				received, goOn := new(sums), make(chan struct{})
				check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) { received.take(r) })
				api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
					if !tokens.revoked(r) {
						check(w, r)
						return
					}
					c := http.NewResponseController(w)
					_ = c.EnableFullDuplex()
					w.Header().Set("WWW-Authenticate", invalidToken)
					w.Header().Set("Content-Length", "8")
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = io.WriteString(w, "rejected")
					_ = c.Flush()
					if r.ProtoMajor == 1 || want == 200 { // over HTTP/2, a stream that stays open would keep the 401 from ending
						_, _ = io.Copy(io.Discard, r.Body)
					}
				}, serveH2C)
				_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+scheme+"://"+api.addr()+" {\n "+options+"\n}")
				get(t, base).wantStatus(t, 200)
				tokens.revokeAll()
				fault := devserver.Fault{Latency: 300 * time.Millisecond}
				if want == 401 {
					fault.Status = 503
				}
				tokens.SetFault(fault)
				go func() {
					_ = tokens.WaitCalls(t.Context(), 2) // the 401 has arrived
					close(goOn)
				}()
				body := &patternReader{size: size, first: 1 << 10, firstGiven: func() {}, mayGoOn: goOn}
				a, err := tryAsk(testClient(t), newRequest(t, http.MethodPut, base, body))
				if err != nil || a.StatusCode != want {
					t.Fatalf("got %v, %v, want %d", a.Response, err, want)
				}
				if got := received.taken(); want == 200 && got[len(got)-1] != patternSum(size) {
					t.Errorf("the API got the bodies %q", got)
				}
				if want == 401 && a.body != "rejected" {
					t.Errorf("the client got %q", a.body)
				}
			})
		}
	}
}
