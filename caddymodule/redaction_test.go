package caddymodule

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// The second promise of the design: no secret and no token is ever seen by anything but the token endpoint and the API
// it is meant for. (Pitfalls, section 6.)
//
// TestNothingIsSeen drives one Caddy, which logs at debug level all that it can, through every path of the product, in
// which every secret and every token is a planted text that occurs nowhere else. Then it searches all that can be seen
// from outside.

// developmentScenario is the one with the development servers, which make tokens of their own. They see the token at
// developmentPlace.
const (
	developmentScenario = "development servers"
	developmentPlace    = "the development API"
)

// redactionScenario is one path. It has a credential, a token endpoint, an API and a route of its own.
type redactionScenario struct {
	name string

	// The credential.
	secret   string // where it is: env (the default), file or literal
	codeLike bool   // it could be taken for an error code
	instead  bool   // it is no client secret: the provider has it as SECRETFILE, SECRETPATH or SECRETENV
	provider string // with ENDPOINT for the token endpoint's URL; optoro if empty
	plant    func(t *testing.T, r *redactionRun) (replacements []string)
	options  string

	// The route.
	site     string // nosy (the default) or calm
	before   string // directives before token_proxy
	upstream string // the API, if empty
	block    string // subdirectives of token_proxy

	endpoint func(*tokenCall)                                    // issues a token, if nil
	api      func(w http.ResponseWriter, r *http.Request, n int) // answers with a nosy template, if nil

	// The requests: two like this one, or what run does.
	method, body string
	header       []string
	own          string // the header field for credentials of the application's own
	run          func(t *testing.T, r *redactionRun)

	status int  // of every answer
	served bool // a token must arrive at the API
}

// nosy has every placeholder that could hold a token, or that somebody might expect to.
const nosy = `{http.request.header.Authorization}|{http.request.header.X-Api-Key}|{http.request.header.Proxy-Authorization}|` +
	`{http.request.uri}|{http.request.orig_uri}|{http.request.header.Cookie}|{http.request.header.Traceparent}|` +
	`{http.vars.token}|{http.vars.access_token}|{http.vars.lease}|{http.vars.credential}|{http.vars.token_proxy}|` +
	`{http.token_proxy.token}|{http.token_proxy.credential}|{token_proxy.token}|{http.auth.user.id}|` +
	`{http.reverse_proxy.header.Authorization}|{http.reverse_proxy.header.Www-Authenticate}|{http.reverse_proxy.status_text}|` +
	`{http.reverse_proxy.upstream.address}|{http.reverse_proxy.upstream.hostport}|{http.reverse_proxy.duration}|` +
	`{http.response.header.Authorization}|{http.error}|{http.error.message}|{http.error.trace}|{http.error.status_text}`

// nosyTemplate is what the APIs answer: Caddy executes it.
const nosyTemplate = `{{.Req}} {{printf "%+v" .Req}} {{printf "%#v" .Req}} {{.Req.Header}} {{.Req.Trailer}} {{.Req.Context}} ` +
	`{{printf "%#v" .Req.Context}} {{.RespHeader}} {{placeholder "http.request.header.Authorization"}} ` +
	`{{placeholder "http.request.header.X-Api-Key"}} {{placeholder "http.vars.token"}}`

func failWith(status int, code string) func(*tokenCall) {
	return func(c *tokenCall) { c.fail(status, code) }
}

// codeFrom answers with an error code made of the secret.
func codeFrom(make func(c *tokenCall) string) func(*tokenCall) {
	return func(c *tokenCall) { c.fail(http.StatusBadRequest, make(c)) }
}

func answerWith(status int, contentType string, body func(c *tokenCall) string) func(*tokenCall) {
	return func(c *tokenCall) { c.answer(status, contentType, body(c)) }
}

func justTheSecret(c *tokenCall) string { return c.secret }

func unauthorized(w http.ResponseWriter, code string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="api", error="`+code+`"`)
	w.WriteHeader(http.StatusUnauthorized)
}

func leaky(how string) string { return "redaction_leaky ENDPOINT \"" + how + "\"" }

const elasticPathProvider = "elastic_path {\n token_url ENDPOINT\n}"

var redactionScenarios = []redactionScenario{
	{name: "control", before: "redaction_spy leak\n", header: []string{"X-Leak", "CONTROL"}, status: 200, served: true},
	{name: "control of the error page", before: "error \"{http.request.header.X-Leak}\" 500\n", header: []string{"X-Leak", "CONTROL"}, status: 500},

	// A token is had.
	{name: "success", status: 200, served: true},
	{name: "secret in a file", secret: "file", status: 200, served: true},
	{name: "literal secret", secret: "literal", status: 200, served: true},
	{name: "POST", method: "POST", body: "a body", status: 200, served: true},
	{name: "prefetch", options: "prefetch on", status: 200, served: true},
	{name: "custom header", options: "header X-Api-Key", status: 200, served: true},
	{name: "custom format", options: `header Authorization "Token token={token}"`, status: 200, served: true},
	{name: "cookie", options: `header Cookie "session={token}"`, header: []string{"Cookie", "a=1"}, status: 200, served: true},
	{name: "query parameter", options: "header query:access_token", status: 200, served: true},
	{name: "query parameter that the API repeats", options: "header query:access_token", status: 307, served: true,
		api: func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, r.URL.Path+"/?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		}, method: "POST"},
	{name: "Elastic Path", provider: elasticPathProvider, status: 200, served: true},
	{name: "Elastic Path, wrapped", provider: elasticPathProvider, status: 200, served: true, endpoint: func(c *tokenCall) {
		c.answer(200, "application/json", `{"data":`+c.json(map[string]any{"access_token": c.mint(), "expires": 1 << 40})+`}`)
	}},
	{name: "answer with 201 and as a form", status: 200, served: true, endpoint: func(c *tokenCall) {
		c.answer(201, "application/x-www-form-urlencoded", "access_token="+url.QueryEscape(c.mint())+"&scope="+hex.EncodeToString([]byte(c.secret)))
	}},
	{name: "lifetime of zero", endpoint: func(c *tokenCall) { c.issue(0) }, status: 200, served: true},
	{name: "gateway with a key in its URL", provider: "optoro {\n token_url ENDPOINT?code={env.GATEWAY_KEY}\n}", status: 200, served: true},
	{name: developmentScenario, secret: "literal", provider: "optoro {\n token_url http://DEVELOPMENT\n}",
		upstream: "http://DEVELOPMENT", status: 200, served: true},
	{name: "background refresh fails", options: "refresh_margin 500ms", served: true, run: failInBackground, endpoint: func(c *tokenCall) {
		if c.n == 1 {
			c.issue(1)
			return
		}
		c.fail(503, "temporarily_unavailable")
	}},
	{name: "rotated secret", secret: "file", run: rotateSecret, served: true},
	{name: "damaged secret file", secret: "file", run: damageSecret},
	{name: "no secret file", secret: "file", run: removeSecret},

	// What the application sends.
	{name: "own Authorization replaced", site: "calm", own: "Authorization", status: 200, served: true},
	{name: "own Authorization kept", site: "calm", own: "Authorization", block: "client_authorization keep", status: 200},
	{name: "own Authorization rejected", site: "calm", own: "Authorization", block: "client_authorization reject", status: 400},
	{name: "own header replaced", site: "calm", options: "header X-Api-Key", own: "X-Api-Key", status: 200, served: true},
	{name: "own Authorization beside a custom header", site: "calm", options: "header X-Api-Key", own: "Authorization", status: 200, served: true},
	{name: "refused client", block: "clients 192.0.2.0/24", status: 403},
	{name: "denied page of another site", header: []string{"Origin", "https://evil.example"}, status: 403},
	{name: "TRACE", method: http.MethodTrace, status: 405},
	{name: "refused destination", options: "api_hosts 192.0.2.1", upstream: "{header.X-Upstream}", header: []string{"X-Upstream", "ELSEWHERE"}, status: 502},
	{name: "client that leaves", options: "fetch_timeout 1s", run: leave, endpoint: func(c *tokenCall) { hang(c.w, c.r) }},

	// What the API does.
	{name: "replay after 401", method: "POST", body: "a body", status: 200, served: true, api: func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			unauthorized(w, "invalid_token")
		}
	}},
	{name: "always 401", status: 401, served: true, api: func(w http.ResponseWriter, r *http.Request, n int) { unauthorized(w, "invalid_token") }},
	{name: "401 passed on", block: "on_unauthorized pass", status: 401, served: true,
		api: func(w http.ResponseWriter, r *http.Request, n int) { unauthorized(w, "whatever") }},
	{name: "insufficient scope", status: 401, served: true, api: func(w http.ResponseWriter, r *http.Request, n int) { unauthorized(w, "insufficient_scope") }},
	{name: "403 of the API", status: 403, served: true, api: func(w http.ResponseWriter, r *http.Request, n int) { w.WriteHeader(403) }},
	{name: "redirect of the API", status: 307, served: true, api: func(w http.ResponseWriter, r *http.Request, n int) {
		http.Redirect(w, r, "http://"+r.Header.Get("X-Elsewhere")+"/", http.StatusTemporaryRedirect)
	}, header: []string{"X-Elsewhere", "ELSEWHERE"}},
	{name: "API cuts the connection", block: "lb_try_duration 50ms\n lb_try_interval 10ms", status: 502, served: true,
		api: func(w http.ResponseWriter, r *http.Request, n int) { cutOff("")(w, r) }},
	{name: "API answers with the token instead of HTTP", options: "header X-Api-Key", status: 502, served: true,
		api: func(w http.ResponseWriter, r *http.Request, n int) {
			cutOff("HTTP/1.1 2"+r.Header.Get("X-Api-Key")+"\r\n\r\n")(w, r)
		}},
	{name: "API answers with a part of the token instead of HTTP", options: "header X-Api-Key", status: 502, served: true,
		api: func(w http.ResponseWriter, r *http.Request, n int) {
			cutOff("HTTP/1.1 200 OK\r\n"+r.Header.Get("X-Api-Key")[2:30]+"\r\n\r\n")(w, r)
		}},
	{name: "API is not there", upstream: "http://127.0.0.1:1", status: 502},
	{name: "WebSocket", site: "calm", header: []string{"Connection", "Upgrade", "Upgrade", "websocket"}, status: 101, served: true,
		api: func(w http.ResponseWriter, r *http.Request, n int) {
			cutOff("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")(w, r)
		}},
	{name: "health checks", block: "health_uri /health\n health_interval 20ms", served: true, run: waitForHealthChecks},
	{name: "API with TLS", upstream: "TLS", block: "transport http {\n tls_insecure_skip_verify\n}", status: 200, served: true},
	{name: "handle_response", status: 200, served: true,
		block: "handle_response {\n route {\n redaction_spy\n header X-Dump \"" + nosy + "\"\n respond \"" + nosy + "\"\n}\n}"},
	{name: "request in flight", served: true, run: scrapeInFlight},

	// What watches the way to the API.
	{name: "another handler's trace", before: "redaction_spy trace\n", options: "header X-Api-Key", status: 200, served: true},

	// The token endpoint says no, and repeats the secret in all it says.
	{name: "invalid_client", endpoint: failWith(401, "invalid_client"), status: 502},
	{name: "invalid_scope", endpoint: failWith(400, "invalid_scope"), status: 502},
	{name: "403", endpoint: failWith(403, "access_denied"), status: 502},
	{name: "404", endpoint: answerWith(404, "text/html", justTheSecret), status: 502},
	{name: "415", endpoint: answerWith(415, "text/plain", justTheSecret), status: 502},
	{name: "error with 200", endpoint: failWith(200, "invalid_client"), status: 502},
	{name: "JSON:API errors", provider: elasticPathProvider, codeLike: true, status: 502, endpoint: func(c *tokenCall) { c.fail(401, "no code!") }},
	{name: "307 elsewhere", endpoint: answerWith(307, "text/html", justTheSecret), status: 502},
	{name: "308 elsewhere", endpoint: answerWith(308, "text/html", justTheSecret), status: 502},
	{name: "302 elsewhere", endpoint: answerWith(302, "text/html", justTheSecret), status: 502},
	{name: "the secret as the code", codeLike: true, endpoint: codeFrom(justTheSecret), status: 502},
	{name: "a part of the secret as the code", codeLike: true, endpoint: codeFrom(func(c *tokenCall) string { return c.secret[3:25] }), status: 502},
	{name: "a code around a part of the secret", codeLike: true, status: 502,
		endpoint: codeFrom(func(c *tokenCall) string { return "bad_secret." + c.secret[3:25] })},
	{name: "the secret as the code, in hex", codeLike: true, status: 502,
		endpoint: codeFrom(func(c *tokenCall) string { return hex.EncodeToString([]byte(c.secret)) })},
	{name: "the secret as the code, in base64", codeLike: true, status: 502,
		endpoint: codeFrom(func(c *tokenCall) string { return base64.RawURLEncoding.EncodeToString([]byte("id:" + c.secret)) })},
	{name: "the answer's own token as the code", status: 502, endpoint: func(c *tokenCall) {
		token := c.mintCode()
		c.issue(3600, "access_token", token, "error", token)
	}},
	{name: "a part of the answer's own token as the code", status: 502, endpoint: func(c *tokenCall) {
		token := c.mintCode()
		c.issue(3600, "access_token", token, "error", "bad_"+token[5:20])
	}},
	{name: "an earlier token as the code", run: askTwice, served: true, endpoint: func(c *tokenCall) {
		if c.n == 1 {
			c.issue(0, "access_token", c.mintCode())
			return
		}
		c.fail(400, c.run.firstToken())
	}},

	{name: "a part of an earlier token as the code", run: askTwice, served: true, endpoint: func(c *tokenCall) {
		if c.n == 1 {
			c.issue(0, "access_token", c.mintCode())
			return
		}
		c.fail(400, "bad_"+c.run.firstToken()[5:20])
	}},

	// The token endpoint is unavailable.
	{name: "500", endpoint: answerWith(500, "text/html", func(c *tokenCall) string { return "<h1>" + c.secret + "</h1>" + c.body }), status: 503},
	{name: "503", status: 503, endpoint: func(c *tokenCall) {
		c.w.Header().Set("Retry-After", c.secret)
		c.fail(503, "temporarily_unavailable")
	}},
	{name: "429", endpoint: failWith(429, "slow_down"), status: 503},
	{name: "nobody listens", provider: "optoro {\n token_url http://127.0.0.1:1\n}", status: 503},
	{name: "hang", options: "fetch_timeout 1s", status: 503, endpoint: func(c *tokenCall) { hang(c.w, c.r) }},
	{name: "hang in the body", options: "fetch_timeout 1s", status: 503, endpoint: func(c *tokenCall) {
		c.answer(200, "application/json", `{"access_token":"`+c.mint("nobody"))
		_ = http.NewResponseController(c.w).Flush()
		hang(c.w, c.r)
	}},
	{name: "max_wait passes", options: "fetch_timeout 1m\n max_wait 50ms", status: 504, endpoint: func(c *tokenCall) { hang(c.w, c.r) }},
	{name: "reset", endpoint: func(c *tokenCall) { c.raw("") }, status: 503},
	{name: "cut in the body", status: 503, endpoint: func(c *tokenCall) {
		c.raw("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + `{"access_token":"` + c.mint("nobody"))
	}},
	{name: "no HTTP", endpoint: func(c *tokenCall) { c.raw("SECRET " + c.secret + "\r\n\r\n") }, status: 503},
	{name: "malformed status", endpoint: func(c *tokenCall) { c.raw("HTTP/1.1 2" + c.secret + "\r\n\r\n") }, status: 503},
	{name: "malformed header", endpoint: func(c *tokenCall) { c.raw("HTTP/1.1 200 OK\r\n" + c.secret + "\r\n\r\n") }, status: 503},
	{name: "malformed length", endpoint: func(c *tokenCall) { c.raw("HTTP/1.1 200 OK\r\nContent-Length: " + c.secret + "\r\n\r\n") }, status: 503},
	{name: "malformed transfer encoding", status: 503, endpoint: func(c *tokenCall) {
		c.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + c.secret + "\r\n\r\n")
	}},
	{name: "malformed chunk", status: 503, endpoint: func(c *tokenCall) {
		c.raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + c.secret + "\r\n")
	}},

	// The token endpoint's answer cannot be used.
	{name: "HTML", endpoint: answerWith(200, "text/html", func(c *tokenCall) string { return "<input value='" + c.secret + "'>" }), status: 502},
	{name: "empty", endpoint: answerWith(200, "application/json", func(c *tokenCall) string { return "" }), status: 502},
	{name: "204", endpoint: func(c *tokenCall) { c.setHeaders(); c.w.WriteHeader(204) }, status: 502},
	{name: "not JSON", endpoint: answerWith(200, "application/json", justTheSecret), status: 502},
	{name: "half of the JSON", status: 502, endpoint: answerWith(200, "application/json", func(c *tokenCall) string {
		return `{"access_token":"` + c.mint("nobody") + `","scope":"read`
	})},
	{name: "no token", status: 502, endpoint: answerWith(200, "application/json", func(c *tokenCall) string { return c.json(nil) })},
	{name: "the secret as the token type", codeLike: true, status: 502, endpoint: func(c *tokenCall) { c.issue(3600, "token_type", c.secret) }},
	{name: "a token as the token type", status: 502, endpoint: func(c *tokenCall) {
		token := c.mint()
		c.issue(3600, "access_token", token, "token_type", token)
	}},
	{name: "a token that splits the header", status: 502, endpoint: func(c *tokenCall) { c.issue(3600, "access_token", "a\r\nX-A: "+c.mint("nobody")) }},
	{name: "a token beyond ASCII", status: 502, endpoint: func(c *tokenCall) { c.issue(3600, "access_token", "ä"+c.mint("nobody")) }},
	{name: "a token too long", status: 502, endpoint: func(c *tokenCall) {
		c.issue(3600, "access_token", strings.Repeat(c.mint("nobody"), 500))
	}},
	{name: "a huge answer", status: 502, endpoint: func(c *tokenCall) { c.issue(3600, "padding", strings.Repeat(c.secret, 2000)) }},
	{name: "a bomb", status: 502, endpoint: func(c *tokenCall) {
		c.w.Header().Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, c.json(map[string]any{"access_token": c.mint("nobody"), "padding": strings.Repeat(c.secret, 1<<14)}))
		_ = z.Close()
		c.answer(200, "application/json", b.String())
	}},
	{name: "another encoding", status: 502, endpoint: func(c *tokenCall) {
		c.w.Header().Set("Content-Encoding", "secret-"+hex.EncodeToString([]byte(c.secret)))
		c.answer(200, "application/json", c.json(nil))
	}},

	// Provider oauth2, which has other secrets than the client secret, and puts them elsewhere.
	{name: "oauth2", provider: "oauth2 {\n token_url ENDPOINT\n}", status: 200, served: true},
	{name: "oauth2, secret in the query", provider: inQuery, status: 200, served: true},
	{name: "oauth2, secret in the query, nobody listens", provider: strings.ReplaceAll(inQuery, "ENDPOINT", "http://127.0.0.1:1/"), status: 503},
	{name: "oauth2, secret in the query, redirect", provider: inQuery, status: 502, endpoint: func(c *tokenCall) {
		c.setHeaders()
		http.Redirect(c.w, c.r, c.run.suite.elsewhere.URL+c.r.RequestURI, http.StatusTemporaryRedirect)
	}},
	{name: "oauth2, secret in the query, no HTTP", provider: inQuery, status: 503, endpoint: func(c *tokenCall) { c.raw("HTTP/1.1 2" + c.secret + "\r\n\r\n") }},
	{name: "oauth2, secret in the query, hang", provider: inQuery, options: "fetch_timeout 1s", status: 503, endpoint: func(c *tokenCall) { hang(c.w, c.r) }},
	{name: "oauth2, signing key", instead: true, provider: ofKey("{file.KEYFILE}", "ENDPOINT"), plant: plantKey(), status: 200, served: true},
	{name: "oauth2, literal signing key", instead: true, provider: ofKey("`KEYTEXT`", "ENDPOINT"), plant: plantKey(configurationPlaces...), status: 200, served: true},
	{name: "oauth2, signing key, refused", instead: true, provider: ofKey("{file.KEYFILE}", "ENDPOINT"), plant: plantKey(), status: 502, endpoint: func(c *tokenCall) {
		form, _ := url.ParseQuery(c.body)
		c.fail(401, form.Get("client_assertion"))
	}},
	{name: "oauth2, signing key, nobody listens", instead: true, provider: ofKey("{file.KEYFILE}", "http://127.0.0.1:1/"), plant: plantKey(), status: 503},
	{name: "oauth2, signing key, query, nobody listens", instead: true, provider: strings.Replace(ofKey("{file.KEYFILE}", "http://127.0.0.1:1/"), "{\n", "{\n encoding query\n", 1), plant: plantKey(), status: 503},
	{name: "oauth2, signing key, query, redirect", instead: true, provider: strings.Replace(ofKey("{file.KEYFILE}", "ENDPOINT"), "{\n", "{\n encoding query\n", 1), plant: plantKey(), status: 502,
		endpoint: func(c *tokenCall) {
			http.Redirect(c.w, c.r, c.run.suite.elsewhere.URL+c.r.RequestURI, http.StatusTemporaryRedirect)
		}},
	{name: "oauth2, damaged signing key", instead: true, provider: ofKey("{file.KEYFILE}", "ENDPOINT"), plant: plantKey(), run: damageKey},
	{name: "oauth2, jwt-bearer", instead: true, plant: plantKey(), status: 200, served: true,
		provider: "oauth2 {\n token_url ENDPOINT\n client_auth none\n grant urn:ietf:params:oauth:grant-type:jwt-bearer\n signing_key {file.KEYFILE}\n assertion_audience AUDIENCE\n}"},
	{name: "oauth2, client certificate", plant: plantKey(), status: 200, served: true,
		provider: "oauth2 {\n token_url ENDPOINT\n client_certificate {file.CERTIFICATEFILE}\n client_certificate_key {file.KEYFILE}\n}"},
	{name: "oauth2, literal certificate key", plant: plantKey(configurationPlaces...), status: 200, served: true,
		provider: "oauth2 {\n token_url ENDPOINT\n client_certificate {file.CERTIFICATEFILE}\n client_certificate_key `KEYTEXT`\n}"},
	{name: "oauth2, DPoP", provider: ofDPoP("{file.KEYFILE}"), plant: plantKey(), endpoint: issueBound, status: 200, served: true},
	{name: "oauth2, literal DPoP key", provider: ofDPoP("`KEYTEXT`"), plant: plantKey(configurationPlaces...), endpoint: issueBound, status: 200, served: true},
	{name: "oauth2, DPoP proof as the code", provider: ofDPoP("{file.KEYFILE}"), plant: plantKey(), status: 502,
		endpoint: func(c *tokenCall) { c.fail(400, c.r.Header.Get("DPoP")) }},
	{name: "oauth2, DPoP proof that the API sends back", provider: ofDPoP("{file.KEYFILE}"), plant: plantKey(), endpoint: issueBound, status: 502, served: true,
		api: func(w http.ResponseWriter, r *http.Request, _ int) { cutOff(r.Header.Get("DPoP")+"\r\n\r\n")(w, r) }},
	{name: "oauth2, damaged DPoP key", provider: ofDPoP("{file.KEYFILE}"), plant: plantKey(), run: damageKey},
	{name: "oauth2, client assertion", instead: true, provider: ofAssertion, status: 200, served: true},
	{name: "oauth2, client assertion, refused", instead: true, provider: ofAssertion, endpoint: failWith(401, "invalid_client"), status: 502},
	{name: "oauth2, client assertion as the code", instead: true, codeLike: true, provider: ofAssertion, endpoint: codeFrom(justTheSecret), status: 502},
	{name: "oauth2, damaged client assertion", instead: true, provider: ofAssertion, run: damageSecret},
	{name: "oauth2, no client assertion", instead: true, provider: ofAssertion, run: removeSecret},
	{name: "oauth2, parameter of a file", instead: true, provider: ofNone("param password SECRETFILE"), status: 200, served: true},
	{name: "oauth2, parameter of a file as the code", instead: true, codeLike: true, provider: ofNone("param password SECRETFILE"), endpoint: codeFrom(justTheSecret), status: 502},
	{name: "oauth2, parameter of a variable, query, nobody listens", instead: true, status: 503,
		provider: strings.ReplaceAll(ofNone("param password SECRETENV\n encoding query"), "ENDPOINT", "http://127.0.0.1:1/")},
	{name: "oauth2, damaged parameter", instead: true, provider: ofNone("param password SECRETFILE"), run: damageSecret},
	{name: "oauth2, header of a variable", instead: true, provider: ofNone("header Authorization SECRETENV"), status: 200, served: true},
	{name: "oauth2, header of a variable, refused", instead: true, provider: ofNone("header X-Api-Key SECRETENV"), endpoint: failWith(403, "access_denied"), status: 502},
	{name: "oauth2, header of a file as the code", instead: true, codeLike: true, provider: ofNone("header X-Api-Key SECRETFILE"), endpoint: codeFrom(justTheSecret), status: 502},
	{name: "oauth2, header with a variable in it as the code", instead: true, codeLike: true, provider: ofNone("header X-Api-Key \"key=SECRETENV\""), endpoint: codeFrom(justTheSecret), status: 502},
	{name: "oauth2, JSON", provider: "oauth2 {\n token_url ENDPOINT\n client_auth client_secret_post\n encoding json\n}", endpoint: failWith(400, "invalid_client"), status: 502},
	{name: "oauth2, narrower scope", provider: "oauth2 {\n token_url ENDPOINT\n scope a b\n}", status: 200, served: true},
	{name: "oauth2, the token as a kept value", provider: keeping, status: 200, served: true, endpoint: func(c *tokenCall) {
		token := c.mint()
		c.issue(3600, "access_token", token, "a", token, "b", "https://example.com/"+token[2:20])
	}},
	{name: "oauth2, the secret as a kept value", codeLike: true, provider: keeping, status: 200, served: true, endpoint: func(c *tokenCall) {
		c.issue(3600, "a", c.secret, "b", "https://"+c.secret[3:25]+".example.com/")
	}},
	{name: "oauth2, parameter as a kept value", instead: true, codeLike: true, status: 200, served: true,
		provider: ofNone("param password SECRETFILE\n response {\n keep a a\n}"), endpoint: func(c *tokenCall) { c.issue(3600, "a", c.secret) }},
	{name: "oauth2, kept value", provider: keeping, status: 200, served: true, endpoint: func(c *tokenCall) {
		c.issue(3600, "a", c.run.suite.plant(c.run.name, "a kept value", likeCode, "what another handler sees"))
	}},
	{name: "oauth2, issuer", provider: "oauth2 {\n issuer ENDPOINT\n}", status: 502},
	{name: "oauth2, issuer that repeats", provider: "oauth2 {\n issuer ENDPOINT\n}", status: 502, endpoint: func(c *tokenCall) {
		c.answer(200, "application/json", `{"issuer":"http://`+c.r.Host+`","token_endpoint":"`+c.run.suite.elsewhere.URL+`/?client_secret=x"}`)
	}},
	{name: "oauth2, proxy with a password", instead: true, status: 503,
		provider: strings.ReplaceAll(ofNone(""), "ENDPOINT", "https://token.invalid/"), options: "transport {\n proxy {env.REDACTION_PROXY}\n}", plant: plantProxy},

	// A provider of somebody else's breaks down with the secret in its hands.
	{name: "panic while asking", provider: leaky("panic while asking"), status: 502},
	{name: "panic with an error while asking", provider: leaky("panic with an error while asking"), status: 502},
	{name: "error while asking", provider: leaky("error while asking"), status: 502},
	{name: "token error while asking", provider: leaky("token error while asking"), status: 502},
	{name: "secret in the URL", provider: leaky("secret in the URL"), status: 503},
	{name: "secret in a broken header", provider: leaky("secret in a broken header"), status: 503},
	{name: "panic while reading", provider: leaky("panic while reading"), status: 502},
	{name: "error while reading", provider: leaky("error while reading"), status: 502},
	{name: "wrapped token error", provider: leaky("wrapped token error"), status: 502},
	{name: "joined token error", provider: leaky("joined token error"), status: 502},
	{name: "the secret in the reason", provider: leaky("reason"), status: 502},
	{name: "the secret in the note", provider: leaky("note"), status: 200, served: true},
}

const (
	inQuery     = "oauth2 {\n token_url ENDPOINT\n client_auth client_secret_post\n encoding query\n}"
	ofAssertion = "oauth2 {\n token_url ENDPOINT\n client_auth private_key_jwt\n client_assertion_file SECRETPATH\n}"
	keeping     = "oauth2 {\n token_url ENDPOINT\n response {\n keep a a\n keep b b\n keep c c\n}\n}"
)

func ofKey(key, endpoint string) string {
	return "oauth2 {\n token_url " + endpoint + "\n client_auth private_key_jwt\n signing_key " + key + "\n assertion_audience AUDIENCE\n}"
}

func ofDPoP(key string) string {
	return "oauth2 {\n token_url ENDPOINT\n dpop on\n dpop_key " + key + "\n}"
}

func issueBound(c *tokenCall) { c.issue(3600, "token_type", "DPoP") }

func ofNone(options string) string {
	return "oauth2 {\n token_url ENDPOINT\n client_auth none\n" + options + "\n}"
}

// redactionMistakes are configurations that are refused, with MISTAKE in the place of a secret.
var redactionMistakes = []struct {
	name       string
	credential string // Caddyfile
	json       string // of the credential, instead
}{
	{name: "mistyped name of the option", credential: "provider optoro\n client_id a\n client_secert MISTAKE"},
	{name: "equals sign", credential: "provider optoro\n client_id a\n client_secret=MISTAKE"},
	{name: "colon", credential: "provider optoro\n client_id a\n client_secret: MISTAKE"},
	{name: "no name of the option", credential: "provider optoro\n client_id a\n MISTAKE"},
	{name: "two values", credential: "provider optoro\n client_id a\n client_secret MISTAKE MISTAKE"},
	{name: "on the next line", credential: "provider optoro\n client_id a\n client_secret\n MISTAKE"},
	{name: "in braces", credential: "provider optoro\n client_id a\n client_secret {MISTAKE}"},
	{name: "part of it a placeholder", credential: "provider optoro\n client_id a\n client_secret {env.HOME}MISTAKE"},
	{name: "unknown placeholder in it", credential: "provider optoro\n client_id a\n client_secret {vault.MISTAKE}"},
	{name: "twice", credential: "provider optoro\n client_id a\n client_secret MISTAKE\n client_secret MISTAKE"},
	{name: "in the provider's block", credential: "provider optoro {\n client_secret MISTAKE\n}\n client_id a"},
	{name: "in Elastic Path's block", credential: "provider elastic_path {\n client_secret MISTAKE\n}\n client_id a"},
	{name: "without a provider", credential: "client_id a\n client_secret MISTAKE"},
	{name: "secret that the grant has no use for", credential: "provider elastic_path {\n grant implicit\n}\n client_id a\n client_secret MISTAKE"},
	{name: "in the URL's query", credential: "provider optoro {\n token_url https://example.com/?client_secret=MISTAKE\n}\n client_id a"},
	{name: "in the URL's user information", credential: "provider optoro {\n token_url https://a:MISTAKE@example.com/\n}\n client_id a"},
	{name: "in the URL's port", credential: "provider optoro {\n token_url https://a:MISTAKE/\n}\n client_id a"},
	{name: "in a URL that is none", credential: "provider optoro {\n token_url https://example.com/%MISTAKE\n}\n client_id a"},
	{name: "in the URL, by a placeholder", credential: "provider optoro {\n token_url https://a:{env.MISTAKEN}@example.com/\n}\n client_id a\n client_secret b"},
	{name: "in the header's format", credential: "provider optoro\n client_id a\n header X-Api-Key MISTAKE"},
	{name: "control characters", credential: "provider optoro\n client_id a\n client_secret \"MISTAKE\nMISTAKE\""},
	{name: "control characters in the environment", credential: "provider optoro\n client_id a\n client_secret {env.MISTAKEN_LINES}"},
	{name: "oauth2: no signing key", credential: ofMistake("client_auth private_key_jwt\n signing_key MISTAKE")},
	{name: "oauth2: signing key without use", credential: ofMistake("signing_key MISTAKE") + "\n client_secret b"},
	{name: "oauth2: two signing keys", credential: ofMistake("signing_key MISTAKE MISTAKE")},
	{name: "oauth2: signing key of lines", credential: ofMistake("client_auth private_key_jwt\n signing_key {env.MISTAKEN_LINES}")},
	{name: "oauth2: no certificate key", credential: ofMistake("client_certificate MISTAKE\n client_certificate_key MISTAKE") + "\n client_secret b"},
	{name: "oauth2: parameter with braces", credential: ofMistake("param password p{MISTAKE}") + "\n client_secret b"},
	{name: "oauth2: parameter of lines", credential: ofMistake("param password {env.MISTAKEN_LINES}") + "\n client_secret b"},
	{name: "oauth2: parameter of two values", credential: ofMistake("param password MISTAKE MISTAKE")},
	{name: "oauth2: parameter without a name", credential: ofMistake("param MISTAKE")},
	{name: "oauth2: secret as a parameter", credential: ofMistake("param client_secret MISTAKE") + "\n client_secret b"},
	{name: "oauth2: JSON parameter", credential: ofMistake("encoding json\n json_param password MISTAKE")},
	{name: "oauth2: two ways to authenticate", credential: ofMistake("header Authorization MISTAKE") + "\n client_secret b"},
	{name: "oauth2: header that splits", credential: ofMistake("header X-A \"MISTAKE\nMISTAKE\"") + "\n client_secret b"},
	{name: "oauth2: secret in the block", credential: ofMistake("client_secret MISTAKE")},
	{name: "oauth2: assertion's file by a placeholder", credential: ofMistake("client_auth private_key_jwt\n client_assertion_file {file.MISTAKENFILE}")},
	{name: "oauth2: issuer with a password", credential: "provider oauth2 {\n issuer https://a:MISTAKE@example.com\n}\n client_id a"},
	{name: "oauth2: short secret that signs", credential: ofMistake("client_auth client_secret_jwt\n signing_alg HS512") + "\n client_secret MISTAKE"},
	{name: "oauth2: secret that is not sent", credential: ofMistake("client_auth none") + "\n client_secret MISTAKE"},
	{name: "transport: proxy", credential: "provider optoro\n client_id a\n client_secret b\n transport {\n proxy a:MISTAKE\n}"},
	{name: "transport: proxy's port", credential: "provider optoro\n client_id a\n client_secret b\n transport {\n proxy http://a:MISTAKE@example.com:port\n}"},
	{name: "transport: authority", credential: "provider optoro\n client_id a\n client_secret b\n transport {\n ca MISTAKE\n}"},
	{name: "another mistake beside it", credential: "provider optoro\n client_id a\n client_secret MISTAKE\n max_wait never"},
	{name: "JSON: mistyped name", json: `{"provider":{"name":"optoro"},"client_id":"a","client_secert":"MISTAKE"}`},
	{name: "JSON: in the provider", json: `{"provider":{"name":"optoro","client_secret":"MISTAKE"},"client_id":"a"}`},
	{name: "JSON: object", json: `{"provider":{"name":"optoro"},"client_id":"a","client_secret":{"value":"MISTAKE"}}`},
	{name: "JSON: list", json: `{"provider":{"name":"optoro"},"client_id":"a","client_secret":["MISTAKE"]}`},
	{name: "JSON: without a provider", json: `{"client_id":"a","client_secret":"MISTAKE"}`},
	{name: "JSON: unknown provider", json: `{"provider":{"name":"other"},"client_id":"a","client_secret":"MISTAKE"}`},
	{name: "JSON: in the URL", json: `{"provider":{"name":"optoro","token_url":"https://a:MISTAKE@example.com"},"client_id":"a","client_secret":"b"}`},
	{name: "JSON: not quoted", json: `{"provider":{"name":"optoro"},"client_id":"a","client_secret":MISTAKE}`},
	{name: "JSON: not closed", json: `{"provider":{"name":"optoro"},"client_id":"a","client_secret":"MISTAKE}`},
	{name: "JSON: null provider", json: `{"provider":null,"client_id":"a","client_secret":"MISTAKE"}`},
	{name: "JSON: negative duration", json: `{"provider":{"name":"optoro"},"client_id":"a","client_secret":"MISTAKE","max_wait":-1}`},
}

func ofMistake(options string) string {
	return "provider oauth2 {\n token_url https://example.com/token\n" + options + "\n}\n client_id a"
}

// plantKey makes a key whose private part may be in these places, a certificate for it, and an audience, by which an
// assertion would be found that nobody got.
func plantKey(allowed ...string) func(t *testing.T, r *redactionRun) []string {
	return func(t *testing.T, r *redactionRun) []string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := newTestCertificate(t, key, time.Hour)
		lines := strings.Split(c.key, "\n")
		private := (lines[1] + lines[2])[50:90] // what is before is the same in every key
		r.suite.adopt(r.name, "the private key", private, append(allowed, "nobody")...)
		r.keyFile = secretPath(t, c.key)
		audience := r.suite.plant(r.name, "the audience", likeCode, append(configurationPlaces, r.tokenPlace())...)
		return []string{"KEYFILE", r.keyFile, "KEYTEXT", c.key, "CERTIFICATEFILE", secretPath(t, c.certificate), "AUDIENCE", audience}
	}
}

func plantProxy(t *testing.T, r *redactionRun) []string {
	proxy := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	password := r.suite.plant(r.name, "the proxy's password", likeCode, "nobody")
	t.Setenv("REDACTION_PROXY", strings.Replace(proxy.URL, "://", "://user:"+password+"@", 1))
	return nil
}

func damageKey(t *testing.T, r *redactionRun) {
	content, err := os.ReadFile(r.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, r.keyFile, strings.ReplaceAll(string(content), "PRIVATE KEY", "PRIVATE THING"))
	r.ask(t, "")
	writeFile(t, r.keyFile, strings.Replace(string(content), "\n", "\nAAAA", 1))
	r.ask(t, "")
	writeFile(t, r.keyFile, string(content)) // or no configuration can be loaded
}

// askTwice is for scenarios whose answers differ.
func askTwice(t *testing.T, r *redactionRun) {
	r.ask(t, "")
	r.ask(t, "")
}

// failInBackground keeps the token in use: the first one may be over before it is used, on a slow machine.
func failInBackground(t *testing.T, r *redactionRun) {
	polls := 0
	eventually(t, "the second token call", func() bool {
		if polls%100 == 0 {
			r.ask(t, "")
		}
		polls++
		return r.tokenCalls.Load() > 1
	})
	r.ask(t, "")
}

func rotateSecret(t *testing.T, r *redactionRun) {
	r.ask(t, "") // refused
	writeFile(t, r.file, r.suite.plant(r.name, "the new client secret", likeSecret, r.tokenPlace()))
	eventually(t, "a token for the new secret", func() bool {
		r.ask(t, "")
		return r.statuses[len(r.statuses)-1] == http.StatusOK
	})
}

func damageSecret(t *testing.T, r *redactionRun) {
	writeFile(t, r.file, r.secret+"\n"+r.secret)
	r.ask(t, "")
	writeFile(t, r.file, r.secret) // or no configuration can be loaded
}

func removeSecret(t *testing.T, r *redactionRun) {
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.ask(t, "")
	writeFile(t, r.file, r.secret)
}

func leave(t *testing.T, r *redactionRun) {
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	req := newRequest(t, http.MethodGet, r.url, nil).WithContext(ctx)
	client := testClient(t)
	go func() {
		_, _ = tryAsk(client, req)
		close(left)
	}()
	eventually(t, "the token call", func() bool { return r.tokenCalls.Load() > 0 })
	cancel()
	wantReceived(t, "the client's end", left)
}

func waitForHealthChecks(t *testing.T, r *redactionRun) {
	r.ask(t, "")
	before := r.healthChecks.Load()
	eventually(t, "a health check while there is a token", func() bool { return r.healthChecks.Load() > before+1 })
}

func scrapeInFlight(t *testing.T, r *redactionRun) {
	done := make(chan struct{})
	go func() {
		r.ask(t, "?hold")
		close(done)
	}()
	wantReceived(t, "the request at the API", r.suite.held)
	r.suite.scrape(t)
	close(r.suite.release)
	wantReceived(t, "the answer", done)
}

// TestNothingIsSeen runs all scenarios and searches all that can be seen of them.
func TestNothingIsSeen(t *testing.T) {
	if apart.Run(t) {
		return
	}
	s := newRedactionSuite(t)
	config := s.caddyfile(t)
	s.boot(t, config)
	s.leakControl(t)

	s.runScenarios(t)
	s.scrape(t)
	s.makeMistakes(t)
	s.reload(t, config)
	eventually(t, "an answer after the reload", func() bool { return s.run("success").try(t, "after-the-reload") == nil })
	s.scrape(t)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	for name, content := range filesBelow(t, s.dir) {
		if name == "caddy.log" {
			s.see("the log", content)
		} else {
			s.see("file "+name, content)
		}
	}

	found := s.search()
	s.checkControl(t, found)
	for _, r := range s.runs {
		t.Run(r.name, func(t *testing.T) { r.check(t, found) })
	}
	for _, m := range redactionMistakes {
		t.Run("mistake: "+m.name, func(t *testing.T) { wantUnseen(t, "mistake: "+m.name, found) })
	}
	if n := s.elsewhere.connectionCount(); n != 0 {
		t.Errorf("a server that nothing was meant for got %d connections", n)
	}
}

func wantUnseen(t *testing.T, owner string, found []sighting) {
	t.Helper()
	for _, f := range found {
		if f.owner == owner && f.forbidden() {
			t.Error(f)
		}
	}
}

// check checks that the scenario took its path, and that nobody saw it.
func (r *redactionRun) check(t *testing.T, found []sighting) {
	wantUnseen(t, r.name, found)
	for _, status := range r.statuses {
		if r.status != 0 && status != r.status {
			t.Errorf("got status %d, want %d", status, r.status)
		}
	}
	// On a slow machine, a fetch_timeout may pass before the connection is there.
	if r.endpoint != nil && !strings.Contains(r.options, "fetch_timeout") && r.tokenCalls.Load() == 0 {
		t.Error("the token endpoint was not asked")
	}
	wantFound(t, found, r.secret, "GET /config/", r.redactionScenario.secret == "literal")
	if r.served {
		r.wantAtAPI(t, found, "a token")
	}
	if r.block == "client_authorization keep" {
		r.wantAtAPI(t, found, "the application's own credentials")
	}
}

// wantAtAPI proves that the search would have seen it elsewhere too.
func (r *redactionRun) wantAtAPI(t *testing.T, found []sighting, what string) {
	t.Helper()
	if !slices.ContainsFunc(found, func(f sighting) bool { return f.owner == r.name && f.place == r.apiPlace && f.what == what }) {
		t.Errorf("the API did not get %s, or the search is blind", what)
	}
}

func wantFound(t *testing.T, found []sighting, text, place string, want bool) {
	t.Helper()
	is := slices.ContainsFunc(found, func(f sighting) bool { return f.text == text && f.place == place })
	if is != want {
		t.Errorf("found in %s: %t, want %t", place, is, want)
	}
}

// checkControl proves that the search sees: what was leaked on purpose is found in every place where it was, and Caddy
// did what could have leaked the rest.
func (s *redactionSuite) checkControl(t *testing.T, found []sighting) {
	for _, place := range []string{
		"the log", "spans", "what another handler sees", "an answer to the application", "an error page", "the API of control",
		"GET /config/", "GET /metrics", "GET /reverse_proxy/upstreams", "GET /debug/vars", "GET /debug/pprof/goroutine?debug=1",
		"the adapted configuration", "file config/caddy/autosave.json",
		"the adapter's error", "the validator's error", "POST /adapt", "POST /load",
	} {
		wantFound(t, found, s.control, place, true)
	}
	for place, texts := range map[string][]string{
		"the log": {
			`"level":"debug"`, `"msg":"upstream roundtrip"`, `"msg":"handled request"`, `"msg":"token obtained"`, `"msg":"no token"`,
			`"msg":"request without token"`, `"msg":"the token may not go to this upstream"`, `"msg":"denied a client`,
			`"msg":"autosaved config`, `"msg":"config is unchanged"`, `"msg":"servers shutting down`, "REDACTED",
		},
		"an answer to the application":            {"&http.Request{Method:", "token-proxy; error="}, // a template was executed
		"GET /debug/pprof/goroutine?debug=2":      {"scrapeInFlight", ").serveAPI("},
		"another handler's httptrace.ClientTrace": {"a connection"},
		"a health check":                          {"GET /health"},
	} {
		for _, text := range texts {
			if content := s.seen[place]; content == nil || !bytes.Contains(content.Bytes(), []byte(text)) {
				t.Errorf("%q is not in %s: the suite does not test what it means to", text, place)
			}
		}
	}
}

// TestFastCGIDoesNotLogTheToken is about Caddy's other transport, which is below the injector and logs, at debug level,
// the request that it gets and the variables that it makes of it. The configuration may be refused.
func TestFastCGIDoesNotLogTheToken(t *testing.T) {
	for name, test := range map[string]struct{ option, global string }{
		"custom header":   {option: "header X-Api-Key"},
		"log_credentials": {global: "servers {\n log_credentials\n}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := new(plants)
			token := p.plant(name, "the token", likeToken, "the API")
			endpoint := serveHTTP(t, sendAnswer(200, "application/json", `{"access_token":"`+token+`","token_type":"Bearer"}`))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				_ = fcgi.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p.see("the API", dump(r)) }))
			}()
			addr := freeAddr(t)
			s := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
			err = s.load("{\n" + test.global + " token_proxy {\n" + credentialConfig("api", endpoint.URL, newClientID(), test.option) + "}\n}\n" +
				siteConfig(addr, "log\n token_proxy api "+l.Addr().String()+" {\n transport fastcgi\n}"))
			if err != nil {
				if !strings.Contains(err.Error(), "fastcgi") {
					t.Errorf("it is refused without naming the transport: %v", err)
				}
				return
			}
			get(t, "http://"+addr).wantStatus(t, http.StatusOK)
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			p.see("the log", s.logs())
			found := p.search()
			wantUnseen(t, name, found)
			wantFound(t, found, token, "the API", true)
		})
	}
}

// TestSearchForPlanted proves the search itself.
func TestSearchForPlanted(t *testing.T) {
	p := new(plants)
	text := p.plant("search", "a secret", likeSecret, "home")
	quoted, _ := json.Marshal(text)
	tests := map[string]struct {
		content string
		found   bool
	}{
		"plain":                     {"a" + text + "b", true},
		"upper case":                {strings.ToUpper(text), true},
		"the first 12 characters":   {text[:12], true},
		"the last 12 characters":    {"x" + text[len(text)-12:], true},
		"11 characters":             {text[:11] + "!" + text[12:23], false},
		"JSON":                      {string(quoted), true},
		"12 characters in JSON":     {string(quoted)[20:32], true},
		"Go":                        {fmt.Sprintf("%+q", text)[1:20], true},
		"a query":                   {"?x=" + url.QueryEscape(text)[9:30], true},
		"a path":                    {url.PathEscape(text)[9:30], true},
		"HTML":                      {html.EscapeString(text)[:20], true},
		"hex":                       {hex.EncodeToString([]byte(text[4:16])), true},
		"hex, upper case":           {strings.ToUpper(hex.EncodeToString([]byte(text[4:16]))), true},
		"base64":                    {base64.StdEncoding.EncodeToString([]byte(text)), true},
		"base64url":                 {base64.URLEncoding.EncodeToString([]byte(text)), true},
		"base64 without padding":    {base64.RawStdEncoding.EncodeToString([]byte(text)), true},
		"base64 with 1 before":      {base64.StdEncoding.EncodeToString([]byte("a" + text)), true},
		"base64 with 2 before":      {base64.RawURLEncoding.EncodeToString([]byte("a:" + text + "b")), true},
		"base64 of 12 characters":   {base64.StdEncoding.EncodeToString([]byte("abc" + text[8:20])), true},
		"something else":            {rand.Text() + rand.Text(), false},
		"invalid UTF-8 and a part":  {"\xff\xfe" + text[7:21], true},
		"12 characters in a binary": {"\x00\x01" + text[10:22] + "\x00", true},
	}
	for name, test := range tests {
		p.see(name, test.content)
	}
	p.see("home", text)
	found := make(map[string]sighting)
	for _, f := range p.search() {
		found[f.place] = f
	}
	for name, test := range tests {
		if f, ok := found[name]; ok != test.found || ok && !f.forbidden() {
			t.Errorf("%s: found %t, want %t", name, ok, test.found)
		}
	}
	if f, ok := found["home"]; !ok || f.forbidden() {
		t.Errorf("found at home: %t, forbidden: %t", ok, f.forbidden())
	}
}

// A handler in another's handle_response gets the context of the request that the other has proxied. If it is to keep the
// application's credentials, it must not send the other's token in their place.
func TestTokenStaysWithItsHandler(t *testing.T) {
	outer, inner := newTokenServer(t), newTokenServer(t)
	outerAPI, innerAPI := newRecordingAPI(t, nil), newRecordingAPI(t, nil)
	addr := freeAddr(t)
	startCaddy(t, globalOptions(outer.credential("outer", "header X-Api-Key"), inner.credential("inner"))+siteConfig(addr, `
		token_proxy outer `+outerAPI.URL+` {
			handle_response {
				request_header Authorization "Bearer of-the-operator"
				token_proxy inner `+innerAPI.URL+` {
					client_authorization keep
				}
			}
		}`))
	get(t, "http://"+addr).wantStatus(t, http.StatusOK)
	if token := outerAPI.only(t).Header.Get("X-Api-Key"); token == "" {
		t.Error("the outer API got no token")
	}
	got := innerAPI.only(t).Header
	if got.Get("Authorization") != "Bearer of-the-operator" || got.Get("X-Api-Key") != "" {
		t.Errorf("the inner API got %v", got)
	}
}
