package check

import (
	"encoding/json"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestInjectorRules evaluates the rules as the API server does. The pods are those that policy.yaml has changed.
func TestInjectorRules(t *testing.T) {
	i := loadInjector(t)
	hostPath := func(path string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			source := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "host", VolumeSource: source})
		}
	}
	isTrue := true
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		denied string // a part of the message; empty if the pod is admitted
	}{
		"plain": {func(*corev1.Pod) {}, ""},
		"no annotations, but a sidecar of its own": {func(p *corev1.Pod) { p.Annotations = nil }, ""},
		"no config": {func(p *corev1.Pod) {
			p.Spec.InitContainers = nil
			delete(p.Annotations, "token-proxy/config")
		}, "lacks the annotation token-proxy/config"},
		"no secret": {func(p *corev1.Pod) {
			p.Spec.InitContainers = nil
			p.Annotations["token-proxy/secret"] = ""
		}, "lacks the annotation token-proxy/secret"},
		"hostNetwork":           {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "cannot have hostNetwork"},
		"hostPID":               {func(p *corev1.Pod) { p.Spec.HostPID = true }, "cannot have hostPID"},
		"hostIPC":               {func(p *corev1.Pod) { p.Spec.HostIPC = true }, ""},
		"shareProcessNamespace": {func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = &isTrue }, "cannot have shareProcessNamespace"},
		"mount of the config":   {mounting("token-proxy-config"), "A container mounts a volume"},
		"mount of the secret":   {mounting("token-proxy-secret"), "A container mounts a volume"},
		"mount of the admin":    {mounting("token-proxy-admin"), "A container mounts a volume"},
		"mount of another":      {mounting("data"), ""},
		"mount of the secret in an init container": {func(p *corev1.Pod) {
			mounts := []corev1.VolumeMount{{Name: "token-proxy-secret", MountPath: "/secret"}}
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "first", VolumeMounts: mounts})
		}, "A container mounts a volume"},
		"no volume of a host":  {func(p *corev1.Pod) { p.Spec.Volumes = nil }, ""},
		"/":                    {hostPath("/"), "hostPath"},
		"//":                   {hostPath("//"), "hostPath"},
		"/var":                 {hostPath("/var"), "hostPath"},
		"/var/lib/":            {hostPath("/var/lib/"), "hostPath"},
		"/var/lib/kubelet":     {hostPath("/var/lib/kubelet"), "hostPath"},
		"a folder of kubelet":  {hostPath("/var/lib/kubelet/pods"), "hostPath"},
		"an odd spelling":      {hostPath("/var/.//lib/./kubelet/pods"), "hostPath"},
		"/proc":                {hostPath("/proc"), "hostPath"},
		"/proc/1/root":         {hostPath("/proc/1/root"), "hostPath"},
		"the runtime's socket": {hostPath("/run/containerd/containerd.sock"), "hostPath"},
		"Docker's socket":      {hostPath("/var/run/docker.sock"), "hostPath"},
		"/var/log":             {hostPath("/var/log"), ""},
		"/etc/localtime":       {hostPath("/etc/localtime"), ""},
		"/var/lib/kubelet2":    {hostPath("/var/lib/kubelet2"), ""},
		"/processed":           {hostPath("/processed"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod := injectedPod()
			test.change(pod)
			wantDecision(t, i, i.validating.Spec, pod, test.denied)
		})
	}
}

// TestDebugRules does the same for ephemeral containers.
func TestDebugRules(t *testing.T) {
	i := loadInjector(t)
	rules := i.debugging.Spec
	if r := rules.MatchConstraints.ResourceRules; len(r) != 1 || r[0].Resources[0] != "pods/ephemeralcontainers" || r[0].Operations[0] != admissionv1.Update {
		t.Errorf("the rules are about %v", r)
	}
	ephemeral := func(c corev1.EphemeralContainerCommon, target string) *corev1.Pod {
		pod := injectedPod()
		pod.Labels = nil // removed before
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "earlier"}},
			{EphemeralContainerCommon: c, TargetContainerName: target},
		}
		return pod
	}
	mount := func(name string) corev1.EphemeralContainerCommon {
		return corev1.EphemeralContainerCommon{Name: "debugger", VolumeMounts: []corev1.VolumeMount{{Name: name, MountPath: "/x"}}}
	}
	wantDecision(t, i, rules, injectedPod(), "")
	wantDecision(t, i, rules, ephemeral(mount("data"), "app"), "")
	for _, name := range []string{"token-proxy-config", "token-proxy-secret", "token-proxy-admin"} {
		wantDecision(t, i, rules, ephemeral(mount(name), ""), "An ephemeral container mounts a volume")
	}
	wantDecision(t, i, rules, ephemeral(mount("data"), "token-proxy"), "as its target")
	other := ephemeral(mount("token-proxy-secret"), "") // which is a volume of its own
	other.Spec.InitContainers = nil
	wantDecision(t, i, rules, other, "")
}

func mounting(volume string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: volume, MountPath: "/x"}}
	}
}

// injectedPod returns a pod with as much of the sidecar as the rules look at.
func injectedPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      map[string]string{"token-proxy": "inject"},
			Annotations: map[string]string{"token-proxy/config": "catalog", "token-proxy/secret": "catalog"},
		},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "token-proxy", VolumeMounts: []corev1.VolumeMount{{Name: "token-proxy-secret"}}}},
			Containers:     []corev1.Container{{Name: "app"}},
			Volumes:        []corev1.Volume{{Name: "data"}, {Name: "token-proxy-secret"}},
		},
	}
}

// wantDecision checks that the rules admit a pod, or deny it with one message.
func wantDecision(t *testing.T, i injector, rules admissionv1.ValidatingAdmissionPolicySpec, pod *corev1.Pod, denied string) {
	t.Helper()
	in := map[string]any{"object": plain(t, pod), "params": plain(t, i.parameters), "variables": map[string]any{}}
	for _, condition := range rules.MatchConditions {
		if evaluate(t, condition.Expression, in) != true {
			if denied != "" {
				t.Errorf("the rules do not look at the pod, want a denial with %q", denied)
			}
			return
		}
	}
	for _, v := range rules.Variables {
		in["variables"].(map[string]any)[v.Name] = evaluate(t, v.Expression, in)
	}
	var messages []string
	for _, v := range rules.Validations {
		if evaluate(t, v.Expression, in) != true {
			messages = append(messages, v.Message)
		}
	}
	switch {
	case denied == "" && len(messages) > 0:
		t.Errorf("denied with %q", messages)
	case denied != "" && (len(messages) != 1 || !strings.Contains(messages[0], denied)):
		t.Errorf("denied with %q, want one message with %q", messages, denied)
	}
}

// plain returns an object as the API server shows it to the rules.
func plain(t *testing.T, o any) (value map[string]any) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func evaluate(t *testing.T, expression string, in map[string]any) any {
	t.Helper()
	env, err := cel.NewEnv(cel.Variable("object", cel.DynType), cel.Variable("params", cel.DynType), cel.Variable("variables", cel.DynType), ext.Strings())
	if err != nil {
		t.Fatal(err)
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		t.Fatalf("%s: %v", expression, issues.Err())
	}
	program, err := env.Program(ast)
	if err != nil {
		t.Fatal(err)
	}
	result, _, err := program.Eval(in)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return result.Value()
}
