package caddymodule

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// rawAPI is an upstream that remembers the very bytes of each request, trailer included. It takes one request a
// connection and answers 200.
type rawAPI struct {
	addr     string
	mu       sync.Mutex
	requests []string
}

func newRawAPI(t *testing.T) *rawAPI {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &rawAPI{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { a.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return a
}

func (a *rawAPI) serve(conn net.Conn) {
	defer conn.Close()
	var raw bytes.Buffer
	r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &raw)))
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	if err != nil {
		fmt.Fprintf(&raw, "\r\n(%v)", err)
	}
	a.mu.Lock()
	a.requests = append(a.requests, raw.String())
	a.mu.Unlock()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
}

// take returns what has arrived since the last call.
func (a *rawAPI) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.requests
	a.requests = nil
	return taken
}

// credentialFields returns the fields of a raw message, header and trailer, that an API could take for a credential:
// Authorization and the given name, with '-', '_' and '.' taken as the same (CGI and WSGI do).
func credentialFields(raw, name string) []string {
	fold := strings.NewReplacer("_", "-", ".", "-")
	var found []string
	for line := range strings.SplitSeq(strings.ReplaceAll(raw, "\r", "\n"), "\n") {
		field, _, ok := strings.Cut(line, ":")
		field = fold.Replace(strings.ToLower(strings.TrimSpace(field)))
		if ok && (field == "authorization" || field == "proxy-authorization" || field == strings.ToLower(name)) {
			found = append(found, line)
		}
	}
	return found
}

// wantOurs fails unless the raw request carries one credential, a live token of ours.
func wantOurs(t *testing.T, tokens *tokenServer, raw, name, prefix string) {
	t.Helper()
	fields := credentialFields(raw, name)
	if len(fields) != 1 {
		t.Errorf("the API got %d credentials %q in\n%s", len(fields), fields, raw)
		return
	}
	value, ok := strings.CutPrefix(fields[0], name+": "+prefix)
	if _, state := tokens.tokens.Lookup(value); !ok || state != devserver.Live {
		t.Errorf("the API got the credential %q, which is not ours", fields[0])
	}
}

// evil is the credential of the hostile client.
const evil = "ev1l-credential"

// sendRaw sends bytes to a site and returns the status of the first final answer; 0 if there is none.
func sendRaw(t *testing.T, base, request string) int {
	t.Helper()
	conn := dialSite(t, base)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode >= 200 {
			return res.StatusCode
		}
	}
}

// hostileRequests must reach the API with our credential alone, or not at all.
var hostileRequests = []struct {
	name, request string
	refused       bool // by Caddy or by us; the API must get nothing
	quotes        bool // evil stays in some other field, where it is no credential
}{
	{"a credential of its own", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + evil + "\r\n\r\n", false, false},
	{"two credentials", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + evil + "\r\nAuthorization: Basic " + evil + "\r\n\r\n", false, false},
	{"an empty credential", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization:\r\n\r\n", false, false},
	{"capitals", "GET / HTTP/1.1\r\nHost: a\r\nAUTHORIZATION: Bearer " + evil + "\r\nX-API-KEY: " + evil + "\r\n\r\n", false, false},
	{"mixed case", "GET / HTTP/1.1\r\nHost: a\r\naUtHoRiZaTiOn: Bearer " + evil + "\r\nx-aPi-KeY: " + evil + "\r\n\r\n", false, false},
	{"the custom header", "GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: " + evil + "\r\n\r\n", false, false},
	{"underscores", "GET / HTTP/1.1\r\nHost: a\r\nX_Api_Key: " + evil + "\r\nx_api-key: " + evil + "\r\n\r\n", false, false},
	{"dots", "GET / HTTP/1.1\r\nHost: a\r\nX.Api.Key: " + evil + "\r\nX.Api-Key: " + evil + "\r\n\r\n", false, false},
	{"Proxy-Authorization", "GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic " + evil + "\r\n\r\n", false, false},

	// Pitfall 5.17: what Connection names is removed, which must not be our field.
	{"Connection: Authorization", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Authorization\r\n\r\n", false, false},
	{"Connection: close, authorization", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, authorization\r\nAuthorization: " + evil + "\r\n\r\n", false, false},
	{"Connection: X-Api-Key", "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-api-key, authorization\r\nX-Api-Key: " + evil + "\r\n\r\n", false, false},
	{"Connection: X_Api_Key", "GET / HTTP/1.1\r\nHost: a\r\nConnection: X_Api_Key\r\nX_Api_Key: " + evil + "\r\n\r\n", false, false},
	{"Connection with an upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, Authorization, X-Api-Key\r\nUpgrade: websocket\r\nAuthorization: " + evil + "\r\n\r\n", false, false},
	{"Proxy-Connection: Authorization", "GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: Authorization, X-Api-Key\r\n\r\n", false, false},
	{"Keep-Alive and Te", "GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: Authorization\r\nTe: trailers, authorization\r\n\r\n", false, false},

	// Pitfall 5.19: an API that merges trailers would find a second credential there.
	{"declared trailer", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization, X-Api-Key\r\n\r\n" +
		"2\r\nhi\r\n0\r\nAuthorization: Bearer " + evil + "\r\nX-Api-Key: " + evil + "\r\n\r\n", false, false},
	{"undeclared trailer", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"2\r\nhi\r\n0\r\nAuthorization: Bearer " + evil + "\r\nX-Api-Key: " + evil + "\r\n\r\n", false, false},
	{"undeclared trailer beside a declared one", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ok\r\n\r\n" +
		"2\r\nhi\r\n0\r\nX-Ok: ok\r\nAuthorization: Bearer " + evil + "\r\nX-Api-Key: " + evil + "\r\n\r\n", false, false},
	{"trailer in mixed case", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-ok, aUTHORIZATION\r\n\r\n" +
		"2\r\nhi\r\n0\r\naUTHORIZATION: Bearer " + evil + "\r\n\r\n", false, false},
	{"alias in the trailer", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ok, X_Api_Key\r\n\r\n" +
		"2\r\nhi\r\n0\r\nX_Api_Key: " + evil + "\r\nx.api.key: " + evil + "\r\n\r\n", false, false},
	{"Proxy-Authorization in the trailer", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ok, Proxy-Authorization\r\n\r\n" +
		"2\r\nhi\r\n0\r\nProxy-Authorization: Bearer " + evil + "\r\n\r\n", false, false},
	{"trailer of an empty body", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n" +
		"0\r\nAuthorization: Bearer " + evil + "\r\n\r\n", false, false},
	{"trailer declared without a body", "GET / HTTP/1.1\r\nHost: a\r\nTrailer: Authorization, X-Api-Key\r\n\r\n", false, false},

	{"absolute-form with another host", "GET http://evil.example/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", false, false},
	{"absolute-form with user and password", "GET http://user:" + evil + "@evil.example/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", false, false},
	{"absolute-form that disagrees with Host", "GET http://a/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", false, false},
	{"HTTP/1.0", "GET / HTTP/1.0\r\nAuthorization: " + evil + "\r\nConnection: Authorization\r\n\r\n", false, false},

	{"space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer " + evil + "\r\n\r\n", true, false},
	{"tab before the colon", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization\t: Bearer " + evil + "\r\n\r\n", true, false},
	{"NUL in the name", "GET / HTTP/1.1\r\nHost: a\r\nAuthorization\x00: Bearer " + evil + "\r\n\r\n", true, false},
	{"white space before the first field", "GET / HTTP/1.1\r\n Authorization: Bearer " + evil + "\r\nHost: a\r\n\r\n", true, false},
	{"bare CR", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rAuthorization: Bearer " + evil + "\r\n\r\n", true, false},
	{"bare LF", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\nAuthorization: Bearer " + evil + "\r\n\r\n", false, false},
	{"folded line (RFC 9112 section 5.2)", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n Authorization: Bearer " + evil + "\r\n\r\n", false, true},
	{"line break in the target", "GET /\r\nAuthorization:" + evil + " HTTP/1.1\r\nHost: a\r\n\r\n", true, false},
	{"encoded line break in the target", "GET /%0d%0aAuthorization:%20" + evil + " HTTP/1.1\r\nHost: a\r\n\r\n", false, true},
	{"both lengths (RFC 9112 section 6.1)", "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\nAuthorization: " + evil + "\r\n\r\n" +
		"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nAuthorization: " + evil + "\r\n\r\n", false, false},
	{"unknown transfer coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nAuthorization: " + evil + "\r\n\r\n0\r\n\r\n", true, false},

	{"TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", true, false},
	{"TRACE with Max-Forwards", "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", true, false},
	{"TRACK", "TRACK / HTTP/1.1\r\nHost: a\r\n\r\n", true, false},
	{"CONNECT", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", true, false},
	{"CONNECT with a path", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", true, false},
	{"CONNECT that pretends to be a WebSocket", "CONNECT / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nprotocol: websocket\r\n\r\n", true, false},
	{"CONNECT with a pseudo header", "CONNECT / HTTP/1.1\r\nHost: a\r\n:protocol: websocket\r\n\r\n", true, false},
}

// Each mode of injection, each configuration that lets more of the client's fields through.
func TestHostileClient(t *testing.T) {
	modes := []struct {
		name, servers, options, field, prefix string
	}{
		{"Authorization", "", "", "Authorization", "Bearer "},
		{"custom header", "", "header X-Api-Key", "X-Api-Key", ""},
		{"custom header with a format", "", `header X-Api-Key "key {token}"`, "X-Api-Key", "key "},
		{"aliases let through", "servers {\n expected_underscore_headers X_Api_Key* x_api-key\n expected_dot_headers X.Api.Key* X.Api-Key\n}\n", "header X-Api-Key", "X-Api-Key", ""},
	}
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			api := newRawAPI(t)
			addr := freeAddr(t)
			startCaddy(t, "{\n"+mode.servers+"token_proxy {\n"+tokens.credential("api", mode.options)+"}\n}\n"+
				siteConfig(addr, "token_proxy api http://"+api.addr))
			for _, tc := range hostileRequests {
				t.Run(tc.name, func(t *testing.T) {
					status := sendRaw(t, "http://"+addr, tc.request)
					arrived := api.take()
					if tc.refused {
						if status >= 200 && status < 400 || len(arrived) != 0 {
							t.Errorf("it was answered with %d, and the API got %q", status, arrived)
						}
						return
					}
					if len(arrived) == 0 || status != 200 {
						t.Fatalf("status %d, and the API got %d requests", status, len(arrived))
					}
					for _, raw := range arrived {
						wantOurs(t, tokens, raw, mode.field, mode.prefix)
						// Without a custom header, X-Api-Key is no credential, but a field like any other.
						if strings.Contains(raw, evil) && !tc.quotes && (mode.field == "X-Api-Key" || !strings.Contains(strings.ToLower(tc.request), "api")) {
							t.Errorf("the client's credential reached the API:\n%s", raw)
						}
					}
				})
			}
		})
	}
}

// Other trailers than credentials stay (RFC 9110 section 6.5).
func TestHostileTrailerDoesNotTakeOthersAway(t *testing.T) {
	tokens := newTokenServer(t)
	api := newRawAPI(t)
	_, base := startProxy(t, tokens.credential("api"), "token_proxy api http://"+api.addr)
	status := sendRaw(t, base, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ok, Authorization\r\n\r\n"+
		"2\r\nhi\r\n0\r\nX-Ok: still there\r\nAuthorization: Bearer "+evil+"\r\n\r\n")
	arrived := api.take()
	if status != 200 || len(arrived) != 1 || !strings.Contains(arrived[0], "X-Ok: still there\r\n") || strings.Contains(arrived[0], evil) {
		t.Fatalf("status %d, the API got %q", status, arrived)
	}
	if !strings.Contains(arrived[0], "\r\nTrailer: X-Ok\r\n") {
		t.Errorf("what does not come is announced, or what comes is not:\n%s", arrived[0])
	}
}

// The same over HTTP/2, where fields have no case and trailers need no chunks.
func TestHostileClientOverHTTP2(t *testing.T) {
	tokens := newTokenServer(t)
	raw := newRawAPI(t)
	api2 := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Trailer", strings.Join(slices.Sorted(func(yield func(string) bool) {
			for name := range r.Trailer {
				if !yield(name) {
					return
				}
			}
		}), " "))
	}, serveH2C)
	addr := freeAddr(t)
	startCaddy(t, globalOptionsH2C(tokens.credential("api"))+
		siteConfig(addr, "token_proxy /h1 api http://"+raw.addr+"\n token_proxy /h2 api h2c://"+api2.addr()))
	client := h2cClient(t)
	newHostile := func(path string) *http.Request {
		req := newRequest(t, http.MethodPost, "http://"+addr+path, struct{ io.Reader }{strings.NewReader("hi")},
			"Authorization", "Bearer "+evil, "Authorization", "Basic "+evil, "Proxy-Authorization", evil)
		req.Trailer = http.Header{"X-Ok": {"ok"}}
		return req
	}
	a := ask(t, client, newHostile("/h1"))
	a.wantStatus(t, 200)
	arrived := raw.take()
	if len(arrived) != 1 || strings.Contains(arrived[0], evil) || !strings.Contains(arrived[0], "X-Ok: ok") {
		t.Errorf("the HTTP/1.1 API got %q", arrived)
	} else {
		wantOurs(t, tokens, arrived[0], "Authorization", "Bearer ")
	}
	a = ask(t, client, newHostile("/h2"))
	a.wantStatus(t, 200)
	if got := a.Header.Get("X-Trailer"); got != "X-Ok" {
		t.Errorf("the HTTP/2 API got the trailers %q", got)
	}
	withTrailer := newHostile("/h1")
	withTrailer.Trailer.Set("Authorization", "Bearer "+evil)
	_, _ = tryAsk(client, withTrailer) // net/http resets such a stream, at present
	for _, request := range raw.take() {
		wantOurs(t, tokens, request, "Authorization", "Bearer ")
	}
	got := api2.only(t)
	if values := got.Header.Values("Authorization"); len(values) != 1 || strings.Contains(values[0], evil) || got.Header.Get("Proxy-Authorization") != "" {
		t.Errorf("the HTTP/2 API got %v", got.Header)
	}
}

// What the operator writes into the credential's field gives way to the token; TRACE is refused wherever it comes from.
func TestOperatorCannotDoubleTheCredential(t *testing.T) {
	tests := []struct {
		name, before, inside string
		refused              bool
	}{
		{"header_up sets", "", "header_up Authorization " + evil, false},
		{"header_up sets in small letters", "", "header_up authorization " + evil, false},
		{"header_up adds", "", "header_up +Authorization " + evil, false},
		{"header_up removes", "", "header_up -Authorization", false},
		{"header_up removes by wildcard", "", "header_up -*", false},
		{"header_up replaces", "", `header_up Authorization "(.*)" ` + evil, false},
		{"header_up copies the client's", "", "header_up Authorization {header.Authorization}", false},
		{"request_header before", "request_header Authorization " + evil, "", false},
		{"method TRACE", "", "method TRACE", true},
		{"method TRACK", "", "method TRACK", true},
		{"method CONNECT", "", "method CONNECT", true},
		{"method TRACE before", "method TRACE", "", true},
		{"method that the client chooses", "", "method {header.X-Method}", true},
	}
	tokens := newTokenServer(t)
	api := newRawAPI(t)
	var routes strings.Builder
	for i, tc := range tests {
		fmt.Fprintf(&routes, "handle /%d {\n%s\ntoken_proxy api http://%s {\n%s\n}\n}\n", i, tc.before, api.addr, tc.inside)
	}
	_, base := startProxy(t, tokens.credential("api"), routes.String())
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			a := get(t, fmt.Sprintf("%s/%d", base, i), "Authorization", "Bearer "+evil, "X-Method", "TRACE")
			arrived := api.take()
			if tc.refused {
				a.wantProblem(t, 405, "http_request_denied")
				if len(arrived) != 0 {
					t.Errorf("the API got %q", arrived)
				}
				return
			}
			a.wantStatus(t, 200)
			if len(arrived) != 1 || strings.Contains(arrived[0], evil) {
				t.Fatalf("the API got %q", arrived)
			}
			wantOurs(t, tokens, arrived[0], "Authorization", "Bearer ")
		})
	}
}

func TestClientAuthorization(t *testing.T) {
	const trailer = "POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%s\r\n2\r\nhi\r\n0\r\nAuthorization: Bearer " + evil + "\r\n\r\n"
	tests := []struct {
		name, path, request string
		status              int
		kept                bool // the API gets the client's credential, else ours
	}{
		{"keep, credential", "/keep", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + evil + "\r\n\r\n", 200, true},
		{"keep, none", "/keep", "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", 200, false},
		{"keep, undeclared trailer", "/keep", strings.Replace(trailer, "%s\r\n2", "\r\n2", 1), 200, false},
		{"keep, custom header", "/custom/keep", "GET %s HTTP/1.1\r\nHost: a\r\nX-Api-Key: " + evil + "\r\n\r\n", 200, true},
		{"keep, Authorization beside a custom header", "/custom/keep", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: " + evil + "\r\n\r\n", 200, true},
		{"keep, custom header, none", "/custom/keep", "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", 200, false},
		{"reject, credential", "/reject", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + evil + "\r\n\r\n", 400, false},
		{"reject, empty credential", "/reject", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization:\r\n\r\n", 400, false},
		{"reject, declared trailer", "/reject", strings.Replace(trailer, "%s\r\n2", "Trailer: Authorization\r\n\r\n2", 1), 400, false},
		{"reject, undeclared trailer", "/reject", strings.Replace(trailer, "%s\r\n2", "\r\n2", 1), 200, false},
		{"reject, none", "/reject", "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", 200, false},
		{"reject, custom header", "/custom/reject", "GET %s HTTP/1.1\r\nHost: a\r\nx-api-key: " + evil + "\r\n\r\n", 400, false},
		{"reject, Authorization beside a custom header", "/custom/reject", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: " + evil + "\r\n\r\n", 400, false},
		{"replace, credential", "/replace", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + evil + "\r\n\r\n", 200, false},
		{"default, credential", "/default", "GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + evil + "\r\n\r\n", 200, false},
	}
	tokens := newTokenServer(t)
	api := newRawAPI(t)
	var routes strings.Builder
	for _, mode := range []string{"keep", "reject", "replace"} {
		fmt.Fprintf(&routes, "token_proxy /%s api http://%s {\n client_authorization %s\n}\n", mode, api.addr, mode)
		fmt.Fprintf(&routes, "token_proxy /custom/%s custom http://%s {\n client_authorization %s\n}\n", mode, api.addr, mode)
	}
	fmt.Fprintf(&routes, "token_proxy /default api http://%s\n", api.addr)
	addr := freeAddr(t)
	startCaddy(t, globalOptions(tokens.credential("api"), tokens.credential("custom", "header X-Api-Key"))+siteConfig(addr, routes.String()))
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			calls := tokens.Calls()
			status := sendRaw(t, "http://"+addr, fmt.Sprintf(tc.request, tc.path))
			arrived := api.take()
			if status != tc.status {
				t.Fatalf("got status %d, want %d", status, tc.status)
			}
			switch {
			case status != 200:
				if len(arrived) != 0 {
					t.Errorf("the API got %q", arrived)
				}
			case len(arrived) != 1:
				t.Errorf("the API got %q", arrived)
			case tc.kept:
				if fields := credentialFields(arrived[0], "X-Api-Key"); len(fields) != 1 || !strings.HasSuffix(fields[0], evil) {
					t.Errorf("the API got the credentials %q, want the client's own", fields)
				}
			case strings.HasPrefix(tc.path, "/custom"):
				wantOurs(t, tokens, arrived[0], "X-Api-Key", "")
			default:
				wantOurs(t, tokens, arrived[0], "Authorization", "Bearer ")
			}
			if (tc.kept || status != 200) && tokens.Calls() != calls {
				t.Error("a token was fetched for a request that gets none")
			}
		})
	}
}

func TestMethodsThatMayCarryTheToken(t *testing.T) {
	tests := []struct {
		method, protocol, proto string
		want                    bool
	}{
		{"GET", "", "", true}, {"HEAD", "", "", true}, {"POST", "", "", true}, {"PUT", "", "", true}, {"PATCH", "", "", true},
		{"DELETE", "", "", true}, {"OPTIONS", "", "", true}, {"PROPFIND", "", "", true},
		{"TRACE", "", "", false}, {"TRACK", "", "", false}, {"TRACE", "websocket", "", false},
		{"trace", "", "", false}, {"Track", "", "", false}, {"connect", "", "", false},
		{"CONNECT", "", "", false}, {"CONNECT", "connect-udp", "", false},
		{"CONNECT", "websocket", "HTTP/2.0", true}, // RFC 8441
		{"CONNECT", "", "websocket", true},         // RFC 9220, as quic-go hands it over
	}
	for _, tc := range tests {
		r := httptest.NewRequest(tc.method, "/", nil)
		if tc.protocol != "" {
			r.Header[":protocol"] = []string{tc.protocol}
		}
		if tc.proto != "" {
			r.Proto = tc.proto
		}
		if got := mayCarryToken(r); got != tc.want {
			t.Errorf("%s %s %s: got %t", tc.method, tc.protocol, tc.proto, got)
		}
	}
}
