package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/launch"
)

// execConfig is what exec takes from a configuration.
type execConfig struct {
	raw              []byte // JSON
	file, adapter    string
	settings         launch.Settings
	usesOwnAuthority bool
}

func loadExecConfig(file, adapter string) (c execConfig, err error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return c, fmt.Errorf("the configuration %s must be a regular file, because exec and the sidecar both read it", file)
	}
	quietly(func() { c.raw, c.file, c.adapter, err = caddycmd.LoadConfig(file, adapter) }) // the sidecar logs the same
	if err != nil {
		return c, err
	}
	if c.file == "" {
		return c, errors.New("no configuration found: set --config, or run the command in a folder with a Caddyfile")
	}
	servers, err := readServers(c.raw)
	if err != nil {
		return c, err
	}
	var blocks []caddyfile.ServerBlock
	var texts []string
	if c.adapter != "" {
		if blocks, err = parseCaddyfile(c.file); err != nil {
			return c, err
		}
		texts = configTexts(c.file, blocks)
	}
	if c.settings.Named, err = launch.FindNamed(c.raw, texts...); err != nil {
		return c, err
	}
	proxies, err := findProxies(servers)
	if err != nil {
		return c, err
	}
	switch len(proxies) {
	case 0:
		if err := checkNoneDropped(blocks, servers); err != nil {
			return c, err
		}
	case 1:
		c.settings.Proxy, c.settings.Hosts = proxies[0].url, proxies[0].hosts
	default:
		return c, fmt.Errorf("%s has the listener wrapper https_proxy on %s and on %s, but an application has one HTTPS_PROXY: put all sites on one of them",
			c.file, proxies[0].url.Host, proxies[1].url.Host)
	}
	c.usesOwnAuthority = len(proxies) > 0 || len(internalIssuers(c.raw)) > 0
	return c, nil
}

// configServer is an HTTP server of a configuration.
type configServer struct {
	Listen   []string          `json:"listen"`
	Wrappers []listenerWrapper `json:"listener_wrappers"`
	Routes   []struct {
		Match []struct {
			Host []string `json:"host"`
		} `json:"match"`
	} `json:"routes"`
}

type listenerWrapper struct {
	Wrapper string `json:"wrapper"`
}

// readServers returns the HTTP servers of a configuration by name.
func readServers(config []byte) (map[string]configServer, error) {
	var c struct {
		Apps struct {
			HTTP struct {
				Servers map[string]configServer `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	err := json.Unmarshal(config, &c)
	return c.Apps.HTTP.Servers, err
}

// isProxy reports whether the server has the listener wrapper https_proxy.
func (s configServer) isProxy() bool {
	return slices.ContainsFunc(s.Wrappers, func(w listenerWrapper) bool { return w.Wrapper == "https_proxy" })
}

// configProxy is a server with the listener wrapper https_proxy.
type configProxy struct {
	url   *url.URL
	hosts []string // of its sites
}

// findProxies returns the servers with the listener wrapper https_proxy.
func findProxies(servers map[string]configServer) (found []configProxy, err error) {
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		server := servers[name]
		if !server.isProxy() {
			continue
		}
		var proxy configProxy
		for _, route := range server.Routes {
			for _, matcher := range route.Match {
				proxy.hosts = append(proxy.hosts, matcher.Host...)
			}
		}
		if proxy.url, err = proxyURL(server.Listen); err != nil {
			return nil, fmt.Errorf("the server %s with the listener wrapper https_proxy: %w", name, err)
		}
		found = append(found, proxy)
	}
	return found, nil
}

// proxyURL returns the URL by which an application on this machine reaches the first of the addresses that it can reach.
func proxyURL(listen []string) (*url.URL, error) {
	for _, address := range listen {
		address, err := caddy.NewReplacer().ReplaceOrErr(address, true, true)
		if err != nil {
			return nil, err
		}
		a, err := caddy.ParseNetworkAddress(address)
		if err != nil {
			return nil, err
		}
		host, ok := reachableHost(a)
		if ok && a.StartPort > 0 {
			return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(int(a.StartPort)))}, nil
		}
	}
	return nil, fmt.Errorf("an application cannot reach it at %s: let it listen on a TCP port of this machine", strings.Join(listen, ", "))
}

// reachableHost returns the host for connections to a listener.
func reachableHost(a caddy.NetworkAddress) (host string, ok bool) {
	switch a.Network {
	case "loopback": // bind loopback/localhost
		return "127.0.0.1", true
	case "tcp", "tcp4":
		if a.Host == "" || a.Host == "0.0.0.0" || a.Host == "::" {
			return "127.0.0.1", true
		}
		return a.Host, true
	case "tcp6":
		if a.Host == "" || a.Host == "::" {
			return "::1", true
		}
		return a.Host, true
	default:
		return "", false
	}
}

// importLine is a line of a Caddyfile that imports files or a snippet.
var importLine = regexp.MustCompile("(?m)^\\s*import\\s+[\"`]?([^\\s\"`]+)")

func parseCaddyfile(file string) ([]caddyfile.ServerBlock, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return caddyfile.Parse(file, content)
}

// configTexts returns the content of a Caddyfile, which has these blocks, and of all files that it imports, as they are before
// Caddy replaces {$NAME} in them.
func configTexts(file string, blocks []caddyfile.ServerBlock) (texts []string) {
	pending := []string{file}
	for _, block := range blocks { // the tokens know their files, also those that an import with arguments names
		for _, segment := range block.Segments {
			for _, token := range segment {
				pending = append(pending, token.File)
			}
		}
	}
	seen := make(map[string]bool)
	for len(pending) > 0 {
		path, err := filepath.Abs(pending[0])
		pending = pending[1:]
		if err != nil || seen[path] {
			continue
		}
		seen[path] = true
		content, err := os.ReadFile(path)
		if err != nil {
			continue // the name of a snippet, or of what Caddy has made itself
		}
		texts = append(texts, string(content))
		pending = append(pending, importedFiles(path, string(content))...)
	}
	return texts
}

// importedFiles returns the files that a Caddyfile imports. A file that consists of imports leaves no token of its own.
func importedFiles(file, content string) (files []string) {
	for _, m := range importLine.FindAllStringSubmatch(content, -1) {
		pattern := environmentOfCaddyfile.ReplaceAllStringFunc(m[1], func(variable string) string {
			name, byDefault, _ := strings.Cut(strings.Trim(variable, "{$}"), ":")
			if value, ok := os.LookupEnv(name); ok {
				return value
			}
			return byDefault
		})
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(file), pattern)
		}
		matches, _ := filepath.Glob(pattern) // Caddy reports a pattern that is wrong
		files = append(files, matches...)
	}
	return files
}

// environmentOfCaddyfile is {$NAME} or {$NAME:default}.
var environmentOfCaddyfile = regexp.MustCompile(`\{\$[^{}]+\}`)
