package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

// TestOperatorsSeeNothing drives one Caddy through what operators look at: the admin API and its page, metrics, the
// command line, readiness, events, traces, the store of shared tokens, and the log with its access log. Every secret and every token is a planted
// text, which hostile endpoints and APIs repeat; none may be seen. The names of the credentials are planted too, as a
// control: they must be seen in each of these places.
func TestOperatorsSeeNothing(t *testing.T) {
	if apart.Run(t) {
		return
	}
	p := new(plants)
	recordEvents(t, nil)
	spans := serveHTTP(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p.see("the spans", dump(r)) }))
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)

	control := p.plant("control", "the control", likeCode, "*")
	o := &operatorScenarios{t: t, plants: p, control: control}
	api := serveHTTP(t, http.HandlerFunc(o.serveAPI))
	folder := t.TempDir()
	key := p.plant("the key", "the key for sharing", likeSecret)
	credentials := []string{shareBlock(t, "storage file_system {\n root "+folder+"\n}", key+strings.Repeat("x", 32))}
	sites := "log\ntracing {\n span all\n}\ntoken_proxy_ready /ready\n"
	for _, kind := range operatorKinds {
		credentials = append(credentials, o.credential(kind))
		sites += fmt.Sprintf("token_proxy /%s* %s %s\n", kind, o.name(kind), api.URL)
	}
	addr := freeAddr(t)
	config := globalOptions(credentials...) + siteConfig(addr, sites)
	s := startOperated(t, config, subscription())

	leaveToken(t, otherReplica(t, o.name("adopted")), p.plant("adopted", "a token of another replica", likeToken, "the API"))
	for range 2 { // the second round finds backoff and history
		eachOperatorKind(func(kind string) {
			p.see("an answer to the application", wholeAnswer(get(t, "http://"+addr+"/"+kind)))
		})
		p.see("the readiness probe", wholeAnswer(get(t, "http://"+addr+"/ready")))
		o.look(s, config)
	}
	eventually(t, "the events", func() bool {
		names := make(map[string]bool)
		for _, e := range eventsRecorded() {
			names[e.Name()] = true
		}
		return len(names) == 4
	})
	for _, e := range eventsRecorded() {
		cloud, err := json.Marshal(e.CloudEvent())
		if err != nil {
			t.Error(err)
		}
		p.see("the events", fmt.Sprintf("%v %+v %#v", e.Data, e.Data, e.Data), string(cloud))
	}
	if err := s.caddyServer.loadJSON([]byte("{}")); err != nil { // spans are sent at the latest when they are turned off
		t.Fatal(err)
	}
	eventually(t, "the spans", func() bool {
		return slices.ContainsFunc(p.search(), func(found sighting) bool { return found.place == "the spans" })
	})
	for name, content := range filesBelow(t, folder) {
		p.see("the store", name, content)
	}
	p.see("the log", s.logs())

	seen := make(map[string]bool)
	for _, found := range p.search() {
		if found.forbidden() {
			t.Errorf("%s", found)
		}
		if found.text == control {
			seen[found.place] = true
		}
	}
	for place := range p.seen {
		if !seen[place] && !slices.Contains([]string{"the page", "the API", "the token endpoint", "the store"}, place) {
			t.Errorf("the control is not seen in %s: nor would anything else be", place)
		}
	}
	if p.seen["the store"] == nil || strings.Count(p.seen["the store"].String(), "token_proxy/v1/") < 4 {
		t.Error("the store holds almost nothing")
	}
	if len(p.seen) < 21 {
		t.Errorf("only %d places were looked at", len(p.seen))
	}
	if log := s.logs(); !strings.Contains(log, `"token_proxy":{`) || !strings.Contains(log, `"msg":"token rejected by the API"`) {
		t.Error("the log has no access log, or no rejection")
	}
}

// operatorKinds are the credentials of TestOperatorsSeeNothing, by what becomes of them.
var operatorKinds = []string{
	"adopted", // another replica has left a token
	"works",   // the answer repeats the secret
	"noted",   // an odd answer, whose remark could repeat the secret
	"revoked", // the API refuses each token, and repeats it
	"refused", // the error code is the secret, and all else repeats it
	"code",    // the error code of the second call is the token of the first
	"down",    // the status line and the body repeat the secret
	"panics",  // the provider panics with the secret
}

// eachOperatorKind does something for all kinds at once, since the calls of some are tried again after a pause.
func eachOperatorKind(do func(kind string)) {
	var group sync.WaitGroup
	for _, kind := range operatorKinds {
		group.Go(func() { do(kind) })
	}
	group.Wait()
}

type operatorScenarios struct {
	*plants
	t       *testing.T
	control string
}

func (o *operatorScenarios) name(kind string) string { return kind + "-" + o.control }

func (o *operatorScenarios) credential(kind string) string {
	like := likeSecret
	if kind == "refused" {
		like = likeCode
	}
	secret := o.plant(kind, "the client secret", like, "the token endpoint")
	if kind == "refused" { // short enough for an error code
		secret = secret[:16]
		o.adopt(kind, "the client secret", secret, "the token endpoint")
	}
	variable := "OPERATORS_" + strings.ToUpper(kind)
	o.t.Setenv(variable, secret)
	var calls atomic.Int64
	var first atomic.Value
	endpoint := serveHTTP(o.t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.see("the token endpoint", dump(r))
		n := calls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=%q", secret))
		w.Header().Set("X-Secret", fmt.Sprintf("%q", secret))
		fail := func(status int, code string) {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": secret, "error_uri": "https://example.com/" + secret})
		}
		issue := func(value string, more map[string]any) {
			body := map[string]any{"access_token": value, "token_type": "Bearer", "expires_in": 3600, "note": secret}
			for name, v := range more {
				body[name] = v
			}
			_ = json.NewEncoder(w).Encode(body)
		}
		switch kind {
		case "noted":
			issue(o.plant(kind, "a token", likeToken, "the API"), map[string]any{"scope": "read " + secret, "token_type": secret})
		case "refused":
			fail(http.StatusUnauthorized, secret)
		case "code":
			if n == 1 {
				value := o.plant(kind, "a token", likeCode, "the API")[:16]
				o.adopt(kind, "a token", value, "the API")
				first.Store(value)
				issue(value, nil)
				return
			}
			fail(http.StatusBadRequest, first.Load().(string))
		case "down":
			fail(http.StatusServiceUnavailable, secret)
		default:
			issue(o.plant(kind, "a token", likeToken, "the API"), nil)
		}
	}))
	provider := "oauth2 {\n token_url " + endpoint.URL + "\n client_auth client_secret_post\n scope read\n}"
	if kind == "panics" {
		provider = "redaction_leaky " + endpoint.URL + " \"panic while asking\""
	}
	return fmt.Sprintf("credential %s {\n provider %s\n client_id %s\n client_secret {env.%s}\n}\n", o.name(kind), provider, o.plant(kind, "the client id", likeCode, "the token endpoint"), variable)
}

// serveAPI repeats the token where there is room, and refuses some.
func (o *operatorScenarios) serveAPI(w http.ResponseWriter, r *http.Request) {
	o.see("the API", dump(r))
	if strings.HasPrefix(r.URL.Path, "/revoked") {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(w, o.control)
}

// look looks at all that operators can look at.
func (o *operatorScenarios) look(s *operatedServer, config string) {
	o.t.Helper()
	o.see("the page", wholeAnswer(s.ask(http.MethodGet, "/token_proxy/")))
	o.see("the list", wholeAnswer(s.ask(http.MethodGet, "/token_proxy/credentials")))
	o.see("the error", wholeAnswer(s.ask(http.MethodGet, "/token_proxy/credentials/nobody")))
	o.see("the metrics", wholeAnswer(s.ask(http.MethodGet, "/metrics")))
	eachOperatorKind(func(kind string) {
		path := "/token_proxy/credentials/" + o.name(kind)
		o.see("the report", wholeAnswer(s.ask(http.MethodGet, path)))
		if a := s.ask(http.MethodPost, path+"/refresh"); a.StatusCode == http.StatusOK {
			o.see("a refresh", wholeAnswer(a))
		} else {
			o.see("a failed refresh", wholeAnswer(a), o.control) // the explanation names no credential
		}
		o.see("the report after a refresh", wholeAnswer(s.ask(http.MethodGet, path)))
	})
	file := writeConfig(o.t, "Caddyfile", config)
	at := []string{"--address", s.admin}
	names, known := []string{}, []string{}
	for _, kind := range operatorKinds {
		names = append(names, o.name(kind))
		if kind != "code" { // another process cannot know the tokens that this one got
			known = append(known, o.name(kind))
		}
	}
	// One command at a time, as each replaces the default logger of Caddy, which is that of a process.
	for _, flag := range []string{"--json=false", "--json"} {
		run := func(what string, command *cobra.Command, args ...[]string) {
			text, err := runCommand(command, slices.Concat(append(args, []string{flag})...)...)
			o.see("tokens "+what+" "+flag, text, fmt.Sprintf("%v %+v", err, err))
		}
		run("list", listCommand(), at)
		run("check", checkCommand(), []string{"--config", file}, known)
		run("refresh", refreshCommand(), at, names)
		run("purge", purgeCommand(), at, names)
	}
}
