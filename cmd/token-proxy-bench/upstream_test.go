package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPatchesForCaddyApply checks that each patch in the folder upstream applies to the Caddy of this module. If a new Caddy has
// the change, delete the patch.
func TestPatchesForCaddyApply(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED: git is not installed")
	}
	caddy, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	patches, err := filepath.Glob("upstream/*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("no patches, %v", err)
	}
	for _, patch := range patches {
		path, err := filepath.Abs(patch)
		if err != nil {
			t.Fatal(err)
		}
		apply := exec.Command("git", "apply", "--check", path)
		apply.Dir = strings.TrimSpace(string(caddy))
		if out, err := apply.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", patch, err, out)
		}
	}
}
