package check

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// loadWith builds the variant `secret` with a further component.
func loadWith(t *testing.T, component string) *manifests {
	t.Helper()
	memory := filesys.MakeFsInMemory()
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(name) == ".go" {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return memory.WriteFile("/examples/"+filepath.ToSlash(strings.TrimPrefix(name, "../")), content)
	})
	if err != nil {
		t.Fatal(err)
	}
	const kustomization = "/examples/secret/kustomization.yaml"
	content, err := memory.ReadFile(kustomization)
	if err != nil {
		t.Fatal(err)
	}
	with := strings.Replace(string(content), "  - ../network-policy\n", "  - ../network-policy\n  - ../"+component+"\n", 1)
	if err := memory.WriteFile(kustomization, []byte(with)); err != nil {
		t.Fatal(err)
	}
	return build(t, memory, "/examples/secret")
}

// wantNoComplaints checks the pod as that of any variant.
func wantNoComplaints(t *testing.T, m *manifests) {
	t.Helper()
	for _, complaint := range complain(m) {
		t.Error(complaint)
	}
}

// files are those that the sidecar of the variant `secret` reads.
var files = []string{"client-id", "client-secret"}

// TestExternalSecretsDelivery checks that the operator makes the Secret that the pod mounts.
func TestExternalSecretsDelivery(t *testing.T) {
	m := loadWith(t, "delivery/external-secrets")
	wantNoComplaints(t, m)
	var e externalSecret
	if err := yaml.UnmarshalStrict(m.custom["ExternalSecret"], &e); err != nil {
		t.Fatal(err)
	}
	if e.APIVersion != "external-secrets.io/v1" || e.Spec.Target.Name != volume(&m.workloads[0].template.Spec, "token-proxy-secret").Secret.SecretName {
		t.Errorf("got %+v", e)
	}
	var keys []string
	for _, data := range e.Spec.Data {
		if data.RemoteRef.Property != data.SecretKey {
			t.Errorf("the key %s comes from %+v", data.SecretKey, data.RemoteRef)
		}
		keys = append(keys, data.SecretKey)
	}
	if !slices.Equal(keys, files) {
		t.Errorf("the Secret has %q, want %q", keys, files)
	}
}

// secretProviderClass is as much of the API secrets-store.csi.x-k8s.io/v1 as the example uses.
type secretProviderClass struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Provider   string            `json:"provider"`
		Parameters map[string]string `json:"parameters"`
	} `json:"spec"`
}

// vaultObject is an element of the parameter objects of the provider for Vault, which is a text in YAML.
type vaultObject struct {
	ObjectName string `json:"objectName"`
	SecretPath string `json:"secretPath"`
	SecretKey  string `json:"secretKey"`
}

// TestSecretsStoreDelivery checks that the driver mounts the files that the sidecar reads, and that the pod needs no Secret.
func TestSecretsStoreDelivery(t *testing.T) {
	m := loadWith(t, "delivery/secrets-store-csi")
	var class secretProviderClass
	if err := yaml.UnmarshalStrict(m.custom["SecretProviderClass"], &class); err != nil {
		t.Fatal(err)
	}
	if class.APIVersion != "secrets-store.csi.x-k8s.io/v1" || class.Spec.Provider != "vault" {
		t.Errorf("got %+v", class)
	}
	var objects []vaultObject
	if err := yaml.UnmarshalStrict([]byte(class.Spec.Parameters["objects"]), &objects); err != nil {
		t.Fatal(err)
	}
	var delivered []string
	for _, object := range objects {
		if object.SecretKey != object.ObjectName {
			t.Errorf("%s is not the value of its key, but %+v", object.ObjectName, object)
		}
		delivered = append(delivered, object.ObjectName)
	}
	if !slices.Equal(delivered, files) {
		t.Errorf("the driver mounts %q, want %q", delivered, files)
	}
	m.delivered = map[string][]string{"token-proxy-secret": delivered}
	wantNoComplaints(t, m)

	v := volume(&m.workloads[0].template.Spec, "token-proxy-secret")
	if v.Secret != nil || v.CSI == nil || v.CSI.Driver != "secrets-store.csi.k8s.io" || v.CSI.ReadOnly == nil || !*v.CSI.ReadOnly ||
		v.CSI.VolumeAttributes["secretProviderClass"] != class.Metadata.Name {
		t.Errorf("the volume is %+v", v)
	}
}

// TestVaultAgentDelivery checks that the agent starts first and writes the files that the sidecar reads, that the sidecar can
// read them, and that no other container mounts them.
func TestVaultAgentDelivery(t *testing.T) {
	m := loadWith(t, "delivery/vault-agent")
	pod := &m.workloads[0].template.Spec
	if len(pod.InitContainers) != 2 || pod.InitContainers[0].Name != "vault-agent" {
		t.Fatal("the agent does not start before the sidecar, which needs its files")
	}
	vault := pod.InitContainers[0]
	pod.InitContainers = pod.InitContainers[1:]
	sidecar := m.workloads[0].sidecar()

	if vault.RestartPolicy == nil || *vault.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("the sidecar would wait for the end of the agent")
	}
	if s := vault.SecurityContext; !restricted(s) || *s.RunAsUser != *sidecar.SecurityContext.RunAsUser {
		t.Errorf("the securityContext is %+v", s)
	}
	agent := readVaultAgent(t, "../delivery/vault-agent/vault-agent.hcl")
	var delivered []string
	for _, template := range agent.Template {
		name := path.Base(template.Destination)
		mount := mountOf(sidecar, template.Destination)
		if mount == nil || mount.Name != "token-proxy-secret" || mountOf(&vault, template.Destination).Name != mount.Name || mountOf(&vault, template.Destination).ReadOnly {
			t.Errorf("the agent cannot write %s, or the sidecar does not see it", template.Destination)
		}
		got, err := renderAgentTemplate(template.Contents, "shop/token-proxy", "client_id", "client_secret")
		if err != nil || got != "the "+strings.ReplaceAll(name, "-", "_") || template.Perms != "0400" || !template.ErrorOnMissingKey {
			t.Errorf("%s: got %q, %v of %+v", name, got, err, template)
		}
		// `index` would write "<no value>", in spite of error_on_missing_key.
		if got, err := renderAgentTemplate(template.Contents, "shop/token-proxy"); err == nil {
			t.Errorf("%s: the agent writes %q if the entry lacks the key", name, got)
		}
		delivered = append(delivered, name)
	}
	if !slices.Equal(delivered, files) {
		t.Errorf("the agent writes %q, want %q", delivered, files)
	}
	if last := agent.Template[len(agent.Template)-1].Destination; !slices.Equal(vault.StartupProbe.Exec.Command, []string{"test", "-f", last}) {
		t.Errorf("the sidecar starts before %s is there", last)
	}
	tokenPath := agent.AutoAuth[0].Method[0]["kubernetes"].([]any)[0].(map[string]any)["config"].([]any)[0].(map[string]any)["token_path"].(string)
	identity := mountOf(&vault, tokenPath)
	if identity == nil || !provides(volume(pod, identity.Name), path.Base(tokenPath)) || mountOf(sidecar, tokenPath) != nil {
		t.Errorf("the agent has no %s, or the sidecar has it too", tokenPath)
	}
	config := volume(pod, mountOf(&vault, "/etc/vault-agent/vault-agent.hcl").Name).ConfigMap
	if m.configMaps[config.Name].Data["vault-agent.hcl"] == "" || !slices.Contains(vault.Command, "-config=/etc/vault-agent/vault-agent.hcl") {
		t.Error("the agent does not read its configuration")
	}

	// The rest is checked as any variant is.
	m.delivered = map[string][]string{"token-proxy-secret": delivered}
	wantNoComplaints(t, m)
}

// TestDeliveryReadme checks that the README names each component, and makes the Secret that the variant mounts.
func TestDeliveryReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	folders, err := filepath.Glob("../delivery/*")
	if err != nil || len(folders) != 3 {
		t.Fatalf("found %q, %v", folders, err)
	}
	for _, folder := range folders {
		if !strings.Contains(string(readme), "("+strings.TrimPrefix(folder, "../")+")") {
			t.Errorf("README.md does not name %s", folder)
		}
	}
	const sealed = "kubectl create secret generic token-proxy --from-file=client-id --from-file=client-secret --dry-run=client -o yaml |\n\t\tkubeseal "
	if !strings.Contains(string(readme), sealed) {
		t.Errorf("README.md lacks %s", sealed)
	}
}
