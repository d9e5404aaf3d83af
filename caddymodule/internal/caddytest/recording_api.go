package caddytest

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// RecordedRequest is what reached a RecordingAPI.
type RecordedRequest struct {
	Method, URI, Host, Proto string
	Header                   http.Header
	ContentLength            int64
	TransferEncoding         []string
	TLS                      bool
}

// RecordingAPI is an upstream that remembers what reaches it. It counts connections too: to be connected to is to
// have received something.
type RecordingAPI struct {
	*httptest.Server
	mu          sync.Mutex
	requests    []RecordedRequest
	connections int
}

// NewRecordingAPI runs one. What it does with requests besides, if anything, is h.
func NewRecordingAPI(t *testing.T, h http.HandlerFunc, configure ...func(*httptest.Server)) *RecordingAPI {
	t.Helper()
	a := new(RecordingAPI)
	configure = append(configure, func(srv *httptest.Server) {
		srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				a.mu.Lock()
				a.connections++
				a.mu.Unlock()
			}
		}
	})
	a.Server = ServeHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.requests = append(a.requests, RecordedRequest{
			Method: r.Method, URI: r.RequestURI, Host: r.Host, Proto: r.Proto, Header: r.Header.Clone(),
			ContentLength: r.ContentLength, TransferEncoding: r.TransferEncoding, TLS: r.TLS != nil,
		})
		a.mu.Unlock()
		if h != nil {
			h(w, r)
		}
	}), configure...)
	return a
}

// Received returns the requests so far.
func (a *RecordingAPI) Received() []RecordedRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]RecordedRequest(nil), a.requests...)
}

// ConnectionCount counts the connections so far.
func (a *RecordingAPI) ConnectionCount() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.connections
}

// Only returns the one request that must have arrived.
func (a *RecordingAPI) Only(t *testing.T) RecordedRequest {
	t.Helper()
	all := a.Received()
	if len(all) != 1 {
		t.Fatalf("the API got %d requests, want 1", len(all))
	}
	return all[0]
}

// Addr is the host and port of the API.
func (a *RecordingAPI) Addr() string { return a.Listener.Addr().String() }
