// Command token-proxy-bench measures token_proxy and two other proxies that do the same work, in one run:
//
//	token_proxy    the sidecar
//	reverse_proxy  Caddy's reverse_proxy with a static header, in the same binary; the difference is the cost of a token
//	forty_lines    httputil.ReverseProxy with golang.org/x/oauth2/clientcredentials, as a developer would write it by hand
//
// Each is a process of its own in front of the same small API on loopback. They take turns at each tenth of a phase, in
// a new random order, so that other work of the machine affects all of them. Each ratio is taken within one round. The
// command prints a table, and writes report.json, short tables (report.md) and a plot (report.svg). With -loads it measures
// other loads as well, such as uploads to an API behind TLS, each with all contenders, and writes a plot for each theme.
//
//	go run ./cmd/token-proxy-bench -rounds 7 -duration 2s -out bench
//	go run ./cmd/token-proxy-bench -rounds 15 -duration 1s -loads all -out bench
//
// Load generator, API and proxy share one machine, so only the ratios carry over to other machines.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		fail(playRole(role))
		return
	}
	// The pacer of the open loop sleeps in the kernel, and occupies one P of Go's scheduler meanwhile.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if !errors.Is(err, flag.ErrHelp) {
		fail(err)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "token-proxy-bench:", err)
		os.Exit(1)
	}
}

// run is the command. All children have ended when it returns.
func run(ctx context.Context, args []string) error {
	s, err := parseFlags(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil { // before the measurement, so that a wrong path costs no time
		return err
	}
	scratch, err := os.MkdirTemp("", "token-proxy-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	show := newProgress(os.Stderr)
	if s.binary == "" {
		show.status("building token-proxy")
		if s.binary, err = build(ctx, scratch); err != nil {
			return interrupted(ctx, err)
		}
	}
	r, err := measureAll(ctx, s, scratch, show)
	show.status("")
	if r == nil {
		return interrupted(ctx, err)
	}
	fmt.Print(r.table())
	fmt.Printf("\n%s has all figures of each round.\n", filepath.Join(s.out, jsonName))
	return errors.Join(r.write(s.out), r.verdict(), err)
}

// interrupted replaces an error that the user caused by interrupting the run.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}
