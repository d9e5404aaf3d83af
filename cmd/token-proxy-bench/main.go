// Command token-proxy-bench measures token_proxy beside two others that do the same work, in one run:
//
//	token_proxy    the sidecar
//	reverse_proxy  Caddy's reverse_proxy with a static header, in the same binary: what is left is what a token costs
//	forty_lines    httputil.ReverseProxy with golang.org/x/oauth2/clientcredentials: what one writes without a sidecar
//
// Each is a process of its own, before the same small API on loopback. They take turns at each tenth of a phase, in an
// order drawn anew, so that whatever else the machine does hits all of them; ratios are taken within a round. It prints a
// table, and writes report.json, a short table (report.md) and a plot (report.svg).
//
//	go run ./cmd/token-proxy-bench -rounds 7 -duration 2s -out bench
//
// Generator, API and proxy share one machine. Read the ratios; the figures themselves are those of this machine.
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
	// The open loop's pacer sleeps in the kernel, and keeps one P to itself meanwhile.
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

// run is the command. Children are gone when it returns.
func run(ctx context.Context, args []string) error {
	s, err := parseFlags(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil { // now, and not when all is measured
		return err
	}
	scratch, err := os.MkdirTemp("", "token-proxy-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	show := newProgress(os.Stderr)
	if s.binary == "" {
		show.say("building token-proxy")
		if s.binary, err = build(ctx, scratch); err != nil {
			return interrupted(ctx, err)
		}
	}
	r, err := measureAll(ctx, s, scratch, show)
	show.say("")
	if r == nil {
		return interrupted(ctx, err)
	}
	fmt.Print(r.table())
	fmt.Printf("\n%s has the rest.\n", filepath.Join(s.out, jsonName))
	return errors.Join(r.write(s.out), r.verdict(), err)
}

// interrupted says why, if what failed did so because the user wants to stop.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}
