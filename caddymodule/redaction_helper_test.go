package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/oauth"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/provider"
)

// planted is a text that is unique to one run and may be in certain places only.
type planted struct {
	what    string // for the reader of a failure: "the client secret"
	owner   string // the scenario
	text    string
	allowed []string // the places that may hold it; "*" for any
}

// plants are the planted texts of a run, and everything that was seen of the product, by place.
type plants struct {
	mu    sync.Mutex
	texts []*planted
	seen  map[string]*bytes.Buffer
}

// What a planted text looks like. A secret may hold anything but control characters, so that every escaping shows; a
// code is made of letters, so that it could be taken for an OAuth error code; a password has digits in it; a token has
// the characters of RFC 6750 section 2.1.
const (
	likeCode     = ""
	likePassword = "0189"
	likeSecret   = `"\ü &<+/`
	likeToken    = "-._~+/="
)

// plant makes a text.
func (p *plants) plant(owner, what, like string, allowed ...string) string {
	random := strings.ToLower(strings.Map(func(r rune) rune {
		if r >= '2' && r <= '7' { // rand.Text has no other digits
			return r - '2' + 'u'
		}
		return r
	}, rand.Text()+rand.Text()))
	text := random[:32]
	if like != likeCode {
		text = ""
		for _, special := range like { // so far apart that what is between them is unique
			text += random[:6] + string(special)
			random = random[6:]
		}
	}
	p.adopt(owner, what, text, allowed...)
	return text
}

// adopt makes a planted text of one that somebody else has made.
func (p *plants) adopt(owner, what, text string, allowed ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.texts, func(t *planted) bool { return t.text == text }) {
		return
	}
	p.texts = append(p.texts, &planted{what, owner, text, allowed})
}

// see keeps what can be seen at a place for the search.
func (p *plants) see(place string, content ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = make(map[string]*bytes.Buffer)
	}
	if p.seen[place] == nil {
		p.seen[place] = new(bytes.Buffer)
	}
	for _, c := range content {
		p.seen[place].WriteString(c + "\n")
	}
}

// sighting is a planted text at a place.
type sighting struct {
	*planted
	place   string
	excerpt string
}

// forbidden reports whether the text may not be at this place.
func (s sighting) forbidden() bool {
	return !slices.Contains(s.allowed, "*") && !slices.Contains(s.allowed, s.place)
}

func (s sighting) String() string {
	return fmt.Sprintf("%s is in %s: …%s…", s.what, s.place, s.excerpt)
}

// telling is how many characters of a text, in a row, give it away.
const telling = 12

// search finds every planted text at every place, whole or in part, plain or encoded, in upper or lower case.
func (p *plants) search() []sighting {
	p.mu.Lock()
	defer p.mu.Unlock()
	pieces := make(map[string]*planted)
	for _, t := range p.texts {
		for _, form := range encodings(t.text) {
			form = foldCase(form)
			for i := 0; i+telling <= len(form); i++ {
				pieces[form[i:i+telling]] = t
			}
		}
	}
	var found []sighting
	for place, content := range p.seen {
		folded := foldCase(content.String())
		known := make(map[*planted]bool)
		for i := 0; i+telling <= len(folded); i++ {
			t := pieces[folded[i:i+telling]]
			if t == nil || known[t] {
				continue
			}
			known[t] = true
			excerpt := strings.ToValidUTF8(content.String()[max(0, i-160):min(len(folded), i+80)], "?")
			found = append(found, sighting{t, place, excerpt})
		}
	}
	return found
}

// encodings are the forms in which a text can stand in another. Base64 has three for each alphabet, because it depends
// on the place in the text that is encoded.
func encodings(text string) []string {
	quoted, _ := json.Marshal(text) // a string: it cannot fail
	var plainly bytes.Buffer
	e := json.NewEncoder(&plainly)
	e.SetEscapeHTML(false)
	_ = e.Encode(text)
	forms := []string{
		text, url.QueryEscape(text), url.PathEscape(text), hex.EncodeToString([]byte(text)), html.EscapeString(text),
		strings.Trim(string(quoted), `"`), strings.Trim(strings.TrimSpace(plainly.String()), `"`),
		strings.Trim(fmt.Sprintf("%q", text), `"`), strings.Trim(fmt.Sprintf("%+q", text), `"`),
	}
	for skip := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString([]byte(text)[skip:])
			forms = append(forms, encoded[:len(encoded)-1]) // the last character depends on what follows
		}
	}
	return forms
}

// foldCase makes ASCII letters lower case and leaves all else where it is.
func foldCase(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// tokenCall is one token request, as a hostile endpoint sees it.
type tokenCall struct {
	w      http.ResponseWriter
	r      *http.Request
	run    *redactionRun
	n      int // 1 for the first
	body   string
	secret string
}

// mint makes a token that the API may see, or only those that are named.
func (c *tokenCall) mint(allowed ...string) string { return c.run.mint(likeToken, allowed...) }

// mintCode makes a token that could be taken for an error code.
func (c *tokenCall) mintCode() string { return c.run.mint(likeCode) }

// setHeaders repeats the secret in the header.
func (c *tokenCall) setHeaders() {
	h := c.w.Header()
	quoted := fmt.Sprintf("%q", c.secret)
	h.Set("WWW-Authenticate", `Bearer realm=`+quoted+`, error="invalid_token", error_description=`+quoted)
	h.Set("Location", c.run.suite.elsewhere.URL+"/?client_secret="+url.QueryEscape(c.secret))
	h.Set("Set-Cookie", "secret="+url.QueryEscape(c.secret))
	h.Set("Proxy-Status", c.secret)
	h.Set("Warning", "199 - "+quoted)
	h.Set("X-Request", base64.StdEncoding.EncodeToString([]byte(c.body)))
}

// answer answers, and repeats the secret wherever there is room.
func (c *tokenCall) answer(status int, contentType, body string) {
	c.setHeaders()
	c.w.Header().Set("Content-Type", contentType)
	c.w.WriteHeader(status)
	_, _ = io.WriteString(c.w, body)
}

// fail answers with an OAuth error whose every text repeats the secret.
func (c *tokenCall) fail(status int, code string) {
	c.answer(status, "application/json", c.json(map[string]any{
		"error":  code,
		"errors": []any{map[string]any{"title": c.secret, "detail": c.secret, "status": c.secret, "code": c.secret}},
	}))
}

// issue answers with a token. Its scope, and members that nobody asked for, repeat the secret.
func (c *tokenCall) issue(expiresIn int, more ...any) {
	members := map[string]any{"access_token": c.mint(), "token_type": "Bearer", "expires_in": expiresIn}
	for i := 0; i+1 < len(more); i += 2 {
		members[more[i].(string)] = more[i+1]
	}
	c.answer(http.StatusOK, "application/json", c.json(members))
}

func (c *tokenCall) json(members map[string]any) string {
	object := map[string]any{
		"error_description": "unknown: " + c.secret, "error_uri": "https://example.com/" + c.secret, "message": c.body,
		"scope": "read " + c.secret, "created_at": c.secret, "client_secret": c.secret, "identifier": c.secret,
		"refresh_token": c.mint("nobody"), "id_token": c.mint("nobody"),
	}
	for name, value := range members {
		object[name] = value
	}
	body, _ := json.Marshal(object) // strings and numbers: it cannot fail
	return string(body)
}

// raw answers with bytes that net/http would not send.
func (c *tokenCall) raw(text string) { cutOff(text)(c.w, c.r) }

// secretOf reads the client secret of a token request, JSON or form.
func secretOf(r *http.Request, body []byte) string {
	if secret := r.URL.Query().Get("client_secret"); secret != "" {
		return secret
	}
	if form, err := url.ParseQuery(string(body)); err == nil && strings.Contains(r.Header.Get("Content-Type"), "form") {
		return form.Get("client_secret")
	}
	var object map[string]string
	_ = json.Unmarshal(body, &object)
	return object["client_secret"]
}

// dump is all of a request that a server can see.
func dump(r *http.Request) string {
	head, _ := httputil.DumpRequest(r, true)
	return fmt.Sprintf("%s\ntrailer: %v", head, r.Trailer)
}

// filesBelow returns what is in the files of a directory, by path.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// redactionRun is one scenario as it runs.
type redactionRun struct {
	*redactionScenario
	suite    *redactionSuite
	url      string
	clientID string
	secret   string
	file     string // that the secret is in
	keyFile  string // that a private key is in
	header   []string
	statuses []int // of the answers
	apiPlace string
	tokens   []string // issued
	mu       sync.Mutex

	tokenCalls, apiCalls, healthChecks atomic.Int64
}

func (r *redactionRun) mint(like string, allowed ...string) string {
	if len(allowed) == 0 {
		allowed = []string{r.apiPlace}
	}
	token := r.suite.plant(r.name, "a token", like, allowed...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens = append(r.tokens, token)
	return token
}

func (r *redactionRun) firstToken() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tokens[0]
}

// serveTokens is the scenario's token endpoint.
func (r *redactionRun) serveTokens(w http.ResponseWriter, req *http.Request) {
	r.suite.see(r.tokenPlace(), dump(req))
	body, _ := io.ReadAll(req.Body)
	c := &tokenCall{w, req, r, int(r.tokenCalls.Add(1)), string(body), cmp.Or(secretOf(req, body), r.secret)}
	r.adoptAssertions(req, string(body))
	r.adoptProof(req, r.tokenPlace())
	if r.endpoint == nil {
		c.issue(3600)
		return
	}
	r.endpoint(c)
}

// adoptAssertions makes planted texts of the signatures of JWTs, since what is before is alike in all of them.
func (r *redactionRun) adoptAssertions(req *http.Request, body string) {
	form, _ := url.ParseQuery(body)
	for name, values := range req.URL.Query() {
		form[name] = values
	}
	for _, name := range []string{"client_assertion", "assertion"} {
		if parts := strings.Split(form.Get(name), "."); len(parts) == 3 {
			r.suite.adopt(r.name, "an assertion", parts[2], r.tokenPlace())
		}
	}
}

// adoptProof makes a planted text of the signature of a DPoP proof.
func (r *redactionRun) adoptProof(req *http.Request, place string) {
	if parts := strings.Split(req.Header.Get("DPoP"), "."); len(parts) == 3 {
		r.suite.adopt(r.name, "a DPoP proof", parts[2], place)
	}
}

func (r *redactionRun) tokenPlace() string { return "the token endpoint of " + r.name }

// serveAPI is the scenario's API.
func (r *redactionRun) serveAPI(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/health" {
		r.suite.see("a health check", dump(req))
		r.healthChecks.Add(1)
		return
	}
	r.adoptProof(req, r.apiPlace)
	r.suite.see(r.apiPlace, dump(req))
	n := int(r.apiCalls.Add(1))
	if r.api != nil {
		r.api(w, req, n)
		return
	}
	if req.URL.Query().Has("hold") {
		close(r.suite.held)
		<-r.suite.release
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, nosyTemplate)
}

// ask sends one request of the scenario.
func (r *redactionRun) ask(t *testing.T, query string) {
	t.Helper()
	if err := r.try(t, query); err != nil {
		t.Errorf("%s: %v", r.name, err)
	}
}

// try sends one request of the scenario, and keeps what the application can see of the answer.
func (r *redactionRun) try(t *testing.T, query string) error {
	t.Helper()
	req := newRequest(t, cmp.Or(r.method, http.MethodGet), r.url+query, strings.NewReader(r.body), r.header...)
	if r.own != "" {
		req.Header.Set(r.own, "Bearer "+r.ownCredentials())
	}
	a, err := tryAsk(testClient(t), req)
	if err != nil {
		return err
	}
	place := "an answer to the application"
	if a.Header.Get("X-Error-Page") != "" {
		place = "an error page"
	}
	r.suite.see(place, wholeAnswer(a))
	r.statuses = append(r.statuses, a.StatusCode)
	return nil
}

// ownCredentials makes credentials of the application's own. Caddy redacts Authorization in its access log, and no
// other field; it logs before any handler runs.
func (r *redactionRun) ownCredentials() string {
	var allowed []string
	if strings.HasSuffix(r.block, "keep") {
		allowed = append(allowed, r.apiPlace)
	}
	if r.own != "Authorization" {
		allowed = append(allowed, "the log")
	}
	return r.suite.plant(r.name, "the application's own credentials", likeToken, allowed...)
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// redactionSuite is the one Caddy of all scenarios, and what is around it.
type redactionSuite struct {
	*plants
	runs []*redactionRun

	dir     string // all that Caddy writes is below it
	logFile string

	admin, nosy, calm, development string // addresses
	reserved                       []net.Listener

	elsewhere     *recordingAPI // must see nothing
	control       string        // is leaked on purpose
	held, release chan struct{}
}

// The places where literal secrets are, by design.
var configurationPlaces = []string{"GET /config/", "file config/caddy/autosave.json", "the adapted configuration"}

func newRedactionSuite(t *testing.T) *redactionSuite {
	t.Helper()
	s := &redactionSuite{
		plants:    new(plants),
		dir:       t.TempDir(),
		elsewhere: newRecordingAPI(t, nil),
		held:      make(chan struct{}),
		release:   make(chan struct{}),
	}
	for _, addr := range []*string{&s.admin, &s.nosy, &s.calm, &s.development} {
		*addr = s.reserve(t)
	}
	s.logFile = filepath.Join(s.dir, "caddy.log")
	s.control = s.plant("control", "the control", likeCode, "*")
	s.divertCaddy(t)
	for i := range redactionScenarios {
		s.runs = append(s.runs, s.newRun(t, &redactionScenarios[i], i))
	}
	gateway := s.run("gateway with a key in its URL")
	t.Setenv("GATEWAY_KEY", s.plant(gateway.name, "the gateway's key", likeCode, gateway.tokenPlace()))
	spied.Lock()
	spied.plants = s.plants
	spied.Unlock()
	return s
}

// reserve returns an address that is kept until Caddy starts: the many servers of the scenarios would take it.
func (s *redactionSuite) reserve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.reserved = append(s.reserved, l)
	return l.Addr().String()
}

// divertCaddy has Caddy write its files below the suite's directory, and send its spans to the suite. The path of the
// autosave file is a variable that has been computed before any test runs.
func (s *redactionSuite) divertCaddy(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(s.dir, "config"))
	t.Setenv("XDG_DATA_HOME", filepath.Join(s.dir, "data"))
	autosave := caddy.ConfigAutosavePath
	caddy.ConfigAutosavePath = filepath.Join(caddy.AppConfigDir(), "autosave.json")
	t.Cleanup(func() { caddy.ConfigAutosavePath = autosave })

	spans := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.see("spans", dump(r)) }))
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") // its strings are plain
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
}

func (s *redactionSuite) newRun(t *testing.T, scenario *redactionScenario, i int) *redactionRun {
	r := &redactionRun{redactionScenario: scenario, suite: s, apiPlace: "the API of " + scenario.name, clientID: newClientID()}
	site := s.nosy
	if r.site == "calm" {
		site = s.calm
	}
	r.url = fmt.Sprintf("http://%s/s%d/x", site, i)
	like, allowed := likeSecret, []string{r.tokenPlace()}
	if r.codeLike {
		like = likeCode
	}
	if r.redactionScenario.secret == "literal" {
		allowed = append(allowed, configurationPlaces...)
	}
	if r.name == developmentScenario { // Caddy logs handlers' configurations; that of its server is no secret
		allowed = append(allowed, "the log")
		r.apiPlace = developmentPlace
	}
	r.secret = s.plant(r.name, "the client secret", like, allowed...)
	r.file = filepath.Join(t.TempDir(), "secret")
	writeFile(t, r.file, r.secret+"\n")
	t.Setenv(fmt.Sprintf("REDACTION_SECRET_%d", i), r.secret)
	return r
}

// replacer fills in what the tables cannot know.
func (s *redactionSuite) replacer(more ...string) *strings.Replacer {
	return strings.NewReplacer(append(more, "CONTROL", s.control, "ELSEWHERE", s.elsewhere.addr(), "DEVELOPMENT", s.development)...)
}

func (s *redactionSuite) run(name string) *redactionRun {
	return s.runs[slices.IndexFunc(s.runs, func(r *redactionRun) bool { return r.name == name })]
}

// config is the configuration of a scenario.
func (r *redactionRun) config(t *testing.T, i int) (credential, route string) {
	endpoint := serveHTTP(t, http.HandlerFunc(r.serveTokens)).URL
	upstream, api := r.upstream, http.HandlerFunc(r.serveAPI)
	switch upstream {
	case "":
		upstream = serveHTTP(t, api).URL
	case "TLS":
		server := httptest.NewTLSServer(api)
		t.Cleanup(server.Close)
		upstream = server.URL
	}
	secret := fmt.Sprintf("{env.REDACTION_SECRET_%d}", i)
	switch r.redactionScenario.secret {
	case "file":
		secret = "{file." + r.file + "}"
	case "literal":
		secret = "`" + r.secret + "`"
	}
	provider := cmp.Or(r.provider, "optoro {\n token_url ENDPOINT\n}")
	replacements := []string{"ENDPOINT", endpoint, "SECRETFILE", "{file." + r.file + "}", "SECRETPATH", r.file, "SECRETENV", secret}
	if r.plant != nil {
		replacements = append(replacements, r.plant(t, r)...)
	}
	fill := r.suite.replacer(replacements...)
	for _, text := range r.redactionScenario.header {
		r.header = append(r.header, fill.Replace(text))
	}
	options := r.options
	if !strings.Contains(options, "fetch_timeout") { // what a scenario gets must not depend on the machine's speed
		options += "\n fetch_timeout 1m\n max_wait 2m"
	}
	if !r.instead {
		options = " client_secret " + secret + "\n" + options
	}
	credential = fmt.Sprintf("credential s%d {\n provider %s\n client_id %s\n%s\n}\n", i, provider, r.clientID, options)
	route = fmt.Sprintf("route /s%d/* {\n%stoken_proxy s%d %s {\n%s\n}\n}\n", i, r.before, i, upstream, r.block)
	return fill.Replace(credential), fill.Replace(route)
}

func (s *redactionSuite) globalOptions(credentials string) string {
	return fmt.Sprintf(`{
	debug
	admin %s
	storage file_system %s
	log {
		level DEBUG
		format json
		output file %s {
			roll_disabled
		}
	}
	metrics {
		per_host
	}
	servers %s {
		log_credentials
		trace
	}
	token_proxy {
		%s
	}
}
`, s.admin, filepath.Join(s.dir, "storage"), s.logFile, s.nosy, credentials)
}

// caddyfile is the configuration of all scenarios. Its first site looks for tokens with everything that Caddy has.
func (s *redactionSuite) caddyfile(t *testing.T) string {
	var credentials, nosyRoutes, calmRoutes strings.Builder
	for i, r := range s.runs {
		credential, route := r.config(t, i)
		credentials.WriteString(credential)
		if r.site == "calm" {
			calmRoutes.WriteString(route)
		} else {
			nosyRoutes.WriteString(route)
		}
	}
	const nosySite = `
		log
		log_append dump "NOSY"
		route {
			tracing {
				span "NOSY"
				span_attributes {
					dump "NOSY"
				}
			}
			redaction_spy
			vars dump "NOSY"
			map {http.request.method} {mapped} {
				default "NOSY"
			}
			header >X-Dump "NOSY|{http.vars.dump}|{mapped}"
			handle /never {
				reverse_proxy http://CONTROL.invalid
			}
			templates
			ROUTES
		}
		handle_errors {
			header X-Error-Page yes
			respond "NOSY|{http.vars.dump}|{mapped}"
		}`
	const developmentSite = `
		log
		route {
			dev_token_endpoint /oauth/* optoro {
				client_id DEVELOPER
				client_secret DEVSECRET
			}
			redaction_spy adopt
			dev_api
		}`
	developer := s.run(developmentScenario)
	return s.globalOptions(credentials.String()) +
		siteConfig(s.nosy, s.replacer("NOSY", nosy+"|{http.request.header.X-Leak}", "ROUTES", nosyRoutes.String()).Replace(nosySite)) +
		siteConfig(s.calm, "log\n"+calmRoutes.String()) +
		strings.Replace(siteConfig(s.calm, "respond ok"), "http://", "http://"+s.control, 1) +
		siteConfig(s.development, s.replacer("DEVELOPER", developer.clientID, "DEVSECRET", "`"+developer.secret+"`").Replace(developmentSite))
}

// boot starts Caddy as its command does.
func (s *redactionSuite) boot(t *testing.T, config string) {
	t.Helper()
	adapted, err := adapt(config)
	if err != nil {
		t.Fatal(err)
	}
	s.see("the adapted configuration", string(adapted))
	if n := bytes.Count(adapted, []byte(`"should_log_credentials":true`)); n != 1 {
		t.Fatalf("%d servers log credentials, want only the nosy one", n)
	}
	for _, l := range s.reserved {
		_ = l.Close()
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the harness's configuration turns the admin endpoint off, which Stop does not
		harness := &caddyServer{t: t, logFile: filepath.Join(t.TempDir(), "caddy.log")}
		if err := errors.Join(harness.loadJSON([]byte("{}")), caddy.Stop()); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
}

// runScenarios runs them all at once, since many wait.
func (s *redactionSuite) runScenarios(t *testing.T) {
	var wg sync.WaitGroup
	for _, r := range s.runs {
		if r.redactionScenario.run == nil {
			wg.Go(func() {
				r.ask(t, "")
				r.ask(t, "") // with a token, or in backoff or cooldown
			})
		}
	}
	for _, r := range s.runs {
		if r.redactionScenario.run != nil {
			r.redactionScenario.run(t, r)
		}
	}
	wg.Wait()
}

// scrape asks the admin API all that it answers, with a goroutine that is labeled with the control.
func (s *redactionSuite) scrape(t *testing.T) {
	t.Helper()
	paths := []string{
		"/config/", "/metrics", "/reverse_proxy/upstreams", "/debug/vars", "/debug/pprof/cmdline", "/debug/pprof/heap?debug=1",
		"/debug/pprof/goroutine?debug=1", "/debug/pprof/goroutine?debug=2",
	}
	standard := len(paths)
	for _, module := range caddy.GetModules("admin.api") {
		for _, route := range module.New().(caddy.AdminRouter).Routes() {
			paths = append(paths, route.Pattern)
		}
	}
	pprof.Do(t.Context(), pprof.Labels("control", s.control), func(context.Context) {
		for i, path := range paths {
			a := s.askAdmin(t, http.MethodGet, path, "")
			if i < standard {
				a.wantStatus(t, http.StatusOK)
			}
			s.see("GET "+path, wholeAnswer(a))
		}
	})
}

// askAdmin asks the admin API, again if need be: each load replaces its listener, also one that fails, and the system
// resets connections that were on their way to the old one.
func (s *redactionSuite) askAdmin(t *testing.T, method, path, body string, header ...string) (a clientAnswer) {
	t.Helper()
	client := testClient(t)
	eventually(t, method+" "+path, func() bool {
		var err error
		a, err = tryAsk(client, newRequest(t, method, "http://"+s.admin+path, strings.NewReader(body), header...))
		return err == nil
	})
	return a
}

// post sends a configuration to the admin API.
func (s *redactionSuite) post(t *testing.T, path, contentType, config string, header ...string) clientAnswer {
	t.Helper()
	return s.askAdmin(t, http.MethodPost, path, config, append(header, "Content-Type", contentType)...)
}

// refuse tries to load a configuration in every way, and keeps what is said about it.
func (s *redactionSuite) refuse(t *testing.T, name, caddyfile string, config []byte) {
	t.Helper()
	if config == nil {
		var err error
		if config, err = adapt(caddyfile); err != nil {
			s.see("the adapter's error", err.Error())
		} else {
			s.see("the adapted configuration", string(config))
		}
		if a := s.post(t, "/adapt", "text/caddyfile", caddyfile); a.StatusCode != http.StatusOK {
			s.see("POST /adapt", wholeAnswer(a))
		}
		s.refuseWith(t, name, "text/caddyfile", caddyfile)
	}
	if config == nil {
		return
	}
	var parsed caddy.Config
	err := caddy.StrictUnmarshalJSON(config, &parsed)
	if err == nil {
		err = caddy.Validate(&parsed)
	}
	if err == nil {
		t.Errorf("%s: it is valid", name)
		return
	}
	s.see("the validator's error", err.Error())
	s.refuseWith(t, name, "application/json", string(config))
}

func (s *redactionSuite) refuseWith(t *testing.T, name, contentType, config string) {
	t.Helper()
	a := s.post(t, "/load", contentType, config)
	if a.StatusCode == http.StatusOK {
		t.Errorf("%s: it was loaded", name)
	}
	s.see("POST /load", wholeAnswer(a))
}

// makeMistakes tries to load configurations that must be refused.
func (s *redactionSuite) makeMistakes(t *testing.T) {
	for _, m := range redactionMistakes {
		secret := s.plant("mistake: "+m.name, "the secret", likePassword, "the adapted configuration")
		t.Setenv("MISTAKEN", secret)
		t.Setenv("MISTAKEN_LINES", secret+"\n"+secret)
		fill := s.replacer("MISTAKENFILE", secretPath(t, secret), "MISTAKEN", "MISTAKEN", "MISTAKE", secret)
		if m.json != "" {
			s.refuse(t, m.name, "", s.withApps(t, `{"token_proxy":{"credentials":{"x":`+fill.Replace(m.json)+`}}}`))
			continue
		}
		s.refuse(t, m.name, s.globalOptions("credential x {\n"+fill.Replace(m.credential)+"\n}"), nil)
	}
	s.refuse(t, "control", s.globalOptions("")+siteConfig(s.calm, s.control), nil)
	s.refuse(t, "control", "", s.withApps(t, `{"`+s.control+`":{}}`))
}

// withApps is a JSON configuration with these apps, which need not be JSON, and all else as it runs: even one that is
// refused takes the admin endpoint away if it does not have it.
func (s *redactionSuite) withApps(t *testing.T, apps string) []byte {
	t.Helper()
	config, err := adapt(s.globalOptions(""))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]json.RawMessage
	if err := json.Unmarshal(config, &root); err != nil {
		t.Fatal(err)
	}
	delete(root, "apps")
	config, _ = json.Marshal(root) // it was JSON before
	return slices.Concat(config[:len(config)-1], []byte(`,"apps":`+apps+`}`))
}

// reload loads the running configuration again: once unchanged, once by force, once with a change.
func (s *redactionSuite) reload(t *testing.T, config string) {
	t.Helper()
	for _, header := range [][]string{nil, {"Cache-Control", "must-revalidate"}} {
		a := s.post(t, "/load", "text/caddyfile", config, header...)
		a.wantStatus(t, http.StatusOK)
		s.see("POST /load", wholeAnswer(a))
	}
	s.post(t, "/load", "text/caddyfile", config+siteConfig(freeAddr(t), "respond ok")).wantStatus(t, http.StatusOK)
}

// leakControl leaks the control in ways that no scenario has: as a host, which is a label of Caddy's metrics, and in what
// the process publishes of itself.
func (s *redactionSuite) leakControl(t *testing.T) {
	t.Helper()
	req := newRequest(t, http.MethodGet, "http://"+s.calm, nil)
	req.Host = s.control
	ask(t, testClient(t), req).wantStatus(t, http.StatusOK)

	const name = "redaction_control"
	if expvar.Get(name) == nil { // the test may run more than once
		expvar.NewString(name)
	}
	expvar.Get(name).(*expvar.String).Set(s.control)
}

func init() {
	caddy.RegisterModule(redactionSpy{})
	caddy.RegisterModule(new(leakyProvider))
	httpcaddyfile.RegisterHandlerDirective("redaction_spy", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		spy := new(redactionSpy)
		h.Next() // the directive's name
		h.Args(&spy.Mode)
		return spy, nil
	})
}

// redactionSpy is another handler, which looks at everything that it can reach by lawful means.
type redactionSpy struct {
	// Mode is "" to look at the request before and after the handlers that follow, "trace" to watch its connection as
	// well, "leak" to log what is in the header X-Leak, "adopt" to make a planted text of the token in the request.
	Mode string `json:"mode,omitempty"`

	logger *zap.Logger
}

// spied are the plants of the test that runs: Caddy makes the handlers, so that they cannot be given them.
var spied struct {
	sync.Mutex
	*plants
}

func (redactionSpy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.redaction_spy", New: func() caddy.Module { return new(redactionSpy) }}
}

func (s *redactionSpy) Provision(ctx caddy.Context) error {
	s.logger = ctx.Logger()
	return nil
}

func (s *redactionSpy) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	spied.Lock()
	p := spied.plants
	spied.Unlock()
	switch s.Mode {
	case "leak":
		s.logger.Info("a handler that leaks", zap.String("what", r.Header.Get("X-Leak")))
	case "adopt":
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			p.adopt(developmentScenario, "a token", token, developmentPlace)
			p.see(developmentPlace, dump(r))
		}
	case "trace":
		const place = "another handler's httptrace.ClientTrace"
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			GotConn:          func(httptrace.GotConnInfo) { p.see(place, "a connection") },
			WroteHeaderField: func(name string, values []string) { p.see(place, fmt.Sprint(name, values)) },
		}))
	default:
		s.look(p, r)
		defer s.look(p, r)
	}
	return next.ServeHTTP(w, r)
}

func (s *redactionSpy) look(p *plants, r *http.Request) {
	replacer := r.Context().Value(caddy.ReplacerCtxKey)
	vars := r.Context().Value(caddyhttp.VarsCtxKey)
	original := r.Context().Value(caddyhttp.OriginalRequestCtxKey)
	p.see("what another handler sees", fmt.Sprintf("%+v\n%#v\n%v\n%#v\n%v\n%#v\n%+v\n%v",
		r, r, r.Context(), r.Context(), r.Trailer, replacer, original, vars))
}

// leakyProvider is a provider of somebody else's: it fails in ways that hold the secret. Redaction is not its business
// (see Provider).
type leakyProvider struct {
	URL string `json:"url,omitempty"`
	How string `json:"how,omitempty"`
}

func (*leakyProvider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_proxy.providers.redaction_leaky", New: func() caddy.Module { return new(leakyProvider) }}
}

func (l *leakyProvider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the provider's name
	if !d.AllArgs(&l.URL, &l.How) {
		return d.ArgErr()
	}
	return nil
}

func (l *leakyProvider) Endpoint() string { return l.URL }
func (*leakyProvider) NeedsSecret() bool  { return true }

func (l *leakyProvider) NewRequest(ctx context.Context, client provider.Client) (*http.Request, error) {
	secret := client.Secret.Reveal()
	switch l.How {
	case "panic while asking":
		panic(secret)
	case "panic with an error while asking":
		panic(fmt.Errorf("cannot send %q", secret))
	case "error while asking":
		return nil, fmt.Errorf("cannot send %q", secret)
	case "token error while asking":
		return nil, &provider.Error{Kind: "refused", Reason: "cannot send " + secret, Code: secret}
	case "secret in the URL":
		return http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:1/?client_secret="+url.QueryEscape(secret), nil)
	}
	req, err := oauth.NewJSONRequest(ctx, l.URL, map[string]string{"client_secret": secret})
	if l.How == "secret in a broken header" {
		req.Header.Set("X-Secret", secret+"\n")
	}
	return req, err
}

// ReadAnswer finds the secret in the answer, where the hostile endpoints repeat it.
func (l *leakyProvider) ReadAnswer(answer *provider.Answer) (provider.Issued, error) {
	secret, _ := answer.Text("client_secret")
	switch l.How {
	case "panic while reading":
		panic(answer)
	case "error while reading":
		return provider.Issued{}, fmt.Errorf("got %s", answer.Body)
	case "wrapped token error":
		return provider.Issued{}, fmt.Errorf("got %s: %w", secret, &provider.Error{Kind: "refused", Code: secret, Reason: "it says no"})
	case "joined token error":
		return provider.Issued{}, errors.Join(errors.New(secret), &provider.Error{Kind: "refused", Reason: "it says no"})
	case "reason":
		return provider.Issued{}, &provider.Error{Kind: "refused", Reason: "it does not like " + secret}
	case "note":
		issued, err := answer.Read(provider.Layout{Token: []string{"access_token"}})
		issued.Note = "it repeats " + secret
		return issued, err
	}
	return answer.Read(provider.Layout{Token: []string{"access_token"}})
}

// Interface guards
var (
	_ caddy.Provisioner           = (*redactionSpy)(nil)
	_ caddyhttp.MiddlewareHandler = (*redactionSpy)(nil)
	_ provider.Provider           = (*leakyProvider)(nil)
	_ caddyfile.Unmarshaler       = (*leakyProvider)(nil)
)
