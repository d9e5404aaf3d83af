package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/status"
)

// metricsPrefix is what the names of all metrics begin with.
const metricsPrefix = "caddy_token_proxy_"

// exposition is what Prometheus gets to see of this module.
type exposition struct {
	types  map[string]string  // of the families
	series map[string]float64 // by name and labels, as they are written
}

// parseSample parses a line like caddy_token_proxy_calls_total{credential="api"} 1. A regular expression would take
// seconds: the metrics of the credentials of all tests before are there, too.
func parseSample(line string) (series string, value float64, err error) {
	series, number, found := strings.Cut(line, "} ")
	if found {
		series += "}"
	} else {
		series, number, _ = strings.Cut(line, " ")
	}
	name, labels, _ := strings.Cut(series, "{")
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" || strings.Contains(strings.TrimSuffix(labels, "}"), "}") {
		return "", 0, errors.New("it is malformed")
	}
	value, err = strconv.ParseFloat(number, 64)
	return series, value, err
}

// readMetrics reads /metrics of the admin endpoint, and fails the test if anything is there twice.
func (s *operatedServer) readMetrics() exposition {
	s.t.Helper()
	a := s.ask(http.MethodGet, "/metrics", "Accept-Encoding", "identity") // to compress it takes longer than to send it
	a.wantStatus(s.t, 200)
	e := exposition{make(map[string]string), make(map[string]float64)}
	for line := range strings.Lines(a.body) {
		if fields := strings.Fields(line); len(fields) == 4 && fields[1] == "TYPE" && strings.HasPrefix(fields[2], metricsPrefix) {
			if _, ok := e.types[fields[2]]; ok {
				s.t.Errorf("%s is there twice", fields[2])
			}
			e.types[fields[2]] = fields[3]
		}
		if !strings.HasPrefix(line, metricsPrefix) {
			continue
		}
		series, value, err := parseSample(strings.TrimSpace(line))
		if _, ok := e.series[series]; ok || err != nil {
			s.t.Errorf("%s: twice: %t, error %v", line, ok, err)
		}
		e.series[series] = value
	}
	return e
}

// of returns the value of a series. Labels are given as name and value in turn, by name.
func (e exposition) of(name string, labels ...string) (float64, bool) {
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	key := metricsPrefix + name
	if len(pairs) > 0 {
		key += "{" + strings.Join(pairs, ",") + "}"
	}
	v, ok := e.series[key]
	return v, ok
}

func (e exposition) want(t *testing.T, value float64, name string, labels ...string) {
	t.Helper()
	if got, ok := e.of(name, labels...); !ok || got != value {
		t.Errorf("%s%v is %v (there: %t), want %v", name, labels, got, ok, value)
	}
}

func (e exposition) wantBetween(t *testing.T, least, most float64, name string, labels ...string) {
	t.Helper()
	if got, ok := e.of(name, labels...); !ok || got < least || got > most {
		t.Errorf("%s%v is %v (there: %t), want %v to %v", name, labels, got, ok, least, most)
	}
}

func (e exposition) wantNone(t *testing.T, name, credential string) {
	t.Helper()
	for series := range e.series {
		if strings.HasPrefix(series, metricsPrefix+name) && strings.Contains(series, fmt.Sprintf("credential=%q", credential)) {
			t.Errorf("%s is there", series)
		}
	}
}

// the families, by what they are
var (
	counterFamilies = []string{
		"calls_total", "requests_total", "refused_requests_total", "unauthorized_total", "invalidations_total", "replays_total",
		"vault_evictions_total", "vault_rejections_total", "replay_memory_denials_total",
	}
	histogramFamilies = []string{"call_duration_seconds", "wait_duration_seconds"}
	gaugeFamilies     = []string{
		"token_remaining_seconds", "token_lifetime_seconds", "token_refresh_overdue_seconds", "last_success_age_seconds",
		"backoff_seconds", "vault_entries", "replay_memory_bytes",
	}
	sharedGauges   = []string{"share_up", "share_skew_seconds"} // only where tokens are shared
	tenantFamilies = []string{"tenants", "tenant_evictions_total", "tenant_refusals_total"}
)

func (e exposition) wantFamilies(t *testing.T) {
	t.Helper()
	want := make(map[string]string)
	for kind, families := range map[string][]string{"counter": counterFamilies, "histogram": histogramFamilies, "gauge": gaugeFamilies} {
		for _, family := range families {
			want[metricsPrefix+family] = kind
		}
	}
	types := maps.Clone(e.types)
	for _, family := range tenantFamilies { // another test may have had tenants
		delete(types, metricsPrefix+family)
	}
	if !maps.Equal(types, want) {
		t.Errorf("the families are %v, want %v", types, want)
	}
}

// monotonic returns the series that may not decrease.
func (e exposition) monotonic() map[string]float64 {
	m := maps.Clone(e.series)
	maps.DeleteFunc(m, func(series string, _ float64) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(series, metricsPrefix), "{")
		return slices.Contains(gaugeFamilies, name) || slices.Contains(sharedGauges, name)
	})
	return m
}

func (e exposition) wantNoDecreaseSince(t *testing.T, before exposition) {
	t.Helper()
	for series, value := range before.monotonic() {
		if now, ok := e.series[series]; !ok || now < value {
			t.Errorf("%s went from %v to %v (there: %t)", series, value, now, ok)
		}
	}
}

func TestMetricsOfAScriptedRun(t *testing.T) {
	if apart.Run(t) {
		return
	}
	good, bad, down, garbage, short := newTokenServer(t), newTokenServer(t), newTokenServer(t), newTokenServer(t), newTokenServer(t)
	name := make(map[*tokenServer]string)
	for kind, s := range map[string]*tokenServer{"good": good, "bad": bad, "down": down, "garbage": garbage, "short": short} {
		name[s] = kind + "-" + newClientID()
	}
	idle := "idle-" + newClientID()
	bad.SetFault(devserver.Fault{Error: "invalid_client"})
	down.SetFault(devserver.Fault{Status: 503})
	garbage.SetFault(devserver.Fault{Garbage: devserver.GarbageHTML})
	short.Lifetime = 4 * time.Second
	api := newRecordingAPI(t, good.api().ServeHTTP)
	anything := newRecordingAPI(t, nil)
	site := make(map[string]string)
	var sites strings.Builder
	for key, directive := range map[string]string{
		"good":    "token_proxy " + name[good] + " {header.X-Upstream} {\n client_authorization reject\n}",
		"locked":  "token_proxy " + name[good] + " " + api.URL + " {\n clients 192.0.2.1\n}",
		"bad":     "token_proxy " + name[bad] + " " + anything.URL,
		"down":    "token_proxy " + name[down] + " " + anything.URL,
		"garbage": "token_proxy " + name[garbage] + " " + anything.URL,
		"short":   "token_proxy " + name[short] + " " + anything.URL,
	} {
		addr := freeAddr(t)
		site[key] = "http://" + addr
		sites.WriteString(siteConfig(addr, directive))
	}
	s := startOperated(t, globalOptions(
		good.credential(name[good], "api_hosts "+api.addr()), bad.credential(name[bad]), down.credential(name[down]),
		garbage.credential(name[garbage]), short.credential(name[short], "refresh_margin 2s"),
		credentialConfig(idle, "http://127.0.0.1:1", newClientID()))+sites.String(), nil)

	before := s.readMetrics()
	for _, n := range []string{name[good], idle} { // there before anything happens, so that a rate can be computed
		for _, served := range []string{"fresh", "stale", "waited", "failed", "left"} {
			before.want(t, 0, "requests_total", "credential", n, "served", served)
		}
		for _, family := range []string{"unauthorized_total", "invalidations_total", "replays_total", "wait_duration_seconds_count",
			"token_remaining_seconds", "token_lifetime_seconds", "token_refresh_overdue_seconds", "backoff_seconds"} {
			before.want(t, 0, family, "credential", n)
		}
		for _, reason := range []string{"destination", "client", "cross_site", "authorization", "method"} {
			before.want(t, 0, "refused_requests_total", "credential", n, "reason", reason)
		}
		for _, outcome := range []string{"obtained", "unavailable", "refused", "unreadable"} {
			before.want(t, 0, "calls_total", "code", "", "credential", n, "outcome", outcome)
		}
		before.wantNone(t, "last_success_age_seconds", n)
	}

	visit := func(header ...string) clientAnswer {
		return get(t, site["good"], append(header, "X-Upstream", api.addr())...)
	}
	visit().wantStatus(t, 200) // waits
	visit().wantStatus(t, 200) // fresh
	good.revokeAll()
	visit().wantStatus(t, 200)                                                          // fresh, 401, another token, replayed
	get(t, site["good"], "X-Upstream", "127.0.0.2:1").wantStatus(t, 502)                // fresh, but refused
	get(t, site["locked"]).wantStatus(t, 403)                                           // the client
	visit("Origin", "https://evil.example").wantStatus(t, 403)                          // a page of another site
	visit("Authorization", "Bearer mine").wantStatus(t, 400)                            // its own credentials
	ask(t, testClient(t), newRequest(t, "TRACE", site["good"], nil)).wantStatus(t, 405) // the method
	get(t, site["bad"]).wantStatus(t, 502)
	get(t, site["bad"]).wantStatus(t, 502)
	get(t, site["down"]).wantStatus(t, 503)
	get(t, site["garbage"]).wantStatus(t, 502)

	e := s.readMetrics()
	e.wantFamilies(t)
	n := name[good]
	e.want(t, 2, "calls_total", "code", "", "credential", n, "outcome", "obtained")
	e.want(t, 2, "call_duration_seconds_count", "credential", n)
	e.want(t, 1, "requests_total", "credential", n, "served", "waited")
	e.want(t, 3, "requests_total", "credential", n, "served", "fresh")
	e.want(t, 0, "requests_total", "credential", n, "served", "stale")
	e.want(t, 0, "requests_total", "credential", n, "served", "failed")
	e.want(t, 1, "wait_duration_seconds_count", "credential", n)
	e.want(t, 1, "unauthorized_total", "credential", n)
	e.want(t, 1, "invalidations_total", "credential", n)
	e.want(t, 1, "replays_total", "credential", n)
	for _, reason := range []string{"destination", "client", "cross_site", "authorization", "method"} {
		e.want(t, 1, "refused_requests_total", "credential", n, "reason", reason)
	}
	const life = 25 * 3600
	e.wantBetween(t, life-60, life, "token_remaining_seconds", "credential", n)
	e.want(t, life, "token_lifetime_seconds", "credential", n)
	e.want(t, 0, "token_refresh_overdue_seconds", "credential", n)
	e.wantBetween(t, 0, 60, "last_success_age_seconds", "credential", n)
	e.want(t, 0, "backoff_seconds", "credential", n)

	n = name[bad]
	e.want(t, 1, "calls_total", "code", "invalid_client", "credential", n, "outcome", "refused")
	e.want(t, 2, "requests_total", "credential", n, "served", "failed")
	e.want(t, 2, "wait_duration_seconds_count", "credential", n)
	e.wantBetween(t, 1, 45, "backoff_seconds", "credential", n)
	e.want(t, 0, "token_remaining_seconds", "credential", n)
	e.wantNone(t, "last_success_age_seconds", n)
	e.want(t, 3, "calls_total", "code", "", "credential", name[down], "outcome", "unavailable")
	e.want(t, 3, "calls_total", "code", "", "credential", name[garbage], "outcome", "unreadable")
	e.want(t, 3, "call_duration_seconds_count", "credential", name[garbage])
	e.wantBetween(t, 6, 10_000, "vault_entries")
	e.want(t, 0, "vault_evictions_total")
	e.want(t, 0, "vault_rejections_total")

	// Stale, once the refresh fails.
	get(t, site["short"]).wantStatus(t, 200)
	short.SetFault(devserver.Fault{Status: 503})
	n = name[short]
	poll(t, "a stale token", func() bool {
		get(t, site["short"])
		e = s.readMetrics()
		stale, _ := e.of("requests_total", "credential", n, "served", "stale")
		overdue, _ := e.of("token_refresh_overdue_seconds", "credential", n)
		backoff, _ := e.of("backoff_seconds", "credential", n)
		remaining, _ := e.of("token_remaining_seconds", "credential", n)
		return stale > 0 && overdue > 0 && overdue < 10 && backoff >= 0 && remaining > 0
	})
	poll(t, "the token to expire", func() bool {
		remaining, ok := s.readMetrics().of("token_remaining_seconds", "credential", n)
		return ok && remaining == 0
	})
	s.readMetrics().wantNoDecreaseSince(t, e)
}

func TestMetricsSurviveReloads(t *testing.T) {
	if apart.Run(t) {
		return
	}
	tokens, other := newTokenServer(t), newTokenServer(t)
	kept, comes := "kept-"+newClientID(), "comes-"+newClientID()
	addr := freeAddr(t)
	config := func(credentials ...string) string {
		return globalOptions(append(credentials, tokens.credential(kept))...) +
			siteConfig(addr, "token_proxy "+kept+" "+serveHTTP(t, tokens.api()).URL)
	}
	alone, both := config(), config(other.credential(comes))
	s := startOperated(t, both, nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	s.ask(http.MethodPost, "/token_proxy/credentials/"+comes+"/refresh").wantStatus(t, 200)
	before := s.readMetrics()
	before.wantFamilies(t)
	before.want(t, 1, "calls_total", "code", "", "credential", comes, "outcome", "obtained")
	waited := 0.0
	for i := range 100 {
		next := alone
		if i%2 == 1 {
			next = both
		}
		if err := s.load(next); err != nil {
			t.Fatal(err)
		}
		get(t, "http://"+addr).wantStatus(t, 200)
		var e exposition
		eventually(t, "the gauges of the configuration in force", func() bool { // the old listener may answer for a moment
			e = s.readMetrics()
			_, current := e.of("token_remaining_seconds", "credential", kept) // not what the configuration before exports
			_, ok := e.of("token_remaining_seconds", "credential", comes)
			return current && ok == (i%2 == 1)
		})
		e.wantFamilies(t)
		e.wantNoDecreaseSince(t, before)
		if i%2 == 0 {
			for _, family := range gaugeFamilies {
				e.wantNone(t, family, comes)
			}
		}
		e.wantBetween(t, 1, 25*3600, "token_remaining_seconds", "credential", kept)
		waited, _ = e.of("requests_total", "credential", kept, "served", "fresh")
		before = e
	}
	if waited < 100 {
		t.Errorf("%v requests are counted, want 100 or more", waited)
	}
	before.want(t, 1, "calls_total", "code", "", "credential", kept, "outcome", "obtained")
	before.want(t, 1, "calls_total", "code", "", "credential", comes, "outcome", "obtained") // it kept its token, too
}

func TestMetricsAfterAFailedReload(t *testing.T) {
	tokens := newTokenServer(t)
	name, never := "runs-"+newClientID(), "never-"+newClientID()
	addr := freeAddr(t)
	good := globalOptions(tokens.credential(name)) + siteConfig(addr, "token_proxy "+name+" "+serveHTTP(t, tokens.api()).URL)
	s := startOperated(t, good, nil)
	get(t, "http://"+addr).wantStatus(t, 200)
	before := s.readMetrics()
	for kind, config := range map[string]string{
		"refused credential": globalOptions(tokens.credential(never), credentialConfig("broken", "{env.TOKEN_PROXY_NOT_THERE}", "a")),
		"refused handler": globalOptions(tokens.credential(never)) +
			siteConfig(freeAddr(t), "token_proxy "+never+" {header.X}"),
	} {
		if err := s.load(config); err == nil {
			t.Fatalf("%s: it was loaded", kind)
		}
	}
	s.apps = map[string]any{"fails_to_start": map[string]any{}}
	if err := s.load(globalOptions(tokens.credential(never))); err == nil {
		t.Fatal("an app that never starts was started")
	}
	s.apps = nil
	get(t, "http://"+addr).wantStatus(t, 200)
	if err := s.load(good + "# again\n"); err != nil {
		t.Fatal(err)
	}
	var e exposition
	eventually(t, "the gauges of the configuration in force", func() bool { // the old listener may answer for a moment
		e = s.readMetrics()
		_, ok := e.of("token_remaining_seconds", "credential", name)
		return ok
	})
	e.wantFamilies(t)
	e.wantNoDecreaseSince(t, before)
	for _, family := range []string{"token_remaining_seconds", "backoff_seconds"} {
		e.wantNone(t, family, never)
	}
	e.want(t, 1, "requests_total", "credential", name, "served", "fresh")
}

// A configuration that never came into force leaves no series.
func TestMetricsOfRefusedConfigurations(t *testing.T) {
	name := "refused-" + newClientID()
	config := strings.Replace(configJSON(nowhere, goodCredential, goodHandler), `"catalog": {`, quote(name)+": {", 1)
	if err := validateJSON(config); err == nil { // the handler names another
		t.Fatal("it is valid")
	}
	if err := validateJSON(strings.ReplaceAll(configJSON(nowhere, goodCredential, goodHandler), `"catalog"`, quote(name))); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	if err := status.Register(registry, new(App).statusInForce, madeVault.Load, replayMemory); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetValue() == name {
					t.Errorf("%s has a series of a configuration that was only looked at", family.GetName())
				}
			}
		}
	}
}

// A token endpoint that invents error codes does not make series.
func TestMetricsHaveBoundedCodes(t *testing.T) {
	n := 0
	endpoint := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		code := ""
		for i := n; i > 0; i /= 26 {
			code += string(rune('a' + i%26))
		}
		oauthFailure(400+n%4, "x_"+code)(w, r) // 404 would be called again at once
	}))
	name := "inventive-" + newClientID()
	s := startOperated(t, globalOptions(credentialConfig(name, endpoint.URL, newClientID())), nil)
	app := runningApp()
	for range 1000 {
		if app.clients[name].source.Refresh(t.Context()) == nil {
			t.Fatal("it did not fail")
		}
	}
	e := s.readMetrics()
	calls, series := 0.0, 0
	for key, value := range e.series {
		if strings.HasPrefix(key, metricsPrefix+"calls_total{") && strings.Contains(key, fmt.Sprintf("credential=%q", name)) {
			calls += value
			series++
			if value > 0 && !strings.Contains(key, `code="other"`) {
				t.Errorf("there is %s", key)
			}
		}
	}
	if calls != 1000 || series > 5 {
		t.Errorf("%d series for %v calls", series, calls)
	}
}
