package check

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	helm3 "helm.sh/helm/v3/pkg/chart"
	chart3 "helm.sh/helm/v3/pkg/chart/loader"
	util3 "helm.sh/helm/v3/pkg/chartutil"
	engine3 "helm.sh/helm/v3/pkg/engine"
	lint3 "helm.sh/helm/v3/pkg/lint"
	common4 "helm.sh/helm/v4/pkg/chart/common"
	util4 "helm.sh/helm/v4/pkg/chart/common/util"
	helm4 "helm.sh/helm/v4/pkg/chart/v2"
	lint4 "helm.sh/helm/v4/pkg/chart/v2/lint"
	chart4 "helm.sh/helm/v4/pkg/chart/v2/loader"
	engine4 "helm.sh/helm/v4/pkg/engine"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	admissionv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

const chartFolder = "../chart"

// release is what a user gives to `helm template`.
type release struct {
	name, namespace string // default: token-proxy-gateway, shop
	kubernetes      string // default: v1.36.0
	values          string // YAML, over exampleValues
}

// exampleValues are those of the folder gateway.
const exampleValues = `
gateway:
  enabled: true
  credential:
    name: catalog
    secretName: token-proxy
    options: |
      provider optoro sandbox
      client_id {file./run/secrets/token-proxy/client-id}
      client_secret {file./run/secrets/token-proxy/client-secret}
      api_hosts *.optiturn.com
  sites:
    - port: 8080
      upstream: https://catalogs.sandbox.optiturn.com
  clients: [10.244.0.0/16]
  share:
    enabled: true
`

var (
	loadChart3 = sync.OnceValues(func() (*helm3.Chart, error) { return chart3.Load(chartFolder) })
	loadChart4 = sync.OnceValues(func() (*helm4.Chart, error) { return chart4.Load(chartFolder) })
)

// renderers render the chart with both major versions of Helm.
var renderers = map[string]func(r release, values map[string]any) (map[string]string, error){
	"Helm 3": func(r release, values map[string]any) (map[string]string, error) {
		loaded, err := loadChart3()
		if err != nil {
			return nil, err
		}
		capabilities := *util3.DefaultCapabilities
		capabilities.KubeVersion = util3.KubeVersion{Version: r.kubernetes}
		options := util3.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: true}
		rendered, err := util3.ToRenderValues(loaded, values, options, &capabilities)
		if err != nil {
			return nil, err
		}
		return engine3.Render(loaded, rendered)
	},
	"Helm 4": func(r release, values map[string]any) (map[string]string, error) {
		loaded, err := loadChart4()
		if err != nil {
			return nil, err
		}
		capabilities := *common4.DefaultCapabilities
		version, err := common4.ParseKubeVersion(r.kubernetes)
		if err != nil {
			return nil, err
		}
		capabilities.KubeVersion = *version
		options := common4.ReleaseOptions{Name: r.name, Namespace: r.namespace, Revision: 1, IsInstall: true}
		rendered, err := util4.ToRenderValues(loaded, values, options, &capabilities)
		if err != nil {
			return nil, err
		}
		return engine4.Render(loaded, rendered)
	},
}

func (r release) withDefaults(t *testing.T) (release, map[string]any) {
	t.Helper()
	values, over := make(map[string]any), make(map[string]any)
	for text, into := range map[string]*map[string]any{exampleValues: &values, r.values: &over} {
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
	merge(values, over)
	for field, value := range map[*string]string{&r.name: "token-proxy-gateway", &r.namespace: "shop", &r.kubernetes: "v1.36.0"} {
		if *field == "" {
			*field = value
		}
	}
	return r, values
}

// merge puts values over others, as Helm does with several files.
func merge(values, over map[string]any) {
	for key, value := range over {
		below, isMap := values[key].(map[string]any)
		if inner, ok := value.(map[string]any); ok && isMap {
			merge(below, inner)
		} else {
			values[key] = value
		}
	}
}

// render renders the chart with both versions, which must agree, and decodes it. It returns the notes as well.
func render(t *testing.T, r release) (objects []object, notes string) {
	t.Helper()
	var rendered map[string]string
	for version, with := range renderers {
		full, values := r.withDefaults(t)
		got, err := with(full, values)
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		if rendered != nil && !maps.Equal(got, rendered) {
			t.Fatalf("Helm 3 and Helm 4 differ:\n%v\n%v", got, rendered)
		}
		rendered = got
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			notes = rendered[name]
			continue
		}
		decoded, err := decodeAll(rendered[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		objects = append(objects, decoded...)
	}
	return objects, notes
}

// deny returns the errors of both versions.
func deny(t *testing.T, r release) (messages []string) {
	t.Helper()
	for version, with := range renderers {
		full, values := r.withDefaults(t)
		if _, err := with(full, values); err != nil {
			messages = append(messages, version+": "+err.Error())
		} else {
			t.Errorf("%s renders it", version)
		}
	}
	return messages
}

var update = flag.Bool("update", false, "copy the files that the chart has in common with its neighbours")

// TestChartCopies compares the files of the chart with those that they are copies of. Helm cannot read files beyond the chart.
func TestChartCopies(t *testing.T) {
	copies := map[string]string{
		"files/injector/policy.yaml": "../injector/policy.yaml",
		"files/injector/rules.yaml":  "../injector/rules.yaml",
		"files/alerts.yml":           "../../monitoring/alerts.yml",
		"files/dashboard.json":       "../../monitoring/dashboard.json",
	}
	for to, from := range copies {
		want, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(chartFolder+"/"+to, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(chartFolder + "/" + to); err != nil || !bytes.Equal(got, want) {
			t.Errorf("chart/%s is not %s (error %v). Run go test -run TestChartCopies -update", to, from, err)
		}
	}
}

// TestChartReadme renders the values of the README, and compares the names in the text after them.
func TestChartReadme(t *testing.T) {
	readme, err := os.ReadFile(chartFolder + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(readme), "Write `catalog.yaml`")
	_, block, ok := strings.Cut(block, "\n\n")
	block, text, ended := strings.Cut(block, "\n\n")
	if !found || !ok || !ended {
		t.Fatal("README.md has no catalog.yaml")
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll("\n"+block, "\n\t", "\n")), &values); err != nil {
		t.Fatal(err)
	}
	for version, with := range renderers {
		rendered, err := with(release{name: "catalog", namespace: "shop", kubernetes: "v1.36.0"}, values)
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		all := strings.Join(slices.Collect(maps.Values(rendered)), "\n")
		for _, want := range []string{`catalog-client: "true"`, "http://catalog:8080", `secretName: "catalog"`, "clients 10.244.0.0/16"} {
			if !strings.Contains(all, want) {
				t.Errorf("%s: %s is missing", version, want)
			}
		}
	}
	for _, name := range []string{"helm install catalog . -f catalog.yaml", "`catalog-client: \"true\"`", "`http://catalog:8080`"} {
		if !strings.Contains(text, name) {
			t.Errorf("README.md lacks %s after the values", name)
		}
	}
}

// TestChartLint lints the chart with both versions, with its own values and with those of a gateway.
func TestChartLint(t *testing.T) {
	for name, values := range map[string]string{"its own values": "", "a gateway": exampleValues} {
		var parsed map[string]any
		if err := yaml.Unmarshal([]byte(values), &parsed); err != nil {
			t.Fatal(err)
		}
		var messages []string
		for _, m := range lint3.All(chartFolder, parsed, "shop", true).Messages {
			messages = append(messages, m.Error())
		}
		for _, m := range lint4.RunAll(chartFolder, parsed, "shop").Messages {
			messages = append(messages, m.Error())
		}
		if len(messages) == 0 {
			t.Error("the linters did nothing, not even ask for an icon")
		}
		for _, message := range messages {
			if !strings.HasPrefix(message, "[INFO]") {
				t.Errorf("%s: %s", name, message)
			}
		}
	}
}

// ofHelm are the lines that only the chart has.
var ofHelm = regexp.MustCompile(`(?m)^ +(app\.kubernetes\.io/(version|managed-by)|helm\.sh/chart|namespace): .*\n|^ +annotations:\n +#.*\n +checksum/caddyfile: .*\n`)

// TestChartIsTheGateway compares the gateway of the chart with that of the folder gateway.
func TestChartIsTheGateway(t *testing.T) {
	wanted := loadGateway(t)
	for version, with := range renderers {
		full, values := release{}.withDefaults(t)
		rendered, err := with(full, values)
		if err != nil {
			t.Fatal(err)
		}
		var objects []object
		for name, text := range rendered {
			if strings.HasSuffix(name, "NOTES.txt") {
				continue
			}
			decoded, err := decodeAll(ofHelm.ReplaceAllString(text, ""))
			if err != nil {
				t.Fatalf("%s: %v", version, err)
			}
			objects = append(objects, decoded...)
		}
		got, want := gatewayIn(t, objects, "token-proxy-gateway"), gatewayIn(t, wanted, "token-proxy-gateway")
		if len(objects) != 5 {
			t.Errorf("%s: got %d objects", version, len(objects))
		}
		if g, w := plainCaddyfile(got), plainCaddyfile(want); g != w {
			t.Errorf("%s: the Caddyfile is\n%s\nwant\n%s", version, g, w)
		}
		volume(&got.deployment.Spec.Template.Spec, "token-proxy-config").ConfigMap.Name = want.config.Name
		for _, pair := range [][2]object{
			{got.deployment, want.deployment}, {got.service, want.service}, {got.policy, want.policy}, {got.budget, want.budget},
		} {
			if g, w := asYAML(t, pair[0]), asYAML(t, pair[1]); g != w {
				t.Errorf("%s: the chart has\n%s\nwant\n%s", version, g, w)
			}
		}
	}
}

var otherHosts = regexp.MustCompile(`, http://token-proxy-gateway\.shop(\.svc(\.cluster\.local)?)?:8080`)

// plainCaddyfile returns the Caddyfile without the comment at its top, and without the hosts that contain the namespace.
func plainCaddyfile(g gateway) string {
	text := g.config.Data["Caddyfile"]
	return otherHosts.ReplaceAllString(text[strings.Index(text, "{\n"):], "")
}

func asYAML(t *testing.T, o object) string {
	t.Helper()
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestChartIsTheInjector compares the injector of the chart with that of the folder injector.
func TestChartIsTheInjector(t *testing.T) {
	const enabled = "gateway: {enabled: false}\ninjector: {enabled: true}"
	want := loadInjector(t)
	objects, _ := render(t, release{namespace: want.namespace.Name, values: enabled})
	wanted := []object{
		want.mutating, want.mutatingBinding, want.validating, want.validatingBinding, want.debugging, want.debuggingBinding, want.parameters,
	}
	if len(objects) != len(wanted) {
		t.Fatalf("got %d objects", len(objects))
	}
	for _, w := range wanted {
		i := slices.IndexFunc(objects, func(o object) bool {
			return reflect.TypeOf(o) == reflect.TypeOf(w) && o.GetName() == w.GetName()
		})
		if i < 0 {
			t.Fatalf("the chart has no %T %s", w, w.GetName())
		}
		// kustomize adds empty lines to folded text.
		if g, w := emptyLines.ReplaceAllString(asYAML(t, objects[i]), ""), emptyLines.ReplaceAllString(asYAML(t, w), ""); g != w {
			t.Errorf("the chart has\n%s\nwant\n%s", g, w)
		}
	}

	objects, notes := render(t, release{namespace: "platform", values: enabled})
	binding := find[*admissionv1.MutatingAdmissionPolicyBinding](objects, "")
	if binding.Spec.ParamRef.Namespace != "platform" || find[*corev1.ConfigMap](objects, "").Namespace != "platform" {
		t.Error("the parameters are not in the namespace of the release")
	}
	for _, o := range objects {
		if strings.Contains(asYAML(t, o), "token-proxy-system") {
			t.Errorf("%s names another namespace", o.GetName())
		}
	}
	if !strings.Contains(notes, "token-proxy=enabled") {
		t.Errorf("the notes are %q", notes)
	}

	objects, _ = render(t, release{kubernetes: "v1.35.2", values: enabled})
	if find[*admissionv1beta1.MutatingAdmissionPolicy](objects, "") == nil || find[*admissionv1beta1.MutatingAdmissionPolicyBinding](objects, "") == nil ||
		find[*admissionv1.ValidatingAdmissionPolicy](objects, "token-proxy-injector-debug") == nil {
		t.Error("Kubernetes 1.35 does not know these versions of the policies")
	}
	for _, message := range deny(t, release{kubernetes: "v1.33.1", values: enabled}) {
		if !strings.Contains(message, "The injector requires Kubernetes 1.36") {
			t.Error(message)
		}
	}
}

var emptyLines = regexp.MustCompile(`(?m)^\s*\n`)

// TestChartMonitoring checks that the alerts and the dashboard arrive as they are, and that Prometheus reaches the gateway.
func TestChartMonitoring(t *testing.T) {
	objects, _ := render(t, release{values: `
monitoring:
  labels: {prometheus: main}
  podMonitor: {enabled: true, interval: 30s}
  prometheusRule: {enabled: true}
  dashboard: {enabled: true}`})
	g := gatewayIn(t, objects, "token-proxy-gateway")

	rule := find[*monitoringv1.PrometheusRule](objects, "")
	var alerts monitoringv1.PrometheusRuleSpec
	text, err := os.ReadFile("../../monitoring/alerts.yml")
	if err == nil {
		err = yaml.UnmarshalStrict(text, &alerts)
	}
	if err != nil || len(alerts.Groups) == 0 || !reflect.DeepEqual(rule.Spec, alerts) {
		t.Errorf("the rules are not those of alerts.yml (error %v)", err)
	}
	dashboard := find[*corev1.ConfigMap](objects, "token-proxy-gateway-dashboard")
	want, err := os.ReadFile("../../monitoring/dashboard.json")
	if err != nil || dashboard.Data["token-proxy.json"] != string(want) || dashboard.Labels["grafana_dashboard"] != "1" {
		t.Errorf("the dashboard is not dashboard.json, or Grafana's sidecar does not find it (error %v)", err)
	}

	monitor := find[*monitoringv1.PodMonitor](objects, "")
	if monitor.Labels["prometheus"] != "main" || rule.Labels["prometheus"] != "main" {
		t.Error("the Prometheus Operator does not select the objects")
	}
	endpoint := monitor.Spec.PodMetricsEndpoints[0]
	relabel := endpoint.RelabelConfigs[0]
	if *endpoint.Port != "metrics" || endpoint.Path != "/metrics" || endpoint.Interval != "30s" ||
		relabel.TargetLabel != "job" || *relabel.Replacement != "token-proxy" || !strings.Contains(string(text), `{job="token-proxy"}`) {
		t.Errorf("the endpoint is %+v", endpoint)
	}
	if monitor.Spec.Selector.String() != g.budget.Spec.Selector.String() {
		t.Error("the PodMonitor does not select the replicas")
	}
}

// TestChartCombinations renders combinations of values. All objects are valid, and a gateway has no faults.
func TestChartCombinations(t *testing.T) {
	switches := []string{
		"gateway: {enabled: false}\ninjector: {enabled: true}",
		"gateway: {share: {enabled: false}}", "gateway: {replicas: 1}", "gateway: {replicas: null}",
		"gateway: {share: {username: '', passwordKey: '', keys: [key], address: 'redis.cache:6380', options: \"tls {\\n  server_name redis\\n}\"}}",
		"gateway: {sites: [{port: 8080, upstream: 'https://a.optiturn.com'}, {port: 8443, upstream: 'https://b.optiturn.com:8443', options: cross_site allow}]}",
		"gateway: {clients: [10.1.2.3, 'fd00::/8', 10.0.0.0/8]}",
		"gateway: {networkPolicy: {from: [{namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}, {ipBlock: {cidr: 10.0.0.0/8}}]}}",
		"gateway: {networkPolicy: {egress: [{to: [{podSelector: {}}], ports: [{port: 8443}]}]}}",
		"gateway: {drainSeconds: 60, graceSeconds: 300}",
		"gateway: {nodeSelector: {a: b}, tolerations: [{operator: Exists}], priorityClassName: high, podLabels: {a: 'true'}, podAnnotations: {a: b}}",
		"image: {digest: 'sha256:" + strings.Repeat("0a", 32) + "'}\nimagePullSecrets: [{name: registry}]",
		"image: {repository: 'other.example.com:5000/a/token-proxy', tag: v9.9.9}", "fullnameOverride: egress",
		"monitoring: {podMonitor: {enabled: true}}", "monitoring: {prometheusRule: {enabled: true}}", "monitoring: {dashboard: {enabled: true}}",
		"gateway: {enabled: false}\nmonitoring: {prometheusRule: {enabled: true}, dashboard: {enabled: true}}",
		"global: {imageRegistry: registry.example.com}", "enabled: true",
	}
	for i, one := range switches {
		for _, other := range switches[i:] {
			first, second := make(map[string]any), make(map[string]any)
			if yaml.Unmarshal([]byte(one), &first) != nil || yaml.Unmarshal([]byte(other), &second) != nil {
				t.Fatal(one, other)
			}
			merge(first, second)
			if disabled(first) && strings.Contains(fmt.Sprint(first), "podMonitor") {
				continue // TestChartDenies
			}
			text, err := yaml.Marshal(first)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(strings.ReplaceAll(one+" and "+other, "\n", " "), func(t *testing.T) {
				objects := checkRelease(t, string(text))
				if one == other {
					checkNames(t, string(text), objects)
				}
			})
		}
	}
}

func disabled(values map[string]any) bool {
	gateway, _ := values["gateway"].(map[string]any)
	return gateway["enabled"] == false
}

// checkRelease renders a release, and checks the names of all objects and the gateway.
func checkRelease(t *testing.T, values string) []object {
	t.Helper()
	objects, notes := render(t, release{name: "catalog", values: values})
	if len(objects) == 0 || strings.TrimSpace(notes) == "" && !strings.Contains(values, "enabled: false") {
		t.Error("the release is empty, or its notes are")
	}
	names := make(map[string]bool)
	for _, o := range objects {
		if names[nameOf(o)] {
			t.Errorf("%s is there twice", nameOf(o))
		}
		names[nameOf(o)] = true
		if _, ok := o.(*corev1.Secret); ok {
			t.Error("the chart contains a Secret")
		}
		if cluster := strings.Contains(nameOf(o), "AdmissionPolicy"); cluster != (o.GetNamespace() == "") {
			t.Errorf("%s is in no namespace, or in one", nameOf(o))
		}
	}
	if deployment := find[*appsv1.Deployment](objects, ""); deployment != nil {
		for _, complaint := range complainOfGateway(gatewayIn(t, objects, deployment.Name)) {
			t.Error(complaint)
		}
	}
	return objects
}

func nameOf(o object) string { return fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName()) }

// checkNames checks that a release that is rendered again is the same, and that another one has other names.
func checkNames(t *testing.T, values string, objects []object) {
	t.Helper()
	if again, _ := render(t, release{name: "catalog", values: values}); !reflect.DeepEqual(objects, again) {
		t.Error("two releases with the same values differ")
	}
	if strings.Contains(values, "fullnameOverride") {
		return
	}
	other, _ := render(t, release{name: "returns", values: values})
	for _, o := range other {
		same := slices.ContainsFunc(objects, func(mine object) bool { return nameOf(mine) == nameOf(o) })
		if same && !strings.Contains(nameOf(o), "token-proxy-injector") { // of which a cluster has one
			t.Errorf("two releases have %s", nameOf(o))
		}
	}
}

// TestChartDenies checks that each mistake is denied by both versions of Helm, with words that help.
func TestChartDenies(t *testing.T) {
	options := func(lines string) string {
		return "gateway: {credential: {options: " + fmt.Sprintf("%q", lines) + "}}"
	}
	sites := func(site string) string { return "gateway: {sites: [" + site + "]}" }
	for values, want := range map[string]string{
		// A name or a type that the schema does not know.
		"gatewy: {}":                                           "additional properties 'gatewy' not allowed",
		"gateway: {replica: 3}":                                "additional properties 'replica' not allowed",
		"gateway: {credential: {secret: a}}":                   "additional properties 'secret' not allowed",
		"gateway: {credential: {clientSecret: hunter2}}":       "additional properties 'clientSecret' not allowed",
		"gateway: {share: {password: hunter2}}":                "additional properties 'password' not allowed",
		"gateway: {share: {key: hunter2}}":                     "additional properties 'key' not allowed",
		"gateway: {networkPolicy: {from: [{pods: {}}]}}":       "additional properties 'pods' not allowed",
		"gateway: {networkPolicy: {from: [{}]}}":               "minProperties",
		"injector: {cpuLimit: 1}":                              "additional properties 'cpuLimit' not allowed",
		"injector: {memoryLimit: lots}":                        "injector/memoryLimit",
		"monitoring: {podMonitor: {enabled: 'yes'}}":           "got string, want boolean",
		"monitoring: {podMonitor: {interval: 5m}}":             "monitoring/podMonitor/interval",
		"gateway: {replicas: 0}":                               "minimum: got 0, want 1",
		"gateway: {replicas: many}":                            "got string, want null or integer",
		"gateway: {drainSeconds: 0}":                           "minimum: got 0, want 1",
		"gateway: {credential: {secretName: 'a b'}}":           "gateway/credential/secretName",
		"gateway: {credential: {name: 'a b'}}":                 "gateway/credential/name",
		"gateway: {clusterDomain: 'a b'}":                      "gateway/clusterDomain",
		"image: {digest: v1}":                                  "image/digest",
		sites("{port: 80, upstream: 'https://a.example.com'}"): "minimum: got 80, want 1,024",
		sites("{upstream: 'https://a.example.com'}"):           "missing property 'port'",
		sites("{port: 8080, host: a}"):                         "additional properties 'host' not allowed",

		// What is missing.
		"gateway: {enabled: false}": "The release would be empty. Set gateway.enabled or injector.enabled.",
		"gateway: {enabled: false}\nmonitoring: {podMonitor: {enabled: true}, dashboard: {enabled: true}}": "monitoring.podMonitor scrapes the gateway.",
		"gateway: {credential: {secretName: ''}}":                                                          "gateway.credential.secretName is missing. Set it to the name of the Secret",
		"gateway: {credential: {options: ' '}}":                                                            "gateway.credential.options is missing. Set it to the lines of the credential",
		"gateway: {sites: []}":                                                                             "gateway.sites is missing. Set the port and the upstream",
		"gateway: {clients: []}":                                                                           "gateway.clients is missing. Set it to the networks of the pods",
		"gateway: {share: {keys: []}}":                                                                     "gateway.share.keys is missing. Name at least one key",
		"gateway: {share: {to: []}}":                                                                       "gateway.share.to is missing. An empty list would permit",
		"monitoring: {from: []}":                                                                           "monitoring.from is missing. An empty list would permit",

		// What is dangerous or cannot work.
		"injector: {enabled: true}":                              "The gateway and the injector cannot be in one release.",
		"gateway: {clients: [any]}":                              `gateway.clients: "any" is neither an address nor a CIDR range such as 10.244.0.0/16.`,
		"gateway: {clients: [private_ranges]}":                   `gateway.clients: "private_ranges" is neither`,
		"gateway: {clients: [\"10.0.0.0/8 }\"]}":                 "is neither an address",
		"gateway: {clients: [0.0.0.0/0]}":                        "gateway.clients: 0.0.0.0/0 admits every address. Set the networks of the pods.",
		"gateway: {clients: [10.0.0.0/8, '::/0']}":               "gateway.clients: ::/0 admits every address.",
		"gateway: {podLabels: {team: 1}}":                        "gateway/podLabels/team",
		"gateway: {podLabels: {app.kubernetes.io/name: a}}":      "gateway.podLabels: the chart itself sets app.kubernetes.io/name, by which the Deployment, the Service and the policies find the replicas. Remove it.",
		"gateway: {podLabels: {app.kubernetes.io/instance: a}}":  "the chart itself sets app.kubernetes.io/instance",
		"gateway: {podLabels: {token-proxy: inject}}":            "the chart itself sets token-proxy, by which",
		"gateway: {podAnnotations: {checksum/caddyfile: a}}":     "gateway.podAnnotations: the chart itself sets checksum/caddyfile, with which a changed Caddyfile starts a rollout. Remove it.",
		"gateway: {share: {address: redis}}":                     "gateway.share.address is not <host>:<port>, such as token-proxy-redis:6379.",
		"fullnameOverride: Catalog":                              `The name of the gateway, "Catalog", cannot be the name of a Service.`,
		"fullnameOverride: " + strings.Repeat("a", 57):           "cannot be the name of a Service",
		sites("{port: 8082, upstream: 'https://a.example.com'}"): "gateway.sites: port 8082 is taken.",
		sites("{port: 8080, upstream: 'https://a.example.com'}, {port: 8080, upstream: 'https://b.example.com'}"):                             "two sites have the port 8080. Give each API a port of its own.",
		sites("{port: 8080, upstream: 'http://a.example.com'}"):                                                                               `the upstream "http://a.example.com" is not https:// with a host`,
		sites("{port: 8080, upstream: 'https://a.example.com/v2'}"):                                                                           "A path belongs to the requests of the pods.",
		sites("{port: 8080, upstream: 'https://user:hunter2@a.example.com'}"):                                                                 "gateway.sites, port 8080: the URL of upstream contains a user name or a password.",
		"gateway: {credential: {name: ..}}":                                                                                                   "gateway/credential/name",
		"gateway: {share: {secretName: ''}}":                                                                                                  "gateway.share.secretName is missing. Set it to the name of the Secret",
		options("param audience \"a\u2028kind: Secret\""):                                                                                     "gateway.credential.options: a line contains a control character",
		options("param audience \"a\rkind: Secret\""):                                                                                         "a line contains a control character",
		options("client_id a\n}\ncredential other {\n\tclient_id b"):                                                                          "gateway.credential.options: a line is }, and no line before it opens this block.",
		options("provider oauth2 {\n\tissuer https://login.example.com"):                                                                      "gateway.credential.options: a line ends with {, and no line } closes this block.",
		sites("{port: 8080, upstream: 'https://a.example.com', options: \"}\\ntoken_proxy catalog https://b.example.com {\\n clients any\"}"): "gateway.sites, port 8080: a line is }",
		"gateway: {share: {options: 'tls {'}}":                                                                                                "gateway.share.options: a line ends with {",
		"gateway: {share: {username: '\"a'}}":                                                                                                 "gateway/share/username",
		"gateway: {share: {username: '#a'}}":                                                                                                  "gateway/share/username",
		"gateway: {share: {address: '`redis:6379'}}":                                                                                          "gateway.share.address is not <host>:<port>",
		"gateway: {networkPolicy: {egress: [{ports: [{port: 80}]}]}}":                                                                         "gateway.networkPolicy.egress: a rule has no destination",
		"gateway: {networkPolicy: {egress: [{to: []}]}}":                                                                                      "It would permit connections to all addresses",
		"image: {repository: 'registry.example.com/token-proxy:v1'}":                                                                          "image/repository",

		// Secrets.
		options("client_secret hunter2"):                                                                   "gateway.credential.options: client_secret is not a file of a Secret, such as {file./run/secrets/token-proxy/client-secret}.",
		options("client_id a\n\tclient_secret \"hunter2\""):                                                "client_secret is not a file of a Secret",
		options("client_secret {env.SECRET}"):                                                              "client_secret is not a file of a Secret",
		options("client_secret {$SECRET}"):                                                                 "client_secret is not a file of a Secret",
		options("provider oauth2 {\n\tsigning_key `-----BEGIN`\n}"):                                        "signing_key is not a file of a Secret",
		options("provider oauth2 {\n\tclient_certificate_key MII\n}"):                                      "client_certificate_key is not a file of a Secret",
		options("provider oauth2 {\n\tparam refresh_token hunter2\n}"):                                     "gateway.credential.options: param refresh_token has a literal value, which looks like a secret.",
		options("provider oauth2 {\n\tparam \"password\" hunter2\n}"):                                      "has a literal value",
		options("provider oauth2 {\n\theader X-Api-Key hunter2\n}"):                                        "header X-Api-Key has a literal value",
		options("transport {\n\tproxy http://me:hunter2@proxy:3128\n}"):                                    "the URL of proxy contains a user name or a password.",
		sites("{port: 8080, upstream: 'https://a.example.com', options: header_up Authorization hunter2}"): "gateway.sites, port 8080: header_up Authorization has a literal value",
		"gateway: {share: {options: password hunter2}}":                                                    "gateway.share.options: password is not a file of a Secret",
		"gateway: {share: {keys: ['../key']}}":                                                             "A value is not such a name.",
		"gateway: {share: {keys: [key, 'hunter2+8/=']}}":                                                   "gateway.share.keys and passwordKey are the names of keys of the Secret",
		"gateway: {share: {keys: [" + strings.Repeat("0a", 32) + "]}}":                                     "A value is not such a name.",
		"gateway: {share: {passwordKey: 'hunter2!'}}":                                                      "A value is not such a name.",
		"gateway: {share: {address: 'redis://:hunter2@redis:6379'}}":                                       "gateway.share.address is not <host>:<port>",
		options("provider oauth2 {\n\tjson_param password \"hunter2\"\n}"):                                 "json_param password has a literal value",
	} {
		t.Run(values, func(t *testing.T) {
			for _, message := range deny(t, release{values: values}) {
				if !strings.Contains(message, want) {
					t.Errorf("got %s\nwant %s", message, want)
				}
				if strings.Contains(message, "hunter2") {
					t.Errorf("the message contains the secret: %s", message)
				}
			}
		})
	}
}

// TestChartAllows checks that the guard against secrets lets other lines through.
func TestChartAllows(t *testing.T) {
	for _, lines := range []string{
		"header Authorization \"Token {token}\"", "param audience https://api.example.com/", "param scope \"tokens:read\"",
		"provider oauth2 {\n  token_url https://login.example.com/oauth/token\n  signing_key {file./run/secrets/token-proxy/key.pem}\n}",
		"provider oauth2 {\n  param refresh_token {file./run/secrets/token-proxy/refresh-token}\n}", "# client_secret is a file",
		"# provider oauth2 {", "param audience {file./run/secrets/token-proxy/audience}",
	} {
		objects, _ := render(t, release{values: fmt.Sprintf("gateway: {credential: {options: %q}}", lines)})
		caddyfile := gatewayIn(t, objects, "token-proxy-gateway").config.Data["Caddyfile"]
		for line := range strings.SplitSeq(lines, "\n") {
			if !strings.Contains(caddyfile, "\t"+strings.TrimSpace(line)+"\n") {
				t.Errorf("the Caddyfile lacks %q", line)
			}
		}
	}
}

// TestChartFormats checks that the lines of the values are written as `caddy fmt` writes them. Caddy warns of others.
func TestChartFormats(t *testing.T) {
	const written = "\n# provider optoro {\nprovider oauth2 {\r\n  token_url      https://login.example.com/oauth/token\n\n    param  audience\t\"a  b\"\n  }\n" +
		"client_id {file./run/secrets/token-proxy/client-id}\n\ttransport  {\n dial_timeout 1s\n }\n\n"
	const want = "\t\tcredential catalog {\n" +
		"\t\t\t# provider optoro {\n\t\t\tprovider oauth2 {\n\t\t\t\ttoken_url https://login.example.com/oauth/token\n\t\t\t\tparam  audience\t\"a  b\"\n\t\t\t}\n" +
		"\t\t\tclient_id {file./run/secrets/token-proxy/client-id}\n\t\t\ttransport {\n\t\t\t\tdial_timeout 1s\n\t\t\t}\n\t\t}\n\t}\n}\n"
	objects, _ := render(t, release{values: fmt.Sprintf("gateway: {credential: {options: %q}}", written)})
	if caddyfile := gatewayIn(t, objects, "token-proxy-gateway").config.Data["Caddyfile"]; !strings.Contains(caddyfile, want) {
		t.Errorf("got\n%s\nwant\n%s", caddyfile, want)
	}
}

// TestChartRollsOut checks that a changed Caddyfile starts a rollout, and that a changed number of replicas does not.
func TestChartRollsOut(t *testing.T) {
	template := func(values string) corev1.PodTemplateSpec {
		objects, _ := render(t, release{values: values})
		return find[*appsv1.Deployment](objects, "").Spec.Template
	}
	plain := template("")
	if reflect.DeepEqual(template("gateway: {clients: [10.0.0.0/8]}"), plain) {
		t.Error("the replicas keep the old Caddyfile")
	}
	if !reflect.DeepEqual(template("gateway: {replicas: 5, networkPolicy: {from: [{podSelector: {}}]}}"), plain) {
		t.Error("a change beyond the replicas restarts them")
	}
}

// TestChartPodLabels checks that labels and annotations of the user are added to those of the replicas, and select nothing.
func TestChartPodLabels(t *testing.T) {
	plain, _ := render(t, release{})
	objects, _ := render(t, release{values: "gateway: {podLabels: {team: shop, example.com/billed: 'true'}, podAnnotations: {example.com/owner: shop}}"})
	got, want := gatewayIn(t, objects, "token-proxy-gateway"), gatewayIn(t, plain, "token-proxy-gateway")
	wanted := &want.deployment.Spec.Template
	maps.Copy(wanted.Labels, map[string]string{"team": "shop", "example.com/billed": "true"})
	wanted.Annotations["example.com/owner"] = "shop"
	for _, pair := range [][2]object{
		{got.deployment, want.deployment}, {got.service, want.service}, {got.policy, want.policy}, {got.budget, want.budget},
	} {
		if g, w := asYAML(t, pair[0]), asYAML(t, pair[1]); g != w {
			t.Errorf("the chart has\n%s\nwant\n%s", g, w)
		}
	}
}

// TestChartLeavesTheReplicas checks that an upgrade without a number of replicas leaves the one that a HorizontalPodAutoscaler
// has set. The patch is the one that Helm 3 sends. Helm 4 applies only what the manifest has.
func TestChartLeavesTheReplicas(t *testing.T) {
	deployment := func(values string) *appsv1.Deployment {
		objects, notes := render(t, release{name: "catalog", values: values})
		if strings.Contains(notes, "nil") || strings.Contains(notes, "HorizontalPodAutoscaler") != strings.Contains(values, "replicas: null") {
			t.Errorf("%s: the notes are %s", values, notes)
		}
		return find[*appsv1.Deployment](objects, "")
	}
	for _, tc := range []struct {
		before, after string
		want          *int32
	}{
		{"null", "null", new(int32(7))},
		{"3", "3", new(int32(3))},
		{"3", "null", nil}, // one, by default
	} {
		before := deployment("gateway: {replicas: " + tc.before + "}")
		after := deployment("gateway: {drainSeconds: 20, replicas: " + tc.after + "}")
		live := before.DeepCopy()
		live.Spec.Replicas = new(int32(7))
		upgraded := patched(t, before, after, live)
		if got := upgraded.Spec.Replicas; !reflect.DeepEqual(got, tc.want) {
			t.Errorf("from %s to %s: the Deployment has the replicas %s", tc.before, tc.after, asYAML(t, upgraded))
		}
		if got := *upgraded.Spec.Template.Spec.TerminationGracePeriodSeconds; got != 20+30+5 {
			t.Errorf("from %s to %s: the upgrade sets terminationGracePeriodSeconds to %d", tc.before, tc.after, got)
		}
	}
}

// patched returns a live object after an upgrade of the release.
func patched[T object](t *testing.T, before, after, live T) (upgraded T) {
	t.Helper()
	var texts [][]byte
	for _, o := range []T{before, after, live} {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	lookup, err := strategicpatch.NewPatchMetaFromStruct(live)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(texts[0], texts[1], texts[2], lookup, true)
	if err != nil {
		t.Fatal(err)
	}
	text, err := strategicpatch.StrategicMergePatch(texts[2], patch, live)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &upgraded); err != nil {
		t.Fatal(err)
	}
	return upgraded
}

// TestChartSchema checks that each value has a description, and that the schema knows the values of the chart and no others.
func TestChartSchema(t *testing.T) {
	text, err := os.ReadFile(chartFolder + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(chartFolder + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	described := 0
	var walk func(path string, schema map[string]any, value any)
	walk = func(path string, schema map[string]any, value any) {
		if items, ok := schema["items"].(map[string]any); ok {
			walk(path+"[]", items, nil)
		}
		properties, _ := schema["properties"].(map[string]any)
		if properties == nil {
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("%s: a typo would go unnoticed", path)
		}
		known, _ := value.(map[string]any)
		for name, property := range properties {
			property := property.(map[string]any)
			if description, _ := property["description"].(string); !strings.HasSuffix(description, ".") {
				t.Errorf("%s.%s has the description %q", path, name, description)
			}
			described++
			if _, ok := known[name]; !ok && path+name != "global" && path+name != "enabled" && !strings.Contains(path, "[]") {
				t.Errorf("values.yaml lacks %s.%s", path, name)
			}
			walk(path+"."+name, property, known[name])
		}
	}
	walk("", schema, values)
	if described < 40 {
		t.Errorf("found %d values", described)
	}
}

// TestChartIngress checks who may connect: by default the pods with the label, or those that the values select.
func TestChartIngress(t *testing.T) {
	for values, want := range map[string]string{
		"": `[{"podSelector":{"matchLabels":{"token-proxy-gateway-client":"true"}}}]`,
		"gateway: {networkPolicy: {from: [{podSelector: {}}]}}": `[{"podSelector":{}}]`,
		"fullnameOverride: egress":                              `[{"podSelector":{"matchLabels":{"egress-client":"true"}}}]`,
	} {
		objects, notes := render(t, release{values: values})
		policy := find[*networkingv1.NetworkPolicy](objects, "")
		if got, err := json.Marshal(policy.Spec.Ingress[0].From); err != nil || string(got) != want {
			t.Errorf("%q: got %s, want %s", values, got, want)
		}
		if strings.Contains(notes, policy.Name+`-client: "true"`) != strings.Contains(want, "-client") {
			t.Errorf("%q: the notes are %s", values, notes)
		}
	}
}

// TestGatewaysAreApart checks that gateways in one namespace select their own replicas only. A NetworkPolicy that selects
// those of another gateway would open its credential to more pods, and two PodDisruptionBudgets of one pod block a drain.
func TestGatewaysAreApart(t *testing.T) {
	gateways := map[string]gateway{"the folder": gatewayIn(t, loadGateway(t), "token-proxy-gateway")}
	for _, name := range []string{"catalog", "catalog-eu"} {
		objects, _ := render(t, release{name: name})
		gateways["the release "+name] = gatewayIn(t, objects, name)
	}
	for name, g := range gateways {
		selectors := map[string]*metav1.LabelSelector{
			"Deployment": g.deployment.Spec.Selector, "PodDisruptionBudget": g.budget.Spec.Selector, "NetworkPolicy": &g.policy.Spec.PodSelector,
			"Service": {MatchLabels: g.service.Spec.Selector},
		}
		for kind, s := range selectors {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			for other, o := range gateways {
				if selector.Matches(labels.Set(o.deployment.Spec.Template.Labels)) != (name == other) {
					t.Errorf("the %s of %s selects the replicas of %s, or not its own", kind, name, other)
				}
			}
		}
	}
}

// TestChartNull sets each value to null, with which a user removes a default. The chart renders a gateway without faults, or
// denies the value with a message about it.
func TestChartNull(t *testing.T) {
	text, err := os.ReadFile(chartFolder + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	var walk func(path []string, values map[string]any)
	walk = func(path []string, values map[string]any) {
		for name, value := range values {
			path := append(slices.Clip(path), name)
			t.Run(strings.Join(path, "."), func(t *testing.T) { checkNull(t, path) })
			if inner, ok := value.(map[string]any); ok && path[len(path)-1] != "resources" {
				walk(path, inner)
			}
		}
	}
	walk(nil, values)
}

func checkNull(t *testing.T, path []string) {
	t.Helper()
	r := release{values: strings.Join(path, ": {") + ": null" + strings.Repeat("}", len(path)-1)}
	full, values := r.withDefaults(t)
	_, err := renderers["Helm 4"](full, values)
	if err == nil {
		objects, _ := render(t, r)
		if path[len(path)-1] == "resources" {
			return // the user wants none
		}
		for _, complaint := range complainOfGateway(gatewayIn(t, objects, "token-proxy-gateway")) {
			t.Error(complaint)
		}
		return
	}
	for _, message := range deny(t, r) {
		last := path[len(path)-1]
		if !strings.Contains(message, "missing property '"+last+"'") && !strings.Contains(message, strings.Join(path, ".")+" is missing") {
			t.Errorf("the message does not name the value: %s", message)
		}
	}
}

// TestChartEgress checks that the gateway can connect to the ports of its APIs.
func TestChartEgress(t *testing.T) {
	for upstreams, want := range map[string][]string{
		"https://a.example.com": {"443"}, "https://[fd00::1]": {"443"}, "https://a.example.com:443 https://b.example.com": {"443"},
		"https://a.example.com:8443 https://[fd00::1]:9443 https://b.example.com:8443": {"443", "8443", "9443"},
	} {
		var sites []string
		for i, upstream := range strings.Fields(upstreams) {
			sites = append(sites, fmt.Sprintf("{port: %d, upstream: %q}", 8083+i, upstream))
		}
		objects, _ := render(t, release{values: "gateway: {sites: [" + strings.Join(sites, ", ") + "]}"})
		var got []string
		for _, rule := range find[*networkingv1.NetworkPolicy](objects, "").Spec.Egress {
			if rule.To[0].IPBlock == nil || rule.To[0].IPBlock.CIDR != "0.0.0.0/0" {
				continue
			}
			for _, port := range rule.Ports {
				got = append(got, port.Port.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got the ports %v, want %v", upstreams, got, want)
		}
	}
}
