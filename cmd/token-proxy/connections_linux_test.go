package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// connectionsConfig is a Caddyfile of a sidecar with one credential.
const connectionsConfig = `{
	admin off
	persist_config off
	token_proxy {
		credential api {
			provider oauth2 {
				token_url %[1]s/token
			}
			client_id     test
			client_secret {env.HOME}
		}
	}
}

http://%[2]s {
	bind 127.0.0.1
	token_proxy api %[1]s
}
`

// TestThousandConnectionsIn128MiB checks that 1,000 busy connections fit into a container of 128 MiB: no request fails, and
// the memory that the kernel cannot take back stays below that. Caddy sets the limit to nine tenths of the container, as
// the test does. The pages of the program's file do not count, because the kernel can drop them.
func TestThousandConnectionsIn128MiB(t *testing.T) {
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("SKIPPED: the race detector takes memory of its own")
	}
	const container, connections, requests = 128 << 20, 1000, 20
	upstream := httptest.NewServer(http.HandlerFunc(answerToken))
	defer upstream.Close()
	addr := freeAddr(t)
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, fmt.Appendf(nil, connectionsConfig, upstream.URL, addr), 0o600); err != nil {
		t.Fatal(err)
	}
	program := runProgram(t, fmt.Sprint("GOMEMLIMIT=", container/10*9), "--config", config, "--adapter", "caddyfile")
	for deadline := time.Now().Add(30 * time.Second); page("http://"+addr) == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program does not start")
		}
	}

	var served, failed atomic.Int64
	var clients sync.WaitGroup
	for range connections {
		clients.Go(func() {
			if err := sendOn(addr, requests, &served); err != nil && failed.Add(1) == 1 {
				t.Error(err)
			}
		})
	}
	busy := make(chan struct{})
	go func() { clients.Wait(); close(busy) }()
	most := mostMemory(t, program.Pid, busy)
	t.Logf("at most %d MiB that the kernel cannot take back, VmHWM %d MiB", most>>20, memoryOf(t, program.Pid, "VmHWM")>>20)
	if n := failed.Load(); n > 0 || served.Load() != connections*requests {
		t.Errorf("%d connections failed, %d requests were served", n, served.Load())
	}
	if most > container {
		t.Errorf("the program takes %d MiB", most>>20)
	}
}

// answerToken is a token endpoint and an API.
func answerToken(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"access_token": "token-1", "token_type": "Bearer", "expires_in": 3600}`)
}

// sendOn sends requests on one connection, and counts those that are served.
func sendOn(addr string, requests int, served *atomic.Int64) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for range requests {
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", addr); err != nil {
			return err
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d, %w", res.StatusCode, err)
		}
		served.Add(1)
	}
	return nil
}

// mostMemory returns the most memory of a process that the kernel cannot take back, until the channel is closed.
func mostMemory(t *testing.T, pid int, until <-chan struct{}) (most int64) {
	t.Helper()
	for {
		most = max(most, memoryOf(t, pid, "RssAnon"))
		select {
		case <-until:
			return most
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// memoryOf returns a figure of /proc/<pid>/status, in bytes.
func memoryOf(t *testing.T, pid int, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("\n"+name+":"))
	kib, _, _ := bytes.Cut(rest, []byte(" kB"))
	n, err := strconv.ParseInt(string(bytes.TrimSpace(kib)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
