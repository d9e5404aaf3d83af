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
	"slices"
	"strings"
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
	loads       []workload    // beside the phases of each round
	starts      bool          // whether to measure requests soon after a start
	redis       bool          // whether to measure token_proxy with Redis
	notTaken    string        // which figures are missing, and why
}

const (
	// idleConnections is how many idle connections to the API all contenders keep. It is the default of token_proxy.
	idleConnections = 256

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
	loads := f.String("loads", "", "what to measure as well, with commas between the names, or all: "+loadNames())
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if err := s.choose(*loads); err != nil {
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

// choose sets what is measured beside the phases of each round: names with commas between them, "all", or none.
func (s *settings) choose(names string) error {
	switch names {
	case "":
		return nil
	case "all":
		names = loadNames()
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
		switch {
		case i >= 0:
			s.loads = append(s.loads, workloads[i])
		case name == startsName:
			s.starts = true
		case name == redisName:
			s.redis = true
		default:
			return fmt.Errorf("-loads: unknown load %q; the loads are %s", name, loadNames())
		}
	}
	if s.redis {
		if _, err := exec.LookPath("redis-server"); err != nil {
			s.redis, s.notTaken = false, noRedis
			fmt.Fprintln(os.Stderr, noRedis)
		}
	}
	return nil
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

// noRedis explains which figures are missing without redis-server.
const noRedis = "SKIPPED: redis-server is not installed, so the figures with Redis are missing."
