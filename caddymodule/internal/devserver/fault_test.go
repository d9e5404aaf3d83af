package devserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaultValidate(t *testing.T) {
	const contradiction = "status or error, hang"
	tests := []struct {
		fault Fault
		want  string // the start of the error, or empty if the fault is valid
	}{
		{Fault{}, ""},
		{Fault{Status: 503, RetryAfter: "0", Count: 2, Latency: 1}, ""},
		{Fault{Error: "invalid_token_reuse", RetryAfter: "Wed, 21 Oct 2015 07:28:00 GMT"}, ""},
		{Fault{Status: 200, Error: "invalid_client"}, ""},
		{Fault{Latency: time.Second, Count: 1}, ""},
		{Fault{Hang: true}, ""},
		{Fault{Reset: true}, ""},
		{Fault{Garbage: GarbageRedirect, RedirectTo: "/x"}, ""},
		{Fault{ExpiresIn: `"3600"`}, ""},
		{Fault{ExpiresIn: "1e20"}, ""},
		{Fault{ExpiresIn: ExpiresInMissing}, ""},
		{Fault{Status: 199}, "status 199"},
		{Fault{Status: 600}, "status 600"},
		{Fault{Error: "in valid"}, "error"},
		{Fault{RetryAfter: "1"}, "retry_after: needs"},
		{Fault{Status: 503, RetryAfter: "5s"}, `retry_after "5s"`},
		{Fault{Status: 503, RetryAfter: "-1"}, "retry_after"},
		{Fault{Status: 503, RetryAfter: "1\r\nX: y"}, "retry_after"},
		{Fault{Latency: -1}, "latency"},
		{Fault{Garbage: "x"}, `garbage "x"`},
		{Fault{Garbage: GarbageRedirect}, "garbage: redirect"},
		{Fault{RedirectTo: "/x"}, "garbage: redirect"},
		{Fault{ExpiresIn: "soon"}, "expires_in"},
		{Fault{Hang: true, Count: -1}, "count -1"},
		{Fault{Count: 1}, "count: needs a fault"},
		{Fault{Hang: true, Status: 500}, contradiction},
		{Fault{Hang: true, Reset: true}, contradiction},
		{Fault{Garbage: GarbageHTML, ExpiresIn: "0"}, contradiction},
	}
	for _, tc := range tests {
		checkError(t, tc.fault.Validate(), tc.want)
	}
	for _, kind := range garbageKinds {
		f := Fault{Garbage: kind}
		if kind == GarbageRedirect {
			f.RedirectTo = "/x"
		}
		checkError(t, f.Validate(), "")
	}
}

// Every fault with an answer, over a real connection.
func TestFaultAnswers(t *testing.T) {
	invalidClient := `{"error":"invalid_client","error_description":"` + descriptions["invalid_client"] + `"}`
	tests := []struct {
		dialect    Dialect
		fault      Fault
		wantStatus int
		wantBody   string // exact, or the start of the body if it ends with …
		wantHeader string // Name: value
	}{
		{Optoro, Fault{Status: 400}, 400, "", "Content-Type: " + typeHTML},
		{Optoro, Fault{Status: 401}, 401, invalidClient, `WWW-Authenticate: Bearer realm="Doorkeeper", error="invalid_client", error_description="` + descriptions["invalid_client"] + `"`},
		{Optoro, Fault{Status: 403}, 403, "", "Content-Type: "},
		{Optoro, Fault{Status: 404}, 404, "", "Content-Type: " + typeHTML},
		{Optoro, Fault{Status: 415}, 415, "{}", "Content-Type: " + typeJSONUTF8},
		{Optoro, Fault{Status: 422}, 422, "", ""},
		{Optoro, Fault{Status: 429}, 429, "", "Retry-After: "},
		{Optoro, Fault{Status: 429, RetryAfter: "7"}, 429, "", "Retry-After: 7"},
		{Optoro, Fault{Status: 503, RetryAfter: "Wed, 21 Oct 2015 07:28:00 GMT"}, 503, "", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"},
		{Optoro, Fault{Status: 500}, 500, "", "Content-Type: "},
		{Optoro, Fault{Status: 204}, 204, "", ""},
		{Optoro, Fault{Error: "invalid_client"}, 401, invalidClient, ""},
		{Optoro, Fault{Status: 200, Error: "invalid_client"}, 200, invalidClient, ""},
		{Optoro, Fault{Error: "invalid_token_reuse", RetryAfter: "1"}, 400, `{"error":"invalid_token_reuse","error_description":"` + serverError + `"}`, "Retry-After: 1"},
		{Optoro, Fault{Error: "invalid_scope"}, 400, `{"error":"invalid_scope","error_description":"` + descriptions["invalid_scope"] + `"}`, ""},
		{ElasticPath, Fault{Status: 400}, 400, `{"errors":[{"title":"Bad Request","status":"400"}]}`, "Content-Type: " + typeJSON},
		{ElasticPath, Fault{Status: 401}, 401, `{"errors":[{"title":"Unauthorized","status":"401"}]}`, ""},
		{ElasticPath, Fault{Status: 429, RetryAfter: "3"}, 429, `{"errors":[{"title":"Too Many Requests","status":429}]}`, "Retry-After: 3"},
		{ElasticPath, Fault{Status: 500}, 500, `{"errors":[{"title":"Internal Server Error","status":"500","detail":"there was a problem processing your request"}]}`, ""},
		{ElasticPath, Fault{Status: 502}, 502, "<html>…", "Content-Type: " + typeHTML},
		{ElasticPath, Fault{Status: 503}, 503, "<html>…", ""},
		{ElasticPath, Fault{Status: 504}, 504, "<html>…", ""},
		{ElasticPath, Fault{Error: "invalid_client"}, 401, `{"error":"invalid_client"}`, ""},
		{Optoro, Fault{Garbage: GarbageHTML}, 200, "<!doctype html>…", "Content-Type: " + typeHTML},
		{Optoro, Fault{Garbage: GarbageEmpty}, 200, "", "Content-Type: " + typeJSON},
		{Optoro, Fault{Garbage: GarbageNotJSON}, 200, "access_token=none\n", "Content-Type: " + typeJSON},
		{Optoro, Fault{Garbage: GarbageTruncated}, 200, `{"access_token":"…`, ""},
		{Optoro, Fault{Garbage: GarbageNoToken}, 200, `{"token_type":"Bearer","expires_in":90000,…`, ""},
		{ElasticPath, Fault{Garbage: GarbageNoToken}, 200, `{"token_type":"Bearer","expires_in":3600,"expires":…`, ""},
		{Optoro, Fault{Garbage: GarbageRedirect, RedirectTo: "http://127.0.0.1:1/"}, 307, "", "Location: http://127.0.0.1:1/"},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%s %+v", tc.dialect, tc.fault), func(t *testing.T) {
			_, ask := start(t, &TokenEndpoint{Dialect: tc.dialect}, tc.fault)
			resp, err := ask()
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			start, open := strings.CutSuffix(tc.wantBody, "…")
			if resp.StatusCode != tc.wantStatus || !strings.HasPrefix(string(body), start) || !open && string(body) != start {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
			if name, want, _ := strings.Cut(tc.wantHeader, ": "); resp.Header.Get(name) != want {
				t.Errorf("%s: got %q, want %q", name, resp.Header.Get(name), want)
			}
			if resp.Header.Get(HeaderName) != HeaderValue {
				t.Errorf("no %s", HeaderName)
			}
			if tc.fault.Garbage == GarbageTruncated && json.Valid(body) {
				t.Error("the JSON is not cut")
			}
		})
	}
}

func TestFaultFields(t *testing.T) {
	tests := []struct {
		fault Fault
		check func(tokenBody) bool
	}{
		{Fault{Garbage: GarbageControlChars}, func(b tokenBody) bool { return strings.Contains(b.AccessToken, "\r\n") }},
		{Fault{Garbage: GarbageWrongType}, func(b tokenBody) bool { return b.TokenType == "mac" && b.AccessToken != "" }},
		{Fault{ExpiresIn: `"3600"`}, func(b tokenBody) bool { return string(b.ExpiresIn) == `"3600"` }},
		{Fault{ExpiresIn: "0"}, func(b tokenBody) bool { return string(b.ExpiresIn) == "0" }},
		{Fault{ExpiresIn: "-1"}, func(b tokenBody) bool { return string(b.ExpiresIn) == "-1" }},
		{Fault{ExpiresIn: "1e20"}, func(b tokenBody) bool { return string(b.ExpiresIn) == "1e20" }},
		{Fault{ExpiresIn: "null"}, func(b tokenBody) bool { return string(b.ExpiresIn) == "null" }},
		{Fault{ExpiresIn: ExpiresInMissing}, func(b tokenBody) bool { return b.ExpiresIn == nil && b.Scope != "" }},
	}
	for _, tc := range tests {
		e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
		e.SetFault(tc.fault)
		if got := fetch(t, e); !tc.check(got) {
			t.Errorf("%+v: got %+v", tc.fault, got)
		}
		// These faults change a good answer only. A bad request gets the usual answer.
		if w := serve(e, post("/oauth/token", typeJSON, strings.Replace(jsonGood, "dev-secret", "x", 1))); w.Code != 401 {
			t.Errorf("%+v: a wrong secret got %d", tc.fault, w.Code)
		}
	}
}

func TestFaultHuge(t *testing.T) {
	for _, kind := range []Garbage{GarbageHuge, GarbageBomb} {
		for _, wrapped := range []bool{false, true} {
			e := &TokenEndpoint{Dialect: ElasticPath, Wrapped: wrapped}
			_, ask := start(t, e, Fault{Garbage: kind})
			resp, err := ask()
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || len(body) < hugeSize || resp.Uncompressed != (kind == GarbageBomb) {
				t.Errorf("%s: got %d bytes, %v", kind, len(body), err)
			}
			if !json.Valid(body) || !bytes.Contains(body[:100], []byte(`"access_token":`)) {
				t.Errorf("%s: only the size must be wrong", kind)
			}
		}
	}
}

func TestFaultDrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
		e.SetFault(Fault{Garbage: GarbageDrip})
		began := time.Now()
		w := serve(e, optoroRequest())
		length := w.Body.Len()
		if took := time.Since(began); took != time.Duration(length-1)*time.Second || !w.Flushed {
			t.Errorf("%d bytes took %s", length, took)
		}
		decode[tokenBody](t, w.Body)

		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		if w := serve(e, optoroRequest().WithContext(ctx)); w.Body.Len() != 3 {
			t.Errorf("the client left after 3 bytes, not %d", w.Body.Len())
		}
	})
}

func TestFaultDripOverTheWire(t *testing.T) {
	_, ask := start(t, &TokenEndpoint{Dialect: Optoro}, Fault{Garbage: GarbageDrip})
	resp, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := resp.Body.Read(make([]byte, 100)); n != 1 || err != nil {
		t.Errorf("got %d bytes at once, %v", n, err)
	}
}

func TestFaultLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
		for _, f := range []Fault{{Latency: 3 * time.Second}, {Latency: 3 * time.Second, Status: 503}} {
			e.SetFault(f)
			began := time.Now()
			w := serve(e, optoroRequest())
			if took := time.Since(began); took != f.Latency || w.Code == http.StatusOK == (f.Status != 0) {
				t.Errorf("%+v: got %d after %s", f, w.Code, took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if w := serve(e, optoroRequest().WithContext(ctx)); w.Body.Len() != 0 || ctx.Err() == nil {
			t.Error("the client left, and got an answer")
		}
	})
}

func TestFaultHang(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro}
	srv, _ := start(t, e, Fault{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/oauth/token", strings.NewReader(jsonGood))
		_, err := srv.Client().Do(req) //nolint:bodyclose // no answer
		done <- err
	}()
	if err := e.WaitCalls(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("got an answer or %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

func TestFaultReset(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
	_, ask := start(t, e, Fault{Reset: true})
	if _, err := ask(); !errors.Is(err, syscall.ECONNRESET) { //nolint:bodyclose // no answer
		t.Errorf("got error %v", err)
	}

	e.SetFault(Fault{Reset: true})
	srv := httptest.NewUnstartedServer(e)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	_, err := srv.Client().Post(srv.URL+"/oauth/token", typeJSON, strings.NewReader(jsonGood)) //nolint:bodyclose // no answer
	if err == nil {
		t.Error("got an answer over HTTP/2")
	}
	tls := httptest.NewTLSServer(e)
	defer tls.Close()
	_, err = tls.Client().Post(tls.URL+"/oauth/token", typeJSON, strings.NewReader(jsonGood)) //nolint:bodyclose // no answer
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v over TLS", err)
	}
}

func TestFaultCount(t *testing.T) {
	e := &TokenEndpoint{Dialect: Optoro, Registry: NewRegistry()}
	statuses := func() (got []int) {
		for range 4 {
			got = append(got, serve(e, optoroRequest()).Code)
		}
		return got
	}
	for _, tc := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Status: 503}, "[503 503 503 503]"},
		{Fault{Status: 503, Count: 2}, "[503 503 200 200]"},
		{Fault{Error: "invalid_token_reuse", Count: 1}, "[400 200 200 200]"},
		{Fault{}, "[200 200 200 200]"},
	} {
		e.SetFault(tc.fault)
		if got := fmt.Sprint(statuses()); got != tc.want {
			t.Errorf("%+v: got %s, want %s", tc.fault, got, tc.want)
		}
	}
}
