package devserver

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	jsonGood = `{"grant_type":"client_credentials","client_id":"dev-client","client_secret":"dev-secret"}`
	formGood = "grant_type=client_credentials&client_id=dev-client&client_secret=dev-secret"
	formType = "application/x-www-form-urlencoded"
)

// post returns a token request from loopback.
func post(path, contentType, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:50000"
	r.Header.Set("Content-Type", contentType)
	return r
}

func optoroRequest() *http.Request { return post("/oauth/token", typeJSON, jsonGood) }

func elasticRequest() *http.Request { return post("/oauth/access_token", formType, formGood) }

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// fetch gets a token without a network.
func fetch(t *testing.T, e *TokenEndpoint) tokenBody {
	t.Helper()
	r := optoroRequest()
	if e.Dialect == ElasticPath {
		r = elasticRequest()
	}
	w := serve(e, r)
	if w.Code != http.StatusOK {
		t.Fatalf("got status %d with %s", w.Code, w.Body)
	}
	return decode[tokenBody](t, w.Body)
}

func decode[T any](t *testing.T, r io.Reader) (v T) {
	t.Helper()
	if err := json.NewDecoder(r).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// advance moves the fake clock of a synctest bubble forward.
func advance(d time.Duration) { <-time.After(d) }

// start serves an endpoint with a fault on loopback. It also returns a function that requests a token.
func start(t *testing.T, e *TokenEndpoint, f Fault) (*httptest.Server, func() (*http.Response, error)) {
	t.Helper()
	e.Registry = NewRegistry()
	e.SetFault(f)
	srv := httptest.NewServer(e)
	t.Cleanup(srv.Close)
	client := srv.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return srv, func() (*http.Response, error) {
		if e.Dialect == ElasticPath {
			form, _ := url.ParseQuery(formGood)
			return client.PostForm(srv.URL+"/oauth/access_token", form)
		}
		return client.Post(srv.URL+"/oauth/token", typeJSON, strings.NewReader(jsonGood))
	}
}
