package caddymodule

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
)

const monitoring = "../examples/monitoring/"

// notMonitored are the metrics that neither an alert nor the dashboard uses, and why.
var notMonitored = map[string]string{
	metricsPrefix + "replay_memory_bytes":         "only a flood of slow uploads brings it to its limit",
	metricsPrefix + "replay_memory_denials_total": "the same; and a body that is not kept matters only when a token is revoked",
	metricsPrefix + "tenants":                     "its limit matters when tenants are denied, which an alert reports",
	metricsPrefix + "tenant_evictions_total":      "a tenant that makes room has no valid token, and comes back if it is used",
}

// targetLabels are those that Prometheus adds itself, and that of its histograms.
var targetLabels = []string{"instance", "job", "le"}

// TestMonitoringNames holds the metrics that the examples name to those that there are, and the other way round.
func TestMonitoringNames(t *testing.T) {
	exposed, _ := exposeAll(t)
	used := make(map[string]bool)
	for file, expressions := range monitoringExpressions(t) {
		if len(expressions) == 0 {
			t.Errorf("%s: no expression found", file)
		}
		for _, expression := range expressions {
			for _, complaint := range exposed.complain(expression) {
				t.Errorf("%s: %s, in %s", file, complaint, expression)
			}
			if file == "alerts_test.yml" {
				continue // names what the alerts use
			}
			for _, name := range metricName.FindAllString(expression, -1) {
				used[exposed.family(name)] = true
			}
		}
	}
	for name := range exposed {
		if why := notMonitored[name]; used[name] == (why != "") {
			t.Errorf("%s: used in the alerts or the dashboard: %t; reason in notMonitored why it is not: %q", name, used[name], why)
		}
	}
}

// The check itself must see what it is there for.
func TestMonitoringNamesCheck(t *testing.T) {
	exposed := exposedMetrics{
		"caddy_token_proxy_calls_total":           {"credential", "outcome"},
		"caddy_token_proxy_call_duration_seconds": {"credential"},
		"caddy_token_proxy_vault_entries":         nil,
	}
	for expression, complaints := range map[string]int{
		`sum by (credential, outcome) (rate(caddy_token_proxy_calls_total{outcome!="obtained"}[5m]))`:           0,
		`sum by (le, instance) (rate(caddy_token_proxy_call_duration_seconds_bucket{credential="a, b=c"}[5m]))`: 0,
		`a and on (credential) sum(caddy_token_proxy_vault_entries)`:                                            0,
		`caddy_token_proxy_call_total`:                                                              1,
		`caddy_token_proxy_calls_total_bucket`:                                                      1,
		`caddy_token_proxy_call_duration_seconds`:                                                   1, // no series has this name
		`caddy_token_proxy_calls_total{reason="x", code=~"y"}`:                                      2,
		`sum by (code) (caddy_token_proxy_calls_total)`:                                             1,
		`sum(caddy_token_proxy_calls_total) by (code)`:                                              1,
		`sum by (outcome) (caddy_token_proxy_calls_total or (caddy_token_proxy_vault_entries > 1))`: 1,
	} {
		if got := exposed.complain(expression); len(got) != complaints {
			t.Errorf("%s: %d complaints %q, want %d", expression, len(got), got, complaints)
		}
	}
}

// exposedMetrics are the labels of each metric of ours. Those of histograms include le.
type exposedMetrics map[string][]string

var (
	metricName  = regexp.MustCompile(`\b` + metricsPrefix + `\w+`)
	withMatcher = regexp.MustCompile(`\b(` + metricsPrefix + `\w+)\{((?:[^}"]|"[^"]*")*)\}`)
	inQuotes    = regexp.MustCompile(`"[^"]*"`)
	matched     = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	byLabels    = regexp.MustCompile(`\bby\s*\(([^)]*)\)\s*`)
	seriesOf    = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// ofStore matches the metrics of the store, which all credentials have in common.
var ofStore = regexp.MustCompile(`_share_(up|operations_total|operation_seconds)`)

// family returns the metric that a series belongs to, or "".
func (m exposedMetrics) family(series string) string {
	base := seriesOf.ReplaceAllString(series, "")
	for name := range m {
		switch {
		case !isHistogram(name) && name == series, isHistogram(name) && name == base && name != series:
			return name
		}
	}
	return ""
}

// isHistogram knows ours by their names.
func isHistogram(name string) bool {
	return strings.HasSuffix(name, "_duration_seconds") || strings.HasSuffix(name, "_operation_seconds")
}

// complain says what is wrong with an expression. It knows no PromQL but names, matchers and `by`.
func (m exposedMetrics) complain(expression string) (complaints []string) {
	for _, name := range metricName.FindAllString(expression, -1) {
		if m.family(name) == "" {
			complaints = append(complaints, "there is no metric "+name)
		}
	}
	check := func(name, label string) {
		family := m.family(name)
		if family != "" && !slices.Contains(m[family], label) && !slices.Contains(targetLabels, label) {
			complaints = append(complaints, name+" has no label "+label)
		}
	}
	for _, found := range withMatcher.FindAllStringSubmatch(expression, -1) {
		for _, label := range matched.FindAllStringSubmatch(inQuotes.ReplaceAllString(found[2], ""), -1) {
			check(found[1], label[1])
		}
	}
	for _, at := range byLabels.FindAllStringSubmatchIndex(expression, -1) {
		aggregated := parenthesized(expression[at[1]:])
		if aggregated == "" { // `sum(…) by (…)`
			aggregated = expression[:at[0]]
		}
		for label := range strings.SplitSeq(expression[at[2]:at[3]], ",") {
			for _, name := range metricName.FindAllString(aggregated, -1) {
				check(name, strings.TrimSpace(label))
			}
		}
	}
	return complaints
}

// parenthesized returns what is between the parenthesis that text begins with and the one that closes it.
func parenthesized(text string) string {
	depth := 0
	for i, c := range text {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 {
			return text[:i]
		}
	}
	return ""
}

// monitoringExpressions finds the expressions and series in the files, without parsing YAML.
func monitoringExpressions(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{"dashboard.json": nil}
	for file, pattern := range map[string]*regexp.Regexp{
		"alerts.yml":      regexp.MustCompile(`(?m)^ +expr: (?:\|\n((?:          .*\n)+)|(.+))`),
		"alerts_test.yml": regexp.MustCompile(`(?m)^ +- series: (.+)()$`),
	} {
		for _, m := range pattern.FindAllStringSubmatch(readExample(t, monitoring+file), -1) {
			found[file] = append(found[file], m[1]+m[2])
		}
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			found["dashboard.json"] = append(found["dashboard.json"], target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		var query struct{ Query string }
		_ = json.Unmarshal(v.Query, &query)
		if query.Query != v.Definition {
			t.Errorf("variable %s asks for %s, and says %s", v.Name, query.Query, v.Definition)
		}
		found["dashboard.json"] = append(found["dashboard.json"], v.Definition)
	}
	return found
}

// Nothing may stand in the alerts that the test of names does not see.
func TestMonitoringExpressionsAreFound(t *testing.T) {
	found := monitoringExpressions(t)
	for file, key := range map[string]string{"alerts.yml": "expr:", "alerts_test.yml": "- series:", "dashboard.json": `"expr":`} {
		want := strings.Count(readExample(t, monitoring+file), key)
		if file == "dashboard.json" {
			want += len(readDashboard(t).Templating.List)
		}
		if got := len(found[file]); got != want {
			t.Errorf("%s: found %d expressions, want %d", file, got, want)
		}
	}
}

// Every alert is tested, and says what a person needs to know.
func TestMonitoringAlerts(t *testing.T) {
	rules := strings.Split(readExample(t, monitoring+"alerts.yml"), "- alert: ")[1:]
	tests, readme := readExample(t, monitoring+"alerts_test.yml"), readExample(t, monitoring+"README.md")
	for _, rule := range rules {
		name, _, _ := strings.Cut(rule, "\n")
		for _, want := range []string{"severity:", "summary:", "action:", "{{ $labels.instance }}"} {
			if !strings.Contains(rule, want) {
				t.Errorf("%s: there is no %s", name, want)
			}
		}
		ofCredential := strings.Contains(rule, metricsPrefix) && !ofStore.MatchString(rule)
		if ofCredential && !strings.Contains(rule, "{{ $labels.credential }}") {
			t.Errorf("%s: does not name the credential", name)
		}
		if !strings.Contains(tests, `alertname="`+name+`"`) {
			t.Errorf("%s: there is no test in which it fires", name)
		}
		if !strings.Contains(readme, "`"+name+"`") {
			t.Errorf("%s: the README does not name it", name)
		}
	}
}

// dashboard is what the tests read of dashboard.json.
type dashboard struct {
	SchemaVersion int
	Panels        []dashboardPanel
	Templating    struct {
		List []struct {
			Name, Type, Definition string
			Query                  json.RawMessage // text, or an object with the text in it
			Datasource             dashboardSource
		}
	}
}

type dashboardPanel struct {
	ID                       int
	Type, Title, Description string
	Datasource               dashboardSource
	Targets                  []struct {
		Expr       string
		Datasource dashboardSource
	}
	Panels []dashboardPanel
}

type dashboardSource struct{ Type, UID string }

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(readExample(t, monitoring+"dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestMonitoringDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.SchemaVersion < 39 {
		t.Errorf("schemaVersion %d, want 39 or later", d.SchemaVersion)
	}
	variable := dashboardSource{"prometheus", "${datasource}"}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "query" && v.Datasource != variable {
			t.Errorf("variable %s: data source %v", v.Name, v.Datasource)
		}
	}
	if want := []string{"datasource", "instance", "credential"}; !slices.Equal(variables, want) {
		t.Errorf("variables %q, want %q", variables, want)
	}
	ids := make(map[int]string)
	for _, p := range d.Panels {
		if other, taken := ids[p.ID]; taken || p.ID == 0 {
			t.Errorf("panel %q: its id %d is 0, or that of %q", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		if p.Type == "row" {
			if len(p.Panels) != 0 {
				t.Errorf("row %q: it hides panels from this test", p.Title)
			}
			continue
		}
		if p.Title == "" || p.Description == "" || p.Datasource != variable || len(p.Targets) == 0 {
			t.Errorf("panel %d: title %q, description %q, data source %v, %d targets", p.ID, p.Title, p.Description, p.Datasource, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource != variable {
				t.Errorf("panel %q: a target with the data source %v", p.Title, target.Datasource)
			}
			if !strings.Contains(target.Expr, "$instance") || !strings.Contains(target.Expr, "$credential") && !strings.Contains(target.Expr, "_vault_") && !ofStore.MatchString(target.Expr) {
				t.Errorf("panel %q: a target that is not chosen by instance and credential: %s", p.Title, target.Expr)
			}
		}
	}
}

// TestMonitoringPromtool lets Prometheus's own tool judge: the rules, their tests, and how the metrics are named.
func TestMonitoringPromtool(t *testing.T) {
	if apart.Run(t) {
		return
	}
	_, exposition := exposeAll(t)
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("NOT TESTED: promtool is not installed (Debian: apt install prometheus), so nobody knows whether the alerts fire")
	}
	run := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir, cmd.Stdin = monitoring, strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("", "check", "rules", "alerts.yml")
	run("", "check", "config", "prometheus.yml")
	run("", "test", "rules", "alerts_test.yml")
	run(onlyOurs(exposition), "check", "metrics")

	// The dashboard's expressions, in the form of rules.
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expression := range monitoringExpressions(t)["dashboard.json"] {
		if strings.Contains(expression, "label_values(") || expression == "" {
			continue
		}
		text, _ := json.Marshal(strings.ReplaceAll(expression, "$__rate_interval", "1m"))
		rules.WriteString("  - record: panel\n    labels: {n: '" + strconv.Itoa(i) + "'}\n    expr: " + string(text) + "\n")
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run("", "check", "rules", file)
}

// onlyOurs leaves out what Caddy and Go expose.
func onlyOurs(exposition string) string {
	var ours strings.Builder
	for line := range strings.Lines(exposition) {
		if metricName.MatchString(line) {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

// exposeAll makes a proxy do all that is counted, and returns its metrics, and how Prometheus gets to see them.
func exposeAll(t *testing.T) (exposedMetrics, string) {
	t.Helper()
	tokens := newTokenServer(t)
	api := newRecordingAPI(t, tokens.api().ServeHTTP)
	stubborn := tokens.api()
	stubborn.Reject = http.StatusUnauthorized
	refusing := newRecordingAPI(t, stubborn.ServeHTTP)
	platform := newTenantPlatform(t)
	sites := make(map[string]string)
	var config strings.Builder
	config.WriteString(globalOptions(
		sharedThrough(t, newMemory(t)),
		strings.Replace(platform.credential("shops"), "api_hosts", "share off\n api_hosts", 1),
		tokens.credential("monitored", "api_hosts "+api.addr()),
		tokens.credential("unauthorized", "api_hosts "+refusing.addr()),
		credentialConfig("failing", tokens.url, "nobody")))
	for name, directive := range map[string]string{
		"proxy":   "token_proxy monitored {header.X-Upstream} {\n client_authorization reject\n}",
		"locked":  "token_proxy monitored " + api.URL + " {\n clients 192.0.2.1\n}",
		"refused": "token_proxy unauthorized " + refusing.URL,
		"failing": "token_proxy failing " + api.URL,
		"metrics": "metrics",
	} {
		addr := freeAddr(t)
		sites[name] = "http://" + addr
		config.WriteString(siteConfig(addr, directive))
	}
	startCaddy(t, config.String())

	get(t, sites["proxy"], "X-Upstream", api.addr()).wantStatus(t, 200)
	get(t, sites["proxy"], "X-Upstream", "127.0.0.1:1").wantProblem(t, 502, "proxy_configuration_error")
	get(t, sites["proxy"], "X-Upstream", api.addr(), "Authorization", "mine").wantStatus(t, 400)
	get(t, sites["locked"]).wantStatus(t, 403)
	get(t, sites["refused"]).wantStatus(t, 401)
	get(t, sites["failing"]).wantStatus(t, 502)

	registry := prometheus.NewRegistry()
	if err := runningApp().registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	exposed := make(exposedMetrics)
	for _, family := range families {
		labels := make(map[string]bool)
		for _, metric := range family.GetMetric() {
			for _, pair := range metric.GetLabel() {
				labels[pair.GetName()] = true
			}
			if isHistogram(family.GetName()) != (metric.GetHistogram() != nil) {
				t.Errorf("%s: only histograms may end in _duration_seconds or _operation_seconds", family.GetName())
			}
		}
		exposed[family.GetName()] = slices.Collect(maps.Keys(labels))
	}
	described := make(chan *prometheus.Desc, 100)
	registry.Describe(described)
	if len(described) != len(exposed) {
		t.Fatalf("%d metrics are described, and %d exposed: do here what the others count", len(described), len(exposed))
	}
	return exposed, scrape(t, sites["metrics"])
}

// The example shows the metrics, and nothing else, at the port that the others name.
func TestMonitoringMetricsCaddyfile(t *testing.T) {
	const port = ":2020"
	config := readExample(t, monitoring+"metrics.caddyfile")
	if !strings.Contains(config, "localhost"+port) || !strings.Contains(readExample(t, monitoring+"prometheus.yml"), "localhost"+port) {
		t.Fatalf("the port of the metrics is not %s", port)
	}
	addr := freeAddr(t)
	config = strings.ReplaceAll(config, port, addr[strings.LastIndex(addr, ":"):])
	proxy := freeAddr(t)
	config = strings.ReplaceAll(config, ":8080", proxy[strings.LastIndex(proxy, ":"):])
	startCaddy(t, withFiles(t, config))
	scrape(t, "http://"+addr)
	get(t, "http://"+addr+"/config/").wantStatus(t, http.StatusNotFound)
}

// scrape asks as Prometheus does.
func scrape(t *testing.T, url string) string {
	t.Helper()
	res, err := testClient(t).Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !metricName.Match(body) {
		t.Fatalf("status %d, error %v, body %s", res.StatusCode, err, body)
	}
	return string(body)
}
