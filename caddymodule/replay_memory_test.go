package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// limitReplayMemory sets the limit for one test. No body may be kept when it begins, nor when it ends.
func limitReplayMemory(t *testing.T, limit int64) {
	t.Helper()
	before := replayMemory.limit.Swap(limit)
	wantReplayMemory(t, 0)
	t.Cleanup(func() {
		replayMemory.limit.Store(before)
		wantReplayMemory(t, 0)
	})
}

func wantReplayMemory(t *testing.T, bytes int64) {
	t.Helper()
	if n := replayMemory.used.Load(); n != bytes {
		t.Errorf("%d bytes of replay_memory are in use, want %d", n, bytes)
	}
}

// keptBytes against a plain slice.
func TestKeptBytes(t *testing.T) {
	limitReplayMemory(t, 1<<30)
	for round := range 200 {
		random := rand.New(rand.NewPCG(2, uint64(round)))
		var k keptBytes
		var want []byte
		start := 0
		for range 20 {
			p := make([]byte, random.IntN(3*chunkSize))
			for i := range p {
				p[i] = byte(random.Uint32())
			}
			want = append(want, p...)
			switch random.IntN(6) {
			case 0:
				k.free()
				k.skip(p)
				start = len(want)
			case 1:
				k.append(p)
			default:
				if !k.tryAppend(p) {
					t.Fatal("there is no room")
				}
			}
			if k.end != len(want) {
				t.Fatalf("the end is at %d, want %d", k.end, len(want))
			}
			if kept := len(want) - start; len(k.chunks) != (kept+chunkSize-1)/chunkSize {
				t.Fatalf("%d bytes are in %d chunks", kept, len(k.chunks))
			}
			wantReplayMemory(t, int64(len(k.chunks))*chunkSize)
			from := start + random.IntN(len(want)-start+1)
			got := make([]byte, random.IntN(len(want)-from+10))
			if n := k.copyFrom(from, got); !bytes.Equal(got[:n], want[from:min(len(want), from+len(got))]) {
				t.Fatalf("round %d: from %d on: %d bytes, or other ones", round, from, n)
			}
		}
		k.free()
		k.free()
		wantReplayMemory(t, 0)
	}
}

// Memory is given back at every end of a request, once.
func TestReplayMemoryIsGivenBack(t *testing.T) {
	const size = 3 * chunkSize
	content := strings.Repeat("x", size)
	type steps = func(b *replayBody, first io.ReadCloser)
	rest := func(r io.Reader) { _, _ = io.Copy(io.Discard, r) }
	for name, tc := range map[string]struct {
		limit int
		steps steps
		held  int64 // before the request ends
	}{
		"nothing read":              {size, func(*replayBody, io.ReadCloser) {}, 0},
		"read, no answer yet":       {size, func(_ *replayBody, first io.ReadCloser) { rest(first) }, size},
		"answered":                  {size, func(b *replayBody, first io.ReadCloser) { rest(first); b.finish() }, 0},
		"answered early, then read": {size, func(b *replayBody, first io.ReadCloser) { readSome(t, first, 10); b.finish(); rest(first) }, 0},
		"closed, then answered":     {size, func(b *replayBody, first io.ReadCloser) { rest(first); _ = first.Close(); b.finish() }, 0},
		"more than the limit":       {size - 1, func(_ *replayBody, first io.ReadCloser) { rest(first) }, 0},
		"again":                     {size, func(b *replayBody, first io.ReadCloser) { rest(first); b.again() }, size},
		"again, half read, answered": {size, func(b *replayBody, first io.ReadCloser) {
			rest(first)
			r, _ := b.again()
			readSome(t, r, 10)
			b.finish()
		}, size},
		"again, answered, read":          {size, func(b *replayBody, first io.ReadCloser) { rest(first); r, _ := b.again(); b.finish(); rest(r) }, 0},
		"again, answered, closed unread": {size, func(b *replayBody, first io.ReadCloser) { rest(first); r, _ := b.again(); b.finish(); _ = r.Close() }, 0},
		"again and again": {size, func(b *replayBody, first io.ReadCloser) {
			rest(first)
			r, _ := b.again()
			rest(r)
			r, _ = b.again()
			rest(r)
		}, size},
		"again, of a body in mid-air": {size, func(b *replayBody, first io.ReadCloser) {
			readSome(t, first, chunkSize)
			r, _ := b.again()
			rest(r)
		}, size},
	} {
		t.Run(name, func(t *testing.T) {
			limitReplayMemory(t, 1<<20)
			b := newReplayBody(unsized(io.NopCloser(strings.NewReader(content))), tc.limit)
			first := b.first()
			tc.steps(b, first)
			wantReplayMemory(t, tc.held)
			b.discard()
			wantReplayMemory(t, 0)
			if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
				t.Errorf("a read after the end of the request gave %d, %v", n, err)
			}
			b.finish()
			b.discard()
		})
	}
}

// A late read that brings something after the request has ended keeps nothing of it.
func TestReplayMemoryAfterALateRead(t *testing.T) {
	limitReplayMemory(t, 1<<20)
	source := newScriptedBody()
	b := newReplayBody(unsized(source), 100)
	first := b.first()
	read := make(chan error)
	go func() {
		_, err := first.Read(make([]byte, 10))
		read <- err
	}()
	eventually(t, "a read", func() bool { return source.waiting.Load() == 1 })
	if _, ok := b.again(); !ok {
		t.Fatal("the body is not whole")
	}
	b.discard()
	source.chunks <- "late"
	if err := <-read; err == nil || err == io.EOF {
		t.Errorf("the late read gave %v", err)
	}
}

// Beyond the limit a body is not kept, but sent. What a late read has brought is kept all the same.
func TestReplayMemoryIsBounded(t *testing.T) {
	limitReplayMemory(t, 2*chunkSize)
	denials := replayMemory.denials.Load()
	content := strings.Repeat("x", chunkSize)
	var bodies []*replayBody
	for n := range 4 {
		b := newReplayBody(unsized(io.NopCloser(strings.NewReader(content))), defaultReplayBuffer)
		wantAll(t, b.first(), content)
		if want := n < 2; b.hold() != want {
			t.Errorf("body %d can be replayed: %t, want %t", n, !want, want)
		}
		bodies = append(bodies, b)
	}
	wantReplayMemory(t, 2*chunkSize)
	if n := replayMemory.denials.Load() - denials; n != 2 {
		t.Errorf("%d bodies were counted as not kept, want 2", n)
	}
	bodies[0].discard()
	b := newReplayBody(unsized(io.NopCloser(strings.NewReader(content))), defaultReplayBuffer)
	wantAll(t, b.first(), content)
	if !b.hold() {
		t.Error("there is room again, and the body is not kept")
	}
	for _, b := range append(bodies, b) {
		b.discard()
	}
}

// However a request ends, its memory is given back.
func TestRequestsGiveReplayMemoryBack(t *testing.T) {
	for name, next := range map[string]roundTrip{
		"200":           refusing(func(string) bool { return false }, ""),
		"401, then 200": refusing(onlyTheFirst, invalidToken),
		"401 to all":    refusing(anyToken, invalidToken),
		"401, not ours": refusing(anyToken, `Bearer error="insufficient_scope"`),
		"an error": func(req *http.Request) (*http.Response, error) {
			readSome(t, req.Body, 2)
			return nil, errors.New("broken")
		},
		"a body left open": func(req *http.Request) (*http.Response, error) {
			readSome(t, req.Body, 2)
			return apiResponse(200, "ok"), nil
		},
		"401, a body left open": func(req *http.Request) (*http.Response, error) {
			readSome(t, req.Body, 2)
			if credentialOf(req) == "Bearer token-1" {
				return apiResponse(401, "no"), nil
			}
			return apiResponse(200, "ok"), nil
		},
		"a panic": func(req *http.Request) (*http.Response, error) { readSome(t, req.Body, 2); panic(http.ErrAbortHandler) },
		"a broken answer": func(req *http.Request) (*http.Response, error) {
			readSome(t, req.Body, 2)
			res := apiResponse(200, "")
			res.Body = io.NopCloser(io.MultiReader(strings.NewReader("ok"), errorReader{}))
			return res, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			limitReplayMemory(t, 1<<20)
			held := int64(0)
			_, proxy := newContendersBefore(t, strings.Repeat("x", 100), roundTrip(func(req *http.Request) (*http.Response, error) {
				defer func() { held = max(held, replayMemory.used.Load()) }()
				return next(req)
			}))
			func() {
				defer func() { _ = recover() }()
				_ = proxy.tryServe()
			}()
			if held == 0 {
				t.Error("the body was not kept in the first place")
			}
		})
	}
}

// The memory of a body goes to the body of another request, without being cleared, and transports may read a body after its
// request has ended. Each body here consists of a word of its own, and no other word may arrive with it: after a 401 that
// comes early or late, an upload that breaks off, and a body beyond the buffer, all at the same time.
func TestNoByteReachesAnotherRequest(t *testing.T) {
	for name, configure := range map[string]func(*httptest.Server){"HTTP/1.1": func(*httptest.Server) {}, "HTTP/2": serveH2C} {
		t.Run(name, func(t *testing.T) {
			var received wordCounts
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) { received.answer(t, w, r) }, configure)
			upstream := api.URL
			if name == "HTTP/2" {
				upstream = "h2c://" + api.addr()
			}
			client := testClient(t)
			// A request whose token is rejected is not sent again if too much of its body has been sent, and rejections that
			// follow have no effect for a second. With bad luck, no request of a round is sent again.
			eventually(t, "bodies arrive whole, and attempts are second ones", func() bool {
				tokens := newTokenServer(t)
				_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+upstream)
				var clients sync.WaitGroup
				for n := range 8 {
					random := rand.New(rand.NewPCG(20, uint64(n)))
					clients.Go(func() {
						for range 25 {
							sendWords(t, client, base, random)
						}
					})
				}
				clients.Wait()
				received.seen.Clear()
				return received.whole.Load() > 0 && received.second.Load() > 0
			})
			eventually(t, "the memory is given back", func() bool { return replayMemory.used.Load() == 0 })
		})
	}
}

// wordCounts counts the requests with a body of words.
type wordCounts struct {
	whole, second atomic.Int64
	seen          sync.Map // the words of earlier attempts
}

// answer reads a body of words, and rejects most first attempts, before or after it reads.
func (c *wordCounts) answer(t *testing.T, w http.ResponseWriter, r *http.Request) {
	word := r.Header.Get("X-Word")
	_, again := c.seen.LoadOrStore(word, true)
	if again {
		c.second.Add(1)
	}
	if !again && word[0] < '5' {
		refuseEarly(w, r)
		return
	}
	content, err := io.ReadAll(r.Body)
	if want := strings.Repeat(word, len(content)/len(word)+1)[:len(content)]; string(content) != want {
		t.Errorf("the body of %s has bytes of another request, or of another place", word)
	}
	if err != nil {
		return
	}
	c.whole.Add(1)
	if !again && word[0] < 'a' {
		w.Header().Set("WWW-Authenticate", invalidToken)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// sendWords sends a body of one word, or a part of it.
func sendWords(t *testing.T, client *http.Client, base string, random *rand.Rand) {
	word := fmt.Sprintf("%016x", random.Uint64())
	content := strings.NewReader(strings.Repeat(word, 1+random.IntN(6<<10)))
	var body io.Reader = content
	if random.IntN(5) == 0 {
		body = io.MultiReader(io.LimitReader(content, random.Int64N(content.Size())), errorReader{})
	}
	req := newRequest(t, http.MethodPost, base, body, "X-Word", word)
	req.ContentLength = content.Size()
	a, err := tryAsk(client, req)
	if err == nil && a.StatusCode != http.StatusOK && a.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %d with %q", a.StatusCode, a.body)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("broken off") }

// With on_unauthorized pass, no body takes memory.
func TestPassKeepsNoBody(t *testing.T) {
	for option, keeps := range map[string]bool{"replay": true, "pass": false} {
		t.Run(option, func(t *testing.T) {
			var kept atomic.Int64
			tokens := newTokenServer(t)
			api := newRecordingAPI(t, tokens.guarded(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				kept.Store(replayMemory.used.Load())
			}))
			_, base := startProxy(t, tokens.credential("api"), "token_proxy api "+api.URL+" {\n on_unauthorized "+option+"\n}")
			ask(t, testClient(t), newRequest(t, http.MethodPost, base, strings.NewReader(strings.Repeat("x", 10_000)))).wantStatus(t, 200)
			if n := kept.Load(); n > 0 != keeps {
				t.Errorf("%d bytes of replay_memory were in use while the API had the request", n)
			}
		})
	}
}

// A body for which there is no room is sent; if its token is rejected then, the 401 passes, and the next request has another
// token.
func TestReplayMemoryIsUsedUp(t *testing.T) {
	for name, tc := range map[string]struct {
		option string
		status int
	}{
		"room":    {"", 200},
		"no room": {"replay_memory 0\n", 401},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := newTokenServer(t)
			received := new(sums)
			check := tokens.guarded(func(w http.ResponseWriter, r *http.Request) {})
			api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
				received.take(r)
				check(w, r)
			})
			addr := freeAddr(t)
			options := strings.Replace(globalOptions(tokens.credential("api")), "token_proxy {", "token_proxy {\n"+tc.option, 1)
			startCaddy(t, options+siteConfig(addr, "token_proxy api "+api.URL))
			send := func() int {
				t.Helper()
				return ask(t, testClient(t), newRequest(t, http.MethodPost, "http://"+addr, &patternReader{size: 10_000})).StatusCode
			}
			if status := send(); status != 200 {
				t.Errorf("got %d", status)
			}
			tokens.revokeAll()
			if status := send(); status != tc.status {
				t.Errorf("got %d after the token was revoked, want %d", status, tc.status)
			}
			if status := send(); status != 200 {
				t.Errorf("the next request got %d", status)
			}
			for _, sum := range received.taken() {
				if sum != patternSum(10_000) {
					t.Errorf("the API got the body %s", sum)
				}
			}
			eventually(t, "the memory is given back", func() bool { return replayMemory.used.Load() == 0 })
		})
	}
}
