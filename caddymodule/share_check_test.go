package caddymodule

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/apart"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/caddytest/redistest"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share"
	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/share/sharetest"
)

// checkOf runs `tokens check` for one credential that is shared as the block sets.
func checkOf(t *testing.T, block string, args ...string) (string, error) {
	t.Helper()
	config := writeConfig(t, "Caddyfile", globalOptions(block, newTokenServer(t).credential("shared")))
	return runCommand(checkCommand(), append(args, "--config", config)...)
}

// The check uses the store as a replica does, and leaves nothing there but a claim that expires.
func TestCheckOfAStoreThatWorks(t *testing.T) {
	m := newMemory(t)
	for range 2 { // the second check opens the claim of the first
		out, err := checkOf(t, sharedThrough(t, m))
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		wantText(t, out, "✓ store memory_of_test (", "it saves, loads and deletes, and decides claims", "✓ shared (")
	}
	for name := range m.Values() {
		if !strings.HasSuffix(name, "/claim") && !strings.HasSuffix(name, "/probe") {
			t.Errorf("the check has left %s", name)
		}
	}
	out, err := checkOf(t, sharedThrough(t, m), "--json")
	if err != nil || !strings.Contains(out, `"store": "memory_of_test"`) {
		t.Errorf("%v: %s", err, out)
	}

	dir := t.TempDir()
	block := shareBlock(t, "storage file_system {\n root "+dir+"\n}")
	if out, err := checkOf(t, block); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for file, content := range filesBelow(t, dir) {
		if strings.Contains(content, "dev-secret") || strings.Contains(file, "shared") {
			t.Errorf("%s holds %q", file, content)
		}
	}
}

// The command reads the global storage, too.
func TestCheckWithTheGlobalStorage(t *testing.T) {
	dir := t.TempDir()
	config := strings.Replace(globalOptions(shareBlock(t, "storage"), newTokenServer(t).credential("shared")), "{\n", "{\n storage file_system "+dir+"\n", 1)
	out, err := runCommand(checkCommand(), "--config", writeConfig(t, "Caddyfile", config))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantText(t, out, "✓ store storage (")
	if len(filesBelow(t, dir)) == 0 {
		t.Error("the storage was not used")
	}
}

// A file system that fails says what is wrong, and a file for a folder is the mistake that every user can make.
func TestCheckNamesTheMistakeWithFiles(t *testing.T) {
	file, err := os.Executable() // which outlives a call of the store that ends late
	if err != nil {
		t.Fatal(err)
	}
	out, err := checkOf(t, shareBlock(t, "storage file_system {\n root "+file+"\n}"))
	wantWorks(t, err)
	wantText(t, out, "✗ store storage", "The root of the storage is not a folder.")
}

// Without a shared credential among those to check, the store is left alone.
func TestCheckLeavesTheStoreAlone(t *testing.T) {
	m := newMemory(t)
	tokens := newTokenServer(t)
	config := writeConfig(t, "Caddyfile", globalOptions(sharedThrough(t, m), tokens.credential("alone", "share off"), tokens.credential("shared")))
	out, err := runCommand(checkCommand(), "alone", "--config", config)
	if err != nil || strings.Contains(out, "store") || m.Calls("save") != 0 {
		t.Errorf("%v, %d calls: %s", err, m.Calls("save"), out)
	}
}

func TestCheckFindsAnotherKey(t *testing.T) {
	m := newMemory(t)
	if out, err := checkOf(t, shareBlock(t, m.store(), strings.Repeat("a", 32))); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := checkOf(t, shareBlock(t, m.store(), strings.Repeat("b", 32)))
	wantWorks(t, err)
	wantText(t, out, "✗ store memory_of_test", "a key that this replica does not have", "the same keys")
	// both keys, as while a key is replaced
	if out, err := checkOf(t, shareBlock(t, m.store(), strings.Repeat("b", 32), strings.Repeat("a", 32))); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A storage module keeps the claim of a check for ever. It must not be held against a key that has replaced another since.
func TestCheckComparesNoKeysWhereNothingExpires(t *testing.T) {
	store := "storage file_system {\n root " + t.TempDir() + "\n}"
	for _, key := range []string{"a", "b"} {
		if out, err := checkOf(t, shareBlock(t, store, strings.Repeat(key, 32))); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// A store that forgets is no store.
func TestCheckFindsAStoreThatForgets(t *testing.T) {
	if apart.Run(t) {
		return
	}
	m := newMemory(t)
	m.Change(func(s *sharetest.Store) { s.Alter = func(string, []byte) []byte { return nil } })
	out, err := checkOf(t, sharedThrough(t, m))
	wantWorks(t, err)
	wantText(t, out, "did not return what was saved")
}

func TestCheckHidesTheStoresText(t *testing.T) {
	m := newMemory(t)
	m.fail(errors.New(canary))
	out, err := checkOf(t, sharedThrough(t, m))
	wantWorks(t, err)
	wantText(t, out, "*errors.errorString", "whose text the proxy does not show")
	wantNowhere(t, "the store's text", canary, map[string]string{"the check": out})
	m.fail(&share.Error{Reason: "the disk is full", Err: errors.New(canary)})
	out, _ = checkOf(t, sharedThrough(t, m))
	wantText(t, out, "The disk is full.", "✓ shared (")
}

// Each mistake with Redis has a sentence of its own.
func TestCheckNamesTheMistakeWithRedis(t *testing.T) {
	if apart.Run(t) {
		return
	}
	redistest.Need(t)
	const password = "a-password-that-no-text-may-show"
	plain, locked, full := redistest.Start(t), redistest.Start(t, "--requirepass "+password), redistest.Start(t, "--maxmemory 1")
	refused := freeAddr(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	other := newRecordingAPI(t, nil)
	for name, tc := range map[string]struct{ options, want string }{
		"wrong password":     {"address " + locked.Addr + "\n password " + password + "-not", "does not accept"},
		"no password":        {"address " + locked.Addr, "wants a password"},
		"refused connection": {"address " + refused, "refuses connections"},
		"unknown host":       {"address no-such-host.invalid:6379", "cannot be found in the DNS"},
		"no TLS there":       {"address " + plain.Addr + "\n tls", "TLS"},
		"out of memory":      {"address " + full.Addr, "no memory left"},
		"not Redis":          {"address " + other.addr(), "is not Redis"},
		"no answer":          {"address " + silent.Addr().String(), "does not answer in time"},
		"no socket":          {"address unix/" + filepath.Join(os.TempDir(), "no-such-socket"), "socket in address does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := checkOf(t, shareBlock(t, "redis {\n "+tc.options+"\n}"))
			wantWorks(t, err)
			wantText(t, out, "✗ store redis", tc.want, "No request fails because of this.", "✓ shared (")
			wantNowhere(t, "the password", password, map[string]string{"the check": out})
			t.Log(strings.TrimSpace(out))
		})
	}
	if out, err := checkOf(t, shareBlock(t, "redis {\n address "+locked.Addr+"\n password "+password+"\n}")); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// wantWorks says that the command succeeds: replicas get their tokens without a store.
func wantWorks(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("the check of the credentials fails: %v", err)
	}
}
