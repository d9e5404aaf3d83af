package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

func TestPercentFor(t *testing.T) {
	const mib = 1 << 20
	for inUse, want := range map[uint64]int{0: 400, 1: 400, 5 * mib: 400, 8 * mib: 400, 16 * mib: 200, 32 * mib: 100, 1 << 40: 100, 1 << 63: 100} {
		if got := percentFor(inUse); got != want {
			t.Errorf("%d bytes in use: %d %%, want %d %%", inUse, got, want)
		}
	}
}

// TestCollectorFitsItsPace checks that the pace follows the memory in use, up and down.
func TestCollectorFitsItsPace(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(100)
	relaxCollector()
	wantPercent(t, relaxedPercent)
	much := make([]byte, 2*maxGarbage)
	wantPercent(t, defaultPercent)
	runtime.KeepAlive(much)
	wantPercent(t, relaxedPercent)
}

// wantPercent runs the collector until it has the pace.
func wantPercent(t *testing.T, want int) {
	t.Helper()
	got := 0
	for range 1000 {
		runtime.GC()
		if got = gcPercent(); got == want {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("the heap may grow by %d %%, want %d %%", got, want)
}

func gcPercent() int {
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(percent)
	return int(percent[0].Value.Uint64())
}

// TestCollectorCountsStacks checks that the stacks of many goroutines count as memory in use, as they do for the
// collector.
func TestCollectorCountsStacks(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(100)
	relaxCollector()
	wantPercent(t, relaxedPercent)
	release := make(chan struct{})
	const goroutines, stack = 4000, 16 << 10
	for range goroutines {
		go park(release, stack)
	}
	deadline := time.Now().Add(10 * time.Second)
	for gcPercent() > relaxedPercent/2 && time.Now().Before(deadline) {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if percent := gcPercent(); percent > relaxedPercent/2 {
		t.Errorf("with %d MiB of stacks, the heap may grow by %d %%", goroutines*stack>>20, percent)
	}
	close(release)
}

// park waits with a stack of that many bytes until release is closed.
func park(release <-chan struct{}, stack int) byte {
	var frame [1 << 10]byte
	if stack > len(frame) {
		return park(release, stack-len(frame)) + frame[0]
	}
	<-release
	return frame[len(frame)-1]
}

// TestProgramSetsThePace checks that the program sets the pace unless GOGC sets it. Caddy's metrics report the pace.
func TestProgramSetsThePace(t *testing.T) {
	for gogc, want := range map[string]int{"": relaxedPercent, "70": 70} {
		admin := startProgram(t, "GOGC="+gogc)
		line := fmt.Sprintf("\ngo_gc_gogc_percent %d\n", want)
		deadline := time.Now().Add(30 * time.Second)
		for metrics := ""; !strings.Contains(metrics, line); metrics = page("http://" + admin + "/metrics") {
			if time.Now().After(deadline) {
				t.Fatalf("GOGC=%s: the metrics lack %q:\n%s", gogc, line, metrics)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// startProgram runs the program with an admin API until the test ends, and returns the address of that API.
func startProgram(t *testing.T, env string) string {
	t.Helper()
	admin := freeAddr(t)
	config := filepath.Join(t.TempDir(), "caddy.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"admin": {"listen": %q, "config": {"persist": false}}}`, admin), 0o600); err != nil {
		t.Fatal(err)
	}
	runProgram(t, env, "--config", config)
	return admin
}

// runProgram runs the program with these arguments and one more variable until the test ends.
func runProgram(t *testing.T, env string, args ...string) *os.Process {
	t.Helper()
	program := exec.Command(os.Args[0], append([]string{"run"}, args...)...)
	program.Env = append(os.Environ(), "TEST_PROGRAM=1", "HOME="+t.TempDir(), env)
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = program.Process.Kill(), program.Wait() })
	return program.Process
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// page returns the content of a URL, or "" if no server answers.
func page(url string) string {
	res, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	content, _ := io.ReadAll(res.Body)
	return string(content)
}

// TestMain also runs the program, for the tests that start it.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}
