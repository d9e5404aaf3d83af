package oauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

const (
	rfc8414Path = "/.well-known/oauth-authorization-server"
	oidcPath    = "/.well-known/openid-configuration"
)

// issuer is an authorization server with metadata. It records the requests.
type issuer struct {
	mu    sync.Mutex
	pages map[string]http.HandlerFunc // by path; other paths answer with 404
	asked []string
}

func newIssuer(pages map[string]http.HandlerFunc) *issuer { return &issuer{pages: pages} }

func (i *issuer) set(pages map[string]http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pages = pages
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked = append(i.asked, r.Method+" "+r.URL.String())
	page := i.pages[r.URL.EscapedPath()]
	i.mu.Unlock()
	if page == nil {
		page = status(http.StatusNotFound)
	}
	page(w, r)
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.asked)
}

// do sends a request to the issuer without a network, so that it works in a synctest bubble.
func (i *issuer) do(req *http.Request) (*Answer, error) {
	w := httptest.NewRecorder()
	i.ServeHTTP(w, req)
	if req.Context().Err() != nil {
		return nil, unavailable(token.PeerIssuer, trouble{token.CauseTimeout, "%s did not answer within fetch_timeout"})
	}
	return &Answer{Status: w.Code, Header: w.Header(), Body: w.Body.Bytes(), Sent: time.Now()}, nil
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, canary)
	}
}

// hang does not answer until the client gives up.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func metadata(issuer, endpoint string) string {
	return fmt.Sprintf(`{"issuer":%q,"token_endpoint":%q,"jwks_uri":"https://c4n4ry.example"}`, issuer, endpoint)
}

func at(path string, page http.HandlerFunc) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{path: page}
}

const (
	as       = "https://as.example"
	endpoint = "https://as.example/oauth/token"
)

// RFC 8414 section 3.1 and OpenID Connect Discovery section 4 put the path of the issuer into different places.
func TestDiscoveryLocations(t *testing.T) {
	for id, paths := range map[string][]string{
		"https://as.example":                {rfc8414Path, oidcPath},
		"https://as.example/":               {rfc8414Path, oidcPath},
		"https://as.example:8443":           {rfc8414Path, oidcPath},
		"https://as.example/realms/x":       {rfc8414Path + "/realms/x", "/realms/x" + oidcPath},
		"https://as.example/realms/x/":      {rfc8414Path + "/realms/x", "/realms/x" + oidcPath},
		"https://as.example/a%20b/c%2Fd":    {rfc8414Path + "/a%20b/c%2Fd", "/a%20b/c%2Fd" + oidcPath},
		"https://as.example/oauth2/default": {rfc8414Path + "/oauth2/default", "/oauth2/default" + oidcPath},
	} {
		base := strings.Join(strings.Split(id, "/")[:3], "/")
		for n, path := range paths { // the metadata is at the first or at the second location
			i := newIssuer(at(path, text(metadata(id, endpoint))))
			d := &Discovery{Issuer: id}
			got, err := d.TokenEndpoint(t.Context(), i.do)
			if err != nil || got != endpoint {
				t.Errorf("%s at %s: got %q, %v", id, path, got, err)
			}
			var want []string
			for _, p := range paths[:n+1] {
				want = append(want, "GET "+base+p)
			}
			if !slices.Equal(i.asked, want) {
				t.Errorf("%s: got requests %q, want %q", id, i.asked, want)
			}
		}
	}
}

func TestDiscoveryMetadata(t *testing.T) {
	const mtls = `{"issuer":"https://as.example","token_endpoint":"https://as.example/oauth/token",` +
		`"mtls_endpoint_aliases":{"token_endpoint":"https://mtls.as.example/token"}}`
	for name, tc := range map[string]struct {
		mtls bool
		body string
		want string // the token endpoint
		err  string // part of the reason; empty for success
	}{
		"good":                                {false, metadata(as, endpoint), endpoint, ""},
		"with a query":                        {false, metadata(as, endpoint+"?tenant=1"), endpoint + "?tenant=1", ""},
		"elsewhere":                           {false, metadata(as, "https://login.other.example/t"), "https://login.other.example/t", ""},
		"further members":                     {false, `{"scopes_supported":[1,{}],"issuer":"https://as.example","token_endpoint":"` + endpoint + `","x":null}`, endpoint, ""},
		"white space":                         {false, "\r\n " + metadata(as, endpoint) + "\n", endpoint, ""},
		"loopback in the clear":               {false, metadata(as, "http://127.0.0.1:1/t"), "", "does not use https"},
		"loopback":                            {false, metadata(as, "https://localhost:2019/stop"), "", "could be on this machine"},
		"in the clear":                        {false, metadata(as, "http://as.example/oauth/token"), "", "does not use https"},
		"aliases that do not matter":          {false, mtls, endpoint, ""},
		"aliases":                             {true, mtls, "https://mtls.as.example/token", ""},
		"no aliases":                          {true, metadata(as, endpoint), endpoint, ""},
		"aliases for others":                  {true, `{"issuer":"https://as.example","token_endpoint":"` + endpoint + `","mtls_endpoint_aliases":{"revocation_endpoint":"x"}}`, endpoint, ""},
		"aliases of null":                     {true, `{"issuer":"https://as.example","token_endpoint":"` + endpoint + `","mtls_endpoint_aliases":null}`, endpoint, ""},
		"an invalid alias":                    {true, `{"issuer":"https://as.example","token_endpoint":"` + endpoint + `","mtls_endpoint_aliases":{"token_endpoint":"c4n4ry"}}`, "", "not a valid URL of a token endpoint"},
		"an alias alone, and no certificate":  {false, `{"issuer":"https://as.example","mtls_endpoint_aliases":{"token_endpoint":"` + endpoint + `"}}`, "", "no token endpoint"},
		"another issuer":                      {false, metadata("https://c4n4ry.example", endpoint), "", "another issuer"},
		"an issuer that begins alike":         {false, metadata(as+".c4n4ry.example", endpoint), "", "another issuer"},
		"the issuer in another case":          {false, metadata("https://AS.example", endpoint), "", "another issuer"},
		"the issuer in the clear":             {false, metadata("http://as.example", endpoint), "", "another issuer"},
		"the issuer with its port":            {false, metadata("https://as.example:443", endpoint), "", "another issuer"},
		"the issuer with a path":              {false, metadata(as+"/realms/x", endpoint), "", "another issuer"},
		"the issuer with a slash":             {false, metadata(as+"/", endpoint), "", "ends in a slash, and the option issuer does not"},
		"no issuer":                           {false, `{"token_endpoint":"` + endpoint + `"}`, "", "do not name their issuer"},
		"an issuer of null":                   {false, `{"issuer":null,"token_endpoint":"` + endpoint + `"}`, "", "do not name their issuer"},
		"an issuer of another type":           {false, `{"issuer":["https://as.example"],"token_endpoint":"` + endpoint + `"}`, "", "do not name their issuer"},
		"an issuer by another name":           {false, `{"Issuer":"https://as.example","token_endpoint":"` + endpoint + `"}`, "", "do not name their issuer"},
		"an endpoint by another name":         {false, `{"issuer":"https://as.example","TOKEN_ENDPOINT":"` + endpoint + `"}`, "", "no token endpoint"},
		"an endpoint by two names":            {false, `{"issuer":"https://as.example","token_endpoint":"` + endpoint + `","Token_Endpoint":"https://c4n4ry.example/"}`, endpoint, ""},
		"aliases by another name":             {true, `{"issuer":"https://as.example","token_endpoint":"` + endpoint + `","MTLS_endpoint_aliases":{"token_endpoint":"https://c4n4ry.example"}}`, endpoint, ""},
		"an alias by another name":            {true, `{"issuer":"https://as.example","token_endpoint":"` + endpoint + `","mtls_endpoint_aliases":{"Token_endpoint":"https://c4n4ry.example"}}`, endpoint, ""},
		"no endpoint":                         {false, `{"issuer":"https://as.example"}`, "", "no token endpoint"},
		"an empty endpoint":                   {false, metadata(as, ""), "", "no token endpoint"},
		"an endpoint of null":                 {false, `{"issuer":"https://as.example","token_endpoint":null}`, "", "no token endpoint"},
		"a relative endpoint":                 {false, metadata(as, "/c4n4ry"), "", "not a valid URL of a token endpoint"},
		"an endpoint without a host":          {false, metadata(as, "https:///c4n4ry"), "", "not a valid URL of a token endpoint"},
		"a file":                              {false, metadata(as, "file:///etc/c4n4ry"), "", "not a valid URL of a token endpoint"},
		"an endpoint with a fragment":         {false, metadata(as, endpoint+"#c4n4ry"), "", "not a valid URL of a token endpoint"},
		"an endpoint with a user":             {false, metadata(as, "https://u:c4n4ry@as.example/"), "", "not a valid URL of a token endpoint"},
		"an endpoint with control characters": {false, `{"issuer":"https://as.example","token_endpoint":"https://as.example/\u0000c4n4ry"}`, "", "not a valid URL of a token endpoint"},
		"HTML":                                {false, "<html>c4n4ry</html>", "", "not a JSON object"},
		"nothing":                             {false, "", "", "not a JSON object"},
		"an array":                            {false, "[" + metadata(as, endpoint) + "]", "", "not a JSON object"},
		"cut":                                 {false, metadata(as, endpoint)[:60], "", "not a JSON object"},
		"twice":                               {false, metadata(as, endpoint) + metadata(as, endpoint), "", "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(at(rfc8414Path, text(tc.body)))
			got, err := (&Discovery{Issuer: as, MTLS: tc.mtls}).TokenEndpoint(t.Context(), i.do)
			if tc.err == "" {
				if err != nil || got != tc.want {
					t.Errorf("got %q, %v, want %q", got, err, tc.want)
				}
				return
			}
			e := wantError(t, err, token.Refused)
			if e.Peer != token.PeerIssuer || e.Cause == "" || !strings.Contains(e.Reason, tc.err) || got != "" {
				t.Errorf("got %q and reason %q, want one with %q", got, e.Reason, tc.err)
			}
			if n := i.count(); n != 2 { // the other location may have valid metadata
				t.Errorf("the issuer got %d requests", n)
			}
		})
	}
	if _, err := (&Discovery{Issuer: as + "/"}).TokenEndpoint(t.Context(), newIssuer(at(rfc8414Path, text(metadata(as, endpoint)))).do); err == nil || !strings.Contains(err.Error(), "slash") {
		t.Errorf("an additional slash in the configuration: got %v", err)
	}
	for _, bad := range []string{"https://as.example/%zz", "https://as.example\x00", "https://as.example\x7f/c4n4ry", "c4n4ry bad://x"} {
		_, err := (&Discovery{Issuer: bad}).TokenEndpoint(t.Context(), newIssuer(nil).do)
		wantError(t, err, token.Refused)
	}
}

// Of two failures, TokenEndpoint returns the more useful one. A failure that may pass comes first, and 404 comes last.
func TestDiscoveryFailures(t *testing.T) {
	good := text(metadata(as, endpoint))
	other := text(metadata("https://c4n4ry.example", endpoint))
	for name, tc := range map[string]struct {
		first, second http.HandlerFunc
		kind          token.Kind // empty for success
		status        int
		want          string
	}{
		"404, then good":            {status(404), good, "", 0, ""},
		"500, then good":            {status(500), good, "", 0, ""},
		"401, then good":            {status(401), good, "", 0, ""},
		"302, then good":            {status(302), good, "", 0, ""},
		"HTML, then good":           {text("<html>c4n4ry"), good, "", 0, ""},
		"another issuer, then good": {other, good, "", 0, ""},
		"404 and 404":               {status(404), status(404), token.Refused, 404, "has no metadata at either"},
		"403 and 404":               {status(403), status(404), token.Refused, 403, "without them"},
		"302 and 302":               {status(302), status(302), token.Refused, 302, "redirects"},
		"404 and 500":               {status(404), status(500), token.Unavailable, 500, "at the moment"},
		"500 and 404":               {status(500), status(404), token.Unavailable, 500, "at the moment"},
		"403 and 500":               {status(403), status(500), token.Unavailable, 500, "at the moment"},
		"another issuer and 500":    {other, status(500), token.Unavailable, 500, "at the moment"},
		"429 and 429":               {status(429), status(429), token.Unavailable, 429, "at the moment"},
		"404 and another issuer":    {status(404), other, token.Refused, 0, "another issuer"},
		"another issuer and 404":    {other, status(404), token.Refused, 0, "another issuer"},
		"404 and HTML":              {status(404), text("<html>c4n4ry"), token.Refused, 0, "not a JSON object"},
		"204 and 204":               {status(204), status(204), token.Unreadable, 204, "without them"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newIssuer(map[string]http.HandlerFunc{rfc8414Path: tc.first, oidcPath: tc.second})
			d := &Discovery{Issuer: as}
			got, err := d.TokenEndpoint(t.Context(), i.do)
			if tc.kind == "" {
				if err != nil || got != endpoint {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			e := wantError(t, err, tc.kind)
			if e.Status != tc.status || e.Peer != token.PeerIssuer || !strings.Contains(e.Reason, tc.want) {
				t.Errorf("got %+v, want status %d and a reason with %q", e, tc.status, tc.want)
			}
			if passes := tc.kind == token.Refused && !strings.Contains(tc.want, "another issuer"); e.Passing != passes {
				t.Errorf("passing %t, want %t: only metadata show that a retry would be in vain", e.Passing, passes)
			}
			if tc.kind == token.Unavailable && e.RetryAfter != 7*time.Second {
				t.Errorf("got Retry-After %s", e.RetryAfter)
			}
			// Discovery does not remember a failure, because package token waits between calls.
			i.set(at(rfc8414Path, good))
			if got, err := d.TokenEndpoint(t.Context(), i.do); err != nil || got != endpoint {
				t.Errorf("afterwards: got %q, %v", got, err)
			}
		})
	}
	for err, kind := range map[error]token.Kind{
		unavailable(token.PeerIssuer, trouble{token.CauseConnection, "%s refused the connection"}): token.Unavailable,
		&token.Error{Kind: token.Refused, Reason: "no"}:                                            token.Refused,
		&token.Error{Kind: token.Unreadable, Reason: "large"}:                                      token.Unreadable,
		errors.New(canary): token.Refused,
	} {
		_, got := (&Discovery{Issuer: as + "/" + canary}).TokenEndpoint(t.Context(), func(*http.Request) (*Answer, error) { return nil, err })
		if e := wantError(t, got, kind); e.Peer != token.PeerIssuer && e.Cause != "" {
			t.Errorf("%v: got %+v", err, e)
		}
	}
}

// With a real Client, discovery follows no redirect and uses no plaintext.
func TestDiscoveryOverHTTP(t *testing.T) {
	var elsewhere issuer
	other := httptest.NewServer(&elsewhere)
	defer other.Close()
	redirect := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
	}

	i := newIssuer(nil)
	srv := httptest.NewServer(i)
	defer srv.Close()
	elsewhere.set(map[string]http.HandlerFunc{rfc8414Path: text(metadata(srv.URL, other.URL)), oidcPath: text(metadata(srv.URL, other.URL))})
	do := NewClient(Options{}).Do

	for name, tc := range map[string]struct {
		pages map[string]http.HandlerFunc
		kind  token.Kind // empty for success
		asked int
	}{
		"good":      {at(rfc8414Path, text(metadata(srv.URL, srv.URL+"/token"))), "", 1},
		"OIDC":      {at(oidcPath, text(metadata(srv.URL, srv.URL+"/token"))), "", 2},
		"redirects": {map[string]http.HandlerFunc{rfc8414Path: redirect, oidcPath: redirect}, token.Refused, 2},
		"nothing":   {nil, token.Refused, 2},
		"broken":    {map[string]http.HandlerFunc{rfc8414Path: status(503), oidcPath: status(503)}, token.Unavailable, 2},
		"large":     {map[string]http.HandlerFunc{rfc8414Path: text(strings.Repeat(" ", 1<<20)), oidcPath: text(strings.Repeat(" ", 1<<20))}, token.Unreadable, 2},
	} {
		t.Run(name, func(t *testing.T) {
			i.set(tc.pages)
			before := i.count()
			got, err := (&Discovery{Issuer: srv.URL}).TokenEndpoint(t.Context(), do)
			if tc.kind != "" {
				wantError(t, err, tc.kind)
			} else if err != nil || got != srv.URL+"/token" {
				t.Errorf("got %q, %v", got, err)
			}
			if n := i.count() - before; n != tc.asked {
				t.Errorf("the issuer got %d requests, want %d", n, tc.asked)
			}
		})
	}
	if n := elsewhere.count(); n != 0 {
		t.Errorf("the target of the redirects got %d requests", n)
	}

	t.Run("down", func(t *testing.T) {
		gone := httptest.NewServer(nil)
		gone.Close()
		_, err := (&Discovery{Issuer: gone.URL}).TokenEndpoint(t.Context(), do)
		if e := wantError(t, err, token.Unavailable); e.Cause != token.CauseConnection || !strings.Contains(e.Reason, "the issuer refused the connection") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("an issuer in the clear", func(t *testing.T) {
		_, err := (&Discovery{Issuer: "http://as.example"}).TokenEndpoint(t.Context(), do)
		if e := wantError(t, err, token.Refused); !strings.Contains(e.Reason, "allow_plaintext") {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("an endpoint in the clear", func(t *testing.T) { // the Client checks the URL, even if Discovery accepts it
		i.set(at(rfc8414Path, text(metadata(srv.URL, "http://as.example/token"))))
		got, err := (&Discovery{Issuer: srv.URL}).TokenEndpoint(t.Context(), do)
		if err != nil {
			t.Fatal(err)
		}
		_, err = post(t.Context(), NewClient(Options{}), got)
		if e := wantError(t, err, token.Refused); !strings.Contains(e.Reason, "allow_plaintext") {
			t.Errorf("got %+v", e)
		}
	})
}

// lookup calls TokenEndpoint with the timeout of a token request. It also returns how long the call took.
func lookup(d *Discovery, i *issuer, timeout time.Duration) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	start := time.Now()
	got, err := d.TokenEndpoint(ctx, i.do)
	return got, time.Since(start), err
}

func TestDiscoveryIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(at(rfc8414Path, text(metadata(as, endpoint))))
		d := &Discovery{Issuer: as}
		step := func(wait time.Duration, want string, asked int) {
			t.Helper()
			time.Sleep(wait)
			got, took, err := lookup(d, i, 10*time.Second)
			if err != nil || got != want || took != 0 {
				t.Errorf("got %q after %s, %v, want %q", got, took, err, want)
			}
			if n := i.count(); n != asked {
				t.Errorf("the issuer got %d requests, want %d", n, asked)
			}
		}
		step(0, endpoint, 1)
		step(0, endpoint, 1)
		i.set(at(rfc8414Path, text(metadata(as, endpoint+"/v2"))))
		step(time.Hour-1, endpoint, 1)
		step(1, endpoint+"/v2", 2) // an hour after the first
		step(time.Hour-1, endpoint+"/v2", 2)
		step(1, endpoint+"/v2", 3)

		// If the issuer fails, the known token endpoint stays in use, and Discovery tries again each minute.
		i.set(nil)
		step(time.Hour, endpoint+"/v2", 5)
		step(time.Minute-1, endpoint+"/v2", 5)
		step(1, endpoint+"/v2", 7)
		i.set(at(rfc8414Path, text(metadata("https://c4n4ry.example", "https://c4n4ry.example"))))
		step(time.Minute, endpoint+"/v2", 9)
		i.set(at(oidcPath, text(metadata(as, endpoint+"/v3"))))
		step(time.Minute, endpoint+"/v3", 11)
		step(time.Hour-1, endpoint+"/v3", 11)
	})
}

// An issuer that does not answer delays one token request each minute, by a fraction of its time.
func TestDiscoveryWhileTheIssuerHangs(t *testing.T) {
	for _, tc := range []struct{ timeout, most time.Duration }{
		{time.Minute, 2 * time.Second},
		{10 * time.Second, 2 * time.Second}, // the default fetch_timeout
		{4 * time.Second, time.Second},
		{time.Second, 250 * time.Millisecond},
		{100 * time.Millisecond, 25 * time.Millisecond},
	} {
		for name, pages := range map[string]map[string]http.HandlerFunc{
			"at once":         {rfc8414Path: hang, oidcPath: hang},
			"after a failure": {oidcPath: hang},
		} {
			t.Run(fmt.Sprintf("%s of %s", name, tc.timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					i := newIssuer(at(rfc8414Path, text(metadata(as, endpoint))))
					d := &Discovery{Issuer: as}
					if _, _, err := lookup(d, i, tc.timeout); err != nil {
						t.Fatal(err)
					}
					i.set(pages)
					time.Sleep(time.Hour)
					got, took, err := lookup(d, i, tc.timeout)
					if err != nil || got != endpoint || took == 0 || took > tc.most {
						t.Errorf("got %q after %s, %v, want it within %s", got, took, err, tc.most)
					}
					asked := i.count()
					for range 59 { // no token request waits for the next minute
						got, took, err := lookup(d, i, tc.timeout)
						if err != nil || got != endpoint || took != 0 || i.count() != asked {
							t.Fatalf("got %q after %s, %v", got, took, err)
						}
						time.Sleep(time.Second)
					}
					time.Sleep(time.Second)
					if _, took, _ := lookup(d, i, tc.timeout); took == 0 {
						t.Error("Discovery does not request the metadata again")
					}
				})
			})
		}
	}
	// Without a known token endpoint, discovery may use all of the time.
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(map[string]http.HandlerFunc{rfc8414Path: hang, oidcPath: hang})
		_, took, err := lookup(&Discovery{Issuer: as}, i, 10*time.Second)
		wantError(t, err, token.Unavailable)
		if took != 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	// An issuer that is slow but within renewalTimeout succeeds.
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(at(rfc8414Path, text(metadata(as, endpoint))))
		d := &Discovery{Issuer: as}
		if _, _, err := lookup(d, i, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		i.set(at(rfc8414Path, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(1900 * time.Millisecond)
			text(metadata(as, endpoint+"/v2"))(w, r)
		}))
		time.Sleep(time.Hour)
		if got, _, err := lookup(d, i, 10*time.Second); err != nil || got != endpoint+"/v2" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// Concurrent calls of TokenEndpoint share one request to the issuer.
func TestDiscoveryIsShared(t *testing.T) {
	i := newIssuer(at(rfc8414Path, text(metadata(as, endpoint))))
	d := &Discovery{Issuer: as}
	start := make(chan struct{})
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			<-start
			for range 10 {
				if got, err := d.TokenEndpoint(t.Context(), i.do); err != nil || got != endpoint {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	close(start)
	group.Wait()
	if n := i.count(); n != 1 {
		t.Errorf("the issuer got %d requests", n)
	}
}

// A token request without time left must not make the issuer appear down to the next one.
func TestDiscoveryWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(at(rfc8414Path, text(metadata(as, endpoint))))
		d := &Discovery{Issuer: as}
		if _, _, err := lookup(d, i, 0); err == nil {
			t.Error("TokenEndpoint succeeds without time for a request")
		}
		if got, _, err := lookup(d, i, time.Second); err != nil || got != endpoint {
			t.Errorf("got %q, %v", got, err)
		}
		time.Sleep(time.Hour)
		if got, _, err := lookup(d, i, 0); err != nil || got != endpoint {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// The metadata of an issuer elsewhere must not send the secret to this machine or to a link-local address, in any spelling.
func TestDiscoveryFindsNoEndpointNearby(t *testing.T) {
	names := func(issuer, endpoint string) error {
		d := &Discovery{Issuer: issuer}
		_, err := d.TokenEndpoint(t.Context(), func(*http.Request) (*Answer, error) {
			return &Answer{Status: http.StatusOK, Body: []byte(metadata(issuer, endpoint))}, nil
		})
		return err
	}
	for _, host := range []string{
		"0.0.0.0", "[::]", "LOCALHOST", "localhost.", "127.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "169.254.169.254",
		"[fe80::1%25eth0]", "%6cocalhost", "%31%32%37.1", "ｌocalhost", "a.localhost",
	} {
		for _, issuer := range []string{"https://as.example", "https://10.0.0.1", "https://169.254.1.1"} {
			if names(issuer, "https://"+host+":2019/stop") == nil {
				t.Errorf("%s may name https://%s", issuer, host)
			}
		}
	}
	// the host of the configured issuer is permitted, and so are hosts that are not local
	for issuer, endpoint := range map[string]string{
		"https://169.254.1.1":      "https://169.254.1.1:8443/token",
		"https://[fe80::1%25eth0]": "https://[FE80::1%25eth0]/token",
		"https://LOCALHOST:1":      "https://localhost.:2/token",
		"https://idp.localdomain":  "https://login.localdomain/token",
		"https://10.0.0.1":         "https://10.0.0.2/token",
	} {
		if err := names(issuer, endpoint); err != nil {
			t.Errorf("%s may not name %s: %v", issuer, endpoint, err)
		}
	}
}

// An issuer on this machine may name any token endpoint, because developers run both there.
func TestDiscoveryOnLoopback(t *testing.T) {
	const local = "http://127.0.0.1:9080"
	synctest.Test(t, func(t *testing.T) {
		for _, endpoint := range []string{local + "/token", "http://localhost:9081/token", "https://as.example/token"} {
			i := newIssuer(at(rfc8414Path, text(metadata(local, endpoint))))
			if got, _, err := lookup(&Discovery{Issuer: local}, i, time.Second); err != nil || got != endpoint {
				t.Errorf("got %q, %v, want %q", got, err, endpoint)
			}
		}
	})
}

// After Doubt, Discovery requests the metadata before the next token request, but at most once a minute.
func TestDiscoveryDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(at(rfc8414Path, text(metadata(as, endpoint))))
		d := &Discovery{Issuer: as}
		step := func(want string, asked int) {
			t.Helper()
			if got, _, err := lookup(d, i, 10*time.Second); err != nil || got != want || i.count() != asked {
				t.Errorf("got %q, %v and %d requests to the issuer, want %q and %d", got, err, i.count(), want, asked)
			}
		}
		step(endpoint, 1)
		i.set(at(rfc8414Path, text(metadata(as, endpoint+"/v2"))))
		d.Doubt()
		step(endpoint, 1) // the last request was a moment ago
		time.Sleep(time.Minute)
		step(endpoint, 1)
		d.Doubt()
		step(endpoint+"/v2", 2)
		d.Doubt()
		step(endpoint+"/v2", 2)
	})
}

// A location that does not answer leaves time for the other location.
func TestDiscoveryWhileALocationHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(map[string]http.HandlerFunc{rfc8414Path: hang, oidcPath: text(metadata(as, endpoint))})
		if got, took, err := lookup(&Discovery{Issuer: as}, i, 10*time.Second); err != nil || got != endpoint || took != 5*time.Second {
			t.Errorf("got %q after %s, %v", got, took, err)
		}
	})
}
