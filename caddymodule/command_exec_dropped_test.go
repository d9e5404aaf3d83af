package caddymodule

import (
	"path/filepath"
	"strings"
	"testing"
)

// proxySite is the site of an API for applications that obey HTTPS_PROXY.
const proxySite = "https://api.example.com:3128 {\n\tbind 127.0.0.1\n\ttls internal\n\trespond ok\n}\n"

// proxyOn is a global option `servers` with the wrapper https_proxy.
func proxyOn(address string) string {
	return "servers " + address + " {\n\tlistener_wrappers {\n\t\thttps_proxy {\n\t\t\ttunnel any\n\t\t}\n\t\ttls\n\t}\n}\n"
}

// TestExecReportsADroppedProxy does not start an application whose requests would pass by the sidecar, because Caddy has dropped
// the wrapper https_proxy without a warning. The error has the line to change, and the spelling that works.
func TestExecReportsADroppedProxy(t *testing.T) {
	config := "{\n\tadmin off\n" + proxyOn(":3128") + "}\n" + proxySite
	file := writeConfig(t, "Caddyfile", config)
	stdout, stderr, status := runBinary(t, "exec", "--config", file, "--", "/bin/echo", "application-has-begun")
	if status != 125 || stdout != "" {
		t.Errorf("status %d: %s", status, stdout)
	}
	wantText(t, stderr, "Caddyfile:3: https_proxy has no effect, because no site listens on exactly :3128; write `servers 127.0.0.1:3128`\n")

	c, err := loadExecConfig(writeConfig(t, "Caddyfile", strings.Replace(config, ":3128", "127.0.0.1:3128", 1)), "")
	if err != nil || c.settings.Proxy == nil || c.settings.Proxy.Host != "127.0.0.1:3128" {
		t.Errorf("with this spelling, the proxy is %v, %v", c.settings.Proxy, err)
	}
}

// TestExecComparesAddressesAsCaddy reports each way in which Caddy drops the wrapper https_proxy, and takes each configuration
// where Caddy uses it or the Caddyfile does not have it.
func TestExecComparesAddressesAsCaddy(t *testing.T) {
	t.Setenv("EXEC_PROXY", "127.0.0.1:3128")
	unbound := strings.Replace(proxySite, "\tbind 127.0.0.1\n", "", 1)
	both := strings.Replace(proxySite, "bind 127.0.0.1", "bind 127.0.0.1 ::1", 1)
	ipv6 := strings.Replace(proxySite, "bind 127.0.0.1", "bind ::1", 1)
	plain := "http://localhost:8080 {\n\tbind 127.0.0.1\n\trespond ok\n}\n"
	const none = "no site listens on exactly "
	for name, tc := range map[string]struct{ options, sites, want string }{
		"the address":               {proxyOn("127.0.0.1:3128"), proxySite, ""},
		"in quotes":                 {proxyOn("`127.0.0.1:3128`"), proxySite, ""},
		"a variable":                {proxyOn("{$EXEC_PROXY}"), proxySite, ""},
		"all interfaces":            {proxyOn(":3128"), unbound, ""},
		"one of two addresses":      {proxyOn("[::1]:3128"), both, ""},
		"all listeners":             {proxyOn(""), proxySite, ""},
		"default_bind":              {"default_bind 127.0.0.1\n" + proxyOn("127.0.0.1:3128"), unbound, ""},
		"the rest":                  {"servers 127.0.0.1:8080 {\n\tprotocols h1\n}\n" + proxyOn(""), plain + proxySite, ""},
		"another option without it": {"servers :9 {\n\tname https_proxy\n\tprotocols h1\n}\n", proxySite, ""},
		"the wrapper tls alone":     {"servers :9 {\n\tlistener_wrappers {\n\t\ttls\n\t}\n}\n", proxySite, ""},
		"no global options":         {"", proxySite, ""},
		"a second one":              {proxyOn("127.0.0.1:3128") + proxyOn(":3128"), proxySite, ""},

		"without the host":       {proxyOn(":3128"), proxySite, none + ":3128; write `servers 127.0.0.1:3128`"},
		"a port alone":           {proxyOn("3128"), proxySite, none + "3128; write `servers 127.0.0.1:3128`"},
		"a name":                 {proxyOn("localhost:3128"), proxySite, none + "localhost:3128; write `servers 127.0.0.1:3128`"},
		"a network":              {proxyOn("tcp/127.0.0.1:3128"), proxySite, none + "tcp/127.0.0.1:3128; write `servers 127.0.0.1:3128`"},
		"the site":               {proxyOn("https://api.example.com:3128"), proxySite, "write `servers 127.0.0.1:3128`"},
		"a host without bind":    {proxyOn("127.0.0.1:3128"), unbound, none + "127.0.0.1:3128; write `servers :3128`"},
		"IPv6":                   {proxyOn(":3128"), ipv6, "write `servers [::1]:3128`"},
		"another port":           {proxyOn("127.0.0.1:3129"), plain + proxySite, none + "127.0.0.1:3129; write one of 127.0.0.1:3128, 127.0.0.1:8080 after `servers`"},
		"behind another option":  {"servers 127.0.0.1:3128 {\n\tprotocols h1\n}\n" + proxyOn(""), proxySite, "another `servers` option with a longer address, and Caddy uses only that; move the wrapper there"},
		"behind another address": {"servers 127.0.0.1:3128 {\n\tprotocols h1\n}\n" + proxyOn("[::1]:3128"), both, "move the wrapper there"},
		"no site":                {proxyOn(""), "", "the configuration has no site"},
	} {
		t.Run(name, func(t *testing.T) {
			config := tc.sites
			if tc.options != "" {
				config = "{\n" + tc.options + "}\n" + tc.sites
			}
			_, err := loadExecConfig(writeConfig(t, "Caddyfile", config), "")
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, "https_proxy has no effect, because ", tc.want)
		})
	}
}

// TestExecNamesTheImportedFile names the file of the option, which may be imported.
func TestExecNamesTheImportedFile(t *testing.T) {
	file := writeConfig(t, "Caddyfile", "import options\n"+proxySite)
	writeFile(t, filepath.Join(filepath.Dir(file), "options"), "{\n\tadmin off\n\timport proxy\n}\n")
	writeFile(t, filepath.Join(filepath.Dir(file), "proxy"), "\n"+proxyOn(":3128"))
	_, err := loadExecConfig(file, "")
	wantError(t, err, filepath.Join(filepath.Dir(file), "proxy")+":2: https_proxy has no effect")
}
