// Package caddytest has what the tests of several packages need.
package caddytest

import (
	"os"
	"path/filepath"
	"testing"
)

// SecretFile makes a file with this content, and returns its placeholder.
func SecretFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return "{file." + name + "}"
}
