package main

import (
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

// The services demand these values. They are no secrets, because only the services of one run accept them.
const (
	clientID     = "bench-client"
	clientSecret = "bench-secret"
	tokenPrefix  = "bench-token-"
)

// The paths of the API. apiPath requires a token. directPath, for requests without a proxy, does not.
const (
	apiPath    = "/orders/4e1b9c"
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
	mux.HandleFunc("GET "+apiPath, serveAPI)
	mux.HandleFunc("GET "+directPath, answer)
	return mux, nil
}

func serveAPI(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "+tokenPrefix) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer(w, r)
}

func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, apiAnswer)
}

// token answers with a token. The path sets its lifetime.
func (s *services) token(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	defer func() { s.remember(began, time.Now()) }()
	lifetime, err := strconv.Atoi(r.PathValue("lifetime"))
	if id, secret, _ := r.BasicAuth(); err != nil || id != clientID || secret != clientSecret {
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
