package caddymodule

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

// The examples for platforms that need a library to be checked, Kubernetes and Compose, have modules of their own beside
// them. Here is what runs, and what needs none.

// deployed runs an example's Caddyfile between development servers. replace is pairs of what differs on this machine.
func deployed(t *testing.T, path string, replace ...string) *caddyServer {
	t.Helper()
	vendor := freeAddr(t)
	secret := writeExampleFile(t, devserver.DefaultClientSecret)
	id := writeExampleFile(t, devserver.DefaultClientID)
	config := readExample(t, path)
	config = regexp.MustCompile(`\{file\.\S+secret\}`).ReplaceAllString(config, "{file."+secret+"}")
	config = regexp.MustCompile(`(?m)(\tclient_id ).*$`).ReplaceAllString(config, "${1}{file."+id+"}")
	config = strings.NewReplacer(append(replace,
		"provider optoro sandbox", "provider optoro sandbox {\n token_url http://"+vendor+"/oauth/token\n}",
		"https://catalogs.sandbox.optiturn.com", "http://"+vendor,
		"*.optiturn.com", "127.0.0.1",
	)...).Replace(config)
	return startCaddy(t, config+siteConfig(vendor, "dev_token_endpoint /oauth/* optoro\n dev_api"))
}

// TestKubernetesProbes asks what the kubelet asks: no until there is a token, then yes; and nothing else is to be had there.
func TestKubernetesProbes(t *testing.T) {
	proxy, probes := freeAddr(t), freeAddr(t)
	deployed(t, "../examples/kubernetes/secret/token-proxy.caddyfile", ":8080", ":"+portNumber(proxy), ":8082", ":"+portNumber(probes))
	status := func(path string) int {
		res, err := testClient(t).Get("http://" + probes + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := status("/ready"); got != http.StatusServiceUnavailable {
		t.Errorf("the first probe got %d", got)
	}
	for begin := time.Now(); status("/ready") != http.StatusOK; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("probes alone bring no token")
		}
	}
	if got := status("/orders"); got != http.StatusNotFound {
		t.Errorf("the port of the probes answers %d to a request for the API", got)
	}
	if echo := getEcho(t, "http://"+proxy+"/orders"); echo.Path != "/orders" {
		t.Errorf("the API saw %+v", echo)
	}
}

// TestKubernetesUnixSocket connects as an application of another user does, and survives a sidecar that was killed.
func TestKubernetesUnixSocket(t *testing.T) {
	folder, err := os.MkdirTemp("", "tp") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	socket := filepath.Join(folder, "catalog.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false) // as a process that was killed leaves it
	left.Close()

	deployed(t, "../examples/kubernetes/unix-socket/token-proxy.caddyfile",
		"/run/token-proxy-socket/catalog.sock", socket, ":8082", ":"+portNumber(freeAddr(t)))
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o222 {
		t.Errorf("the socket has mode %o", got)
	}
	client := testClient(t)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	res, err := client.Get("http://any.name/orders")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
}

// TestKubernetesTenants runs both variants with volumes that change as the kubelet changes them. A store comes, gets another
// secret and goes, without a reload.
func TestKubernetesTenants(t *testing.T) {
	for variant, files := range map[string][2]string{
		"tenants":      {"secrets/token-proxy/{tenant}/client-id", "secrets/token-proxy/{tenant}/client-secret"},
		"many-tenants": {"secrets/token-proxy-client-ids/{tenant}", "secrets/token-proxy/{tenant}"},
	} {
		t.Run(variant, func(t *testing.T) {
			p := newTenantPlatform(t)
			secrets := make(map[string]string) // by path below the folder of all volumes
			root := t.TempDir()
			set := func(store, secret string) {
				secrets[strings.Replace(files[0], "{tenant}", store, 1)] = p.prefix + store
				secrets[strings.Replace(files[1], "{tenant}", store, 1)] = secret
			}
			for _, store := range []string{"berlin", "milan"} {
				set(store, p.add(store).ClientSecret)
			}
			writeVolumes(t, root, secrets)

			proxy := freeAddr(t)
			config := readExample(t, "../examples/kubernetes/"+variant+"/token-proxy.caddyfile")
			for _, file := range files {
				if !strings.Contains(config, "{file./run/"+file+"}") {
					t.Fatalf("the Caddyfile does not read %s", file)
				}
			}
			startCaddy(t, strings.NewReplacer(
				"{file./run", "{file."+root, ":8080", ":"+portNumber(proxy), ":8082", ":"+portNumber(freeAddr(t)), "X-Store", "X-Tenant",
				"provider elastic_path euwest", "provider elastic_path {\n token_url "+p.url+"\n}",
				"https://euwest.api.elasticpath.com", p.api.URL, "euwest.api.elasticpath.com", "127.0.0.1",
			).Replace(config))
			want := func(store string) {
				t.Helper()
				p.wantTenant(p.ask("http://"+proxy, store), store)
			}
			forget := func(store string) {
				t.Helper()
				tenant, ok := runningApp().clients["stores"].tenants.Find(store)
				if !ok {
					t.Fatalf("%s has no place", store)
				}
				tenant.Source.Purge()
			}
			want("berlin")
			want("milan")

			set("paris", p.add("paris").ClientSecret)
			writeVolumes(t, root, secrets)
			want("paris")

			berlin := p.clients[p.prefix+"berlin"]
			berlin.ClientSecret = "another secret"
			var arrived sync.Once // while the endpoint refuses the old secret
			berlin.OnRequest = func(*http.Request, []byte) {
				arrived.Do(func() {
					set("berlin", berlin.ClientSecret)
					writeVolumes(t, root, secrets)
				})
			}
			want("berlin") // with the token that it has
			forget("berlin")
			want("berlin")

			for _, file := range files {
				delete(secrets, strings.Replace(file, "{tenant}", "milan", 1))
			}
			writeVolumes(t, root, secrets)
			want("milan")
			forget("milan")
			p.wantDenied(p.ask("http://"+proxy, "milan"), http.StatusForbidden, "tenant-not-allowed")
			want("paris")
			if n := p.calls(); n != 5 {
				t.Errorf("%d token calls, want one for each store, and one with the old secret and one with the new", n)
			}
		})
	}
}

// writeVolumes gives each volume, which is a folder below root/secrets, these files. It makes the links of the kubelet's
// AtomicWriter, in its order.
func writeVolumes(t *testing.T, root string, files map[string]string) {
	t.Helper()
	volumes := make(map[string]map[string]string)
	for file, content := range files {
		parts := strings.SplitN(file, "/", 3)
		volume := filepath.Join(root, parts[0], parts[1])
		if volumes[volume] == nil {
			volumes[volume] = make(map[string]string)
		}
		volumes[volume][parts[2]] = content
	}
	for volume, files := range volumes {
		if err := writeVolume(volume, files); err != nil {
			t.Fatal(err)
		}
	}
}

func writeVolume(volume string, files map[string]string) error {
	if err := os.MkdirAll(volume, 0o755); err != nil {
		return err
	}
	data := filepath.Join(volume, "..data")
	old, _ := os.Readlink(data)
	folder, err := os.MkdirTemp(volume, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	visible := make(map[string]bool)
	for file, content := range files {
		path := filepath.Join(folder, file)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o444))
		first, _, _ := strings.Cut(file, "/")
		visible[first] = true
	}
	for name := range visible {
		if link := filepath.Join(volume, name); !isLink(link) {
			err = errors.Join(err, os.Symlink(filepath.Join("..data", name), link))
		}
	}
	next := filepath.Join(volume, "..data_tmp")
	if err := errors.Join(err, os.Chmod(folder, 0o755), os.Symlink(filepath.Base(folder), next), os.Rename(next, data)); err != nil {
		return err
	}
	entries, err := os.ReadDir(volume)
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasPrefix(name, "..") && !visible[name] {
			err = errors.Join(err, os.Remove(filepath.Join(volume, name)))
		}
	}
	if old != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(volume, old)))
	}
	return err
}

func isLink(path string) bool {
	_, err := os.Readlink(path)
	return err == nil
}

// TestSystemdUnits asks systemd, and checks what it does not.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	service, socket := readExample(t, systemdFolder+"token-proxy.service"), readExample(t, systemdFolder+"token-proxy.socket")
	config := readExample(t, systemdFolder+"token-proxy.caddyfile")
	for _, line := range []string{
		"Type=notify", "DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=",
		"Requires=token-proxy.socket", "LoadCredential=client-secret:/etc/token-proxy/client-secret",
		"RuntimeDirectory=token-proxy", "Environment=HOME=%t/token-proxy",
		"RuntimeDirectoryMode=0700", "SocketBindDeny=any", "StartLimitIntervalSec=0", "Restart=always", "LimitCORE=0",
	} {
		if !slices.Contains(strings.Split(service, "\n"), line) {
			t.Errorf("the service lacks %s", line)
		}
	}
	for _, address := range listenStreams(socket) {
		if host, _, _ := net.SplitHostPort(address); host != "127.0.0.1" && host != "::1" {
			t.Errorf("the socket is on %s", address)
		}
	}
	if !strings.Contains(socket, "\nFreeBind=yes\n") {
		t.Error("the socket fails where ::1 is turned off")
	}
	for _, text := range []string{"admin unix//run/token-proxy/admin.sock", "{file./run/credentials/token-proxy.service/client-secret}"} {
		if !strings.Contains(config, text) {
			t.Errorf("the Caddyfile lacks %s", text)
		}
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("NOT TESTED: systemd-analyze is not installed (it is in the package systemd), so nobody has read the units")
	}
	self, err := os.Executable() // systemd wants to see the program
	if err != nil {
		t.Fatal(err)
	}
	verify := func(service string) (string, error) {
		folder := t.TempDir()
		for name, content := range map[string]string{
			"token-proxy.service": strings.ReplaceAll(service, "/usr/local/bin/token-proxy", self), "token-proxy.socket": socket,
		} {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		service, socket := filepath.Join(folder, "token-proxy.service"), filepath.Join(folder, "token-proxy.socket")
		out, err := exec.Command(analyze, "verify", "--man=no", service, socket).CombinedOutput()
		if err != nil || len(out) > 0 {
			return string(out), err
		}
		// The exposure is told in tenths: 0 for none, 100 for a service without any protection.
		out, err = exec.Command(analyze, "security", "--offline=true", "--threshold=15", "--no-pager", service).CombinedOutput()
		if err == nil {
			out = nil
		}
		return string(out), err
	}
	if out, err := verify(service); err != nil || out != "" {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
	for from, to := range map[string]string{
		"LoadCredential=":    "LoadCredentials=",
		"Type=notify":        "Type=notifies",
		"DynamicUser=yes":    "DynamicUser=maybe",
		"RestrictNamespaces": "#RestrictNamespaces",
		"SystemCallFilter=":  "#SystemCallFilter=",
		"LimitCORE=0":        "LimitCORE=none",
	} {
		if out, err := verify(strings.ReplaceAll(service, from, to)); err == nil && out == "" {
			t.Errorf("systemd-analyze does not mind %s", to)
		}
	}
}

// instruction is one of a Dockerfile, with its continuation lines joined.
type instruction struct{ name, args string }

func dockerfile(content string) (stages [][]instruction) {
	content = regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(content, "")
	content = strings.ReplaceAll(content, "\\\n", " ")
	for line := range strings.Lines(content) {
		name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "FROM" {
			stages = append(stages, nil)
		}
		if name != "" && len(stages) > 0 {
			stages[len(stages)-1] = append(stages[len(stages)-1], instruction{name, strings.Join(strings.Fields(args), " ")})
		}
	}
	return stages
}

var (
	execForm   = regexp.MustCompile(`\["[^"]+"(, "[^"]+")*\]$`)
	pinnedBase = regexp.MustCompile(`(?m)^ARG GO_IMAGE=golang:1\.\d+\.\d+(@sha256:[0-9a-f]{64})?$`)
)

// complainOfDockerfile says what is wrong with the image. Nothing on a machine without a container engine builds it.
func complainOfDockerfile(content string) (complaints []string) {
	bad := func(text string) { complaints = append(complaints, text) }
	stages := dockerfile(content)
	if len(stages) != 2 || stages[0][0].args != "--platform=$BUILDPLATFORM $GO_IMAGE AS build" || stages[1][0].args != "scratch" {
		return []string{"the stages are not golang, for the platform of the build, and scratch"}
	}
	if !pinnedBase.MatchString(content) {
		bad("the default of GO_IMAGE is not one release of Go")
	}
	got := make(map[string]string)
	for _, i := range stages[1] {
		switch i.name {
		case "RUN", "ADD", "SHELL":
			bad("the image has no use for " + i.name)
		case "COPY":
			if !strings.HasPrefix(i.args, "--from=build ") {
				bad("a file comes from the context: " + i.args)
			}
		}
		got[i.name] += i.args + "\n"
	}
	for _, name := range []string{"ENTRYPOINT", "CMD", "HEALTHCHECK"} {
		if !execForm.MatchString(strings.TrimSpace(got[name])) {
			bad(name + " needs a shell: " + got[name])
		}
	}
	for name, want := range map[string]string{
		"USER":        "65532:65532\n",
		"ENTRYPOINT":  `["/usr/bin/token-proxy"]`,
		"CMD":         `"--config", "/etc/token-proxy/Caddyfile"]`,
		"HEALTHCHECK": `CMD ["/usr/bin/token-proxy", "tokens", "list", "--ready", `,
		"LABEL": `org.opencontainers.image.documentation="https://github.com/tokenproxy/caddy-token-proxy#readme" ` +
			`org.opencontainers.image.licenses="Apache-2.0" org.opencontainers.image.version="$VERSION" ` +
			`org.opencontainers.image.revision="$REVISION"`,
		"ARG":  "VERSION\nREVISION\n",
		"ENV":  "HOME=/run/token-proxy",
		"COPY": "/etc/ssl/certs/ca-certificates.crt",
	} {
		if !strings.Contains(got[name], want) {
			bad(name + " does not have " + want)
		}
	}
	built, listed := false, false
	for _, i := range stages[0] {
		if i.name == "ADD" || i.name == "COPY" && i.args != "go.mod go.sum ./" && i.args != ".git .git" {
			bad("the build has files that are not committed: " + i.args)
		}
		built = built || i.name == "RUN" &&
			strings.Contains(i.args, "GOOS=$TARGETOS GOARCH=$TARGETARCH cmd/token-proxy/release.sh binary /root-of-image/usr/bin/token-proxy")
		listed = listed || built && i.name == "RUN" &&
			i.args == "cmd/token-proxy/release.sh sbom /root-of-image/usr/bin/token-proxy /root-of-image/usr/share/doc/token-proxy/sbom.cdx.json"
	}
	if !built {
		bad("the binary is not that of the release")
	}
	if !listed {
		bad("the image has no SBOM, or one of something else")
	}
	return complaints
}

func TestDockerfile(t *testing.T) {
	content := readExample(t, "../cmd/token-proxy/Dockerfile")
	for _, complaint := range complainOfDockerfile(content) {
		t.Error(complaint)
	}
	mod := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(readExample(t, "../go.mod"))
	if mod == nil || !strings.Contains(content, "ARG GO_IMAGE=golang:"+mod[1]+".") {
		t.Errorf("the image is built with another Go than %v", mod)
	}
	for from, to := range map[string]string{
		"FROM scratch":                        "FROM debian:12",
		"golang:1.26.8":                       "golang:latest",
		"USER 65532:65532":                    "USER root",
		`ENTRYPOINT ["/usr/bin/token-proxy"]`: "ENTRYPOINT /usr/bin/token-proxy",
		`CMD ["run", "--config", "/etc/token-proxy/Caddyfile"]`: "CMD run --config /etc/token-proxy/Caddyfile",
		`CMD ["/usr/bin/token-proxy", "tokens", "list"`:         `CMD curl ["/usr/bin/token-proxy", "tokens"`,
		"USER":                                "ADD . /\nUSER",
		"COPY --from=build /root-of-image/ /": "COPY token-proxy /",
		"release.sh binary":                   "build.sh",
		"ca-certificates.crt":                 "none",
		"ENV HOME":                            "ENV H",
		`"list", "--ready"`:                   `"list"`,
		"COPY .git .git":                      "COPY . .",
		"image.version":                       "image.vendor",
		"ARG REVISION":                        "ARG VERSION",
		`"$REVISION"`:                         `"$VERSION"`,
		"release.sh sbom":                     "release.sh documents",
		"sbom /root-of-image/usr/bin":         "sbom /src",
		"--platform=$BUILDPLATFORM $GO_IMAGE": "$GO_IMAGE",
	} {
		if !strings.Contains(content, from) {
			t.Fatalf("there is no %q", from)
		}
		if len(complainOfDockerfile(strings.ReplaceAll(content, from, to))) == 0 {
			t.Errorf("nobody complains of %q", to)
		}
	}
}

// The context has what the Dockerfile copies, and nothing else: no secret that the README of an example makes.
func TestDockerignore(t *testing.T) {
	var rules []string
	for line := range strings.Lines(readExample(t, "../.dockerignore")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			rules = append(rules, line)
		}
	}
	if want := []string{"*", "!.git", "!go.mod", "!go.sum"}; !slices.Equal(rules, want) {
		t.Errorf("the rules are %q, want %q", rules, want)
	}
}
