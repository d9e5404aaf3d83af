package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	binary        string // the token-proxy to measure
	scratch       string // a folder for its files
	lifetime      int    // of its tokens, in seconds
	margin        string // how long before their expiry it refreshes them, if that is configurable
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

func sidecarCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	return s.caddy(ctx, fmt.Sprintf(sidecarCaddyfile, s.admin, s.tokenURL(), clientID, s.listen, s.services))
}

func staticCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	return s.caddy(ctx, fmt.Sprintf(staticCaddyfile, s.admin, s.listen, s.services, tokenPrefix))
}

func fortyCommand(ctx context.Context, s setup) (*exec.Cmd, error) {
	return self(ctx, roleFortyLines, s.listen,
		upstreamVariable+"=http://"+s.services,
		tokenVariable+"="+s.tokenURL(),
		marginVariable+"="+s.margin)
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
