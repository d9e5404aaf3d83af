package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/hashicorp/hcl"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// tenantName matches the names that the reference permits.
var tenantName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]|\.[a-z0-9_-])*$`)

// providesTenants reports whether each source of a volume is the Secret of one tenant, which may be missing, and has this
// file in the folder of the tenant.
func providesTenants(volume *corev1.ProjectedVolumeSource, file string) bool {
	seen := make(map[string]bool)
	for _, source := range volume.Sources {
		secret := source.Secret
		if secret == nil || secret.Optional == nil || !*secret.Optional {
			return false
		}
		tenant, found := "", false
		for _, item := range secret.Items {
			folder, name := path.Split(item.Path)
			if tenant == "" {
				tenant = path.Clean(folder)
			}
			if path.Clean(folder) != tenant || name != item.Key || item.Mode != nil {
				return false
			}
			found = found || item.Path == strings.ReplaceAll(file, "{tenant}", tenant)
		}
		if !found || !tenantName.MatchString(tenant) || secret.Name != "store-"+tenant || seen[tenant] {
			return false
		}
		seen[tenant] = true
	}
	return len(seen) > 0
}

// TestTenantsReadme checks that the README makes the Secrets that the variants mount, with the keys that they have.
func TestTenantsReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(readme), "\n## Tenants\n")
	if !ok {
		t.Fatal("README.md has no section about tenants")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, command := range []string{
		"kubectl create secret generic store-berlin --from-file=client-id --from-file=client-secret\n",
		"kubectl create secret generic store-client-ids --from-file=client-ids\n",
		"kubectl create secret generic store-client-secrets --from-file=client-secrets\n",
	} {
		if !strings.Contains(section, command) {
			t.Errorf("README.md lacks %s", command)
		}
	}
	for variant, names := range map[string][]string{
		"tenants": {"store-berlin", "store-milan", "store-oslo"}, "many-tenants": {"store-client-ids", "store-client-secrets"},
	} {
		if mounted := secretsOf(load(t, variant)); !slices.Equal(mounted, names) {
			t.Errorf("%s mounts %q, want %q", variant, mounted, names)
		}
	}
}

// secretsOf returns the names of the Secrets that the pod mounts.
func secretsOf(m *manifests) (names []string) {
	for _, v := range m.deployments[0].Spec.Template.Spec.Volumes {
		if v.Secret != nil {
			names = append(names, v.Secret.SecretName)
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				names = append(names, source.Secret.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// externalSecret is as much of the API external-secrets.io/v1 as the examples use.
type externalSecret struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		RefreshInterval string `json:"refreshInterval"`
		SecretStoreRef  struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"secretStoreRef"`
		Target struct {
			Name string `json:"name"`
		} `json:"target"`
		Data []struct {
			SecretKey string `json:"secretKey"`
			RemoteRef struct {
				Key      string `json:"key"`
				Property string `json:"property"`
			} `json:"remoteRef"`
		} `json:"data"`
		DataFrom []struct {
			Find struct {
				Name struct {
					RegExp string `json:"regexp"`
				} `json:"name"`
			} `json:"find"`
			Rewrite []struct {
				Regexp struct {
					Source string `json:"source"`
					Target string `json:"target"`
				} `json:"regexp"`
			} `json:"rewrite"`
		} `json:"dataFrom"`
	} `json:"spec"`
}

func readExternalSecrets(t *testing.T, file string) (all []externalSecret) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
		var e externalSecret
		if err := yaml.UnmarshalStrict(document, &e); err != nil {
			t.Fatal(err)
		}
		if e.APIVersion != "external-secrets.io/v1" || e.Kind != "ExternalSecret" {
			t.Errorf("%s has a %s %s", file, e.APIVersion, e.Kind)
		}
		all = append(all, e)
	}
	return all
}

// TestExternalSecrets checks that the operator makes the Secrets that the variants mount.
func TestExternalSecrets(t *testing.T) {
	one := readExternalSecrets(t, "../tenants/external-secret.yaml")
	source := volume(&load(t, "tenants").deployments[0].Spec.Template.Spec, "token-proxy-secret").Projected.Sources[0].Secret
	if len(one) != 1 || one[0].Spec.Target.Name != source.Name || len(one[0].Spec.Data) != len(source.Items) {
		t.Fatalf("got %+v", one)
	}
	for i, item := range source.Items {
		if data := one[0].Spec.Data[i]; data.SecretKey != item.Key || data.RemoteRef.Property != item.Key || data.RemoteRef.Key != "stores/berlin" {
			t.Errorf("the key %s comes from %+v", item.Key, data)
		}
	}

	both := readExternalSecrets(t, "../many-tenants/external-secrets.yaml")
	var names []string
	for _, e := range both {
		names = append(names, e.Spec.Target.Name)
		entry := map[string]string{"store-client-ids": "stores/berlin/client-id", "store-client-secrets": "stores/berlin/client-secret"}[e.Spec.Target.Name]
		for _, name := range []string{entry, entry + "s", "stores/berlin/other", "stores/a/b/client-id"} {
			found, key := findAndRewrite(t, e, name)
			if found != (name == entry) || found && key != "berlin" {
				t.Errorf("%s: the operator makes the key %q of %s (found: %t)", e.Spec.Target.Name, key, name, found)
			}
		}
	}
	if mounted := secretsOf(load(t, "many-tenants")); !slices.Equal(names, mounted) {
		t.Errorf("the operator makes %q, and the variant mounts %q", names, mounted)
	}
}

// findAndRewrite returns whether the operator finds an entry, and the key that it makes of its name.
func findAndRewrite(t *testing.T, e externalSecret, name string) (found bool, key string) {
	t.Helper()
	if len(e.Spec.DataFrom) != 1 || len(e.Spec.DataFrom[0].Rewrite) != 1 {
		t.Fatalf("got %+v", e.Spec.DataFrom)
	}
	from := e.Spec.DataFrom[0]
	rewrite := from.Rewrite[0].Regexp
	return regexp.MustCompile(from.Find.Name.RegExp).MatchString(name),
		regexp.MustCompile(rewrite.Source).ReplaceAllString(name, rewrite.Target)
}

// vaultAgent is as much of the configuration of a Vault Agent as the example uses. Each block is a list.
type vaultAgent struct {
	Vault []struct {
		Address string `json:"address"`
	} `json:"vault"`
	AutoAuth []struct {
		Method []map[string]any `json:"method"`
	} `json:"auto_auth"`
	TemplateConfig []struct {
		StaticSecretRenderInterval string `json:"static_secret_render_interval"`
	} `json:"template_config"`
	Template []struct {
		Destination       string `json:"destination"`
		Perms             string `json:"perms"`
		ErrorOnMissingKey bool   `json:"error_on_missing_key"`
		Contents          string `json:"contents"`
	} `json:"template"`
}

// readVaultAgent reads the file as Vault does, which is with version 1 of HCL.
func readVaultAgent(t *testing.T, file string) (agent vaultAgent) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var blocks map[string]any
	if err := hcl.Decode(&blocks, string(content)); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(blocks)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&agent); err != nil {
		t.Fatal(err)
	}
	return agent
}

// TestVaultAgent checks that the agent of examples/tenants writes both files of each store, each from the store's own entry.
func TestVaultAgent(t *testing.T) {
	agent := readVaultAgent(t, "../../tenants/vault-agent.hcl")
	if len(agent.Vault) != 1 || len(agent.AutoAuth) != 1 || len(agent.AutoAuth[0].Method) != 1 {
		t.Errorf("got %+v", agent)
	}
	var written []string
	for _, file := range agent.Template {
		store, name := path.Base(path.Dir(file.Destination)), path.Base(file.Destination)
		if file.Perms != "0400" || !file.ErrorOnMissingKey {
			t.Errorf("%s: got %+v", file.Destination, file)
		}
		if got, err := renderAgentTemplate(file.Contents, "stores/"+store, "client_id", "client_secret"); err != nil || got != "the "+name {
			t.Errorf("%s: got %q, %v", file.Destination, got, err)
		}
		written = append(written, file.Destination)
	}
	if want := []string{
		"/run/stores/berlin/client_id", "/run/stores/berlin/client_secret", "/run/stores/milan/client_id", "/run/stores/milan/client_secret",
	}; !slices.Equal(written, want) {
		t.Errorf("the agent writes %q, want %q", written, want)
	}
}

// renderAgentTemplate returns the output of a template of Vault Agent, for an entry of the KV store, version 2, with these keys.
func renderAgentTemplate(contents, entry string, keys ...string) (string, error) {
	data := make(map[string]any)
	for _, key := range keys {
		data[key] = "the " + key
	}
	secret := func(path string) (map[string]any, error) {
		if path != "secret/data/"+entry {
			return nil, fmt.Errorf("the template reads the entry %s, not %s", path, entry)
		}
		return map[string]any{"Data": map[string]any{"data": data}}, nil
	}
	parsed, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"secret": secret}).Parse(contents)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = parsed.Execute(&out, nil)
	return out.String(), err
}
