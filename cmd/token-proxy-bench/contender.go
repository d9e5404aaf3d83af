package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// contender is something that puts a token on requests. Its name is what the report calls it.
type contender struct {
	name     string
	command  func(ctx context.Context, b *bench, s setup) (*exec.Cmd, error)
	hasAdmin bool // it has Caddy's admin API
}

// setup is what differs from one start of a contender to the next.
type setup struct {
	listen, admin string
	lifetime      int    // of its tokens, in seconds
	margin        string // before their expiry, for those that must be told
}

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

const sidecarCaddyfile = `{
	admin %s
	persist_config off
	token_proxy {
		credential bench {
			provider oauth2 {
				token_url %s
			}
			client_id %s
			client_secret {env.BENCH_CLIENT_SECRET}
		}
	}
}

http://%s {
	bind 127.0.0.1
	token_proxy bench http://%s
}
`

const staticCaddyfile = `{
	admin %s
	persist_config off
}

http://%s {
	bind 127.0.0.1
	reverse_proxy http://%s {
		header_up Authorization "Bearer %sstatic"
	}
}
`

func sidecarCommand(ctx context.Context, b *bench, s setup) (*exec.Cmd, error) {
	return b.caddy(ctx, fmt.Sprintf(sidecarCaddyfile, s.admin, b.tokenURL(s), clientID, s.listen, b.services))
}

func staticCommand(ctx context.Context, b *bench, s setup) (*exec.Cmd, error) {
	return b.caddy(ctx, fmt.Sprintf(staticCaddyfile, s.admin, s.listen, b.services, tokenPrefix))
}

func fortyCommand(ctx context.Context, b *bench, s setup) (*exec.Cmd, error) {
	return b.self(ctx, roleFortyLines, s.listen,
		upstreamVariable+"=http://"+b.services,
		tokenVariable+"="+b.tokenURL(s),
		marginVariable+"="+s.margin)
}

func (b *bench) tokenURL(s setup) string {
	return fmt.Sprintf("http://%s/token/%d", b.services, s.lifetime)
}

// caddy is the command that runs the sidecar's binary with a Caddyfile, and with folders of its own.
func (b *bench) caddy(ctx context.Context, caddyfile string) (*exec.Cmd, error) {
	config := filepath.Join(b.scratch, "Caddyfile")
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.settings.binary, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(environment(),
		"HOME="+b.scratch, "XDG_DATA_HOME="+b.scratch, "XDG_CONFIG_HOME="+b.scratch,
		"BENCH_CLIENT_SECRET="+clientSecret)
	return cmd, nil
}

// self is the command that runs this program in another role.
func (b *bench) self(ctx context.Context, role, listen string, env ...string) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(environment(), roleVariable+"="+role, listenVariable+"="+listen)
	cmd.Env = append(cmd.Env, env...)
	return cmd, nil
}

// environment is this process's, without what would set the pace of Go's runtime: each contender runs as it is made.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"}, name)
	})
}
