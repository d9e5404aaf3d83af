package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// settings are what the command line says.
type settings struct {
	rounds      int
	duration    time.Duration // of each phase
	connections int
	rate        float64 // of the open loop, 0 for rateShare of the slowest contender's throughput
	seed        uint64
	latency     time.Duration // of the token endpoint
	out         string
	binary      string
	profile     bool
}

const (
	// longLife is the lifetime of tokens in the phases without refreshes, in seconds.
	longLife = 3600

	// shortLife is the lifetime of tokens in the phase with refreshes, in seconds: the shortest that expires_in can say.
	shortLife = 1

	// shortMargin is how long before the expiry of such a token the contenders refresh it: token_proxy's default.
	// oauth2's own, 10 s, is longer than the token lives.
	shortMargin = shortLife * time.Second / 5

	// rateShare is the share of the slowest contender's throughput at which the open loop runs. It leaves room for a machine
	// that becomes slower meanwhile: else the latencies would be those of a queue.
	rateShare = 0.3
)

func parseFlags(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("token-proxy-bench", flag.ContinueOnError)
	f.IntVar(&s.rounds, "rounds", 7, "how often each contender is measured; 0 for the profiles alone")
	f.DurationVar(&s.duration, "duration", 2*time.Second, "how long each phase of a round takes")
	f.IntVar(&s.connections, "connections", 32, "how many connections the load generator opens")
	f.Float64Var(&s.rate, "rate", 0, "requests a second for the latencies (default 30 % of the slowest contender's throughput)")
	f.Uint64Var(&s.seed, "seed", 0, "of the order within the rounds (default random, and printed)")
	f.DurationVar(&s.latency, "token-latency", 20*time.Millisecond, "how long the token endpoint takes")
	f.StringVar(&s.out, "out", ".", "the folder for report.json, report.md and report.svg")
	f.StringVar(&s.binary, "binary", "", "a token-proxy to measure (default: build the one of this module)")
	f.BoolVar(&s.profile, "profile", false, "after the rounds, write CPU profiles of the two that are Caddy, as long as a phase")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	return s, s.check()
}

func (s *settings) check() error {
	if s.rounds < 0 || s.rounds == 0 && !s.profile {
		return errors.New("-rounds must be positive, or 0 with -profile")
	}
	if s.connections < 1 || s.duration <= 0 {
		return errors.New("-connections and -duration must be positive")
	}
	if s.rate < 0 || s.latency < 0 {
		return errors.New("-rate and -token-latency cannot be negative")
	}
	return nil
}

// build builds the sidecar into a folder, as a release is built.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "token-proxy")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary,
		"github.com/tokenproxy/caddy-token-proxy/cmd/token-proxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building token-proxy: %w\n%s", err, out)
	}
	return binary, nil
}
