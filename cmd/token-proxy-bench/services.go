package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The services demand these values. With many credentials, a number follows the client id. They are no secrets, because only the services of one run accept them.
const (
	clientID     = "bench-client"
	clientSecret = "bench-secret"
	tokenPrefix  = "bench-token-"
)

// The paths of the API. directPath, for requests without a proxy, requires no token. All others do.
const (
	ordersPath = "/orders/"
	apiPath    = ordersPath + "4e1b9c"
	answerPath = "/answers/" // and the size of the answer, in bytes
	streamPath = "/events"   // an event stream that stays silent after its first event
	directPath = "/direct"
)

// apiAnswer is the answer of the API. It is small, because the measurement is about the proxies.
const apiAnswer = `{"id":"4e1b9c","status":"open","total":{"amount":1999,"currency":"USD"}}`

// tokenCall is one call of the token endpoint. Its times are nanoseconds since 1970.
type tokenCall struct {
	Began int64 `json:"began"`
	Ended int64 `json:"ended"`
}

// services is the API and the token endpoint.
type services struct {
	latency time.Duration // of a token call
	issued  atomic.Int64
	mu      sync.Mutex
	calls   []tokenCall
}

// maxCalls bounds the memory for the calls, in case a contender calls for each request.
const maxCalls = 100_000

func newServices(latency string) (http.Handler, error) {
	d, err := time.ParseDuration(latency)
	if err != nil {
		return nil, err
	}
	s := &services{latency: d}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token/{lifetime}", s.token)
	mux.HandleFunc("GET /calls", s.report)
	mux.HandleFunc(ordersPath, guarded(answer))
	mux.HandleFunc("GET "+answerPath+"{size}", guarded(largeAnswer))
	mux.HandleFunc("GET "+streamPath, guarded(stream))
	mux.HandleFunc("GET "+directPath, answer)
	return mux, nil
}

// guarded demands a token.
func guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "+tokenPrefix) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, apiAnswer)
}

var largeContent = bytes.Repeat([]byte("0123456789abcdef"), 1<<20/16)

// largeAnswer answers with as many bytes as the path sets, at most 1 MiB.
func largeAnswer(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.Atoi(r.PathValue("size"))
	if err != nil || size < 0 || size > len(largeContent) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(size))
	_, _ = w.Write(largeContent[:size])
}

// stream answers with one event, and stays open until the client leaves.
func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: hello\n\n")
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// token answers with a token. The path sets its lifetime.
func (s *services) token(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	defer func() { s.remember(began, time.Now()) }()
	lifetime, err := strconv.Atoi(r.PathValue("lifetime"))
	if id, secret, _ := r.BasicAuth(); err != nil || !strings.HasPrefix(id, clientID) || secret != clientSecret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	time.Sleep(s.latency)
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"%s%d","token_type":"Bearer","expires_in":%d}`, tokenPrefix, s.issued.Add(1), lifetime)
}

func (s *services) remember(began, ended time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) < maxCalls {
		s.calls = append(s.calls, tokenCall{began.UnixNano(), ended.UnixNano()})
	}
}

// report answers with the calls since the last report.
func (s *services) report(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	calls := s.calls
	s.calls = nil
	s.mu.Unlock()
	_ = json.NewEncoder(w).Encode(calls)
}

// takeCalls returns the calls of the token endpoint since it was called last.
func takeCalls(services string) ([]tokenCall, error) {
	res, err := http.Get("http://" + services + "/calls")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var calls []tokenCall
	return calls, json.NewDecoder(res.Body).Decode(&calls)
}
