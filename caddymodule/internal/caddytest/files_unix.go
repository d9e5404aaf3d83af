//go:build unix

package caddytest

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// MakeFIFO makes a named pipe: opening it for reading blocks until there is a writer.
func MakeFIFO(t *testing.T, name string) {
	t.Helper()
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
}

// IrregularFiles are files that are no place for a secret: most of them have no end, or wait for somebody.
func IrregularFiles(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "file") // short: the path of a socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	in := func(name string) string { return filepath.Join(dir, name) }
	MakeFIFO(t, in("fifo"))
	if err := os.Symlink(in("fifo"), in("link")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", in("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return map[string]string{
		"FIFO": in("fifo"), "symlink to a FIFO": in("link"), "socket": in("socket"), "directory": dir,
		"device without an end": "/dev/zero", "device": os.DevNull,
	}
}
