package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

func TestWithCookies(t *testing.T) {
	for _, tc := range []struct {
		fields []string
		format string
		want   string
	}{
		{nil, "session=T", "session=T"},
		{[]string{""}, "session=T", "session=T"},
		{[]string{"a=1"}, "session=T", "a=1; session=T"},
		{[]string{"a=1; b=2"}, "session=T", "a=1; b=2; session=T"},
		{[]string{"a=1", "b=2"}, "session=T", "a=1; b=2; session=T"},
		{[]string{"session=old"}, "session=T", "session=T"},
		{[]string{"a=1; session=old; b=2"}, "session=T", "a=1; b=2; session=T"},
		{[]string{"session=old; session=older", "session=oldest;a=1"}, "session=T", "a=1; session=T"},
		{[]string{" session = old "}, "session=T", "session=T"},
		{[]string{"Session=other; sessions=other; xsession=other"}, "session=T", "Session=other; sessions=other; xsession=other; session=T"},
		{[]string{"a=session=1"}, "session=T", "a=session=1; session=T"},
		{[]string{"flag; a=1;;"}, "session=T", "flag; a=1; session=T"},
		{[]string{`q="x=1"; a=%3B`}, "session=T", `q="x=1"; a=%3B; session=T`},
		{[]string{"a=1; v=0; session=old"}, "v=2; session=T", "a=1; v=2; session=T"},
		{[]string{"a=1"}, "T", "a=1; T"},
	} {
		got := withCookies(tc.fields, cookieNames(tc.format), []string{tc.format})
		if len(got) != 1 || got[0] != tc.want {
			t.Errorf("%q and %q: got %q, want %q", tc.fields, tc.format, got, tc.want)
		}
	}
}

func TestWithParameter(t *testing.T) {
	for _, tc := range []struct {
		query, want string
		has         bool
	}{
		{"", "key=T", false},
		{"page=2", "page=2&key=T", false},
		{"key=old", "key=T", true},
		{"key", "key=T", true},
		{"a=1&key=old&b=2", "a=1&b=2&key=T", true},
		{"key=a&key=b&x", "x&key=T", true},
		{"%6bey=old&a=1", "a=1&key=T", true},
		{"ke%79=old", "key=T", true},
		{"Key=1&keys=2&key[]=3", "Key=1&keys=2&key[]=3&key=T", false},
		{"a=key=1&b=%26key%3D2", "a=key=1&b=%26key%3D2&key=T", false},
		{"a=%zz&%zz=1", "a=%zz&%zz=1&key=T", false},
		{"a=b+c&d=%2F/%2f", "a=b+c&d=%2F/%2f&key=T", false},
		{"&&a=1&", "a=1&key=T", false},
	} {
		if got := withParameter(tc.query, "key", "key=T"); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.query, got, tc.want)
		}
		if has := hasParameter(tc.query, "key"); has != tc.has {
			t.Errorf("%q: it has the parameter: %t", tc.query, has)
		}
	}
}

// The header of an answer shows no token that the API got in the query, however the API repeats it.
func TestAnswerWithoutQuery(t *testing.T) {
	const value = "q0._~W1+e2/r3-T4=y5u6"
	once := url.QueryEscape(value)
	header := &TokenHeader{Name: "query:key"}
	if err := header.provision(); err != nil {
		t.Fatal(err)
	}
	field := new(tokenField)
	var sent sentFields
	sent.add(field.of(header, token.NewSecret(value)))
	for in, want := range map[string]string{
		"/orders/?key=" + once:                     "/orders/",
		"/orders/?page=2&key=" + once:              "/orders/?page=2",
		"/orders/?key=" + once + "&page=2":         "/orders/?page=2",
		"/orders/?a=1&key=" + once + "&page=2#top": "/orders/?a=1&page=2#top",
		"<https://api/o?page=2&key=" + once + `>; rel="next", <https://api/o?key=` + once + `>; rel="first"`: `<https://api/o?page=2>; rel="next", <https://api/o>; rel="first"`,
		"/login?to=" + url.QueryEscape("/orders?key="+once):                                                  "/login?to=%2Forders%3Fkey%3DREDACTED",
		"/login?to=/orders?key=" + value:                                                                     "/login?to=/orders?key=REDACTED",
		"0; url=/orders?key=" + once:                                                                         "0; url=/orders",
		"session=" + value + "; Path=/":                                                                      "session=REDACTED; Path=/",
		"/o?key=" + strings.NewReplacer("%2B", "%2b", "%2F", "%2f", "%3D", "%3d").Replace(once):              "REDACTED",
		"/o?key=" + url.PathEscape(value):                                                                    "/o?key=REDACTED",
		"a part: " + value[4:19]:                                                                             "REDACTED",
		"/orders/?page=2":                                                                                    "/orders/?page=2",
		"/orders/?key=other":                                                                                 "/orders/?key=other",
		"":                                                                                                   "",
	} {
		answer := http.Header{"Location": {"first", in}}
		field.withoutQuery(answer, &sent)
		if got := answer["Location"]; got[0] != "first" || got[1] != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
	for _, tc := range []struct {
		name string
		sent *sentFields
		more int // tokens that other requests have sent since
	}{{"another request", nil, 1}, {"the request", &sent, 0}, {"the request, late", &sent, 5}} {
		for n := range tc.more {
			field.of(header, token.NewSecret(fmt.Sprint("another-token-of-today-", n)))
		}
		answer := http.Header{"Location": {"/orders?key=" + once}}
		if field.withoutQuery(answer, tc.sent); answer["Location"][0] != "/orders" {
			t.Errorf("the answer to %s has %q", tc.name, answer["Location"])
		}
	}
}

func TestTokenPlaces(t *testing.T) {
	for _, refused := range []TokenHeader{
		{Name: "query:"}, {Name: "query:\x00"}, {Name: "query:a\nb"}, {Name: "query:{env.NAME}"}, {Name: "Query:key"}, {Name: "query", Format: "none"},
		{Name: "query:key", Format: "T"}, {Name: "query:key", Format: "{token}{token}"}, {Name: "query:key", Format: "{env.X}{token}"}, {Name: "query:key", Format: "{token}\r\n"},
		{Name: "Cookie", Format: "session=T"}, {Name: "Cookie", Format: "session={token}\r\nX: 1"}, {Name: "Cookie", Format: "{env.X}={token}"},
	} {
		if err := refused.provision(); err == nil {
			t.Errorf("%+v is accepted", refused)
		}
	}
}

// tokenPlace is a place for the token, and how an API reads the token there.
type tokenPlace struct {
	option string
	read   func(r *http.Request) []string
	own    func(r *http.Request) // puts credentials of the application's own there
}

var tokenPlaces = map[string]tokenPlace{
	"cookie": {`header Cookie "session={token}"`,
		func(r *http.Request) (values []string) {
			for _, c := range r.CookiesNamed("session") {
				values = append(values, c.Value)
			}
			return values
		},
		func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "session", Value: "own"}) }},
	"query": {"header query:access_token",
		func(r *http.Request) []string { return r.URL.Query()["access_token"] },
		func(r *http.Request) { r.URL.RawQuery += "&access_token=own" }},
}

// The API gets the token in a cookie beside the application's own, or in the query beside the application's parameters. It
// gets it once, whatever the application sends there, also in a replay.
func TestTokenInACookieOrQuery(t *testing.T) {
	for name, place := range tokenPlaces {
		for _, mode := range []string{"replace", "keep", "reject"} {
			for _, own := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, own credentials %t", name, mode, own), func(t *testing.T) {
					tokens := newTokenServer(t)
					api := newRecordingAPI(t, func(w http.ResponseWriter, r *http.Request) {
						values := place.read(r)
						if own && mode == "keep" && slices.Equal(values, []string{"own"}) {
							return
						}
						if len(values) != 1 || r.Header.Get("Authorization") != "" {
							t.Errorf("the API got %q and %q", values, r.Header)
							return
						}
						if _, state := tokens.tokens.Lookup(values[0]); state != devserver.Live {
							w.WriteHeader(http.StatusUnauthorized)
						}
					})
					_, base := startProxy(t, tokens.credential("api", place.option), "token_proxy api "+api.URL+" {\n client_authorization "+mode+"\n}")
					send := func() int {
						req := newRequest(t, http.MethodPost, base+"/orders?b=%2F&page=2&a", strings.NewReader("a body"), "Cookie", "a=1; b=2")
						if own {
							place.own(req)
						}
						return ask(t, testClient(t), req).StatusCode
					}
					want, requests := http.StatusOK, 3 // one of them is replayed
					switch {
					case own && mode == "reject":
						want, requests = http.StatusBadRequest, 0
					case own && mode == "keep":
						requests = 2
					}
					if got := send(); got != want {
						t.Errorf("got %d, want %d", got, want)
					}
					tokens.revokeAll()
					if got := send(); got != want {
						t.Errorf("after the revocation: got %d, want %d", got, want)
					}
					if got := len(api.received()); got != requests {
						t.Errorf("the API got %d requests, want %d", got, requests)
					}
					for _, r := range api.received() {
						if !strings.HasPrefix(r.Header.Get("Cookie"), "a=1; b=2") || len(r.Header["Cookie"]) != 1 || !strings.HasPrefix(r.URI, "/orders?b=%2F&page=2&a") {
							t.Errorf("the API got %s with %q", r.URI, r.Header["Cookie"])
						}
					}
				})
			}
		}
	}
}

// Nothing but the API sees a token in a cookie or in the query, also if the API repeats the query in a redirect, answers with
// it in place of an answer, or breaks the connection.
func TestTokenInACookieOrQueryIsNotSeen(t *testing.T) {
	answers := map[string]func(w io.Writer, target, value string){
		"success": func(w io.Writer, _, _ string) { raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")(w, "") },
		"redirect": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 301 Moved\nLocation: TOKEN\nContent-Length: 0\n\n")(w, "/v2"+target)
		},
		"link": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 200 OK\nLink: <TOKEN>; rel=next\nContent-Length: 0\n\n")(w, target)
		},
		"login": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 302 Found\nLocation: /login?to=TOKEN\nContent-Length: 0\n\n")(w, url.QueryEscape(target))
		},
		"rejection": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 401 No\nContent-Location: TOKEN\nContent-Length: 0\n\n")(w, target)
		},
		"status text":    func(w io.Writer, target, _ string) { raw("HTTP/1.1 TOKEN\n\n")(w, target) },
		"no HTTP":        func(w io.Writer, target, _ string) { raw("TOKEN\n\n")(w, target) },
		"header line":    func(w io.Writer, target, _ string) { raw("HTTP/1.1 200 OK\nTOKEN\n\n")(w, target) },
		"value, decoded": func(w io.Writer, _, value string) { raw("HTTP/1.1 200 OK\nTOKEN\n\n")(w, value) },
		"trailer": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nTOKEN\n\n")(w, target)
		},
		"trailer field": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Next: TOKEN\n\n")(w, target)
		},
		"announced trailer field": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Next\n\n2\nok\n0\nX-Next: TOKEN\n\n")(w, target)
		},
		"early hints": func(w io.Writer, target, _ string) {
			raw("HTTP/1.1 103 Early Hints\nLink: <TOKEN>; rel=preload\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok")(w, target)
		},
		"unsolicited": func(w io.Writer, target, _ string) { raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nokTOKEN")(w, target) },
		"broken":      func(io.Writer, string, string) {},
	}
	wellFormed := []string{"redirect", "link", "login", "rejection", "trailer field", "announced trailer field", "early hints"}
	for name, place := range tokenPlaces {
		for answer, send := range answers {
			t.Run(name+", "+answer, func(t *testing.T) {
				p := new(plants)
				value := p.plant("token", "the token", likeToken, "the API")
				if name == "cookie" { // which is not encoded
					value = p.plant("token", "the token in a cookie", likeCode, "the API")
				}
				endpoint := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"`+value+`","token_type":"Bearer"}`))
				api := serveConns(t, func(conn net.Conn) {
					r, err := http.ReadRequest(bufio.NewReader(conn))
					if err != nil {
						return
					}
					if got := place.read(r); !slices.Equal(got, []string{value}) {
						t.Errorf("the API got %q", got)
					}
					p.see("the API", dump(r))
					if name == "cookie" && slices.Contains(wellFormed, answer) {
						send(conn, r.RequestURI, value) // which has no token
					} else if name == "cookie" {
						send(conn, value, value)
					} else {
						send(conn, r.RequestURI, value)
					}
				})
				spans := serveHTTP(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p.see("spans", dump(r)) }))
				t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
				t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
				addr := freeAddr(t)
				s := startWithSink(t, "{\n debug\n servers {\n log_credentials\n trace\n}\n token_proxy {\n"+credentialConfig("api", endpoint.URL, newClientID(), place.option)+"}\n}\n"+
					siteConfig(addr, `log
						log_append location {http.reverse_proxy.header.Location}
						log_append uri {http.request.uri}
						route {
							tracing {
								span api
							}
							header >X-Seen "{http.reverse_proxy.header.Location}|{http.reverse_proxy.header.Link}|{http.request.uri}|{http.request.header.Cookie}|{http.request.header.Referer}"
							token_proxy api http://`+api+` {
								verbose_logs
							}
						}
						handle_errors {
							respond "{http.error}|{http.error.message}|{http.error.trace}|{http.request.uri}"
						}`))
				conn := dialSite(t, "http://"+addr)
				_, _ = io.WriteString(conn, "GET /orders?page=2 HTTP/1.1\r\nHost: "+addr+"\r\nCookie: a=1\r\nReferer: http://"+addr+"/\r\nConnection: close\r\n\r\n")
				got, _ := io.ReadAll(conn)
				p.see("the application", string(got))
				eventually(t, "a line in the log", func() bool { return strings.Contains(s.logs(), `"handled request"`) })
				if err := caddy.Stop(); err != nil {
					t.Fatal(err)
				}
				p.see("the log", s.logs())
				p.see("the standard log", s.sink())
				for file, content := range filesBelow(t, filepath.Dir(s.logFile)) {
					p.see("file "+file, content)
				}
				found := p.search()
				wantUnseen(t, "token", found)
				wantFound(t, found, value, "the API", true)
				if (strings.HasSuffix(answer, "trailer field") || answer == "early hints") && !strings.Contains(string(got), "/orders?page=2") {
					t.Errorf("the application got\n%s", got)
				}
				if answer == "redirect" && name == "query" && !strings.Contains(string(got), "Location: /v2/orders?page=2\r\n") {
					t.Errorf("the application got\n%s", got)
				}
			})
		}
	}
}
