// Package check tests compose.yaml against the Compose specification and against the rules for a sidecar with a secret.
// It is a module of its own, so that the proxy does not depend on Compose.
package check

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// load parses a Compose file, and fails on anything that is not in the specification, as `docker compose config` does.
func load(content string) (*types.Project, error) { return loadIn("..", content) }

// loadIn is load for the compose.yaml of a folder.
func loadIn(folder, content string) (*types.Project, error) {
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  folder,
		ConfigFiles: []types.ConfigFile{{Filename: folder + "/compose.yaml", Content: []byte(content)}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SetProjectName("check", true) })
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestCompose(t *testing.T) {
	project, err := load(read(t, "../compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range complain(project, read(t, "../token-proxy.caddyfile")) {
		t.Error(complaint)
	}
	sidecar := project.Services["token-proxy"]
	if _, err := os.Stat("../" + sidecar.Build.Context + "/" + sidecar.Build.Dockerfile); err != nil {
		if _, err := os.Stat(sidecar.Build.Context + "/" + sidecar.Build.Dockerfile); err != nil {
			t.Error(err)
		}
	}
}

var (
	readFiles = regexp.MustCompile(`\{file\.(/[^}]+)\}`)
	adminAt   = regexp.MustCompile(`(?m)^\tadmin unix/(/\S+)/[^/\s]+$`)
)

// complain returns the faults of the application and its sidecar.
func complain(project *types.Project, caddyfile string) []string {
	return complainOf(project, "application", "token-proxy", "network", "secrets", caddyfile)
}

// complainOf is complain for services with these names, and the folder of the secrets.
func complainOf(project *types.Project, applicationName, sidecarName, networkName, secrets, caddyfile string) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	sidecar, application, network := project.Services[sidecarName], project.Services[applicationName], project.Services[networkName]
	for name, s := range project.Services {
		if !s.ReadOnly || s.Privileged || len(s.CapAdd) > 0 || !reflect.DeepEqual(s.CapDrop, []string{"ALL"}) ||
			!reflect.DeepEqual(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			bad("%s: its root is writable, or it has privileges", name)
		}
		if s.User == "" || strings.HasPrefix(s.User, "0") {
			bad("%s runs as root", name)
		}
	}
	if sidecar.User == application.User {
		bad("the application runs as the sidecar's user")
	}
	if network.NetworkMode != "" || len(network.Volumes)+len(network.Secrets)+len(network.DependsOn) > 0 ||
		!reflect.DeepEqual(network.Command, types.ShellCommand{"sleep", "infinity"}) || network.Init == nil || !*network.Init {
		bad("the owner of the network is not idle, or does not end when it is told to")
	}
	for name, s := range map[string]types.ServiceConfig{"sidecar": sidecar, "application": application} {
		if s.NetworkMode != "service:"+networkName {
			bad("the %s does not share loopback, or owns the network, which ends with it", name)
		}
		if d := s.DependsOn[networkName]; d.Condition != "service_started" || !d.Restart {
			bad("the %s outlives its network", name)
		}
	}
	for name, s := range map[string]types.ServiceConfig{"sidecar": sidecar, "owner of the network": network} {
		if s.Restart != "unless-stopped" {
			bad("the %s does not start again", name)
		}
	}
	if application.DependsOn[sidecarName].Condition != "service_healthy" || sidecar.HealthCheck != nil {
		bad("the application does not wait until the sidecar has a token")
	}
	if sidecar.MemLimit == 0 {
		bad("the sidecar's memory has no limit")
	}
	if core := sidecar.Ulimits["core"]; core == nil || core.Single != 0 || core.Soft != 0 || core.Hard != 0 {
		bad("a core dump of the sidecar would hold the secret")
	}
	if len(application.Secrets)+len(application.Volumes)+len(application.Configs)+len(application.EnvFiles) > 0 {
		bad("the application can have secrets")
	}
	if len(sidecar.Volumes) != 2 || len(sidecar.Secrets) > 0 {
		return append(complaints, "the sidecar does not have the two mounts of the Caddyfile and of the folder of secrets")
	}
	config, folder := sidecar.Volumes[0], sidecar.Volumes[1]
	if folder.Type != "bind" || !folder.ReadOnly || filepath.Base(folder.Source) != secrets || folder.Bind == nil || bool(folder.Bind.CreateHostPath) {
		bad("the folder of secrets is not mounted, or Compose makes it if it is forgotten")
	}
	files := readFiles.FindAllStringSubmatch(caddyfile, -1)
	if len(files) == 0 {
		bad("the Caddyfile names no secret")
	}
	for _, file := range files {
		if path.Dir(file[1]) != folder.Target {
			bad("the sidecar has no secret %s", file[1])
		}
	}
	if admin := adminAt.FindStringSubmatch(caddyfile); admin == nil {
		bad("the admin API is not on a unix socket: the application could load a configuration that shows the secret")
	} else if len(sidecar.Tmpfs) != 1 || !strings.HasPrefix(sidecar.Tmpfs[0], admin[1]+":uid=65532,gid=65532,mode=0700") {
		bad("the sidecar cannot create the admin socket in %s", admin[1])
	}
	if config.Target != "/etc/token-proxy/Caddyfile" || !config.ReadOnly || !strings.HasSuffix(config.Source, "/token-proxy.caddyfile") {
		bad("the sidecar does not get its Caddyfile")
	}
	if strings.Count(caddyfile, "\nhttp://") != strings.Count(caddyfile, "\tbind loopback/localhost\n") {
		bad("a credential is open to other containers")
	}
	return complaints
}

// TestComplaints breaks the rules one at a time, and checks that complain notices each.
func TestComplaints(t *testing.T) {
	compose, caddyfile := read(t, "../compose.yaml"), read(t, "../token-proxy.caddyfile")
	for from, to := range map[string]string{
		"read_only: true":           "read_only: false",
		`user: "65532:65532"`:       `user: "0:0"`,
		`user: "10001:10001"`:       `user: "65532:65532"`,
		"cap_drop: [ALL]":           "cap_drop: []",
		"no-new-privileges:true":    "no-new-privileges:false",
		"mem_limit: 128m":           "mem_limit: 0",
		"core: 0":                   "core: 1000000",
		"core:":                     "nofile:",
		"/run/token-proxy:uid":      "/run/caddy:uid",
		"Caddyfile:ro":              "Caddyfile",
		"source: ./secrets":         "source: ./secret",
		"        read_only: true\n": "",
		"create_host_path: false":   "create_host_path: true",
		"target: /run/secrets/":     "target: /run/secret/",
		"sidecar.\n    network_mode: service:network": "sidecar.\n    network_mode: service:token-proxy",
		"service:network":              "bridge",
		"condition: service_healthy":   "condition: service_started",
		"        restart: true\n":      "",
		"    # The application shares": "    volumes: [./secrets:/secrets]\n    # The application shares",
		"    init: true\n":             "",
		"[sleep, infinity]":            "[sleep, infinity]\n    network_mode: host",
		"sleep, infinity":              "httpd, -f",
		"    restart: unless-stopped":  "    restart: \"no\"",
		"    image: token-proxy\n":     "    image: token-proxy\n    healthcheck: {test: [CMD, /usr/bin/token-proxy, version]}\n",
	} {
		project, err := load(replaced(t, compose, from, to))
		if err != nil {
			t.Errorf("%q does not load: %v", to, err)
		} else if len(complain(project, caddyfile)) == 0 {
			t.Errorf("got no complaint about %q", to)
		}
	}
	project, err := load(compose)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"\tadmin unix//run/token-proxy/admin.sock\n":    "",
		"\tbind loopback/localhost\n":                   "",
		"/run/secrets/token-proxy/optoro-client-secret": "/run/secrets/optoro-client-secret",
	} {
		if len(complain(project, replaced(t, caddyfile, from, to))) == 0 {
			t.Errorf("got no complaint about %q instead of %q", to, from)
		}
	}
	for from, to := range map[string]string{
		"read_only:":      "readonly:",
		"read_only: true": "read_only: [true]",
		"cap_drop: [ALL]": "cap_drop: ALL",
		"service_healthy": "healthy",
	} {
		if _, err := load(replaced(t, compose, from, to)); err == nil {
			t.Errorf("%q loads", to)
		}
	}
}

func replaced(t *testing.T, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("the file does not contain %q", from)
	}
	return strings.Replace(text, from, to, 1)
}
