package check

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

const redisConf = "../../kubernetes/redis/redis.conf"

func TestSharing(t *testing.T) {
	project, err := loadIn("../sharing", read(t, "../sharing/compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range complainOfSharing(project, read(t, "../sharing/token-proxy.caddyfile"), read(t, redisConf)) {
		t.Error(complaint)
	}
	for _, sidecar := range []string{"shop-token-proxy", "returns-token-proxy"} {
		build := project.Services[sidecar].Build
		if _, err := os.Stat(filepath.Join(build.Context, build.Dockerfile)); err != nil {
			t.Error(err)
		}
	}
	for _, volume := range project.Services["redis"].Volumes {
		if volume.Source != redisConf {
			t.Errorf("Redis mounts %s, want %s", volume.Source, redisConf)
		}
	}
}

var (
	redisAddress = regexp.MustCompile(`(?m)^\t+address redis:(\d+)$`)
	redisSetting = regexp.MustCompile(`(?m)^(port|aclfile) (\S+)$`)
)

// complainOfSharing returns the faults of two applications, their sidecars and Redis.
func complainOfSharing(project *types.Project, caddyfile, conf string) (complaints []string) {
	bad := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	if len(project.Services) != 7 {
		bad("%d services, want 7", len(project.Services))
	}
	for _, name := range []string{"shop", "returns"} {
		sidecar := name + "-token-proxy"
		complaints = append(complaints, complainOf(project, name, sidecar, name+"-network", "secrets", caddyfile)...)
		if len(project.Services[sidecar].DependsOn) != 1 {
			bad("%s waits for Redis, without which it works", sidecar)
		}
		s := project.Services[name+"-network"]
		if _, out := s.Networks["default"]; !out || len(s.Networks) != 2 {
			bad("%s does not reach the token endpoint", sidecar)
		}
		if _, in := s.Networks["redis"]; !in {
			bad("%s does not reach Redis", sidecar)
		}
	}

	redis := project.Services["redis"]
	if _, in := redis.Networks["redis"]; !in || len(redis.Networks) != 1 || !project.Networks["redis"].Internal || len(redis.Ports) != 0 {
		bad("Redis is not in a network of its own, or publishes a port")
	}
	if !regexp.MustCompile(`^redis:\d+\.\d+\.\d+$`).MatchString(redis.Image) {
		bad("the image is %q", redis.Image)
	}
	if redis.MemLimit < 48<<20 {
		bad("the memory of Redis has no limit, or one too low for maxmemory")
	}
	if len(redis.Volumes) != 1 || !redis.Volumes[0].ReadOnly || len(redis.Tmpfs) != 1 || !strings.HasPrefix(redis.Tmpfs[0], "/data:") ||
		!reflect.DeepEqual(redis.Entrypoint, types.ShellCommand{"redis-server", redis.Volumes[0].Target}) || len(redis.Command) != 0 {
		bad("Redis does not read its configuration, or keeps a volume")
	}
	settings := make(map[string]string)
	for _, m := range redisSetting.FindAllStringSubmatch(conf, -1) {
		settings[m[1]] = m[2]
	}
	if address := redisAddress.FindStringSubmatch(caddyfile); address == nil || address[1] != settings["port"] {
		bad("the address in the Caddyfile is not that of Redis")
	}
	if len(redis.Secrets) != 1 || redis.Secrets[0].Target != settings["aclfile"] ||
		filepath.Base(project.Secrets[redis.Secrets[0].Source].File) != "users.acl" {
		bad("Redis does not get users.acl, or gets another secret")
	}
	return complaints
}

// TestComplaintsOfSharing breaks the rules one at a time, and checks that complainOfSharing notices each.
func TestComplaintsOfSharing(t *testing.T) {
	compose, caddyfile, conf := read(t, "../sharing/compose.yaml"), read(t, "../sharing/token-proxy.caddyfile"), read(t, redisConf)
	for from, to := range map[string]string{
		"networks: [default, redis]":            "networks: [default]",
		"  networks: [default, redis]\n":        "  networks: [redis]\n",
		"    depends_on:\n      shop-network":   "    depends_on:\n      redis: {condition: service_started}\n      shop-network",
		"internal: true":                        "internal: false",
		"    networks: [redis]\n":               "",
		"    image: redis:8.4.0":                "    ports: [6379]\n    image: redis:8.4.0",
		"redis:8.4.0":                           "redis:latest",
		"mem_limit: 64m":                        "mem_limit: 32m",
		`user: "999:999"`:                       `user: "0:0"`,
		"redis.conf:ro":                         "redis.conf",
		"entrypoint: ":                          "command: ",
		"      - /data:size=1m":                 "      - /tmp:size=1m",
		"/run/secrets/redis/users.acl":          "/run/secrets/users.acl",
		"source: ../secrets":                    "source: ../secret",
		"file: ../secrets/users.acl":            "file: ../secrets/key",
		"network_mode: service:returns-network": "network_mode: service:shop-network",
		"      returns-token-proxy:\n        c": "      shop-token-proxy:\n        c",
		"    core: 0":                           "    core: 1",
	} {
		project, err := loadIn("../sharing", replaced(t, compose, from, to))
		if err != nil {
			t.Errorf("%q does not load: %v", to, err)
		} else if len(complainOfSharing(project, caddyfile, conf)) == 0 {
			t.Errorf("got no complaint about %q", to)
		}
	}
	project, err := loadIn("../sharing", compose)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		"address redis:6379":                         "address redis:6380",
		"/run/secrets/token-proxy/other-key}":        "/run/secrets/other-key}",
		"\tadmin unix//run/token-proxy/admin.sock\n": "",
		"\tbind loopback/localhost":                  "\t# bind loopback/localhost",
	} {
		if len(complainOfSharing(project, replaced(t, caddyfile, from, to), conf)) == 0 {
			t.Errorf("got no complaint about %q", to)
		}
	}
	for from, to := range map[string]string{"port 6379": "port 6380", "/run/secrets/redis/": "/run/"} {
		if len(complainOfSharing(project, caddyfile, replaced(t, conf, from, to))) == 0 {
			t.Errorf("got no complaint about %q", to)
		}
	}
}
