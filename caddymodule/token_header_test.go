package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// A trailer can come after every body but those whose length HTTP/1 announces.
func TestTrailerFilter(t *testing.T) {
	for name, tc := range map[string]struct {
		major   int
		length  int64
		trailer http.Header
		filters bool
	}{
		"HTTP/1, length":                 {1, 2, nil, false},
		"HTTP/1, chunked":                {1, -1, nil, true},
		"HTTP/1, chunked, announced":     {1, -1, http.Header{"X-Ok": nil}, true},
		"HTTP/1, a handler's own length": {1, 2, http.Header{"X-Ok": nil}, true},
		"HTTP/2, length":                 {2, 2, nil, true},
		"HTTP/2, length 0":               {2, 0, nil, true},
		"HTTP/3":                         {3, -1, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{ProtoMajor: tc.major, ContentLength: tc.length, Trailer: tc.trailer}
			r.Body = &arrivingTrailer{strings.NewReader("hi"), r}
			dpopHeader.keepFromTrailer(r)
			_, filters := r.Body.(*trailerFilter)
			if filters != tc.filters {
				t.Fatalf("the trailer is filtered: %t", filters)
			}
			if _, err := io.ReadAll(r.Body); err != nil {
				t.Fatal(err)
			}
			if filters && (r.Trailer["Authorization"] != nil || r.Trailer.Get("X-Ok") != "ok") {
				t.Errorf("the trailer is %v", r.Trailer)
			}
		})
	}
}

// arrivingTrailer is a body with a trailer, which arrives at its end.
type arrivingTrailer struct {
	io.Reader
	request *http.Request
}

// Read implements io.Reader.
func (b *arrivingTrailer) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.request.Trailer = http.Header{"X-Ok": {"ok"}, "Authorization": {"Bearer app"}}
	}
	return n, err
}

// Close implements io.Closer.
func (b *arrivingTrailer) Close() error { return nil }
