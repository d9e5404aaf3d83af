//go:build cluster

// The tests on a real cluster, with the development servers as token endpoint and API. The section Test of the README
// describes how to run them.

package check

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// deployment is how the test on a cluster runs a variant. The Caddyfile of the sidecar gets the development servers, and the
// application is a container with curl.
type deployment struct {
	secrets func(*space)
	replace []string // pairs: what differs from the Caddyfile of the variant
	servers []string // the bodies of the sites of the development servers, at the ports 9080, 9081, …
	change  func(runtime.Object)
	asks    map[string]string // the arguments of curl, and a text that the answer has
}

const optoro = "dev_token_endpoint /oauth/* optoro"

func optoroAs(id string) string { return optoro + " {\nclient_id " + id + "\n}" }

// storeOf makes the address of the token endpoint different for each store, so that each has its own client.
const storeOf = "provider elastic_path {\ntoken_url http://127.0.0.1:9080/{tenant}/oauth/access_token\n}"

func stores(names ...string) string {
	var sites strings.Builder
	for _, name := range names {
		fmt.Fprintf(&sites, "handle_path /%s/* {\ndev_token_endpoint elastic_path {\nclient_id %[1]s-id\nclient_secret %[1]s-secret\n}\n}\n", name)
	}
	return sites.String()
}

var atOptoro = []string{
	"provider optoro sandbox", "provider optoro {\ntoken_url http://127.0.0.1:9080/oauth/token\n}",
	"https://catalogs.sandbox.optiturn.com", "http://127.0.0.1:9080", "*.optiturn.com", "127.0.0.1",
}

var deployments = map[string]deployment{
	"secret": {
		secrets: func(s *space) { s.client("token-proxy", "dev-client", "dev-secret") },
		replace: atOptoro, servers: []string{optoro},
		asks: map[string]string{"http://127.0.0.1:8080/orders": `"client":"dev-client"`},
	},
	"jobs": {
		secrets: func(s *space) { s.client("token-proxy", "dev-client", "dev-secret") },
		replace: atOptoro, servers: []string{optoro},
	},
	"secretless": {
		secrets: func(*space) {},
		replace: []string{"https://login.example.com/oauth2/token", "http://127.0.0.1:9080/token", "https://catalog.example.com", "http://127.0.0.1:9080"},
		servers: []string{"dev_token_endpoint /token oauth2 {\nclient_id shop\nclient_auth private_key_jwt\nscope catalog.read\n" +
			"client_assertion {file./run/secrets/token-proxy/assertion}\n}"},
		asks: map[string]string{"http://127.0.0.1:8080/orders": `"client":"shop"`},
	},
	"unix-socket": {
		secrets: func(s *space) { s.client("token-proxy", "dev-client", "dev-secret") },
		replace: atOptoro, servers: []string{optoro},
		asks: map[string]string{"--unix-socket /run/token-proxy-socket/catalog.sock http://catalog/orders": `"client":"dev-client"`},
	},
	"several-credentials": {
		secrets: func(s *space) {
			s.client("token-proxy-catalog", "catalog-id", "dev-secret")
			s.client("token-proxy-returns", "returns-id", "dev-secret")
		},
		replace: []string{
			"credential catalog {\n\t\t\tprovider optoro sandbox", "credential catalog {\nprovider optoro {\ntoken_url http://127.0.0.1:9080/oauth/token\n}",
			"credential returns {\n\t\t\tprovider optoro sandbox", "credential returns {\nprovider optoro {\ntoken_url http://127.0.0.1:9081/oauth/token\n}",
			"provider elastic_path euwest {", "provider elastic_path {\ntoken_url http://127.0.0.1:9082/oauth/access_token",
			"https://catalogs.sandbox.optiturn.com", "http://127.0.0.1:9080", "https://returns.sandbox.optiturn.com", "http://127.0.0.1:9081",
			"https://euwest.api.elasticpath.com", "http://127.0.0.1:9082", "*.optiturn.com", "127.0.0.1",
		},
		servers: []string{optoroAs("catalog-id"), optoroAs("returns-id"), "dev_token_endpoint /oauth/* elastic_path {\nclient_id my-storefront\n}"},
		asks: map[string]string{
			"http://127.0.0.1:8080/orders": `"client":"catalog-id"`, "http://127.0.0.1:8081/orders": `"client":"returns-id"`,
			"http://127.0.0.1:8083/orders": `"client":"my-storefront"`,
		},
	},
	"sharing": {
		secrets: func(s *space) {
			files := makeSecrets(s.T)
			s.client("token-proxy", "dev-client", "dev-secret")
			s.secret("token-proxy-share", "key", files["key"], "other-key", files["other-key"], "redis-password", files["redis-password"])
			s.secret("token-proxy-redis", "users.acl", files["users.acl"])
		},
		replace: atOptoro, servers: []string{optoro},
		change: func(object runtime.Object) {
			// The development servers of each pod know their own tokens only.
			if d, ok := object.(*appsv1.Deployment); ok {
				d.Spec.Replicas = new(int32(1))
			}
		},
		asks: map[string]string{"http://127.0.0.1:8080/orders": `"client":"dev-client"`},
	},
	"tenants": {
		secrets: func(s *space) { // store-oslo does not exist
			s.client("store-berlin", "berlin-id", "berlin-secret")
			s.client("store-milan", "milan-id", "milan-secret")
		},
		replace: []string{"provider elastic_path euwest", storeOf, "https://euwest.api.elasticpath.com", "http://127.0.0.1:9080", "euwest.api.elasticpath.com", "127.0.0.1"},
		servers: []string{stores("berlin", "milan")},
		asks: map[string]string{
			"--header X-Store:berlin http://127.0.0.1:8080/orders": `"client":"berlin-id"`,
			"--header X-Store:milan http://127.0.0.1:8080/orders":  `"client":"milan-id"`,
			"--header X-Store:oslo http://127.0.0.1:8080/orders":   "tenant-not-allowed",
		},
	},
	"many-tenants": {
		secrets: func(s *space) {
			s.secret("store-client-ids", "berlin", "berlin-id", "milan", "milan-id")
			s.secret("store-client-secrets", "berlin", "berlin-secret", "milan", "milan-secret")
		},
		replace: []string{"provider elastic_path euwest", storeOf, "https://euwest.api.elasticpath.com", "http://127.0.0.1:9080", "euwest.api.elasticpath.com", "127.0.0.1"},
		servers: []string{stores("berlin", "milan")},
		asks: map[string]string{
			"--header X-Store:berlin http://127.0.0.1:8080/orders": `"client":"berlin-id"`,
			"--header X-Store:milan http://127.0.0.1:8080/orders":  `"client":"milan-id"`,
		},
	},
}

// caddyfile returns the Caddyfile of a variant with the development servers in it.
func (d deployment) caddyfile(variant string) string {
	for i := 0; i < len(d.replace); i += 2 {
		variant = strings.ReplaceAll(variant, d.replace[i], d.replace[i+1])
	}
	for i, server := range d.servers {
		variant += fmt.Sprintf("\nhttp://:%d {\nbind 127.0.0.1\n%s\ndev_api\n}\n", 9080+i, server)
	}
	return variant
}

// TestCluster applies each variant. Its pods get ready, and its application gets an answer of the API, which demands a token.
func TestCluster(t *testing.T) {
	for variant, d := range deployments {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			s := newSpace(t, variant)
			d.secrets(s)
			s.apply(variant, func(object runtime.Object) {
				if cm := caddyfileOfSidecar(object); cm != nil {
					cm.Data["Caddyfile"] = d.caddyfile(cm.Data["Caddyfile"])
				}
				serve(object)
				if d.change != nil {
					d.change(object)
				}
			})
			if variant == "jobs" {
				s.kubectl("create", "job", "manual", "--from", "cronjob/nightly-import")
				s.kubectl("wait", "--for", "condition=Complete", "job/import", "job/manual", "--timeout", starts.String())
				return
			}
			s.ready("deployment/shop")
			s.asks(d.asks)
			if variant == "sharing" {
				s.shares()
			}
		})
	}
	t.Run("all variants", func(t *testing.T) {
		for _, variant := range variants {
			if _, ok := deployments[variant]; !ok && variant != "rehearsal" {
				t.Errorf("%s does not run on a cluster", variant)
			}
		}
	})
}

// shares checks that the sidecar keeps its token in Redis.
func (s *space) shares() {
	s.Helper()
	s.ready("deployment/token-proxy-redis")
	s.eventually(time.Minute, "the sidecar shares its token", func() (string, bool) {
		refreshed, err := s.sidecar("deployment/shop", "tokens", "refresh", "catalog")
		if err != nil {
			return refreshed, false
		}
		list := s.must(s.sidecar("deployment/shop", "tokens", "list"))
		if strings.Contains(list, "cannot be found in the DNS") {
			s.Skip("NOT TESTED: the DNS of the cluster does not have the Service of Redis")
		}
		return list, strings.Contains(list, "  here  ")
	})
}

// serve gives an application of the examples a command. shop answers its own readiness probe, and a job calls the API.
func serve(object runtime.Object) {
	template := templateOf(object)
	if template == nil {
		return
	}
	for i := range template.Spec.Containers {
		switch c := &template.Spec.Containers[i]; c.Name {
		case "shop":
			c.Command = []string{"sh", "-c", `trap exit TERM
				while true; do printf 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n' | nc -l -p 8000 >/dev/null; done`}
		case "import":
			c.Command = []string{"sh", "-c", `for i in 1 2 3 4 5; do curl --silent --show-error --fail "$CATALOG_URL/orders" || exit; done`}
		}
	}
}

// asks sends requests from the application, and compares the answers.
func (s *space) asks(all map[string]string) {
	s.Helper()
	for arguments, want := range all {
		args := append([]string{"exec", "deployment/shop", "--container", "shop", "--", "curl", "--silent"}, strings.Fields(arguments)...)
		if got, err := s.try(args...); err != nil || !strings.Contains(got, want) {
			s.Errorf("%s: %v, got %s, want %s", arguments, err, got, want)
		}
	}
}

// rehearse applies the rehearsal, with tokens of this lifetime and an application that does not pause for long.
func (s *space) rehearse(lifetime string, change func(servers, sidecar map[string]string)) {
	s.Helper()
	s.apply("rehearsal", func(object runtime.Object) {
		if template := templateNamed(object, "rehearsal"); template != nil {
			loop := template.Spec.Containers[0].Args
			loop[0] = strings.Replace(loop[0], "sleep 2", "sleep 0.1", 1)
		}
		cm, ok := object.(*corev1.ConfigMap)
		if !ok {
			return
		}
		for name, caddyfile := range cm.Data {
			cm.Data[name] = strings.ReplaceAll(caddyfile, "lifetime 1m", "lifetime "+lifetime)
		}
		if strings.HasPrefix(cm.Name, developmentName) {
			change(cm.Data, nil)
		} else {
			change(nil, cm.Data)
		}
	})
}

func unchanged(_, _ map[string]string) {}

// load makes the development servers load one of their configurations.
func (s *space) load(name string) {
	s.Helper()
	s.kubectl("exec", "deployment/rehearsal", "--container", developmentName, "--",
		"/usr/bin/token-proxy", "reload", "--config", "/etc/token-proxy/"+name)
}

// answers returns the log of the application, which has an answer or an error for each of its requests.
func (s *space) answers(args ...string) string {
	s.Helper()
	return s.kubectl(append([]string{"logs", "deployment/rehearsal", "--container", "application"}, args...)...)
}

// served waits until the application gets an answer of the API.
func (s *space) served() {
	s.Helper()
	s.eventually(time.Minute, "the application is served", func() (string, bool) {
		last := s.answers("--tail", "1")
		return last, strings.Contains(last, `"client":"dev-client"`)
	})
}

// wantReady waits until the pod of the rehearsal is ready, or is not.
func (s *space) wantReady(want bool) {
	s.Helper()
	s.eventually(starts, fmt.Sprintf("the pod is ready: %t", want), func() (string, bool) {
		pod := s.pod("rehearsal")
		return fmt.Sprint(pod.Status.Conditions), isReady(pod) == want
	})
}

// wantRestarts checks that a container was restarted as often as that.
func (s *space) wantRestarts(container string, want int32) {
	s.Helper()
	if got := statusOf(s.pod("rehearsal"), container).RestartCount; got != want {
		s.Errorf("%s was restarted %d times, want %d", container, got, want)
	}
}

// recovers loads the configuration that ends the outage, and checks how long after that the sidecar has a token. Both times
// are those of the same node.
func (s *space) recovers(configuration string) {
	s.Helper()
	began, _ := s.logged("deployment/rehearsal", sidecarName, "token obtained")
	s.load(configuration)
	var ended, obtained time.Time
	s.eventually(30*time.Second, "the sidecar has a token", func() (string, bool) {
		ended, _ = s.logged("deployment/rehearsal", developmentName, "serving a development token endpoint; not for production")
		obtained, _ = s.logged("deployment/rehearsal", sidecarName, "token obtained")
		return "", obtained.After(began)
	})
	took := obtained.Sub(ended)
	s.Logf("the sidecar had a token %v after the end of the outage", took)
	if took > 11*time.Second { // the longest pause, and the call
		s.Errorf("the sidecar had a token only %v after the end of the outage", took)
	}
}

// TestClusterOutageAtStart starts a pod while the token endpoint is down. The application starts when it is back.
func TestClusterOutageAtStart(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "outage-at-start")
	s.rehearse("1m", func(servers, _ map[string]string) {
		if servers != nil {
			servers["Caddyfile"], servers["works.caddyfile"] = servers["outage.caddyfile"], servers["Caddyfile"]
		}
	})
	s.eventually(starts, "the sidecar waits for a token", func() (string, bool) {
		described := s.kubectl("describe", "pods")
		return described, strings.Contains(described, "Startup probe failed: HTTP probe failed with statuscode: 503")
	})
	s.eventually(time.Minute, "the log has the reason", func() (string, bool) {
		log := s.kubectl("logs", "deployment/rehearsal", "--container", sidecarName)
		return log, strings.Contains(log, `"msg":"no token"`) && strings.Contains(log, "503")
	})
	time.Sleep(30 * time.Second) // until the pauses between the token calls are the longest
	if state := statusOf(s.pod("rehearsal"), "application").State; state.Waiting == nil {
		t.Errorf("the application started without a token: %+v", state)
	}
	s.wantRestarts(sidecarName, 0)
	s.recovers("works.caddyfile")
	s.wantReady(true)
	s.served()
}

// TestClusterOutage ends the only token during an outage. The pod is not ready, and nothing restarts.
func TestClusterOutage(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "outage")
	s.rehearse("10s", unchanged)
	s.wantReady(true)
	s.served()
	s.load("outage.caddyfile")
	s.wantReady(false)
	s.eventually(time.Minute, "the application gets 503", func() (string, bool) {
		last := s.answers("--tail", "1")
		return last, strings.Contains(last, "503 Service Unavailable")
	})
	if described := s.kubectl("describe", "pods"); !strings.Contains(described, "Readiness probe failed: HTTP probe failed with statuscode: 503") {
		t.Errorf("got %s", described)
	}
	time.Sleep(20 * time.Second)
	s.recovers("Caddyfile")
	s.wantReady(true)
	s.served()
	s.wantRestarts(sidecarName, 0)
}

// TestClusterRevoked disables the client and rejects its tokens. The pod is not ready, although the token has not expired.
func TestClusterRevoked(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "revoked")
	s.rehearse("1h", unchanged)
	s.wantReady(true)
	s.served()
	s.load("revoked.caddyfile")
	s.wantReady(false)
	if last := s.answers("--tail", "1"); !strings.Contains(last, "401 Unauthorized") {
		t.Errorf("the application gets %s", last)
	}
	if out, err := s.sidecar("deployment/rehearsal", "tokens", "list"); err != nil || !strings.Contains(out, "failing") || !strings.Contains(out, "invalid_client") {
		t.Errorf("%v: %s", err, out)
	}
	s.load("Caddyfile")
	s.must(s.sidecar("deployment/rehearsal", "tokens", "refresh", "catalog"))
	s.wantReady(true)
	s.served()
	s.wantRestarts(sidecarName, 0)
}

// TestClusterRotation replaces the secret under traffic. The old one ends first. The sidecar reads the new one when the
// kubelet has written it.
func TestClusterRotation(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "rotation")
	s.rehearse("1h", func(servers, _ map[string]string) {
		if servers != nil {
			servers["rotated.caddyfile"] = strings.Replace(servers["Caddyfile"], "lifetime 1h", "lifetime 1h\nclient_secret another-secret", 1)
		}
	})
	s.wantReady(true)
	s.served()
	s.load("rotated.caddyfile")
	if out, err := s.sidecar("deployment/rehearsal", "tokens", "refresh", "catalog"); err == nil {
		t.Errorf("the token endpoint accepts the old secret: %s", out)
	}
	s.kubectl("patch", "secret", "token-proxy", "--patch", `{"stringData": {"client-secret": "another-secret"}}`)
	s.eventually(starts, "the sidecar uses the new secret", func() (string, bool) {
		out, err := s.sidecar("deployment/rehearsal", "tokens", "refresh", "catalog")
		return out, err == nil
	})
	s.served()
	answers := s.answers("--tail", "-1")
	if strings.Contains(answers, "wget:") || strings.Count(answers, `"client":"dev-client"`) < 10 {
		t.Errorf("requests failed: %s", answers)
	}
	s.wantRestarts(sidecarName, 0)
}

// TestClusterCrash lets the process of the sidecar crash. The kubelet starts it again, and leaves the application alone.
func TestClusterCrash(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "crash")
	s.rehearse("1h", unchanged)
	s.wantReady(true)
	s.served()
	s.crash(s.pod("rehearsal").Name)
	s.eventually(starts, "the sidecar is restarted", func() (string, bool) {
		status := statusOf(s.pod("rehearsal"), sidecarName)
		return fmt.Sprintf("%+v", status), status.RestartCount == 1 && status.Ready
	})
	s.wantReady(true)
	s.served()
	s.wantRestarts("application", 0)
}

// TestClusterMistake starts a sidecar with a mistake in its Caddyfile. kubectl describe shows the mistake.
func TestClusterMistake(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "mistake")
	s.rehearse("1m", func(_, sidecar map[string]string) {
		if sidecar != nil {
			sidecar["Caddyfile"] = strings.Replace(sidecar["Caddyfile"], "client_secret", "client_secrte", 1)
		}
	})
	s.eventually(starts, "kubectl describe shows the mistake", func() (string, bool) {
		described := s.kubectl("describe", "pods")
		return described, strings.Contains(described, "perhaps client_secret is meant, at /etc/token-proxy/Caddyfile:")
	})
}

// TestClusterFailedRollout upgrades a gateway of the chart to a Caddyfile with a mistake. The two old replicas keep serving. One
// that is restarted reads the new Caddyfile, and the other one serves alone. The former values end the failure.
func TestClusterFailedRollout(t *testing.T) {
	t.Parallel()
	s := newSpace(t, "failed-rollout")
	s.client("token-proxy", "dev-client", "dev-secret")
	s.apply("application", func(object runtime.Object) {
		serve(object)
		if template := templateNamed(object, "shop"); template != nil {
			template.Labels["gateway-client"] = "true"
		}
	})
	s.upgrade("client_secret")
	s.ready("deployment/gateway")
	s.ready("deployment/shop")
	old := s.pod("token-proxy-gateway").Name
	service := s.kubectl("get", "service", "gateway", "--output", "jsonpath={.spec.clusterIP}")
	asked := map[string]string{"--connect-to gateway:8080:" + service + ":8080 http://gateway:8080/orders": `"client":"dev-client"`}
	s.asks(asked)

	s.upgrade("client_secrte")
	const mistake = "perhaps client_secret is meant"
	s.eventually(starts, "the new replica does not start", func() (string, bool) {
		described := s.kubectl("describe", "pods", "--selector", "app.kubernetes.io/name=token-proxy-gateway")
		return described, strings.Contains(described, mistake)
	})
	s.eventually(starts, "the old replica has the new Caddyfile", func() (string, bool) {
		out, err := s.sidecar("pod/"+old, "adapt")
		return out, err != nil && strings.Contains(out, mistake)
	})
	for range 10 {
		s.asks(asked)
	}
	if restarts := s.kubectl("get", "pod", old, "--output", "jsonpath={.status.containerStatuses[0].restartCount}"); restarts != "0" {
		t.Errorf("the old replica was restarted %s times", restarts)
	}

	s.crash(old)
	s.eventually(starts, "the old replica does not start again", func() (string, bool) {
		described := s.kubectl("describe", "pod", old)
		return described, strings.Contains(described, mistake)
	})
	s.eventually(starts, "the old replica gets no requests", func() (string, bool) {
		ready := s.kubectl("get", "endpointslices", "--selector", "kubernetes.io/service-name=gateway", "--output",
			"jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}")
		return ready, ready != "" && !strings.Contains(ready, old)
	})
	s.asks(asked)
	s.upgrade("client_secret")
	s.ready("deployment/gateway")
	s.asks(asked)
}

// upgrade applies the chart's gateway, with the development servers in each replica. option is the one with the secret.
func (s *space) upgrade(option string) {
	s.Helper()
	values := "gateway:\n  share:\n    enabled: false\n  credential:\n    options: |\n" +
		"      provider optoro sandbox\n      client_id {file./run/secrets/token-proxy/client-id}\n      " +
		option + " {file./run/secrets/token-proxy/client-secret}\n      api_hosts *.optiturn.com\n"
	objects, _ := render(s.T, release{name: "gateway", namespace: s.name, values: values})
	manifests := make([]runtime.Object, 0, len(objects))
	for _, object := range objects {
		if cm, ok := object.(*corev1.ConfigMap); ok {
			caddyfile := deployments["secret"].caddyfile(cm.Data["Caddyfile"])
			cm.Data["Caddyfile"] = strings.Replace(caddyfile, "clients 10.244.0.0/16", "clients any", 1) // the network of the pods is unknown
		}
		manifests = append(manifests, object)
	}
	s.applyAll("chart", manifests)
}

// TestClusterInjector installs the injector under names of its own, so that it does not touch one that the cluster has.
func TestClusterInjector(t *testing.T) {
	const kind = "mutatingadmissionpolicies.admissionregistration.k8s.io/v1"
	s := newSpace(t, "injector")
	if out, err := kubectl(nil, "get", "--raw", "/apis/admissionregistration.k8s.io/v1"); err != nil || !strings.Contains(out, `"mutatingadmissionpolicies"`) {
		t.Skipf("NOT TESTED: the cluster does not serve %s, which is stable since Kubernetes 1.36 (%v)", kind, err)
	}
	t.Parallel()
	var manifests strings.Builder
	for _, file := range []string{"policy.yaml", "rules.yaml", "parameters.yaml"} {
		content, err := os.ReadFile("../injector/" + file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&manifests, "---\n%s", content)
	}
	installed := strings.NewReplacer(
		"token-proxy-injector", s.name+"-injector", "token-proxy-system", s.name, "token-proxy: enabled", "token-proxy: "+s.name,
		"registry.example.com/token-proxy:v0.1.0", proxyImage,
	).Replace(manifests.String())
	t.Cleanup(func() {
		for _, policy := range [][2]string{
			{"mutatingadmissionpolicy", "-injector"}, {"validatingadmissionpolicy", "-injector"}, {"validatingadmissionpolicy", "-injector-debug"},
		} {
			kind, name := policy[0], "/"+s.name+policy[1]
			if out, err := kubectl(nil, "delete", kind+name, kind+"binding"+name); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	s.must(kubectl([]byte(installed), "apply", "--server-side", "--filename", "-"))
	s.kubectl("label", "namespace", s.name, "token-proxy="+s.name)

	d := deployments["secret"]
	secret, err := os.ReadFile("../secret/token-proxy.caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s.client("catalog", "dev-client", "dev-secret")
	s.kubectl("create", "configmap", "catalog", "--from-literal", "Caddyfile="+d.caddyfile(string(secret)))
	inject := func(annotations map[string]string) func(runtime.Object) {
		return func(object runtime.Object) {
			serve(object)
			if template := templateNamed(object, "shop"); template != nil {
				template.Labels["token-proxy"] = "inject"
				template.Annotations = annotations
			}
		}
	}

	// The API server takes a moment to learn of a policy. When it has, it denies this pod.
	denied := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "denied", "labels": {"token-proxy": "inject"}}, "spec": {
		"securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{
		"name": "a", "image": %q, "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}`, clientImage)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		out, _ := kubectl([]byte(denied), "--namespace", s.name, "create", "--dry-run=server", "--filename", "-")
		if strings.Contains(out, "lacks the annotation token-proxy/config") {
			break
		}
		if time.Now().After(end) && strings.Contains(out, "no params found") {
			t.Skip("NOT TESTED: the API server no longer sees new ConfigMaps. The section Injector of the README describes this error of Kubernetes")
		}
		if time.Now().After(end) {
			t.Fatalf("a pod without annotations is not denied: %s", out)
		}
	}
	s.apply("application", inject(map[string]string{"token-proxy/config": "catalog", "token-proxy/secret": "catalog"}))
	s.ready("deployment/shop")
	s.asks(d.asks)
	if pod := s.pod("shop"); pod.Spec.InitContainers[0].Name != sidecarName || pod.Spec.InitContainers[0].Image != proxyImage {
		t.Errorf("the injector added %+v", pod.Spec.InitContainers)
	}
}
