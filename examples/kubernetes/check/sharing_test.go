package check

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
)

const redisName = "token-proxy-redis"

// takeRedis removes the objects of Redis, and returns them.
func (m *manifests) takeRedis() *manifests {
	return &manifests{
		workloads:   take(&m.workloads, workload.name),
		deployments: take(&m.deployments, (*appsv1.Deployment).GetName),
		services:    take(&m.services, (*corev1.Service).GetName),
		policies:    take(&m.policies, (*networkingv1.NetworkPolicy).GetName),
		configMaps:  takeConfigMaps(m),
	}
}

// take removes the objects of Redis from a list, and returns them.
func take[T any](all *[]T, name func(T) string) (taken []T) {
	*all = slices.DeleteFunc(*all, func(object T) bool {
		if name(object) != redisName {
			return false
		}
		taken = append(taken, object)
		return true
	})
	return taken
}

func takeConfigMaps(m *manifests) map[string]*corev1.ConfigMap {
	taken := make(map[string]*corev1.ConfigMap)
	maps.DeleteFunc(m.configMaps, func(name string, object *corev1.ConfigMap) bool {
		if !strings.HasPrefix(name, redisName+"-") {
			return false
		}
		taken[name] = object
		return true
	})
	return taken
}

func loadSharing(t *testing.T) *manifests {
	t.Helper()
	m := load(t, "sharing")
	if r := m.redis; len(r.deployments) != 1 || len(r.services) != 1 || len(r.policies) != 1 || len(r.configMaps) != 1 {
		t.Fatalf("got %d Deployments, %d Services, %d NetworkPolicies, %d ConfigMaps of Redis, want one of each",
			len(r.deployments), len(r.services), len(r.policies), len(r.configMaps))
	}
	return m
}

// makeSecrets returns the files that secrets.sh makes, by name.
func makeSecrets(t *testing.T) map[string]string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("NOT TESTED: openssl is not installed, so the secrets of the variant sharing are not checked")
	}
	folder := t.TempDir()
	if out, err := exec.Command("../redis/secrets.sh", folder).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, entry := range entries {
		content, err := os.ReadFile(folder + "/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v", entry.Name(), info.Mode(), err)
		}
		files[entry.Name()] = string(content)
	}
	return files
}

func TestSharing(t *testing.T) {
	m, secrets := loadSharing(t), makeSecrets(t)
	for _, complaint := range complainOfRedis(m, secrets) {
		t.Error(complaint)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range secrets {
		if !strings.Contains(string(readme), "--from-file=secrets/"+name) {
			t.Errorf("README.md puts %s into no Secret", name)
		}
	}
}

// TestSecretsStay checks that secrets.sh replaces only what is missing.
func TestSecretsStay(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("NOT TESTED: openssl is not installed")
	}
	folder := t.TempDir()
	made := func() (files [4]string) {
		if out, err := exec.Command("../redis/secrets.sh", folder).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for i, name := range []string{"key", "other-key", "redis-password", "users.acl"} {
			content, err := os.ReadFile(folder + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			files[i] = string(content)
		}
		return files
	}
	first := made()
	if first[0] == first[1] || len(first[0]) < 32 || made() != first {
		t.Error("the keys are equal or short, or a second run replaces a file")
	}
	if err := os.Remove(folder + "/redis-password"); err != nil {
		t.Fatal(err)
	}
	if second := made(); second[0] != first[0] || second[1] != first[1] || second[2] == first[2] || second[3] == first[3] {
		t.Error("a new password changes the keys, or does not change users.acl")
	}
}

var (
	addressOf  = regexp.MustCompile(`(?m)^\t+address (\S+):(\d+)$`)
	usernameOf = regexp.MustCompile(`(?m)^\t+username (\S+)$`)
	pinned     = regexp.MustCompile(`^redis(:\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$`)
)

// setting returns the value of a directive of redis.conf.
func setting(conf, name string) string {
	for line := range strings.Lines(conf) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			return value
		}
	}
	return ""
}

// complainOfRedis returns the faults of Redis, and of what the application's pods have in common with it. secrets are the
// files that secrets.sh makes.
func complainOfRedis(m *manifests, secrets map[string]string) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	shop, redis := m.deployments[0].Spec, m.redis.deployments[0].Spec
	pod := redis.Template.Spec
	if len(pod.InitContainers) != 0 || len(pod.Containers) != 1 {
		return []string{"the pod of Redis has another container, such as the sidecar"}
	}
	container := pod.Containers[0]
	if shop.Replicas == nil || *shop.Replicas < 2 {
		bad("one replica alone shares nothing")
	}
	if redis.Replicas == nil || *redis.Replicas != 1 || redis.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		bad("two Redis can run at a time, and the replicas would divide between them")
	}
	if !labels.SelectorFromSet(redis.Selector.MatchLabels).Matches(labels.Set(redis.Template.Labels)) {
		bad("the Deployment does not select its pods")
	}

	// The configuration and the users.
	conf := ""
	for name, configMap := range m.redis.configMaps {
		v := volume(&pod, "config")
		if mount := mountOf(&container, "/etc/redis/redis.conf"); mount == nil || !mount.ReadOnly || mount.Name != "config" ||
			v == nil || v.ConfigMap == nil || v.ConfigMap.Name != name || !stableName.MatchString(name) {
			bad("Redis does not get its configuration, or its name has no hash")
		}
		conf = configMap.Data["redis.conf"]
	}
	if !slices.Equal(container.Command, []string{"redis-server", "/etc/redis/redis.conf"}) || container.Args != nil {
		bad("Redis does not read its configuration")
	}
	for name, want := range map[string]string{
		"maxmemory-policy": "noeviction", "save": `""`, "appendonly": "no", "bind": "* -::*", "protected-mode": "",
	} {
		if got := setting(conf, name); got != want {
			bad("redis.conf: %s is %q, want %q", name, got, want)
		}
	}
	acl := setting(conf, "aclfile")
	if mount := mountOf(&container, acl); mount == nil || !mount.ReadOnly {
		bad("no mount has %s", acl)
	} else if v, file := volume(&pod, mount.Name), strings.TrimPrefix(acl, mount.MountPath+"/"); v == nil || !provides(v, file) ||
		v.Secret == nil || v.Secret.SecretName != redisName || secrets[file] == "" {
		bad("%s: the Secret lacks the file, or Redis cannot read it", acl)
	}
	caddyfile := caddyfileOf(m, 0)
	if name := usernameOf.FindStringSubmatch(caddyfile); name == nil || !strings.Contains(secrets["users.acl"], "\nuser "+name[1]+" on #") ||
		!strings.HasPrefix(secrets["users.acl"], "user default off\n") {
		bad("users.acl does not have the sidecar's user, or leaves the user `default` on")
	}

	// The Secret of the sidecars.
	for _, source := range volume(&shop.Template.Spec, "token-proxy-secret").Projected.Sources {
		if source.Secret == nil || source.Secret.Name == "token-proxy" {
			continue
		}
		for _, item := range source.Secret.Items {
			if secrets[item.Key] == "" || item.Key == "users.acl" || !strings.Contains(caddyfile, "/"+item.Path+"}") {
				bad("%s is not made by secrets.sh, or the Caddyfile does not read %s", item.Key, item.Path)
			}
		}
	}

	// The privileges and the memory.
	if s := container.SecurityContext; !restricted(s) || s.RunAsUser == nil || *s.RunAsUser == 0 {
		bad("the securityContext of Redis does not satisfy `restricted`, or the root is writable")
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		bad("the token for the Kubernetes API is mounted in Redis")
	}
	most, err := resource.ParseQuantity(strings.Replace(setting(conf, "maxmemory"), "mb", "Mi", 1))
	requests, limits := container.Resources.Requests, container.Resources.Limits
	if most.Add(resource.MustParse("16Mi")); err != nil || limits.Memory().Cmp(most) < 0 || requests.Memory().IsZero() || !limits.Cpu().IsZero() {
		bad("resources: Redis needs requests, and a limit of memory with room above maxmemory")
	}
	if !pinned.MatchString(container.Image) {
		bad("the image is %q", container.Image)
	}
	if p := container.ReadinessProbe; p == nil || p.Exec == nil || !slices.Equal(p.Exec.Command, []string{"redis-cli", "PING"}) || p.TimeoutSeconds < 2 {
		bad("the readinessProbe does not ask Redis")
	}
	if container.LivenessProbe != nil {
		bad("a livenessProbe would lose tokens")
	}

	return append(complaints, complainOfConnection(m, conf)...)
}

// complainOfConnection returns what is in the way between the sidecars and Redis, and what else is open.
func complainOfConnection(m *manifests, conf string) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	shop, redis := labels.Set(m.deployments[0].Spec.Template.Labels), labels.Set(m.redis.deployments[0].Spec.Template.Labels)
	port := setting(conf, "port")
	number, _ := strconv.ParseInt(port, 10, 32)
	named := m.redis.deployments[0].Spec.Template.Spec.Containers[0].Ports
	if len(named) != 1 || named[0].Name != "redis" || named[0].ContainerPort != int32(number) {
		bad("the port of the container is not %s", port)
	}
	service := m.redis.services[0]
	if !labels.SelectorFromSet(service.Spec.Selector).Matches(redis) || len(service.Spec.Selector) == 0 ||
		len(service.Spec.Ports) != 1 || service.Spec.Ports[0].TargetPort.String() != "redis" {
		bad("the Service does not lead to Redis")
	} else if address := addressOf.FindStringSubmatch(caddyfileOf(m, 0)); address == nil || address[1] != service.Name ||
		address[2] != fmt.Sprint(service.Spec.Ports[0].Port) {
		bad("the address in the Caddyfile is not that of the Service")
	}

	policy := m.redis.policies[0].Spec
	selector := labels.SelectorFromSet(policy.PodSelector.MatchLabels)
	if selector.Empty() || !selector.Matches(redis) || selector.Matches(shop) || len(policy.PolicyTypes) != 2 {
		bad("the NetworkPolicy of Redis does not apply to Redis alone, in both directions")
	}
	if len(policy.Egress) != 0 {
		bad("Redis may connect to something")
	}
	if len(policy.Ingress) != 1 || !onlyPods(policy.Ingress[0].From, shop, redis) || !onlyPort(policy.Ingress[0].Ports, "redis") {
		bad("the NetworkPolicy of Redis does not admit the pods with the sidecar, or admits more")
	}
	reached := 0
	for _, rule := range m.policies[0].Spec.Egress {
		if onlyPods(rule.To, redis, shop) && onlyPort(rule.Ports, port) {
			reached++
		}
	}
	if reached != 1 || len(m.policies[0].Spec.Egress) != 5 {
		bad("the NetworkPolicy of the sidecar does not admit the connection to Redis, or admits more")
	}
	return complaints
}

// onlyPods reports whether peers are pods of the same namespace with some labels, and not those with others.
func onlyPods(peers []networkingv1.NetworkPolicyPeer, with, without labels.Set) bool {
	if len(peers) != 1 || peers[0].PodSelector == nil || peers[0].NamespaceSelector != nil || peers[0].IPBlock != nil {
		return false
	}
	selector := labels.SelectorFromSet(peers[0].PodSelector.MatchLabels)
	return !selector.Empty() && selector.Matches(with) && !selector.Matches(without)
}

// onlyPort reports whether ports are one port of TCP.
func onlyPort(ports []networkingv1.NetworkPolicyPort, port string) bool {
	return len(ports) == 1 && ports[0].Port != nil && ports[0].Port.String() == port && ports[0].EndPort == nil &&
		(ports[0].Protocol == nil || *ports[0].Protocol == corev1.ProtocolTCP)
}

// TestComplaintsOfRedis breaks the rules one at a time, and checks that complainOfRedis notices each.
func TestComplaintsOfRedis(t *testing.T) {
	type change = func(m *manifests, redis *appsv1.DeploymentSpec, c *corev1.Container, secrets map[string]string)
	conf := func(from, to string) change {
		return func(m *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			for _, configMap := range m.redis.configMaps {
				configMap.Data["redis.conf"] = replaced(t, configMap.Data["redis.conf"], from, to)
			}
		}
	}
	caddyfile := func(from, to string) change {
		return func(m *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			for _, configMap := range m.configMaps {
				configMap.Data["Caddyfile"] = replaced(t, configMap.Data["Caddyfile"], from, to)
			}
		}
	}
	policies := func(change func(redis, shop *networkingv1.NetworkPolicySpec)) change {
		return func(m *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			change(&m.redis.policies[0].Spec, &m.policies[0].Spec)
		}
	}
	service := func(change func(s *corev1.Service)) change {
		return func(m *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			change(m.redis.services[0])
		}
	}
	container := func(change func(c *corev1.Container)) change {
		return func(_ *manifests, _ *appsv1.DeploymentSpec, c *corev1.Container, _ map[string]string) { change(c) }
	}
	tests := map[string]change{
		"a sidecar in Redis": func(m *manifests, redis *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			redis.Template.Spec.InitContainers = m.deployments[0].Spec.Template.Spec.InitContainers
		},
		"one replica": func(m *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			*m.deployments[0].Spec.Replicas = 1
		},
		"two Redis": func(_ *manifests, redis *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			*redis.Replicas = 2
		},
		"two Redis during a rollout": func(_ *manifests, redis *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			redis.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
		},
		"other labels": func(_ *manifests, redis *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			redis.Selector.MatchLabels = map[string]string{"a": "b"}
		},
		"the token for Kubernetes": func(_ *manifests, redis *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			redis.Template.Spec.AutomountServiceAccountToken = nil
		},
		"another Secret": func(_ *manifests, redis *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			volume(&redis.Template.Spec, "secret").Secret.SecretName = "token-proxy-share"
		},
		"another file of a Secret": func(m *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, _ map[string]string) {
			volume(&m.deployments[0].Spec.Template.Spec, "token-proxy-secret").Projected.Sources[1].Secret.Items[0].Key = "clef"
		},
		"users.acl is missing": func(_ *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, secrets map[string]string) {
			delete(secrets, "users.acl")
		},
		"the user default is on": func(_ *manifests, _ *appsv1.DeploymentSpec, _ *corev1.Container, secrets map[string]string) {
			secrets["users.acl"] = replaced(t, secrets["users.acl"], "default off", "default on")
		},
		"another user":           caddyfile("username token-proxy", "username app"),
		"another address":        caddyfile("address token-proxy-redis:6379", "address redis:6379"),
		"another port":           caddyfile("token-proxy-redis:6379", "token-proxy-redis:6380"),
		"a key that is not read": caddyfile("/share/other-key}", "/share/key}"),
		"evictions":              conf("noeviction", "allkeys-lru"),
		"snapshots":              conf(`save ""`, "save 60 1"),
		"a log of changes":       conf("appendonly no", "appendonly yes"),
		"no ACL file":            conf("aclfile", "#"),
		"ACL file elsewhere":     conf("/run/secrets/redis/", "/etc/"),
		"loopback only":          conf("bind * -::*", "bind 127.0.0.1"),
		"no protected mode":      conf("appendonly no", "appendonly no\nprotected-mode no"),
		"too much memory":        conf("32mb", "64mb"),
		"memory without a bound": conf("maxmemory 32mb", ""),
		"Redis on another port":  conf("port 6379", "port 6380"),
		"the image's entrypoint": container(func(c *corev1.Container) { c.Command = nil }),
		"arguments":              container(func(c *corev1.Container) { c.Args = []string{"--save", "60"} }),
		"a writable root":        container(func(c *corev1.Container) { c.SecurityContext.ReadOnlyRootFilesystem = nil }),
		"root":                   container(func(c *corev1.Container) { *c.SecurityContext.RunAsUser = 0 }),
		"a capability":           container(func(c *corev1.Container) { c.SecurityContext.Capabilities.Add = []corev1.Capability{"CHOWN"} }),
		"privileges":             container(func(c *corev1.Container) { c.SecurityContext.AllowPrivilegeEscalation = nil }),
		"seccomp":                container(func(c *corev1.Container) { c.SecurityContext.SeccompProfile = nil }),
		"no limit":               container(func(c *corev1.Container) { c.Resources.Limits = nil }),
		"the latest image":       container(func(c *corev1.Container) { c.Image = "redis:latest" }),
		"no probe":               container(func(c *corev1.Container) { c.ReadinessProbe = nil }),
		"a livenessProbe":        container(func(c *corev1.Container) { c.LivenessProbe = c.ReadinessProbe }),
		"no configuration":       container(func(c *corev1.Container) { c.VolumeMounts = c.VolumeMounts[1:] }),
		"no Secret":              container(func(c *corev1.Container) { c.VolumeMounts = c.VolumeMounts[:1] }),
		"no port":                container(func(c *corev1.Container) { c.Ports = nil }),
		"a Service without pods": service(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"a": "b"} }),
		"a Service for all pods": service(func(s *corev1.Service) { s.Spec.Selector = nil }),
		"a Service elsewhere":    service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.StrVal = "http" }),
		"the Service's port":     service(func(s *corev1.Service) { s.Spec.Ports[0].Port = 80 }),
		"no one may enter":       policies(func(redis, _ *networkingv1.NetworkPolicySpec) { redis.Ingress = nil }),
		"all pods may enter":     policies(func(redis, _ *networkingv1.NetworkPolicySpec) { redis.Ingress[0].From = nil }),
		"any port":               policies(func(redis, _ *networkingv1.NetworkPolicySpec) { redis.Ingress[0].Ports = nil }),
		"other pods may enter":   policies(func(redis, _ *networkingv1.NetworkPolicySpec) { redis.Ingress[0].From[0].PodSelector.MatchLabels = nil }),
		"other namespaces": policies(func(redis, _ *networkingv1.NetworkPolicySpec) {
			redis.Ingress[0].From[0].NamespaceSelector = redis.PodSelector.DeepCopy()
		}),
		"Redis may connect":     policies(func(redis, shop *networkingv1.NetworkPolicySpec) { redis.Egress = shop.Egress }),
		"one direction":         policies(func(redis, _ *networkingv1.NetworkPolicySpec) { redis.PolicyTypes = redis.PolicyTypes[:1] }),
		"a policy for all pods": policies(func(redis, _ *networkingv1.NetworkPolicySpec) { redis.PodSelector.MatchLabels = nil }),
		"no way to Redis":       policies(func(_, shop *networkingv1.NetworkPolicySpec) { shop.Egress = shop.Egress[:4] }),
		"a way to all pods":     policies(func(_, shop *networkingv1.NetworkPolicySpec) { shop.Egress[4].To[0].PodSelector.MatchLabels = nil }),
		"a way to any port":     policies(func(_, shop *networkingv1.NetworkPolicySpec) { shop.Egress[4].Ports = nil }),
		"a way to a further port": policies(func(_, shop *networkingv1.NetworkPolicySpec) {
			*shop.Egress[4].Ports[0].Port = *shop.Egress[0].Ports[0].Port
		}),
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			m, secrets := loadSharing(t), makeSecrets(t)
			redis := &m.redis.deployments[0].Spec
			change(m, redis, &redis.Template.Spec.Containers[0], secrets)
			if complaints := complainOfRedis(m, secrets); len(complaints) == 0 {
				t.Error("got no complaint")
			} else {
				t.Log(complaints)
			}
		})
	}
}

func replaced(t *testing.T, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("no %q", from)
	}
	return strings.Replace(text, from, to, 1)
}
