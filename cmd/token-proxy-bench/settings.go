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

// settings are the options of the command line.
type settings struct {
	rounds      int           // 0 for the profiles alone
	duration    time.Duration // of each phase
	connections int
	rate        float64       // of the open loop, in requests a second; 0 for rateShare of the lowest throughput
	seed        uint64        // of the random order
	latency     time.Duration // of the token endpoint
	out         string        // the folder for the report
	binary      string        // the token-proxy to measure; "" to build it
	profile     bool          // whether to write CPU profiles
}

const (
	// longLife is the lifetime of tokens in the phases without refreshes, in seconds.
	longLife = 3600

	// shortLife is the lifetime of tokens in the phase with refreshes, in seconds. No expires_in can be shorter.
	shortLife = 1

	// shortMargin is the time before its expiry at which the contenders refresh such a token. It is the default of
	// token_proxy. The default of golang.org/x/oauth2, 10 s, is longer than the lifetime.
	shortMargin = shortLife * time.Second / 5

	// rateShare is the rate of the open loop, as a share of the lowest throughput of all contenders. It leaves room for
	// a machine that becomes slower meanwhile. Otherwise the latencies would be those of a queue.
	rateShare = 0.3
)

func parseFlags(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("token-proxy-bench", flag.ContinueOnError)
	f.IntVar(&s.rounds, "rounds", 7, "how often to measure each contender; 0 writes the profiles alone")
	f.DurationVar(&s.duration, "duration", 2*time.Second, "the duration of each phase of a round")
	f.IntVar(&s.connections, "connections", 32, "the number of connections of the load generator")
	f.Float64Var(&s.rate, "rate", 0, "requests a second while latencies are measured (default 30 % of the lowest throughput of the contenders)")
	f.Uint64Var(&s.seed, "seed", 0, "the seed of the order within the rounds (default random; the report contains it)")
	f.DurationVar(&s.latency, "token-latency", 20*time.Millisecond, "the duration of each token call")
	f.StringVar(&s.out, "out", ".", "the folder for report.json, report.md and report.svg")
	f.StringVar(&s.binary, "binary", "", "the token-proxy to measure (default: build it from this module)")
	f.BoolVar(&s.profile, "profile", false, "after the rounds, write CPU profiles of token_proxy and reverse_proxy, each as long as a phase")
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

// build builds the sidecar into a folder, with the flags of a release, and returns its path.
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
