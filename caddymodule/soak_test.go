package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

var (
	soakDuration = flag.Duration("soak", 0, "how long TestSoak runs; 0: a short form of it")
	soakSeed     = flag.Uint64("soak.seed", 0, "what TestSoak's chaos is made of; 0: something new")
)

const (
	soakLifetime = 2 * time.Second

	// soakLatency is the least time a token call takes. It makes a token that much older for the proxy than it is, so
	// that none ends on its way to the API.
	soakLatency = 20 * time.Millisecond

	// soakTimeout bounds a token call. One that takes half of it on the side of the endpoint may have been too late.
	soakTimeout = time.Second

	// soakGrace is for what lies between the moment when an answer is written and that when its reader has acted on it.
	soakGrace = 250 * time.Millisecond
)

// mood is one way in which the token endpoint of the soak test answers.
type mood struct {
	name   string
	bad    bool // there is no usable token in the answer
	weight int
	fault  devserver.Fault
	replay bool // the last token once more, while it lives
}

var moods = []mood{
	{name: "plain", weight: 40},
	{name: "replay", weight: 10, replay: true},
	{name: "string", weight: 5, fault: devserver.Fault{ExpiresIn: `"2"`}},
	{name: "float", weight: 5, fault: devserver.Fault{ExpiresIn: `1.75`}},
	{name: "float in a string", weight: 5, fault: devserver.Fault{ExpiresIn: `"1.5"`}},
	{name: "short", weight: 5, fault: devserver.Fault{ExpiresIn: `1`}},
	{name: "zero", weight: 3, fault: devserver.Fault{ExpiresIn: `0`}},
	{name: "negative", weight: 2, fault: devserver.Fault{ExpiresIn: `-5`}},
	{name: "null", weight: 5, fault: devserver.Fault{ExpiresIn: `null`}},
	{name: "missing", weight: 5, fault: devserver.Fault{ExpiresIn: devserver.ExpiresInMissing}},
	{name: "prose", weight: 5, fault: devserver.Fault{ExpiresIn: `"soon"`}},

	{name: "500", bad: true, weight: 3, fault: devserver.Fault{Status: 500}},
	{name: "503 with Retry-After", bad: true, weight: 2, fault: devserver.Fault{Status: 503, RetryAfter: "1"}},
	{name: "429 with Retry-After", bad: true, weight: 2, fault: devserver.Fault{Status: 429, RetryAfter: "1"}},
	{name: "429", bad: true, weight: 1, fault: devserver.Fault{Status: 429}},
	{name: "invalid_token_reuse", bad: true, weight: 2, fault: devserver.Fault{Error: "invalid_token_reuse"}},
	{name: "reset", bad: true, weight: 2, fault: devserver.Fault{Reset: true}},
	{name: "hang", bad: true, weight: 2, fault: devserver.Fault{Hang: true}},
	{name: "html", bad: true, weight: 1, fault: devserver.Fault{Garbage: devserver.GarbageHTML}},
	{name: "empty", bad: true, weight: 1, fault: devserver.Fault{Garbage: devserver.GarbageEmpty}},
	{name: "truncated", bad: true, weight: 1, fault: devserver.Fault{Garbage: devserver.GarbageTruncated}},
	{name: "no token", bad: true, weight: 1, fault: devserver.Fault{Garbage: devserver.GarbageNoToken}},
	{name: "control characters", bad: true, weight: 1, fault: devserver.Fault{Garbage: devserver.GarbageControlChars}},
	{name: "drip", bad: true, weight: 1, fault: devserver.Fault{Garbage: devserver.GarbageDrip}},
}

// soakCall is one call of the token endpoint, as the endpoint sees it.
type soakCall struct {
	arrived  time.Time
	answered time.Time // zero while it is under way
	bad      bool
	mood     string
	token    string
	lifetime time.Duration // as the answer says, or as default_lifetime does if it does not
}

// keeps reports whether the proxy must have kept the token: it may have been dead when it arrived.
func (c *soakCall) keeps() bool {
	return c.token != "" && !c.bad && c.lifetime > c.answered.Sub(c.arrived)+soakGrace
}

// ends is when the token ends by what its answer says.
func (c *soakCall) ends() time.Time { return c.arrived.Add(c.lifetime) }

// soakTenant is one credential of the soak test: its token endpoint, its API, and what is known of both.
type soakTenant struct {
	t         *testing.T
	registry  *devserver.Registry
	api       *devserver.API
	id        string
	endpoints []*devserver.TokenEndpoint // one for each of moods

	mu       sync.Mutex
	rng      *rand.Rand
	badness  float64     // how often the endpoint is bad
	calls    []*soakCall // of the last minute or so
	revoked  map[string]time.Time
	shown    int // violations
	counts   map[string]int
	total    int // calls
	bad      int
	excused  int // requests that failed and had to
	requests int
}

func newSoakTenant(t *testing.T, seed uint64, badness float64) *soakTenant {
	n := &soakTenant{
		t: t, registry: devserver.NewRegistry(), id: newClientID(), badness: badness,
		rng: rand.New(rand.NewPCG(seed, 0)), revoked: make(map[string]time.Time), counts: make(map[string]int),
	}
	n.api = &devserver.API{Registry: n.registry}
	for _, m := range moods {
		e := &devserver.TokenEndpoint{Dialect: devserver.Optoro, ClientID: n.id, Registry: n.registry, Lifetime: soakLifetime}
		e.SetFault(m.fault)
		n.endpoints = append(n.endpoints, e)
	}
	return n
}

// violation reports what must not be, up to ten times.
func (n *soakTenant) violation(format string, args ...any) {
	if n.shown++; n.shown <= 10 {
		n.t.Errorf("%s at %s: %s", n.id, time.Now().Format(soakClock), fmt.Sprintf(format, args...))
	}
	if n.shown == 1 {
		for _, c := range n.calls[max(0, len(n.calls)-8):] {
			n.t.Logf("call %s to %s: %s, bad %t, lifetime %s, token %s, revoked %s", c.arrived.Format(soakClock),
				c.answered.Format(soakClock), c.mood, c.bad, c.lifetime, devserver.Fingerprint(c.token), n.revoked[c.token].Format(soakClock))
		}
	}
}

const soakClock = "15:04:05.000"

// choose picks a mood.
func (n *soakTenant) choose() int {
	bad := n.rng.Float64() < n.badness
	total := 0
	for _, m := range moods {
		if m.bad == bad {
			total += m.weight
		}
	}
	at := n.rng.IntN(total)
	for i, m := range moods {
		if m.bad != bad {
			continue
		}
		if at -= m.weight; at < 0 {
			return i
		}
	}
	panic("unreachable")
}

// serveToken is the token endpoint.
func (n *soakTenant) serveToken(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // only then does the server notice that the client goes
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	n.mu.Lock()
	mood := n.choose()
	latency := soakLatency + time.Duration(n.rng.Int64N(int64(100*time.Millisecond)))
	call := &soakCall{arrived: time.Now(), bad: moods[mood].bad, mood: moods[mood].name}
	n.checkRate(call)
	n.calls = append(n.calls, call)
	n.total++
	n.counts[moods[mood].name]++
	if call.bad {
		n.bad++
	}
	last := n.lastToken()
	n.mu.Unlock()

	wait(r, latency)
	copied := &copyWriter{ResponseWriter: w}
	if token, state := n.registry.Lookup(last); moods[mood].replay && state == devserver.Live {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(copied, `{"access_token":%q,"token_type":"Bearer","expires_in":%.3f}`, last,
			(time.Until(token.Expires) - soakLatency).Seconds())
	} else {
		n.endpoints[mood].ServeHTTP(copied, r)
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	call.answered = time.Now()
	if !call.bad {
		call.token, call.lifetime = readTokenAnswer(copied.Bytes())
	}
	if r.Context().Err() != nil || call.answered.Sub(call.arrived) > soakTimeout/2 {
		call.bad = true
	}
}

func wait(r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
}

// copyWriter keeps what is written.
type copyWriter struct {
	http.ResponseWriter
	bytes.Buffer
}

func (c *copyWriter) Write(p []byte) (int, error) {
	c.Buffer.Write(p)
	return c.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (c *copyWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// readTokenAnswer reads a good answer as the specification says.
func readTokenAnswer(body []byte) (value string, lifetime time.Duration) {
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   any    `json:"expires_in"`
	}
	_ = json.Unmarshal(body, &answer)
	seconds, ok := answer.ExpiresIn.(float64)
	if text, isText := answer.ExpiresIn.(string); isText {
		parsed, err := strconv.ParseFloat(text, 64)
		seconds, ok = parsed, err == nil
	}
	if !ok {
		return answer.AccessToken, soakLifetime // default_lifetime
	}
	return answer.AccessToken, time.Duration(max(0, seconds) * float64(time.Second))
}

// lastToken is the last one that was issued in a good answer.
func (n *soakTenant) lastToken() string {
	for _, c := range slices.Backward(n.calls) {
		if c.token != "" {
			return c.token
		}
	}
	return ""
}

// checkRate holds a new call against the one before it.
func (n *soakTenant) checkRate(call *soakCall) {
	if len(n.calls) == 0 {
		return
	}
	const slack = 2 * time.Second // for a machine that is busy
	previous := n.calls[len(n.calls)-1]
	gap := call.arrived.Sub(previous.arrived)
	var least, most time.Duration
	switch {
	case previous.bad || previous.answered.IsZero():
		failures := 0
		for _, c := range slices.Backward(n.calls) {
			if !c.bad {
				break
			}
			failures++
		}
		most = max(time.Second, min(time.Second<<(max(1, min(failures, 7))-1), time.Minute)) + time.Second // Retry-After
	case previous.lifetime == 0:
		least, most = 90*time.Millisecond, soakLifetime
	default:
		most = previous.lifetime
		if n.revoked[previous.token].IsZero() {
			// The margin is at most half of the lifetime, the jitter a quarter of that; and the lifetime counts from
			// when the call was sent.
			least = previous.lifetime*3/10 - soakGrace
		}
	}
	if gap < least || gap > most+slack {
		n.violation("a token call came %s after one with bad %t and lifetime %s; want %s to %s", gap, previous.bad, previous.lifetime, least, most)
	}
}

// serveAPI is the API.
func (n *soakTenant) serveAPI(w http.ResponseWriter, r *http.Request) {
	value, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	nanos, _ := strconv.ParseInt(r.Header.Get("X-Request-Start"), 10, 64)
	start := time.Unix(0, nanos)
	token, state := n.registry.Lookup(value)
	n.mu.Lock()
	switch {
	case state == devserver.Unknown:
		n.violation("a token that was never issued to this client came to its API")
	case !n.mayCarry(value, start):
		n.violation("a request that began at %s came with token %s, in place of which the endpoint had given another before",
			start.Format(soakClock), devserver.Fingerprint(value))
	case state == devserver.Expired && token.Expires.Before(start):
		n.violation("a request came with a token that had ended %s before the request began", start.Sub(token.Expires))
	}
	n.mu.Unlock()
	n.api.ServeHTTP(w, r)
}

// mayCarry reports whether a request that began at start may come with this token: it is of the last good answer
// before that, or of a later one.
func (n *soakTenant) mayCarry(value string, start time.Time) bool {
	for _, c := range slices.Backward(n.calls) {
		if c.token == value {
			return true
		}
		if c.keeps() && c.answered.Add(soakGrace).Before(start) {
			return false
		}
	}
	return false
}

// judge decides whether a request that failed had to fail.
func (n *soakTenant) judge(x exchange) {
	why := x.failure()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests++
	if why == "" {
		var echo devserver.Echo
		if err := json.Unmarshal([]byte(x.answer.body), &echo); err != nil || echo.Client != n.id {
			n.violation("the request was served with a token of %q", echo.Client)
		}
		return
	}
	ours := x.err == nil && (x.answer.StatusCode == http.StatusUnauthorized ||
		strings.HasPrefix(x.answer.Header.Get("Proxy-Status"), "token-proxy;"))
	switch {
	case !ours:
		n.violation("%s", why)
	case n.revokedTogether(x.start, x.end):
		n.excused++
		n.counts["revoked together"]++
	case !n.failing(x.start, x.end):
		n.violation("it failed while the token endpoint was in order: %s", why)
	case n.hadToken(x.start, x.end):
		n.violation("it failed while there was a valid token: %s", why)
	default:
		n.excused++
		n.counts[fmt.Sprint("status ", x.answer.StatusCode)]++
	}
}

// revokedTogether reports whether one revocation ended two tokens while a request was under way. Then its first attempt can have
// had the one, and its replay the other, which was new.
func (n *soakTenant) revokedTogether(start, end time.Time) bool {
	tokens := make(map[time.Time]int)
	for _, at := range n.revoked {
		if at.Add(soakGrace).Before(start) || at.After(end) {
			continue
		}
		if tokens[at]++; tokens[at] > 1 {
			return true
		}
	}
	return false
}

// failing reports whether at some time between start and end the last call of the token endpoint, or one under way, was
// a bad one.
func (n *soakTenant) failing(start, end time.Time) bool {
	var good *soakCall // the next after c
	for _, c := range slices.Backward(n.calls) {
		if !c.bad {
			if !c.answered.IsZero() {
				good = c
			}
			continue
		}
		if !c.arrived.After(end) && (good == nil || good.answered.Add(soakGrace).After(start)) {
			return true
		}
	}
	return false
}

// hadToken reports whether the proxy had a token that was good from start to end.
func (n *soakTenant) hadToken(start, end time.Time) bool {
	for _, c := range slices.Backward(n.calls) {
		if !c.keeps() || c.answered.Add(soakGrace).After(start) {
			continue
		}
		revoked, ok := n.revoked[c.token]
		return c.ends().After(end.Add(soakGrace)) && (!ok || revoked.After(end))
	}
	return false
}

// revoke ends the tokens of the client before their time.
func (n *soakTenant) revoke() {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, c := range n.calls {
		if _, state := n.registry.Lookup(c.token); state == devserver.Live {
			n.revoked[c.token] = now
		}
	}
	n.registry.RevokeAll(n.id)
	n.counts["revocation"]++
}

// forget drops what no request can be about any more.
func (n *soakTenant) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := time.Now().Add(-2 * time.Minute)
	n.calls = slices.DeleteFunc(n.calls, func(c *soakCall) bool { return c.arrived.Before(old) })
	for token, at := range n.revoked {
		if at.Before(old) {
			delete(n.revoked, token)
		}
	}
}

// TestSoak lets a proxy with two credentials work for a while, with tokens of two seconds, endpoints that misbehave,
// tokens that are revoked, and reloads. Each side keeps books, and they must agree: no
// request failed that could have been served, and none came to an API with a token that had ended.
//
//	go test ./caddymodule -run TestSoak -v -timeout 0 -soak 1h
func TestSoak(t *testing.T) {
	if apart.Run(t) {
		return
	}
	duration, reloadEvery, pace, badness, mostExcused := *soakDuration, 5*time.Second, 50*time.Millisecond, 0.05, 0.1
	if duration == 0 {
		duration, reloadEvery, pace, badness, mostExcused = 5*time.Second, time.Second, 20*time.Millisecond, 0.2, 0.9
	}
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-soak.seed %d", seed)

	var tenants []*soakTenant
	var servers []*httptest.Server
	var routes strings.Builder
	var credentials [3]strings.Builder
	policies := []string{"", "refresh_margin 600ms", "refresh_margin 1s\n max_wait 5s\n prefetch on"}
	for i := range 2 {
		n := newSoakTenant(t, seed+uint64(i), badness)
		tenants = append(tenants, n)
		name := fmt.Sprint("tenant-", i)
		endpoint, api := serveHTTP(t, http.HandlerFunc(n.serveToken)), serveHTTP(t, http.HandlerFunc(n.serveAPI))
		servers = append(servers, endpoint, api)
		for k, policy := range policies {
			credentials[k].WriteString(credentialConfig(name, endpoint.URL, n.id, fmt.Sprintf("fetch_timeout %s\n default_lifetime %s", soakTimeout, soakLifetime), policy))
		}
		fmt.Fprintf(&routes, "token_proxy /%d %s %s\n", i, name, api.URL)
	}
	addr := freeAddr(t)
	config := func(k int) string {
		other := ""
		if k%2 == 1 {
			other = siteConfig("127.0.0.1:0", "respond ok")
		}
		return globalOptions(credentials[k%len(credentials)].String()) + siteConfig(addr, routes.String()) + other
	}
	before := measure()
	s := startQuietly(t, config(0))

	var applications []*traffic
	for i, n := range tenants {
		f := &traffic{url: fmt.Sprintf("http://%s/%d", addr, i), pace: pace, bodies: []int{0, 30 << 10}, judge: n.judge}
		f.start(1)
		applications = append(applications, f)
	}
	start := time.Now()
	samples := runSoak(t, s, tenants, config, duration, reloadEvery)
	for _, f := range applications {
		f.stop()
	}
	elapsed := time.Since(start)
	s.wantNoPanic()

	for _, n := range tenants {
		n.mu.Lock()
		t.Logf("%s: %d requests, %d of them failed and had to; %d token calls, %d of them bad: %v",
			n.id, n.requests, n.excused, n.total, n.bad, n.counts)
		if least := int(elapsed / pace); n.requests < least/10 { // the machine may be slow
			t.Errorf("%d requests in %s, want more", n.requests, elapsed)
		}
		if float64(n.excused) > mostExcused*float64(n.requests) {
			t.Errorf("%d of %d requests failed: there is more to this than chance", n.excused, n.requests)
		}
		if most := 10 + int(3*elapsed/time.Second); n.total > most {
			t.Errorf("%d token calls in %s, want at most %d", n.total, elapsed, most)
		}
		n.mu.Unlock()
	}
	checkSamples(t, samples)
	if t.Failed() {
		t.Logf("what the log says of the last token calls:\n%s", lastLines(s.logs(), 20))
	}
	for _, server := range servers {
		server.CloseClientConnections()
	}
	// The configuration that still runs, and connections that are just being closed. The registries remember up to
	// 10000 tokens each, which is some 3 MiB.
	wantBackTo(t, before, 12, 10<<20)
}

// runSoak reloads and revokes until the time is over, and samples the footprint.
func runSoak(t *testing.T, s *caddyServer, tenants []*soakTenant, config func(int) string, duration, reloadEvery time.Duration) []footprint {
	t.Helper()
	var samples []footprint
	end := time.After(duration)
	reload := time.NewTicker(reloadEvery)
	defer reload.Stop()
	// Pitfall 5.25 asks for a limit on how often a refused token is replaced, which grows from 1 s to 30 s. Within it
	// each revocation must be healed.
	gap := time.Second
	revoke := time.NewTimer(gap)
	defer revoke.Stop()
	for k := 1; ; {
		select {
		case <-end:
			return samples
		case <-revoke.C:
			for _, n := range tenants {
				n.revoke()
			}
			gap = min(2*gap, 35*time.Second)
			revoke.Reset(gap + gap/10)
		case <-reload.C:
			if err := s.loadQuietly(config(k)); err != nil {
				t.Fatal(err)
			}
			k++
			for _, n := range tenants {
				n.forget()
			}
			samples = append(samples, measure())
		}
	}
}

// checkSamples compares the last third of the samples with the first, after a warm-up.
func checkSamples(t *testing.T, samples []footprint) {
	t.Helper()
	third := len(samples) / 3
	if third == 0 {
		return
	}
	mean := func(part []footprint) (m footprint) {
		for _, f := range part {
			m.goroutines += f.goroutines
			m.heap += f.heap
		}
		return footprint{m.goroutines / len(part), m.heap / uint64(len(part))}
	}
	first, last := mean(samples[:third]), mean(samples[len(samples)-third:])
	t.Logf("%d samples: at first %+v, at last %+v", len(samples), first, last)
	// As many MiB as the registries may have grown by, and as many again.
	if last.heap > first.heap+10<<20 {
		t.Errorf("the heap grew from %d to %d bytes", first.heap, last.heap)
	}
	if last.goroutines > first.goroutines+60 {
		t.Errorf("the goroutines grew from %d to %d", first.goroutines, last.goroutines)
	}
}

// lastLines returns the last n lines that are about token calls.
func lastLines(log string, n int) string {
	var lines []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"msg":"token obtained`) || strings.Contains(line, `"msg":"no token"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
