package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

func TestBinaryTokens(t *testing.T) {
	good, bad := newTokenServer(t), newTokenServer(t)
	bad.SetFault(devserver.Fault{Error: "invalid_client"})
	fine := writeConfig(t, "Caddyfile", globalOptions(good.credential("good")))
	mixed := writeConfig(t, "Caddyfile", globalOptions(good.credential("good"), bad.credential("bad")))

	stdout, _, status := runBinary(t, "tokens", "check", "--config", fine)
	if status != 0 || !strings.HasPrefix(stdout, "✓ good") {
		t.Errorf("status %d: %s", status, stdout)
	}
	stdout, stderr, status := runBinary(t, "tokens", "check", "--config", mixed)
	if status != 1 || !strings.Contains(stdout, "✗ bad") || !strings.Contains(stdout, "✓ good") {
		t.Errorf("status %d: %s", status, stdout)
	}
	wantText(t, stderr, "Error: 1 of 2 credentials do not work")
	if strings.Contains(stderr, "Usage:") {
		t.Errorf("a failure is answered with the usage: %s", stderr)
	}
	stdout, _, status = runBinary(t, "tokens", "check", "--config", mixed, "--json")
	var results []checkResult
	if err := json.Unmarshal([]byte(stdout), &results); err != nil || status != 1 || len(results) != 2 {
		t.Errorf("status %d, %v: %s", status, err, stdout)
	}
	stdout, stderr, status = runBinary(t, "tokens", "check", "--config", fine, "--print-header", "good")
	if wantText(t, stderr, "terminal"); status != 1 || stdout != "" {
		t.Errorf("status %d: %s", status, stdout)
	}
	_, stderr, status = runBinary(t, "tokens", "list", "--address", freeAddr(t))
	if wantText(t, stderr, "admin off"); status != 1 {
		t.Errorf("status %d: %s", status, stderr)
	}
	stdout, _, status = runBinary(t, "tokens", "--help")
	if wantText(t, stdout, "check", "list", "refresh", "purge"); status != 0 {
		t.Errorf("status %d", status)
	}

	name := "b-" + newClientID()
	s := startOperated(t, globalOptions(good.credential(name)), nil)
	stdout, stderr, status = runBinary(t, "tokens", "refresh", name, "--address", s.admin)
	if wantText(t, stdout, name, "fresh"); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
}
