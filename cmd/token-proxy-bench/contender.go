package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// contender is a proxy that puts a token on requests. The report calls it by its name.
type contender struct {
	name     string
	command  func(context.Context, setup) (*exec.Cmd, error)
	hasAdmin bool // whether it has Caddy's admin API
}

// setup is what a contender is started with.
type setup struct {
	listen, admin string // its own addresses
	services      string // the address of the API and the token endpoint
	secure        string // the address of the same API behind TLS
	authority     string // the file of the certificate of that API
	binary        string // the token-proxy to measure
	scratch       string // a folder for its files
	lifetime      int    // of its tokens, in seconds
	margin        string // how long before their expiry it refreshes them, if that is configurable
	options       string // more options of its credential
	group         string // shares its tokens in this group in Redis; "" to share none
	redis         string // the address of Redis
	shareKey      string // the file of the key for Redis
	workload      workload
}

// lasting is for the phases without refreshes, and brief for the phase with refreshes.
var (
	lasting = setup{lifetime: longLife, margin: "10s"}
	brief   = setup{lifetime: shortLife, margin: shortMargin.String()}
)

var contenders = []contender{
	{name: sidecarName, command: sidecarCommand, hasAdmin: true},
	{name: staticName, command: staticCommand, hasAdmin: true},
	{name: fortyName, command: fortyCommand},
}

const (
	sidecarName = "token_proxy"
	staticName  = "reverse_proxy"
	fortyName   = "forty_lines"
)

const caddyfile = `{
	admin %s
	persist_config off
	%s
}

http://%s {
	bind 127.0.0.1
	%s
}
`

const credentialBlock = `credential %s {
			provider oauth2 {
				token_url %s
			}
			client_id %s
			client_secret {env.BENCH_CLIENT_SECRET}
			%s
		}
		`

func sidecarCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	var credentials strings.Builder
	if s.group != "" {
		fmt.Fprintf(&credentials, shareBlock, s.redis, s.shareKey, s.group)
	}
	for n := range s.workload.count() {
		fmt.Fprintf(&credentials, credentialBlock, credentialName(n), s.tokenURL(), s.clientID(n), s.options)
	}
	options := "token_proxy {\n\t\t" + credentials.String() + "\n\t}"
	site := s.site(func(n int) string {
		return fmt.Sprintf("token_proxy %s %s {\n%s\t}", credentialName(n), s.upstream(), s.transport())
	})
	return s.caddy(ctx, fmt.Sprintf(caddyfile, s.admin, options, s.listen, site))
}

func staticCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	site := s.site(func(n int) string {
		return fmt.Sprintf("reverse_proxy %s {\n\t\theader_up Authorization \"Bearer %sstatic-%d\"\n%s\t}", s.upstream(), tokenPrefix, n, s.transport())
	})
	return s.caddy(ctx, fmt.Sprintf(caddyfile, s.admin, "", s.listen, site))
}

func fortyCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	return self(ctx, roleFortyLines, s.listen,
		upstreamVariable+"="+s.upstream(),
		tokenVariable+"="+s.tokenURL(),
		marginVariable+"="+s.margin,
		authorityVariable+"="+s.authority,
		versionsVariable+"="+s.workload.versions,
		credentialsVariable+"="+strconv.Itoa(s.workload.credentials))
}

func credentialName(n int) string { return fmt.Sprint("bench", n) }

// clientID returns the client id of credential n.
func (s *setup) clientID(n int) string { return clientIDOf(n, s.workload.credentials) }

func clientIDOf(n, of int) string {
	if of == 0 {
		return clientID
	}
	return fmt.Sprint(clientID, "-", n)
}

// count returns the number of credentials.
func (w *workload) count() int { return max(w.credentials, 1) }

// site returns the routes of the site: one for each credential, and all other paths have the first credential.
func (s *setup) site(directive func(n int) string) string {
	var routes strings.Builder
	for n := range s.workload.credentials {
		fmt.Fprintf(&routes, "handle %s {\n\t%s\n\t}\n\t", credentialPath(n), directive(n))
	}
	fmt.Fprintf(&routes, "handle {\n\t%s\n\t}", directive(0))
	return routes.String()
}

// upstream returns the URL of the API.
func (s *setup) upstream() string {
	if s.workload.versions == "" {
		return "http://" + s.services
	}
	return "https://" + s.secure
}

// transport returns the options of the transport. All contenders keep the same number of idle connections.
func (s *setup) transport() string {
	if s.workload.name == "" {
		return ""
	}
	tls := ""
	if s.workload.versions != "" {
		tls = fmt.Sprintf("\t\t\tversions %s\n\t\t\ttls_trust_pool file %s\n", s.workload.versions, s.authority)
	}
	return fmt.Sprintf("\t\ttransport http {\n\t\t\tkeepalive_idle_conns_per_host %d\n%s\t\t}\n", idleConnections, tls)
}

func (s *setup) tokenURL() string { return fmt.Sprintf("http://%s/token/%d", s.services, s.lifetime) }

// caddy returns the command that runs the token-proxy with a Caddyfile. All its folders are in scratch.
func (s *setup) caddy(ctx context.Context, caddyfile string) (*exec.Cmd, error) {
	config := filepath.Join(s.scratch, "Caddyfile")
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.binary, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(environment(),
		"HOME="+s.scratch, "XDG_DATA_HOME="+s.scratch, "XDG_CONFIG_HOME="+s.scratch,
		"BENCH_CLIENT_SECRET="+clientSecret)
	return cmd, nil
}

// shareBlock lets token_proxy keep its token in Redis. Each group begins with an empty store.
const shareBlock = `share {
			store redis {
				address %s
			}
			key {file.%s}
			group %s
		}
		`
