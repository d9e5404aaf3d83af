package check

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const developmentName = "development-servers"

// developmentServers are the parts of the rehearsal that the other variants do not have.
type developmentServers struct {
	container  corev1.Container
	caddyfiles map[string]string // by their names in the container
}

// takeDevelopmentServers removes the development servers from the pod of the rehearsal, and returns them. What remains is
// checked as any variant is.
func (m *manifests) takeDevelopmentServers(t *testing.T) *developmentServers {
	t.Helper()
	pod := &m.workloads[0].template.Spec
	config := volume(pod, developmentName+"-config")
	if len(pod.InitContainers) != 2 || pod.InitContainers[0].Name != developmentName || config == nil || config.ConfigMap == nil {
		t.Fatal("the development servers do not start before the sidecar, which cannot get a token without them")
	}
	taken := &developmentServers{container: pod.InitContainers[0]}
	pod.InitContainers = pod.InitContainers[1:]
	if files := m.configMaps[config.ConfigMap.Name]; files != nil {
		taken.caddyfiles = files.Data
		delete(m.configMaps, files.Name)
	}
	pod.Volumes = slices.DeleteFunc(pod.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, developmentName+"-") })
	return taken
}

// TestRehearsal checks that the development servers see nothing of the sidecar, answer only their pod, and have the
// configurations that the README loads.
func TestRehearsal(t *testing.T) {
	m := load(t, "rehearsal")
	servers, sidecar := m.development.container, m.workloads[0].sidecar()
	pod := m.workloads[0].template.Spec
	if servers.RestartPolicy == nil || *servers.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("the sidecar would wait for the end of the development servers")
	}
	if servers.Image != sidecar.Image {
		t.Errorf("the image is %s, not that of the sidecar", servers.Image)
	}
	merged := servers.SecurityContext.DeepCopy() // with what the pod sets for all its containers
	merged.RunAsNonRoot, merged.SeccompProfile = pod.SecurityContext.RunAsNonRoot, pod.SecurityContext.SeccompProfile
	if !restricted(merged) || *merged.RunAsUser == *sidecar.SecurityContext.RunAsUser {
		t.Error("the securityContext does not satisfy the Pod Security Standard `restricted`, or the user is that of the sidecar")
	}
	for _, mount := range servers.VolumeMounts {
		if !strings.HasPrefix(mount.Name, developmentName+"-") {
			t.Errorf("the development servers mount %s", mount.Name)
		}
	}

	if names := slices.Sorted(maps.Keys(m.development.caddyfiles)); !slices.Equal(names, []string{"Caddyfile", "outage.caddyfile", "revoked.caddyfile"}) {
		t.Errorf("the configurations are %q", names)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, caddyfile := range m.development.caddyfiles {
		if !strings.Contains(caddyfile, "\tadmin unix//run/token-proxy/admin.sock\n") {
			t.Errorf("%s: the admin API is not on a unix socket", name)
		}
		if sites := boundTo.FindAllStringSubmatch(caddyfile, -1); len(sites) != 1 || sites[0][2] != "127.0.0.1" {
			t.Errorf("%s: the sites are %q", name, sites)
		}
		if !strings.Contains(string(readme), "--config /etc/token-proxy/"+name+"`") {
			t.Errorf("README.md does not load %s", name)
		}
	}

	// The sidecar has the client and the addresses of the development servers.
	proxy := caddyfileOf(m, 0)
	for _, address := range regexp.MustCompile(`https?://\S+:9080|https://\S+`).FindAllString(proxy, -1) {
		if address != "http://127.0.0.1:9080" {
			t.Errorf("the sidecar calls %s", address)
		}
	}
}
