// Package check tests the manifests against the API of Kubernetes and against the rules for a sidecar with a secret. It
// is a module of its own, so that the proxy does not depend on Kubernetes.
package check

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/resid"
)

const sidecarName = "token-proxy"

var variants = []string{"secret", "jobs", "secretless", "unix-socket", "several-credentials", "sharing", "tenants", "many-tenants", "rehearsal"}

// manifests are the objects that kustomize builds from a folder.
type manifests struct {
	workloads   []workload // all that makes pods
	deployments []*appsv1.Deployment
	configMaps  map[string]*corev1.ConfigMap
	services    []*corev1.Service
	accounts    []*corev1.ServiceAccount
	policies    []*networkingv1.NetworkPolicy
	redis       *manifests // those of Redis, apart from the others
	development *developmentServers
	custom      map[string][]byte   // the objects of other APIs, by kind
	delivered   map[string][]string // the files that something other than Kubernetes writes, by volume
}

// workload is an object that makes pods.
type workload struct {
	id       resid.ResId
	template *corev1.PodTemplateSpec
}

func (w workload) name() string { return w.id.Name }

// sidecar returns the first container with the name of the sidecar, or nil.
func (w workload) sidecar() *corev1.Container {
	for i := range w.template.Spec.InitContainers {
		if w.template.Spec.InitContainers[i].Name == sidecarName {
			return &w.template.Spec.InitContainers[i]
		}
	}
	return nil
}

// withoutSidecar returns the workloads that the component did not reach. Kustomize does not complain of them.
func (m *manifests) withoutSidecar() (missed []string) {
	for _, w := range m.workloads {
		if w.sidecar() == nil {
			missed = append(missed, w.id.String())
		}
	}
	return missed
}

// templateOf returns the place for the pod, or nil if the object makes no pods.
func templateOf(object runtime.Object) *corev1.PodTemplateSpec {
	switch object := object.(type) {
	case *appsv1.Deployment:
		return &object.Spec.Template
	case *appsv1.StatefulSet:
		return &object.Spec.Template
	case *appsv1.DaemonSet:
		return &object.Spec.Template
	case *appsv1.ReplicaSet:
		return &object.Spec.Template
	case *batchv1.Job:
		return &object.Spec.Template
	case *batchv1.CronJob:
		return &object.Spec.JobTemplate.Spec.Template
	case *corev1.Pod:
		return &corev1.PodTemplateSpec{ObjectMeta: object.ObjectMeta, Spec: object.Spec}
	}
	return nil
}

// build builds a folder as `kubectl apply -k` does.
func build(t *testing.T, fs filesys.FileSystem, folder string) *manifests {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, folder)
	if err != nil {
		t.Fatalf("%s: %v", folder, err)
	}
	m := &manifests{configMaps: make(map[string]*corev1.ConfigMap), custom: make(map[string][]byte)}
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if group := resource.GetGvk().Group; group == "external-secrets.io" || group == "secrets-store.csi.x-k8s.io" {
			m.custom[resource.GetKind()] = text
			continue
		}
		object, err := decode(text)
		if err != nil {
			t.Fatalf("%s: %s: %v", folder, resource.CurId(), err)
		}
		if template := templateOf(object); template != nil {
			m.workloads = append(m.workloads, workload{resource.CurId(), template})
		}
		switch object := object.(type) {
		case *appsv1.Deployment:
			m.deployments = append(m.deployments, object)
		case *appsv1.StatefulSet, *appsv1.DaemonSet, *appsv1.ReplicaSet, *batchv1.Job, *batchv1.CronJob:
		case *corev1.ConfigMap:
			m.configMaps[object.Name] = object
		case *corev1.Secret:
			// The client of the development servers is public.
			if folder != "../rehearsal" || string(object.Data["client-secret"]) != "dev-secret" {
				t.Errorf("%s: the manifests contain the Secret %s", folder, object.Name)
			}
		case *corev1.Service:
			m.services = append(m.services, object)
		case *corev1.ServiceAccount:
			m.accounts = append(m.accounts, object)
		case *networkingv1.NetworkPolicy:
			m.policies = append(m.policies, object)
		default:
			t.Errorf("%s: unexpected %s", folder, resource.CurId())
		}
	}
	return m
}

// decode fails on unknown, repeated and mistyped fields, as the API server does with strict validation.
func decode(text []byte) (runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	object, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode(text, nil, nil)
	return object, err
}

func TestDecodeIsStrict(t *testing.T) {
	good, err := os.ReadFile("../application/application.yaml")
	if err != nil {
		t.Fatal(err)
	}
	good, _, _ = bytes.Cut(good, []byte("\n---\n"))
	if _, err := decode(good); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"replicas: 2":            "replicas: two",
		"containerPort: 8000":    "containerport: 8000",
		"selector:":              "selectors:",
		"runAsUser: 10001":       "runAsUser: 10001\n            runAsUser: 0",
		"kind: Deployment":       "kind: Deploiment",
		"apiVersion: apps/v1":    "apiVersion: apps/v1beta3",
		"readOnlyRootFilesystem": "readOnlyFilesystem",
	} {
		bad := bytes.Replace(good, []byte(from), []byte(to), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("the manifest does not contain %q", from)
		}
		if _, err := decode(bad); err == nil {
			t.Errorf("got no error for %q", to)
		}
	}
}

// TestVariants builds each variant and checks it.
func TestVariants(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			m := load(t, variant)
			for i := range m.workloads {
				for _, complaint := range complainOf(m, i) {
					t.Errorf("%s: %s", m.workloads[i].id, complaint)
				}
			}
		})
	}
}

// TestVariantsAreAll checks that each folder with a Caddyfile is one of variants, and that the README names it.
func TestVariantsAreAll(t *testing.T) {
	found, err := filepath.Glob("../*/token-proxy.caddyfile")
	if err != nil || len(found) != len(variants) {
		t.Errorf("found %q, error %v; want %q", found, err, variants)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, variant := range variants {
		if !bytes.Contains(readme, []byte("("+variant+")")) {
			t.Errorf("README.md does not name %s", variant)
		}
	}
}

func load(t *testing.T, variant string) *manifests {
	t.Helper()
	m := build(t, filesys.MakeFsOnDisk(), "../"+variant)
	m.redis = m.takeRedis()
	workloads, services := 1, 1
	switch variant {
	case "jobs":
		workloads, services = 2, 0
	case "rehearsal":
		services = 0
		m.development = m.takeDevelopmentServers(t)
	}
	if len(m.workloads) != workloads || len(m.configMaps) != 1 || len(m.policies) != 1 || len(m.services) != services {
		t.Fatalf("got %d workloads, %d ConfigMaps, %d NetworkPolicies, %d Services, want %d, 1, 1, %d",
			len(m.workloads), len(m.configMaps), len(m.policies), len(m.services), workloads, services)
	}
	if missed := m.withoutSidecar(); len(missed) > 0 {
		t.Fatalf("no target of the component matches %q", missed)
	}
	onDisk, err := os.ReadFile("../" + variant + "/token-proxy.caddyfile") // TestExamplesLoad loads it
	if err != nil {
		t.Fatal(err)
	}
	if caddyfileOf(m, 0) != string(onDisk) {
		t.Error("the sidecar's Caddyfile is not token-proxy.caddyfile")
	}
	return m
}

// caddyfileOf returns the content of the file that the arguments of the image name, from the ConfigMap.
func caddyfileOf(m *manifests, i int) string {
	pod := m.workloads[i].template.Spec
	for _, mount := range pod.InitContainers[0].VolumeMounts {
		if v := volume(&pod, mount.Name); mount.MountPath == "/etc/token-proxy" && v != nil && v.ConfigMap != nil {
			if cm := m.configMaps[v.ConfigMap.Name]; cm != nil {
				return cm.Data["Caddyfile"]
			}
		}
	}
	return ""
}

func volume(pod *corev1.PodSpec, name string) *corev1.Volume {
	for i := range pod.Volumes {
		if pod.Volumes[i].Name == name {
			return &pod.Volumes[i]
		}
	}
	return nil
}

var (
	readFiles  = regexp.MustCompile(`(?:\{file\.|client_assertion_file )(/(?:\{tenant\}|[^{}\s])+)`)
	adminAt    = regexp.MustCompile(`(?m)^\tadmin unix/(/\S+)$`)
	boundTo    = regexp.MustCompile(`(?m)^http://(\S*).*\{\n(?:\tbind (\S+)\n)?`)
	stableName = regexp.MustCompile(`-[a-z0-9]{10}$`)
)

// complain returns the faults of the first workload with the sidecar.
func complain(m *manifests) (complaints []string) { return complainOf(m, 0) }

// complainOf returns the faults of a workload with the sidecar.
func complainOf(m *manifests, i int) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	template := m.workloads[i].template
	pod := template.Spec

	// The order of start and stop.
	if len(pod.InitContainers) == 0 || pod.InitContainers[0].Name != sidecarName {
		return []string{"the first init container is not the sidecar"}
	}
	sidecar := pod.InitContainers[0]
	if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		bad("restartPolicy is not Always: it would be an init container that never ends")
	}
	caddyfile := caddyfileOf(m, i)
	if caddyfile == "" {
		bad("the sidecar gets no Caddyfile")
	}
	if sidecar.Command != nil || sidecar.Args != nil {
		bad("the manifest replaces the arguments of the image, which name /etc/token-proxy/Caddyfile")
	}

	// The probes. The application waits for a token, and a lack of tokens never ends the sidecar.
	var port int32
	for _, p := range sidecar.Ports {
		if p.Name == "token-proxy" {
			port = p.ContainerPort
		}
	}
	for name, probe := range map[string]*corev1.Probe{"startupProbe": sidecar.StartupProbe, "readinessProbe": sidecar.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != "/ready" || probe.HTTPGet.Port.StrVal != "token-proxy" {
			bad("%s does not request /ready at the port token-proxy", name)
		}
	}
	if probe := sidecar.StartupProbe; probe != nil && (probe.PeriodSeconds*probe.FailureThreshold < 600 || probe.PeriodSeconds > 2) {
		bad("startupProbe restarts the sidecar too soon, or makes the application wait")
	}
	if sidecar.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
		bad("the pod does not show why the sidecar did not start")
	}
	if sidecar.LivenessProbe != nil {
		bad("the sidecar has a livenessProbe, which loses tokens")
	}
	if want := fmt.Sprintf("\nhttp://:%d {\n\thandle /ready {\n", port); !strings.Contains(caddyfile, want) {
		bad("the Caddyfile does not answer the probes, because it lacks %q", want)
	}
	if ready := strings.Split(caddyfile, "\nhttp://:"); len(ready) != 2 || strings.Contains(ready[1], "token_proxy ") {
		bad("a credential is open to other pods")
	}

	// A healthy start warns of nothing.
	for _, quiet := range []string{"\n\tservers {\n\t\tprotocols h1\n\t}\n", "\n\tlog {\n\t\texclude admin\n\t}\n"} {
		if !strings.Contains(caddyfile, quiet) {
			bad("each start logs a warning, because the Caddyfile lacks %q", quiet)
		}
	}

	// The listeners.
	for _, m := range boundTo.FindAllStringSubmatch(caddyfile, -1) {
		site, bind := m[1], m[2]
		switch {
		case strings.HasPrefix(site, ":") && bind == "":
		case strings.HasPrefix(bind, "unix/"):
			socket, _, _ := strings.Cut(strings.TrimPrefix(bind, "unix/"), "|")
			if mount := mountOf(&sidecar, socket); mount == nil || mount.ReadOnly {
				bad("the sidecar cannot create %s", socket)
			}
			if mount := mountOf(&pod.Containers[0], socket); mount == nil || !mount.ReadOnly {
				bad("the application cannot reach %s, or could replace it", socket)
			}
		case bind != "loopback/localhost":
			bad("site %s is bound to %q", site, bind)
		}
	}

	// The files that the Caddyfile names exist, and only the sidecar mounts them.
	for _, variable := range sidecar.Env {
		caddyfile = strings.ReplaceAll(caddyfile, "{env."+variable.Name+"}", variable.Value)
	}
	if strings.Contains(caddyfile, "{env.") {
		bad("the Caddyfile names a variable that the sidecar does not have")
	}
	files := readFiles.FindAllStringSubmatch(caddyfile, -1)
	if len(files) == 0 {
		bad("the Caddyfile names no file")
	}
	for _, file := range files {
		mount := mountOf(&sidecar, file[1])
		if mount == nil {
			bad("no mount has %s", file[1])
			continue
		}
		if mount.SubPath != "" || !mount.ReadOnly {
			bad("%s: the mount is writable, or has a subPath, which hides a rotated secret", file[1])
		}
		v := volume(&pod, mount.Name)
		name := strings.TrimPrefix(file[1], mount.MountPath+"/")
		if v == nil || !provides(v, name) && !slices.Contains(m.delivered[v.Name], name) {
			bad("%s: the volume lacks the file, or the user of the sidecar cannot read it", file[1])
		}
	}
	admin := adminAt.FindStringSubmatch(caddyfile)
	if admin == nil {
		bad("the admin API is not on a unix socket: the application could load a configuration that shows the secret")
	} else if mount := mountOf(&sidecar, admin[1]); mount == nil || mount.ReadOnly {
		bad("the sidecar cannot create %s", admin[1])
	}
	for _, mount := range sidecar.VolumeMounts {
		if volume(&pod, mount.Name) == nil {
			bad("the pod has no volume %s", mount.Name)
		}
		if mount.Name == "token-proxy-socket" {
			continue
		}
		for _, other := range slices.Concat(pod.InitContainers[1:], pod.Containers) {
			for _, m := range other.VolumeMounts {
				if m.Name == mount.Name {
					bad("%s mounts the sidecar's volume %s", other.Name, m.Name)
				}
			}
			for _, e := range other.EnvFrom {
				if e.SecretRef != nil {
					bad("%s has a Secret in its environment", other.Name)
				}
			}
		}
	}

	// The privileges of the sidecar.
	if s := sidecar.SecurityContext; !restricted(s) || s.RunAsUser == nil || *s.RunAsUser != 65532 { // the image's
		bad("the securityContext does not satisfy the Pod Security Standard `restricted`, or the root is writable")
	}
	for _, c := range pod.Containers {
		if s := c.SecurityContext; s == nil || s.RunAsUser == nil || *s.RunAsUser == *sidecar.SecurityContext.RunAsUser {
			bad("%s runs as the sidecar's user", c.Name)
		}
	}
	if pod.ShareProcessNamespace != nil || pod.HostPID || pod.HostNetwork || pod.HostIPC {
		bad("the pod shares processes, or the node's namespaces")
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		bad("the token for the Kubernetes API is mounted")
	}
	for _, account := range m.accounts {
		if pod.ServiceAccountName != account.Name {
			bad("the ServiceAccount %s is not the pod's", account.Name)
		}
	}
	requests, limits := sidecar.Resources.Requests, sidecar.Resources.Limits
	if requests.Cpu().IsZero() || requests.Memory().IsZero() || limits.Memory().Cmp(*requests.Memory()) < 0 || !limits.Cpu().IsZero() {
		bad("resources: want requests, a limit of memory, and no limit of CPU")
	}
	if !strings.Contains(sidecar.Image, "/token-proxy:v") {
		bad("the image is %q", sidecar.Image)
	}

	// The NetworkPolicy applies to this pod.
	for _, policy := range m.policies {
		selector := labels.SelectorFromSet(policy.Spec.PodSelector.MatchLabels)
		if selector.Empty() || !selector.Matches(labels.Set(template.Labels)) {
			bad("the NetworkPolicy does not select the pod, or selects every pod")
		}
		for _, where := range []networkingv1.NetworkPolicyPeer{
			dnsPods("kube-system", "k8s-app", "kube-dns"),
			{IPBlock: &networkingv1.IPBlock{CIDR: "169.254.20.10/32"}},
			dnsPods("openshift-dns", "dns.operator.openshift.io/daemonset-dns", "default"),
		} {
			port := int32(53)
			if where.NamespaceSelector != nil && where.NamespaceSelector.MatchLabels[namespaceName] == "openshift-dns" {
				port = 5353
			}
			if !permits(policy, where, port) {
				bad("the NetworkPolicy does not permit DNS at %v", where)
			}
		}
		if len(policy.Spec.PolicyTypes) != 2 {
			bad("the NetworkPolicy does not apply to both directions")
		}
		for _, rule := range policy.Spec.Ingress {
			for _, p := range rule.Ports {
				if !slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool {
					return slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.Name == p.Port.StrVal })
				}) {
					bad("the NetworkPolicy admits port %s, which is not a port of the application", p.Port)
				}
			}
			if len(rule.Ports) == 0 {
				bad("the NetworkPolicy admits all ports")
			}
		}
	}

	// The name of the ConfigMap changes with the Caddyfile, which starts a rollout.
	for name := range m.configMaps {
		if !stableName.MatchString(name) {
			bad("the name of the ConfigMap %s has no hash", name)
		}
	}
	return complaints
}

const namespaceName = "kubernetes.io/metadata.name"

// dnsPods are the pods of a cluster's DNS.
func dnsPods(namespace, label, value string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{namespaceName: namespace}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{label: value}},
	}
}

// permits reports whether a policy lets pods connect to a port by UDP and TCP.
func permits(policy *networkingv1.NetworkPolicy, where networkingv1.NetworkPolicyPeer, port int32) bool {
	protocols := make(map[corev1.Protocol]bool)
	for _, rule := range policy.Spec.Egress {
		if !slices.ContainsFunc(rule.To, func(to networkingv1.NetworkPolicyPeer) bool { return reflect.DeepEqual(to, where) }) {
			continue
		}
		for _, p := range rule.Ports {
			if p.Port.IntVal == port && p.Protocol != nil {
				protocols[*p.Protocol] = true
			}
		}
	}
	return protocols[corev1.ProtocolUDP] && protocols[corev1.ProtocolTCP]
}

// restricted reports whether a container satisfies the Pod Security Standard `restricted`, and its root is read-only.
func restricted(s *corev1.SecurityContext) bool {
	return s != nil &&
		s.RunAsNonRoot != nil && *s.RunAsNonRoot &&
		s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation &&
		s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem &&
		(s.Privileged == nil || !*s.Privileged) &&
		s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) && s.Capabilities.Add == nil &&
		s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault
}

// mountOf returns the mount that contains a file.
func mountOf(c *corev1.Container, file string) *corev1.VolumeMount {
	for i, mount := range c.VolumeMounts {
		if mount.MountPath == path.Dir(file) || strings.HasPrefix(file, mount.MountPath+"/") {
			return &c.VolumeMounts[i]
		}
	}
	return nil
}

// provides reports whether a volume has a file that all users can read. A Secret without items can have any file.
func provides(v *corev1.Volume, file string) bool {
	readable := func(mode *int32) bool { return mode == nil || *mode == 0o444 } // the default of Kubernetes is 0644
	switch {
	case v.Secret != nil:
		return v.Projected == nil && v.Secret.Items == nil && !strings.Contains(file, "/") && readable(v.Secret.DefaultMode)
	case v.Projected != nil && strings.Contains(file, "{tenant}"):
		return providesTenants(v.Projected, file) && readable(v.Projected.DefaultMode)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			switch token, secret := source.ServiceAccountToken, source.Secret; {
			case token != nil && token.Path == file:
				return token.Audience != "" && token.ExpirationSeconds != nil && *token.ExpirationSeconds >= 600 && readable(v.Projected.DefaultMode)
			case secret != nil:
				for _, item := range secret.Items {
					if item.Path == file {
						return item.Mode == nil && readable(v.Projected.DefaultMode)
					}
				}
			}
		}
	}
	return false
}

// TestComplaints breaks the rules one at a time, and checks that complain notices each.
func TestComplaints(t *testing.T) {
	type change = func(m *manifests, pod *corev1.PodSpec, sidecar *corev1.Container)
	yes, no, root := true, false, int64(0)
	onFailure := corev1.ContainerRestartPolicyOnFailure
	tests := []struct {
		variant, name string
		change        change
	}{
		{"secret", "after another init container", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			pod.InitContainers = append([]corev1.Container{{Name: "migrate"}}, pod.InitContainers...)
		}},
		{"secret", "no restartPolicy", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.RestartPolicy = nil }},
		{"secret", "restartPolicy OnFailure", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.RestartPolicy = &onFailure }},
		{"secret", "arguments", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.Args = []string{"run"} }},
		{"secret", "no startupProbe", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.StartupProbe = nil }},
		{"secret", "no readinessProbe", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.ReadinessProbe = nil }},
		{"secret", "another path", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.StartupProbe.HTTPGet.Path = "/" }},
		{"secret", "impatient", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.StartupProbe.FailureThreshold = 3 }},
		{"secret", "no termination message", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.TerminationMessagePolicy = "" }},
		{"secret", "policy without NodeLocal DNSCache", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.Egress = slices.Delete(m.policies[0].Spec.Egress, 1, 2)
		}},
		{"secret", "policy with another port for OpenShift", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.Egress[2].Ports[0].Port.IntVal = 53
		}},
		{"jobs", "a port of a job", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		}},
		{"secret", "livenessProbe", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.LivenessProbe = s.ReadinessProbe }},
		{"secret", "another port", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.Ports[0].ContainerPort++ }},
		{"secret", "writable root", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) {
			s.SecurityContext.ReadOnlyRootFilesystem = &no
		}},
		{"secret", "root", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.SecurityContext.RunAsUser = &root }},
		{"secret", "not non-root", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.SecurityContext.RunAsNonRoot = nil }},
		{"secret", "escalation", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) {
			s.SecurityContext.AllowPrivilegeEscalation = nil
		}},
		{"secret", "capabilities", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.SecurityContext.Capabilities = nil }},
		{"secret", "seccomp", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.SecurityContext.SeccompProfile = nil }},
		{"secret", "the same user", func(_ *manifests, pod *corev1.PodSpec, s *corev1.Container) {
			pod.Containers[0].SecurityContext.RunAsUser = s.SecurityContext.RunAsUser
		}},
		{"secret", "shared processes", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.ShareProcessNamespace = &yes }},
		{"secret", "the node's network", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.HostNetwork = true }},
		{"secret", "the node's processes", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.HostPID = true }},
		{"secret", "Kubernetes' token", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.AutomountServiceAccountToken = nil }},
		{"secret", "no requests", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.Resources.Requests = nil }},
		{"secret", "no limit", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.Resources.Limits = nil }},
		{"secret", "image", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.Image = "token-proxy" }},
		{"secret", "secret in the application", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			mount(&pod.Containers[0], "token-proxy-secret")
		}},
		{"secret", "admin socket in the application", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			mount(&pod.Containers[0], "token-proxy-admin")
		}},
		{"secret", "secret in another init container", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			pod.InitContainers = append(pod.InitContainers, corev1.Container{Name: "migrate"})
			mount(&pod.InitContainers[1], "token-proxy-secret")
		}},
		{"secret", "secret in the environment", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			pod.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}}
		}},
		{"secret", "subPath", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.VolumeMounts[1].SubPath = "x" }},
		{"secret", "no volume", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.Volumes = pod.Volumes[:2] }},
		{"secret", "mode", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			*volume(pod, "token-proxy-secret").Secret.DefaultMode = 0o400
		}},
		{"secretless", "no variable", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.Env = nil }},
		{"secretless", "no audience", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			volume(pod, "token-proxy-secret").Projected.Sources[0].ServiceAccountToken.Audience = ""
		}},
		{"secretless", "too short a life", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			*volume(pod, "token-proxy-secret").Projected.Sources[0].ServiceAccountToken.ExpirationSeconds = 60
		}},
		{"secretless", "another account", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.ServiceAccountName = "default" }},
		{"several-credentials", "a file is missing", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			volume(pod, "token-proxy-secret").Projected.Sources[1].Secret.Items[0].Path = "returns/clientid"
		}},
		{"tenants", "a Secret that must be there", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			volume(pod, "token-proxy-secret").Projected.Sources[1].Secret.Optional = nil
		}},
		{"tenants", "a store without a file", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			secret := volume(pod, "token-proxy-secret").Projected.Sources[1].Secret
			secret.Items = secret.Items[:1]
		}},
		{"tenants", "the folder of another store", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			volume(pod, "token-proxy-secret").Projected.Sources[1].Secret.Items[1].Path = "berlin/client-secret"
		}},
		{"tenants", "an id in place of the secret", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			volume(pod, "token-proxy-secret").Projected.Sources[1].Secret.Items[1].Key = "client-id"
		}},
		{"tenants", "not the name of a tenant", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			for i, item := range volume(pod, "token-proxy-secret").Projected.Sources[1].Secret.Items {
				volume(pod, "token-proxy-secret").Projected.Sources[1].Secret.Items[i].Path = strings.Replace(item.Path, "milan", "Milan", 1)
			}
		}},
		{"tenants", "mode", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			*volume(pod, "token-proxy-secret").Projected.DefaultMode = 0o400
		}},
		{"tenants", "subPath", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) { s.VolumeMounts[1].SubPath = "berlin" }},
		{"tenants", "the folder of one store is mounted", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) {
			s.VolumeMounts[1].MountPath += "/berlin"
		}},
		{"many-tenants", "items", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			volume(pod, "token-proxy-client-ids").Secret.Items = []corev1.KeyToPath{{Key: "berlin", Path: "berlin"}}
		}},
		{"many-tenants", "mode", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			*volume(pod, "token-proxy-client-ids").Secret.DefaultMode = 0o400
		}},
		{"many-tenants", "no ids", func(_ *manifests, _ *corev1.PodSpec, s *corev1.Container) {
			s.VolumeMounts = slices.DeleteFunc(s.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "token-proxy-client-ids" })
		}},
		{"many-tenants", "ids in the application", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			mount(&pod.Containers[0], "token-proxy-client-ids")
		}},
		{"unix-socket", "not mounted in the application", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) { pod.Containers[0].VolumeMounts = nil }},
		{"unix-socket", "the application could replace it", func(_ *manifests, pod *corev1.PodSpec, _ *corev1.Container) {
			pod.Containers[0].VolumeMounts[0].ReadOnly = false
		}},
		{"secret", "admin API on TCP", caddyfileWithout("\tadmin unix//run/token-proxy/admin.sock\n")},
		{"tenants", "warnings about HTTP/2", caddyfileWithout("\tservers {\n\t\tprotocols h1\n\t}\n")},
		{"tenants", "a warning about the admin API", caddyfileWithout("\tlog {\n\t\texclude admin\n\t}\n")},
		{"secret", "not bound", caddyfileWithout("\tbind loopback/localhost\n")},
		{"secret", "no answer for probes", caddyfileWithout("\thandle /ready {\n\t\ttoken_proxy_ready\n\t}\n")},
		{"secret", "open to all", caddyfileWithout("127.0.0.1:8080, http://localhost")},
		{"secret", "policy for another pod", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.PodSelector.MatchLabels["token-proxy"] = "none"
		}},
		{"secret", "policy for every pod", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.PodSelector.MatchLabels = nil
		}},
		{"secret", "policy admits the port of the probes", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.Ingress[0].Ports[0].Port.StrVal = "token-proxy"
		}},
		{"secret", "policy admits all ports", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) { m.policies[0].Spec.Ingress[0].Ports = nil }},
		{"secret", "policy in one direction", func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
			m.policies[0].Spec.PolicyTypes = m.policies[0].Spec.PolicyTypes[:1]
		}},
	}
	for _, test := range tests {
		t.Run(test.variant+"/"+test.name, func(t *testing.T) {
			m := load(t, test.variant)
			pod := &m.workloads[0].template.Spec
			test.change(m, pod, &pod.InitContainers[0])
			if complaints := complain(m); len(complaints) == 0 {
				t.Error("got no complaint")
			} else {
				t.Log(complaints)
			}
		})
	}
}

func mount(c *corev1.Container, name string) {
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/stolen"})
}

func caddyfileWithout(line string) func(*manifests, *corev1.PodSpec, *corev1.Container) {
	return func(m *manifests, _ *corev1.PodSpec, _ *corev1.Container) {
		for _, cm := range m.configMaps {
			cm.Data["Caddyfile"] = strings.Replace(cm.Data["Caddyfile"], line, "", 1)
		}
	}
}

// TestAnyWorkload adds the component to workloads of each kind, with every optional field and with none. The component must
// not change what was there.
func TestAnyWorkload(t *testing.T) {
	for name, spec := range map[string]string{
		"nothing": "containers: [{name: a, image: a}]",
		"everything": `
securityContext: {fsGroup: 1000, runAsUser: 1000}
serviceAccountName: robot
initContainers:
  - {name: migrate, image: migrate, env: [{name: A, value: b}]}
  - {name: mesh, image: mesh, restartPolicy: Always}
containers:
  - {name: a, image: a, ports: [{containerPort: 8000}], volumeMounts: [{name: data, mountPath: /data}]}
  - {name: b, image: b}
volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]`,
	} {
		t.Run(name, func(t *testing.T) {
			plain := anyWorkload(t, spec, "")
			mixed := anyWorkload(t, spec, "components: [../sidecar]\n")
			if mixed.Labels["token-proxy"] != "sidecar" || mixed.Labels["a"] != "b" {
				t.Errorf("labels are %v", mixed.Labels)
			}
			pod := mixed.Spec
			if pod.InitContainers[0].Name != sidecarName {
				t.Fatalf("%s starts before the sidecar", pod.InitContainers[0].Name)
			}
			pod.InitContainers = pod.InitContainers[1:]
			pod.Volumes = slices.DeleteFunc(pod.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, "token-proxy-") })
			if len(mixed.Spec.Volumes)-len(plain.Spec.Volumes) != 3 {
				t.Errorf("volumes are %v", mixed.Spec.Volumes)
			}
			for _, list := range []any{&pod.InitContainers, &pod.Volumes, &plain.Spec.InitContainers, &plain.Spec.Volumes} {
				if v := reflect.ValueOf(list).Elem(); v.Len() == 0 {
					v.SetZero()
				}
			}
			if !reflect.DeepEqual(pod, plain.Spec) {
				t.Errorf("the component changed the rest to\n%+v\nwant\n%+v", pod, plain.Spec)
			}
		})
	}
}

// kinds are the kinds of workloads, with their group and the path to their pod template. A Pod and a ReplicaSet are not
// reached, because a controller or a person makes them otherwise.
var kinds = map[string][]string{
	"Deployment":  {"apps/v1", "spec"},
	"StatefulSet": {"apps/v1", "spec"},
	"DaemonSet":   {"apps/v1", "spec"},
	"Job":         {"batch/v1", "spec"},
	"CronJob":     {"batch/v1", "spec", "jobTemplate", "spec"},
}

// anyWorkload builds a workload of each kind with a pod, under two names, and returns the pod template, which must be the
// same in all of them.
func anyWorkload(t *testing.T, spec, components string) corev1.PodTemplateSpec {
	t.Helper()
	var documents []string
	for kind, at := range kinds {
		for _, name := range []string{"one", "two"} {
			documents = append(documents, document(kind, name, spec, at))
		}
	}
	m := buildWith(t, strings.Join(documents, "---\n"), components)
	if len(m.workloads) != len(documents) {
		t.Fatalf("got %d workloads, want %d", len(m.workloads), len(documents))
	}
	for _, w := range m.workloads[1:] {
		if !reflect.DeepEqual(w.template, m.workloads[0].template) {
			t.Errorf("%s has another pod than %s", w.id, m.workloads[0].id)
		}
	}
	return *m.workloads[0].template
}

// document is the manifest of a workload.
func document(kind, name, spec string, at []string) string {
	text := "apiVersion: " + at[0] + "\nkind: " + kind + "\nmetadata: {name: " + name + "}\n"
	indent := ""
	for _, field := range at[1:] {
		text += indent + field + ":\n"
		indent += "  "
	}
	return text + indent + "template:\n" + indent + "  metadata: {labels: {a: b}}\n" + indent + "  spec:\n" +
		strings.ReplaceAll("\n"+spec, "\n", "\n"+indent+"    ") + "\n"
}

// buildWith builds a kustomization of these workloads, beside the component.
func buildWith(t *testing.T, workloads, components string) *manifests {
	t.Helper()
	fs := filesys.MakeFsInMemory()
	write := func(name string, content []byte) {
		if err := fs.WriteFile(name, content); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"kustomization.yaml", "sidecar.yaml", "cron-job.yaml"} {
		content, err := os.ReadFile("../sidecar/" + file)
		if err != nil {
			t.Fatal(err)
		}
		write("/sidecar/"+file, content)
	}
	write("/mine/workloads.yaml", []byte(workloads))
	write("/mine/kustomization.yaml", []byte("resources: [workloads.yaml]\n"+components))
	return build(t, fs, "/mine")
}

// TestMissedWorkload checks that a workload that no target of the component matches is an error.
func TestMissedWorkload(t *testing.T) {
	const spec = "containers: [{name: a, image: a}]"
	for kind, at := range map[string][]string{"ReplicaSet": {"apps/v1", "spec"}, "Deployment": {"apps/v1", "spec"}} {
		m := buildWith(t, document(kind, "one", spec, at), "components: [../sidecar]\n")
		if missed := m.withoutSidecar(); (len(missed) > 0) != (kind == "ReplicaSet") {
			t.Errorf("%s: missed are %q", kind, missed)
		}
	}
}
