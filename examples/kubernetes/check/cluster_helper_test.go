//go:build cluster

package check

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// The images of the tests on a cluster. Each is one that the nodes have, or can pull.
var (
	proxyImage  = os.Getenv("TOKEN_PROXY_IMAGE")
	clientImage = cmp.Or(os.Getenv("TOKEN_PROXY_CLIENT_IMAGE"), "curlimages/curl:8.17.0") // with sh, nc and curl
	loopImage   = cmp.Or(os.Getenv("TOKEN_PROXY_LOOP_IMAGE"), "busybox:1.37.0")           // that of the rehearsal
	redisImage  = cmp.Or(os.Getenv("TOKEN_PROXY_REDIS_IMAGE"), "redis:8.4.0")
)

// starts is how long pods may take to start, with the pull of an image.
const starts = 3 * time.Minute

// space is a namespace of a test, of the kind `restricted`.
type space struct {
	*testing.T
	name string
}

// newSpace makes a namespace that is removed at the end of the test.
func newSpace(t *testing.T, purpose string) *space {
	t.Helper()
	for variable, value := range map[string]string{"KUBECONFIG": os.Getenv("KUBECONFIG"), "TOKEN_PROXY_IMAGE": proxyImage} {
		if value == "" {
			t.Fatalf("set %s, as the section Test of the README describes", variable)
		}
	}
	s := &space{t, "token-proxy-test-" + purpose + "-" + strings.ToLower(rand.Text()[:6])}
	s.Cleanup(func() {
		if t.Failed() {
			s.logState()
		}
		if out, err := kubectl(nil, "delete", "namespace", s.name, "--wait=false"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	s.must(kubectl(nil, "create", "namespace", s.name))
	level := "pod-security.kubernetes.io/"
	s.must(kubectl(nil, "label", "namespace", s.name, level+"enforce=restricted", level+"warn=restricted"))
	return s
}

// kubectl returns what kubectl prints, with its warnings.
func kubectl(input []byte, args ...string) (string, error) {
	command := exec.Command("kubectl", args...)
	command.Stdin = bytes.NewReader(input)
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), err
}

func (s *space) must(out string, err error) string {
	s.Helper()
	if err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	return out
}

// try runs kubectl in the namespace.
func (s *space) try(args ...string) (string, error) {
	return kubectl(nil, append([]string{"--namespace", s.name}, args...)...)
}

// kubectl runs kubectl in the namespace, and fails the test if it fails.
func (s *space) kubectl(args ...string) string {
	s.Helper()
	return s.must(s.try(args...))
}

// logState logs what a person would look at.
func (s *space) logState() {
	pods, _ := s.try("describe", "pods")
	s.Logf("the pods of %s:\n%s", s.name, pods)
	for _, selector := range []string{"token-proxy=sidecar", "token-proxy=inject"} {
		log, _ := s.try("logs", "--selector", selector, "--container", sidecarName, "--tail", "20", "--prefix")
		s.Logf("the sidecars with %s:\n%s", selector, log)
	}
}

// eventually waits for a condition, which returns what it saw.
func (s *space) eventually(limit time.Duration, what string, condition func() (saw string, ok bool)) {
	s.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(300 * time.Millisecond) {
		saw, ok := condition()
		if ok {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("after %v, still not: %s; saw %s", limit, what, saw)
		}
	}
}

// apply applies a folder of the examples with the images of the test. change changes each object before.
func (s *space) apply(folder string, change func(runtime.Object)) {
	s.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../"+folder)
	if err != nil {
		s.Fatal(err)
	}
	var objects []runtime.Object
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			s.Fatal(err)
		}
		object, err := decode(text)
		if err != nil {
			s.Fatal(err)
		}
		change(object)
		objects = append(objects, object)
	}
	s.applyAll(folder, objects)
}

// applyAll applies objects of a folder with the images of the test.
func (s *space) applyAll(folder string, objects []runtime.Object) {
	s.Helper()
	var all bytes.Buffer
	for _, object := range objects {
		if template := templateOf(object); template != nil {
			setImages(&template.Spec)
		}
		text, err := yaml.Marshal(object)
		if err != nil {
			s.Fatal(err)
		}
		fmt.Fprintf(&all, "---\n%s", text)
	}
	out := s.must(kubectl(all.Bytes(), "--namespace", s.name, "apply", "--server-side", "--validate=strict", "--filename", "-"))
	if strings.Contains(out, "Warning") {
		s.Errorf("%s: a namespace of the kind restricted warns: %s", folder, out)
	}
}

func setImages(pod *corev1.PodSpec) {
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			switch image := containers[i].Image; {
			case strings.Contains(image, "/token-proxy:"):
				containers[i].Image = proxyImage
			case strings.HasPrefix(image, "redis:"):
				containers[i].Image = redisImage
			case strings.HasPrefix(image, "busybox:"):
				containers[i].Image = loopImage
			default:
				containers[i].Image = clientImage
			}
		}
	}
}

// secret creates a Secret of pairs of keys and values.
func (s *space) secret(name string, pairs ...string) {
	s.Helper()
	args := []string{"create", "secret", "generic", name}
	for i := 0; i < len(pairs); i += 2 {
		args = append(args, "--from-literal", pairs[i]+"="+pairs[i+1])
	}
	s.kubectl(args...)
}

// client creates the Secret of a client.
func (s *space) client(name, id, secret string) {
	s.Helper()
	s.secret(name, "client-id", id, "client-secret", secret)
}

// ready waits for a workload.
func (s *space) ready(workload string) {
	s.Helper()
	s.kubectl("rollout", "status", workload, "--timeout", starts.String())
}

// sidecar runs the command line in the sidecar of a workload.
func (s *space) sidecar(workload string, args ...string) (string, error) {
	args = append([]string{"exec", workload, "--container", sidecarName, "--", "/usr/bin/token-proxy"}, args...)
	return s.try(append(args, "--config", "/etc/token-proxy/Caddyfile")...)
}

// pod returns the one pod of a Deployment that is not about to end.
func (s *space) pod(name string) *corev1.Pod {
	s.Helper()
	var list corev1.PodList
	text := s.kubectl("get", "pods", "--selector", "app.kubernetes.io/name="+name, "--output", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		s.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			return &list.Items[i]
		}
	}
	s.Fatalf("no pod of %s", name)
	return nil
}

// crash lets the process of the sidecar, or of a gateway, crash.
func (s *space) crash(pod string) {
	s.Helper()
	// A container of the same user in the sidecar's namespace of processes. The kernel does not deliver SIGKILL to the first
	// process of a namespace. Go's runtime crashes with SIGABRT.
	crash, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []corev1.EphemeralContainer{{
		TargetContainerName: sidecarName,
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "crash", Image: loopImage, Command: []string{"sh", "-c", "kill -ABRT 1"},
			SecurityContext: &corev1.SecurityContext{
				RunAsUser: new(int64(65532)), AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		},
	}}}})
	if err != nil {
		s.Fatal(err)
	}
	s.kubectl("patch", "pod", pod, "--subresource", "ephemeralcontainers", "--patch", string(crash))
}

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func statusOf(pod *corev1.Pod, container string) (status corev1.ContainerStatus) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range statuses {
			if s.Name == container {
				return s
			}
		}
	}
	return status
}

// logged returns the time of the last line of a container's log that has the message, and whether it has one.
func (s *space) logged(workload, container, message string) (at time.Time, ok bool) {
	s.Helper()
	for line := range strings.Lines(s.kubectl("logs", workload, "--container", container)) {
		var entry struct {
			Time    float64 `json:"ts"`
			Message string  `json:"msg"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == message {
			at, ok = time.UnixMicro(int64(entry.Time*1e6)), true
		}
	}
	return at, ok
}

// caddyfileOfSidecar returns the object if it is the ConfigMap with the Caddyfile of the sidecar, or nil.
func caddyfileOfSidecar(object runtime.Object) *corev1.ConfigMap {
	if cm, ok := object.(*corev1.ConfigMap); ok && strings.HasPrefix(cm.Name, sidecarName+"-") && cm.Data["Caddyfile"] != "" {
		return cm
	}
	return nil
}

// templateNamed returns the pod template of an object with this name, or nil.
func templateNamed(object runtime.Object, name string) *corev1.PodTemplateSpec {
	if named, ok := object.(metav1.Object); ok && named.GetName() == name {
		return templateOf(object)
	}
	return nil
}
