package redis

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// parse returns the JSON of a Caddyfile's `store redis …`.
func parse(t *testing.T, text string) (string, error) {
	t.Helper()
	s := new(Store)
	if err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
		return "", err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), nil
}

func TestCaddyfile(t *testing.T) {
	for text, want := range map[string]string{
		"redis {\n address 10.0.0.5:6379\n}": `{"addresses":["10.0.0.5:6379"]}`,
		"redis {\n address redis.internal:6379\n username app\n password {file./run/secrets/redis}\n database 2\n tls\n}":                                       `{"addresses":["redis.internal:6379"],"username":"app","password":"{file./run/secrets/redis}","database":2,"tls":{}}`,
		"redis {\n address [::1]:6379\n database 0\n}":                                                                                                          `{"addresses":["[::1]:6379"]}`,
		"redis {\n address unix//run/redis.sock\n}":                                                                                                             `{"addresses":["unix//run/redis.sock"]}`,
		"redis {\n address {env.A} redis_2:6380\n}":                                                                                                             `{"addresses":["{env.A}","redis_2:6380"]}`,
		"redis {\n address config.cache:6379\n cluster\n}":                                                                                                      `{"addresses":["config.cache:6379"],"cluster":true}`,
		"redis {\n address a:26379 b:26379\n master_name primary\n sentinel_username {env.U}\n sentinel_password {env.P}\n database 1\n}":                       `{"addresses":["a:26379","b:26379"],"database":1,"master_name":"primary","sentinel_username":"{env.U}","sentinel_password":"{env.P}"}`,
		"redis {\n address a:1\n tls {\n ca {file./ca.pem}\n server_name redis\n client_certificate {file./c.pem}\n client_certificate_key {file./k.pem}\n}\n}": `{"addresses":["a:1"],"tls":{"ca":"{file./ca.pem}","server_name":"redis","client_certificate":"{file./c.pem}","client_certificate_key":"{file./k.pem}"}}`,
	} {
		if got, err := parse(t, text); err != nil || got != want {
			t.Errorf("%s: %v\n got %s\nwant %s", text, err, got, want)
		}
	}
}

// Mistakes are reported with their line, and never with the value, which could be a password.
func TestCaddyfileMistakes(t *testing.T) {
	address := "address a:1\n "
	for text, want := range map[string]string{
		"":                                                   "needs an address",
		"address":                                            "address has no value",
		`address ""`:                                         "address: a value is empty",
		"address SECRETSECRET":                               "not host:port",
		"address :6379":                                      "not host:port",
		"address a b:c:6379":                                 "not host:port",
		"address a.:x:6379":                                  "not host:port",
		"address SECRET@a:6379":                              "not host:port",
		"address a:0":                                        "1 to 65535",
		"address a:65536":                                    "1 to 65535",
		"address a:SECRET":                                   "1 to 65535",
		"address redis://app:SECRET@a:6379":                  "it is a URL",
		"address unix/run/redis.sock":                        "absolute",
		"address a:1 a:1":                                    "stands twice",
		"address unix//s a:1":                                "unix socket",
		"address unix//s\n master_name m":                    "unix socket",
		"address unix//s\n tls":                              "unix socket",
		address + "address b:1":                              "already specified",
		address + "cluster on":                               "takes no value",
		address + "cluster\n master_name m":                  "knows no clusters",
		address + "cluster\n database 1":                     "database 0 only",
		"address a:1 b:1\n database 1":                       "database 0 only",
		address + "database -1":                              "not the number",
		address + "database SECRET":                          "not the number",
		address + "username app":                             "needs a password",
		address + "username {vars.x}":                        "unknown placeholder",
		address + "password":                                 "has no value",
		address + "password SECRET SECRET":                   "exactly one value",
		address + `password ""`:                              "empty",
		address + "password x{env.P}":                        "whole value",
		address + "master_name":                              "has no value",
		address + "sentinel_password SECRET":                 "needs master_name",
		address + "master_name m\n sentinel_username SECRET": "needs sentinel_password",
		address + "tls SECRET":                               "takes no value",
		address + "tls {\n SECRETSECRET\n}":                  "unrecognized option of tls",
		address + "tls {\n ca\n}":                            "has no value",
		address + "tls {\n ca {x}\n}":                        "unknown placeholder",
		address + "tls {\n ca a\n ca b\n}":                   "already specified",
		address + "SECRETSECRET":                             "unrecognized option of store redis",
		address + "pasword SECRET":                           "perhaps password is meant",
		address + "tls {\n client_certifcate x\n}":           "perhaps client_certificate is meant",
	} {
		_, err := parse(t, "redis {\n "+text+"\n}")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "Testfile:") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := parse(t, "redis SECRET"); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}

// What a Caddyfile cannot show is reported when the configuration is loaded, without a server.
func TestProvisionMistakes(t *testing.T) {
	_, missing := file(t, "")
	_, lines := file(t, "one\ntwo")
	a := newAuthority(t)
	certificate, _ := a.leaf(t)
	_, otherKey := a.leaf(t)
	t.Setenv("TEST_URL", "redis://app:"+password+"@a:6379")
	for name, c := range map[string]struct {
		o    options
		want string
	}{
		"no address":              {options{}, "needs an address"},
		"null":                    {options{"addresses": nil}, "needs an address"},
		"an address":              {at("a:x"), "1 to 65535"},
		"an address of a file":    {at("{env.TEST_URL}"), "it is a URL"},
		"an address of nothing":   {at("{env.TEST_UNSET}"), "address: "},
		"a negative database":     {at("a:1").with("database", -1), "negative"},
		"a database of a cluster": {at("a:1", "b:1").with("database", 1), "database 0 only"},
		"an unknown option":       {at("a:1").with("pool", 5), "unknown field"},
		"no password":             {at("a:1").with("password", missing), "password: the file"},
		"a password of two lines": {at("a:1").with("password", lines), "more than one line"},
		"no file":                 {at("a:1").with("password", "{file./nonexistent}"), "password: "},
		"no variable":             {at("a:1").with("password", "{env.TEST_UNSET}"), "TEST_UNSET"},
		"no user":                 {at("a:1").with("username", missing).with("password", "x"), "username: the file"},
		"no password of Sentinel": {at("a:1").with("master_name", "m").with("sentinel_password", missing), "sentinel_password: the file"},
		"no master":               {at("a:1").with("master_name", "{env.TEST_UNSET}"), "master_name: "},
		"no authority":            {at("a:1").with("tls", options{"ca": missing}), "tls: ca: the file"},
		"another kind of file":    {at("a:1").with("tls", options{"ca": lines}), "no certificate in PEM"},
		"a certificate alone":     {at("a:1").with("tls", options{"client_certificate": certificate}), "need each other"},
		"a key alone":             {at("a:1").with("tls", options{"client_certificate_key": otherKey}), "need each other"},
		"another key":             {at("a:1").with("tls", options{"client_certificate": certificate, "client_certificate_key": otherKey}), "not a certificate and its key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := provision(t, c.o)
			wantError(t, err, c.want)
		})
	}
}

// Provision and Open use no network.
func TestProvisionWithoutServer(t *testing.T) {
	a := newAuthority(t)
	certificate, key := a.leaf(t)
	_, secret := file(t, password)
	for _, o := range []options{
		at("192.0.2.1:6379").with("username", "app").with("password", secret).with("database", 3),
		at("no-such-host.invalid:6379", "192.0.2.1:6379"),
		at("192.0.2.1:6379").with("master_name", "m").with("sentinel_password", secret),
		at("unix/" + t.TempDir() + "/none"),
		at("192.0.2.1:6379").with("tls", options{"ca": a.pem, "client_certificate": certificate, "client_certificate_key": key}),
	} {
		open(t, o)
	}
}

// The doc comment has every option.
func TestSyntaxIsComplete(t *testing.T) {
	source, err := os.ReadFile("caddyfile.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []any{Store{}, TLS{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name = strings.Replace(name, "addresses", "address", 1); name != "" && !strings.Contains(string(source), "   "+name+" ") && !strings.Contains(string(source), "   "+name+"\n") {
				t.Errorf("%s is missing", name)
			}
		}
	}
}
