package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
)

// The program starts itself again, as the services and as a contender. These variables set the role and its options.
const (
	roleVariable     = "TOKEN_PROXY_BENCH_ROLE"
	listenVariable   = "TOKEN_PROXY_BENCH_LISTEN"
	upstreamVariable = "TOKEN_PROXY_BENCH_UPSTREAM"
	tokenVariable    = "TOKEN_PROXY_BENCH_TOKEN_URL"
	marginVariable   = "TOKEN_PROXY_BENCH_MARGIN"
	latencyVariable  = "TOKEN_PROXY_BENCH_TOKEN_LATENCY"

	roleServices   = "services"
	roleFortyLines = "forty-lines"
)

func playRole(role string) error {
	handler, err := roleHandler(role)
	if err != nil {
		return err
	}
	return http.ListenAndServe(os.Getenv(listenVariable), handler)
}

func roleHandler(role string) (http.Handler, error) {
	switch role {
	case roleServices:
		return newServices(os.Getenv(latencyVariable))
	case roleFortyLines:
		return fortyLines(os.Getenv(upstreamVariable), os.Getenv(tokenVariable), os.Getenv(marginVariable))
	default:
		return nil, fmt.Errorf("%s: unknown role %q", roleVariable, role)
	}
}

// self returns the command that runs this program in a role.
func self(ctx context.Context, role, listen string, env ...string) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(environment(), roleVariable+"="+role, listenVariable+"="+listen)
	cmd.Env = append(cmd.Env, env...)
	return cmd, nil
}
