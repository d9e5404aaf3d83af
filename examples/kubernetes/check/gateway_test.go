package check

import (
	"fmt"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	admissionv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

// object is an object of Kubernetes.
type object interface {
	runtime.Object
	metav1.Object
}

// decodeAll decodes documents strictly, also those of the APIs that only the chart uses.
func decodeAll(text string) (objects []object, err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
		admissionv1.AddToScheme, admissionv1beta1.AddToScheme, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, document := range endOfDocument.Split(text, -1) {
		if !strings.Contains(document, "kind:") { // comments only
			continue
		}
		decoded, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		objects = append(objects, decoded.(object))
	}
	return objects, nil
}

var endOfDocument = regexp.MustCompile(`(?m)^---$`)

// find returns the only object of a type whose name begins with a prefix, or nil.
func find[T object](objects []object, prefix string) (found T) {
	n := 0
	for _, o := range objects {
		if typed, ok := o.(T); ok && strings.HasPrefix(o.GetName(), prefix) {
			found = typed
			n++
		}
	}
	if n != 1 {
		var none T
		return none
	}
	return found
}

// gateway are the objects of a gateway.
type gateway struct {
	deployment *appsv1.Deployment
	service    *corev1.Service
	config     *corev1.ConfigMap
	policy     *networkingv1.NetworkPolicy
	budget     *policyv1.PodDisruptionBudget
}

// gatewayIn returns the gateway with this name among objects.
func gatewayIn(t *testing.T, objects []object, name string) gateway {
	t.Helper()
	g := gateway{
		deployment: find[*appsv1.Deployment](objects, name),
		service:    find[*corev1.Service](objects, name),
		policy:     find[*networkingv1.NetworkPolicy](objects, name),
		budget:     find[*policyv1.PodDisruptionBudget](objects, name),
	}
	if g.deployment == nil || g.service == nil || g.policy == nil || g.budget == nil {
		t.Fatalf("the gateway %s is incomplete: %+v", name, g)
	}
	config := volume(&g.deployment.Spec.Template.Spec, "token-proxy-config")
	for _, o := range objects {
		if configMap, ok := o.(*corev1.ConfigMap); ok && config != nil && o.GetName() == config.ConfigMap.Name {
			g.config = configMap
		}
	}
	if g.config == nil || g.config.Data["Caddyfile"] == "" {
		t.Fatalf("the gateway %s has no Caddyfile", name)
	}
	return g
}

// loadGateway builds the folder gateway. The objects include those of Redis.
func loadGateway(t *testing.T) []object {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../gateway")
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := decodeAll(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// TestGateway checks the gateway, and that its Redis admits it alone.
func TestGateway(t *testing.T) {
	objects := loadGateway(t)
	g := gatewayIn(t, objects, "token-proxy-gateway")
	for _, complaint := range complainOfGateway(g) {
		t.Error(complaint)
	}
	if onDisk, err := os.ReadFile("../gateway/gateway.caddyfile"); err != nil || g.config.Data["Caddyfile"] != string(onDisk) {
		t.Errorf("the Caddyfile is not gateway.caddyfile (error %v)", err) // TestExamplesLoad loads it
	}
	if !stableName.MatchString(g.config.Name) {
		t.Errorf("the name of the ConfigMap %s has no hash, so a change starts no rollout", g.config.Name)
	}

	redis := find[*networkingv1.NetworkPolicy](objects, redisName)
	pods := labels.Set(g.deployment.Spec.Template.Labels)
	server := labels.Set(find[*appsv1.Deployment](objects, redisName).Spec.Template.Labels)
	if len(redis.Spec.Ingress) != 1 || !onlyPods(redis.Spec.Ingress[0].From, pods, server) {
		t.Errorf("Redis admits %v", redis.Spec.Ingress)
	}
	if !slices.ContainsFunc(g.policy.Spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool {
		return onlyPods(rule.To, server, pods) && onlyPort(rule.Ports, "6379")
	}) {
		t.Error("the NetworkPolicy does not admit the connection to Redis")
	}
}

// TestGatewayNeedsNoSidecar keeps the two ways apart: the NetworkPolicy of the sidecar must not select the gateway.
func TestGatewayNeedsNoSidecar(t *testing.T) {
	g := gatewayIn(t, loadGateway(t), "token-proxy-gateway")
	for _, policy := range load(t, "secret").policies {
		if labels.SelectorFromSet(policy.Spec.PodSelector.MatchLabels).Matches(labels.Set(g.deployment.Spec.Template.Labels)) {
			t.Errorf("the policy %s applies to the gateway", policy.Name)
		}
	}
}

var (
	durations  = regexp.MustCompile(`(?m)^\t(shutdown_delay|grace_period) (\d+)s$`)
	siteBlock  = regexp.MustCompile(`(?m)^http://\S[^{]*\{\n(?:.+\n|\n)*?\}$`)
	siteHosts  = regexp.MustCompile(`http://([^:,\s]*):(\d+)`)
	clientsOf  = regexp.MustCompile(`(?m)^\t\tclients (.+)$`)
	everywhere = regexp.MustCompile(`/0$|^any$`)
)

// complainOfGateway returns the faults of a gateway.
func complainOfGateway(g gateway) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	template := g.deployment.Spec.Template
	pod := template.Spec
	if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
		return []string{"the pod has another container, which could read the secret"}
	}
	container := pod.Containers[0]
	caddyfile := g.config.Data["Caddyfile"]

	// What keeps requests from failing while replicas come and go.
	if s := g.deployment.Spec.Strategy.RollingUpdate; s == nil || s.MaxUnavailable.String() != "0" || s.MaxSurge.String() == "0" {
		bad("a rollout ends replicas before their successors are ready")
	}
	var delay, grace int64
	for _, m := range durations.FindAllStringSubmatch(caddyfile, -1) {
		seconds, _ := strconv.ParseInt(m[2], 10, 64)
		if m[1] == "shutdown_delay" {
			delay = seconds
		} else {
			grace = seconds
		}
	}
	if delay == 0 || grace == 0 {
		bad("a replica stops before the nodes know about it, or does not complete its requests")
	}
	if p := pod.TerminationGracePeriodSeconds; p == nil || *p <= delay+grace {
		bad("terminationGracePeriodSeconds is not more than shutdown_delay and grace_period")
	}
	for name, probe := range map[string]*corev1.Probe{"startupProbe": container.StartupProbe, "readinessProbe": container.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/ready" || probe.HTTPGet.Port.StrVal != "token-proxy" {
			bad("%s does not request /ready at the port token-proxy", name)
		}
	}
	if p := container.StartupProbe; p != nil && p.PeriodSeconds*p.FailureThreshold < 600 {
		bad("startupProbe restarts the gateway too soon")
	}
	if container.LivenessProbe != nil {
		bad("the gateway has a livenessProbe, which loses tokens")
	}
	if container.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		bad("the pod does not show why the gateway did not start")
	}
	selector := labels.SelectorFromSet(g.deployment.Spec.Selector.MatchLabels)
	if selector.Empty() || !selector.Matches(labels.Set(template.Labels)) {
		bad("the Deployment does not select its pods")
	}
	if b := g.budget.Spec; b.MaxUnavailable == nil || b.MaxUnavailable.String() != "1" || b.MinAvailable != nil ||
		labels.SelectorFromSet(b.Selector.MatchLabels).String() != selector.String() {
		bad("the PodDisruptionBudget lets two replicas go at a time, or is not about the replicas")
	}
	for _, key := range []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"} {
		if !slices.ContainsFunc(pod.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
			return c.TopologyKey == key && c.WhenUnsatisfiable == corev1.ScheduleAnyway &&
				labels.SelectorFromSet(c.LabelSelector.MatchLabels).String() == selector.String()
		}) {
			bad("the replicas are not spread over %s, or cannot start where there is only one", key)
		}
	}

	// The privileges, the memory and the image.
	if s := container.SecurityContext; !restricted(s) || s.RunAsUser == nil || *s.RunAsUser == 0 {
		bad("the securityContext does not satisfy `restricted`, or the root is writable")
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		bad("the token for the Kubernetes API is mounted")
	}
	if pod.HostNetwork || pod.HostPID || len(container.Env)+len(container.EnvFrom) > 0 {
		bad("the pod shares the node's network or processes, or has a secret in its environment")
	}
	if r := container.Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() || !r.Limits.Cpu().IsZero() {
		bad("resources: want requests, a limit of memory, and no limit of CPU")
	}
	if !strings.Contains(container.Image, "/token-proxy:v") && !strings.Contains(container.Image, "@sha256:") {
		bad("the image is %q", container.Image)
	}
	if container.Command != nil || container.Args != nil {
		bad("the manifest replaces the arguments of the image, which name /etc/token-proxy/Caddyfile")
	}

	// The files.
	if m := mountOf(&container, "/run/token-proxy/admin.sock"); m == nil || m.ReadOnly || !strings.Contains(caddyfile, "\tadmin unix//run/token-proxy/admin.sock\n") {
		bad("the admin API is on TCP, or its socket cannot be created")
	}
	files := readFiles.FindAllStringSubmatch(caddyfile, -1)
	if len(files) == 0 {
		bad("the Caddyfile names no file")
	}
	for _, file := range files {
		m := mountOf(&container, file[1])
		if m == nil || m.SubPath != "" || !m.ReadOnly {
			bad("%s: not mounted, writable, or hides a rotated secret", file[1])
			continue
		}
		if v := volume(&pod, m.Name); v == nil || v.Secret == nil || !provides(v, path.Base(file[1])) || v.Secret.SecretName == "" {
			bad("%s: not a file of a Secret that the gateway can read", file[1])
		}
	}
	return append(complaints, complainOfAccess(g)...)
}

// complainOfAccess returns what is wrong with the two locks of a gateway, its hosts and its ports.
func complainOfAccess(g gateway) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	caddyfile, template := g.config.Data["Caddyfile"], g.deployment.Spec.Template
	container := template.Spec.Containers[0]
	ports := make(map[string]string) // by name
	for _, p := range container.Ports {
		ports[p.Name] = fmt.Sprint(p.ContainerPort)
	}
	if ports["token-proxy"] != "8082" || ports["metrics"] != "2020" {
		bad("the ports are %v", ports)
	}

	// Each port of the Service leads to a site that has names, clients and a way to end connections. Other hosts are denied.
	sites := make(map[string]string) // the block by port, with names and without
	for _, block := range siteBlock.FindAllString(caddyfile, -1) {
		for _, host := range siteHosts.FindAllStringSubmatch(strings.SplitN(block, "{", 2)[0], -1) {
			kind := "named "
			if host[1] == "" {
				kind = "any "
			}
			sites[kind+host[2]] = block
		}
	}
	if len(g.service.Spec.Ports) == 0 || len(g.service.Spec.Ports) != len(ports)-2 {
		bad("the Service has %d ports", len(g.service.Spec.Ports))
	}
	for _, p := range g.service.Spec.Ports {
		port := fmt.Sprint(p.Port)
		site := sites["named "+port]
		if ports[p.TargetPort.StrVal] != port || !strings.Contains(site, "http://"+g.service.Name+":"+port) {
			bad("no site answers port %s of the Service", port)
		}
		if clients := clientsOf.FindStringSubmatch(site); clients == nil || slices.ContainsFunc(strings.Fields(clients[1]), everywhere.MatchString) {
			bad("port %s: every address may use the credential, or none", port)
		}
		if !strings.Contains(site, "\timport draining\n") {
			bad("port %s: a client loses the request that it sends while the replica closes its connection", port)
		}
		if !strings.Contains(sites["any "+port], "421") {
			bad("port %s: other hosts are not denied", port)
		}
	}
	if !strings.Contains(caddyfile, "\n(draining) {\n\t@draining {\n\t\tvars {http.shutting_down} true\n\t\tnot header Upgrade *\n\t}\n\theader @draining Connection close\n}\n") {
		bad("the end of connections is not announced")
	}
	for port, directive := range map[string]string{"8082": "token_proxy_ready", "2020": "metrics"} {
		if site := sites["any "+port]; !strings.Contains(site, "\t\t"+directive+"\n") || strings.Contains(site, "token_proxy ") {
			bad("the port %s does not answer with %s, or opens a credential", port, directive)
		}
	}
	if labels := labels.SelectorFromSet(g.service.Spec.Selector); labels.String() != selectorOf(g).String() {
		bad("the Service does not lead to the replicas")
	}

	// The NetworkPolicy.
	policy := g.policy.Spec
	if labels.SelectorFromSet(policy.PodSelector.MatchLabels).String() != selectorOf(g).String() || len(policy.PolicyTypes) != 2 {
		bad("the NetworkPolicy does not apply to the replicas, in both directions")
	}
	var admitted []string
	for _, rule := range policy.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) == 0 {
			bad("the NetworkPolicy admits all pods, or all ports")
		}
		for _, p := range rule.Ports {
			admitted = append(admitted, p.Port.String())
			if p.Port.StrVal == "token-proxy" || ports[p.Port.StrVal] == "" {
				bad("the NetworkPolicy admits the port %s", p.Port.String())
			}
		}
	}
	if len(admitted) != len(ports)-1 { // all but the port of the probes
		bad("the NetworkPolicy admits %v, and the ports are %v", admitted, ports)
	}
	for i, rule := range policy.Egress {
		if len(rule.To) == 0 || len(rule.Ports) == 0 {
			bad("the rule %d of egress permits all addresses, or all ports", i)
		}
	}
	return complaints
}

func selectorOf(g gateway) labels.Selector {
	return labels.SelectorFromSet(g.deployment.Spec.Selector.MatchLabels)
}

// TestGatewayEgress compares the rules that gateways and sidecars have in common.
func TestGatewayEgress(t *testing.T) {
	want := load(t, "secret").policies[0].Spec.Egress
	got := gatewayIn(t, loadGateway(t), "token-proxy-gateway").policy.Spec.Egress
	if len(got) != len(want)+1 || !reflect.DeepEqual(got[:len(want)], want) {
		t.Errorf("the gateway may connect to %v, and the sidecar to %v", got, want)
	}
}

// TestComplaintsOfGateway breaks the rules one at a time, and checks that complainOfGateway notices each.
func TestComplaintsOfGateway(t *testing.T) {
	caddyfile := func(from, to string) func(gateway) {
		return func(g gateway) { g.config.Data["Caddyfile"] = replaced(t, g.config.Data["Caddyfile"], from, to) }
	}
	pod := func(change func(*corev1.PodSpec)) func(gateway) {
		return func(g gateway) { change(&g.deployment.Spec.Template.Spec) }
	}
	container := func(change func(*corev1.Container)) func(gateway) {
		return func(g gateway) { change(&g.deployment.Spec.Template.Spec.Containers[0]) }
	}
	policy := func(change func(*networkingv1.NetworkPolicySpec)) func(gateway) {
		return func(g gateway) { change(&g.policy.Spec) }
	}
	for name, change := range map[string]func(gateway){
		"another container":       pod(func(p *corev1.PodSpec) { p.Containers = append(p.Containers, corev1.Container{}) }),
		"a rollout with a gap":    func(g gateway) { g.deployment.Spec.Strategy.RollingUpdate.MaxUnavailable.IntVal = 1 },
		"no delay":                caddyfile("\tshutdown_delay 10s\n", ""),
		"no grace":                caddyfile("\tgrace_period 30s\n", ""),
		"too long a delay":        caddyfile("shutdown_delay 10s", "shutdown_delay 20s"),
		"the end without a word":  caddyfile("\timport draining\n", ""),
		"the end of all":          caddyfile("\t\tvars {http.shutting_down} true\n", ""),
		"no startupProbe":         container(func(c *corev1.Container) { c.StartupProbe = nil }),
		"no readinessProbe":       container(func(c *corev1.Container) { c.ReadinessProbe = nil }),
		"impatient":               container(func(c *corev1.Container) { c.StartupProbe.FailureThreshold = 30 }),
		"livenessProbe":           container(func(c *corev1.Container) { c.LivenessProbe = c.ReadinessProbe }),
		"no termination message":  container(func(c *corev1.Container) { c.TerminationMessagePolicy = "" }),
		"other labels":            func(g gateway) { g.deployment.Spec.Template.Labels = nil },
		"no budget":               func(g gateway) { g.budget.Spec.MaxUnavailable = nil },
		"a budget of others":      func(g gateway) { g.budget.Spec.Selector.MatchLabels = map[string]string{"a": "b"} },
		"one node":                pod(func(p *corev1.PodSpec) { p.TopologySpreadConstraints = p.TopologySpreadConstraints[1:] }),
		"a node that must be":     pod(func(p *corev1.PodSpec) { p.TopologySpreadConstraints[0].WhenUnsatisfiable = corev1.DoNotSchedule }),
		"a writable root":         container(func(c *corev1.Container) { c.SecurityContext.ReadOnlyRootFilesystem = nil }),
		"root":                    container(func(c *corev1.Container) { *c.SecurityContext.RunAsUser = 0 }),
		"Kubernetes' token":       pod(func(p *corev1.PodSpec) { p.AutomountServiceAccountToken = nil }),
		"the node's network":      pod(func(p *corev1.PodSpec) { p.HostNetwork = true }),
		"a secret in a variable":  container(func(c *corev1.Container) { c.EnvFrom = []corev1.EnvFromSource{{}} }),
		"no limit":                container(func(c *corev1.Container) { c.Resources.Limits = nil }),
		"the latest image":        container(func(c *corev1.Container) { c.Image = "registry.example.com/token-proxy:latest" }),
		"arguments":               container(func(c *corev1.Container) { c.Args = []string{"run"} }),
		"admin API on TCP":        caddyfile("\tadmin unix//run/token-proxy/admin.sock\n", ""),
		"a file is missing":       caddyfile("/run/secrets/token-proxy/client-id", "/run/secrets/catalog/client-id"),
		"subPath":                 container(func(c *corev1.Container) { c.VolumeMounts[1].SubPath = "client-id" }),
		"mode":                    pod(func(p *corev1.PodSpec) { *volume(p, "token-proxy-secret").Secret.DefaultMode = 0o400 }),
		"no name of a Secret":     pod(func(p *corev1.PodSpec) { volume(p, "token-proxy-secret").Secret.SecretName = "" }),
		"no clients":              caddyfile("\t\tclients 10.244.0.0/16\n", ""),
		"all clients":             caddyfile("clients 10.244.0.0/16", "clients any"),
		"all addresses":           caddyfile("clients 10.244.0.0/16", "clients 10.244.0.0/16 ::/0"),
		"any host":                caddyfile("\nhttp://token-proxy-gateway:8080", "\nhttp://:8080"),
		"another host":            caddyfile("\nhttp://token-proxy-gateway:8080", "\nhttp://gateway:8080"),
		"silence for other hosts": caddyfile(" 421\n", "\n"),
		"no answer for probes":    caddyfile("\t\ttoken_proxy_ready\n", ""),
		"a credential on a port":  caddyfile("\t\ttoken_proxy_ready\n", "\t\ttoken_proxy_ready\n\t\ttoken_proxy catalog\n"),
		"no metrics":              caddyfile("\t\tmetrics\n", ""),
		"a port without a site":   func(g gateway) { g.service.Spec.Ports[0].Port = 80 },
		"a Service of others":     func(g gateway) { g.service.Spec.Selector = map[string]string{"a": "b"} },
		"all pods may enter":      policy(func(p *networkingv1.NetworkPolicySpec) { p.Ingress[0].From = nil }),
		"any port":                policy(func(p *networkingv1.NetworkPolicySpec) { p.Ingress[0].Ports = nil }),
		"the port of the probes":  policy(func(p *networkingv1.NetworkPolicySpec) { p.Ingress[0].Ports[0].Port.StrVal = "token-proxy" }),
		"no metrics for all":      policy(func(p *networkingv1.NetworkPolicySpec) { p.Ingress = p.Ingress[:1] }),
		"one direction":           policy(func(p *networkingv1.NetworkPolicySpec) { p.PolicyTypes = p.PolicyTypes[:1] }),
		"a policy for all pods":   policy(func(p *networkingv1.NetworkPolicySpec) { p.PodSelector.MatchLabels = nil }),
		"all destinations":        policy(func(p *networkingv1.NetworkPolicySpec) { p.Egress[0].To = nil }),
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewayIn(t, loadGateway(t), "token-proxy-gateway")
			change(g)
			if complaints := complainOfGateway(g); len(complaints) == 0 {
				t.Error("got no complaint")
			} else {
				t.Log(complaints)
			}
		})
	}
}
