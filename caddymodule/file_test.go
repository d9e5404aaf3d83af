//go:build unix

package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/devserver"
)

func makeFIFO(t *testing.T, name string) {
	t.Helper()
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
}

// irregularFiles are files that are no place for a secret: most of them have no end, or wait for somebody.
func irregularFiles(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "file") // short: the path of a socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	in := func(name string) string { return filepath.Join(dir, name) }
	makeFIFO(t, in("fifo"))
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

// Only regular files are read, and what a symlink leads to.
func TestIrregularFilesAreRefused(t *testing.T) {
	for what, name := range irregularFiles(t) {
		started := time.Now()
		file, err := files.Read(name)
		if err == nil || err.Error() != name+" is not a regular file" {
			t.Errorf("%s: got %d bytes and error %v", what, len(file.content), err)
		}
		if d := time.Since(started); d > fileTimeout/2 {
			t.Errorf("%s: it took %s", what, d)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	file, err := files.Read(filepath.Join(dir, "link"))
	if err != nil || file.content != "content" || file.mode.Perm() != 0o640 {
		t.Errorf("a symlink to a file: got %v, %v", file, err)
	}
}

// Between the look at a file and its opening, something else may take its place.
func TestOpeningIrregularFilesDoesNotBlock(t *testing.T) {
	for what, name := range irregularFiles(t) {
		done := make(chan error, 1)
		go func() {
			_, err := openRegular(name)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "not a regular file") && !errors.Is(err, syscall.ENXIO) { // a socket
				t.Errorf("%s: got error %v", what, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: opening it blocks", what)
		}
	}
}

// hungDisk is a disk whose reads hang until it is repaired.
type hungDisk struct {
	gate chan struct{}
	hung atomic.Bool
	all  atomic.Int64
}

func newHungDisk() *hungDisk {
	d := &hungDisk{gate: make(chan struct{})}
	d.hung.Store(true)
	return d
}

func (d *hungDisk) read(name string) (smallFile, error) {
	d.all.Add(1)
	if d.hung.Load() {
		<-d.gate
	}
	return smallFile{content: "content of " + name}, nil
}

// A mount that does not answer holds nobody longer than two seconds, holds no other file at all, and costs a few
// goroutines at most.
func TestHungMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		began := time.Now()
		longest := time.Duration(0)
		for time.Since(began) < time.Hour {
			started := time.Now()
			if _, err := r.Read("a"); err == nil || !strings.Contains(err.Error(), "the file a could not be read within 2s") {
				t.Fatalf("got error %v", err)
			}
			longest = max(longest, time.Since(started))
			time.Sleep(100 * time.Millisecond)
		}
		if longest > fileTimeout {
			t.Errorf("somebody waited %s", longest)
		}
		if n := d.all.Load(); n != maxStuckReads {
			t.Errorf("%d readings hang, want %d", n, maxStuckReads)
		}

		d.hung.Store(false)
		if file, err := r.Read("b"); err != nil || file.content != "content of b" {
			t.Errorf("another file: got %q, %v", file.content, err)
		}
		close(d.gate)
		synctest.Wait()
		if file, err := r.Read("a"); err != nil || file.content != "content of a" {
			t.Errorf("after the repair: got %q, %v", file.content, err)
		}
		synctest.Wait()
		if len(r.paths) != 0 {
			t.Errorf("%d paths are remembered", len(r.paths))
		}
	})
}

// A mount is replaced while a reading of the old one still hangs, and will for ever.
func TestHungMountIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		if _, err := r.Read("a"); err == nil {
			t.Fatal("it is read")
		}
		d.hung.Store(false)
		time.Sleep(fileTimeout << 1)
		for range 3 {
			if file, err := r.Read("a"); err != nil || file.content != "content of a" {
				t.Errorf("got %q, %v", file.content, err)
			}
		}
		close(d.gate)
	})
}

// Those who want a file at the same time share one reading.
func TestReadingsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newHungDisk()
		r := newFileReader(d.read)
		for range 100 {
			go func() {
				if _, err := r.Read("a"); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		close(d.gate)
		synctest.Wait()
		if n := d.all.Load(); n != 1 {
			t.Errorf("%d readings, want one", n)
		}
	})
}

// Each option that names a file refuses what is not one, while the configuration is loaded, and at once.
func TestEveryFileOptionRefusesAFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	makeFIFO(t, fifo)
	oauth2 := func(options string) string {
		return `{"provider": {"name": "oauth2", "token_url": "https://as.example/token", ` + options + `}, "client_id": "id"}`
	}
	const optoro = `"provider": {"name": "optoro"}, `
	made := newTestCertificate(t, signingKeyOf("P-256"), time.Hour)
	key, certificate := secretFile(t, made.key), secretFile(t, made.certificate)
	for option, config := range map[string]string{
		"client_id":             `{` + optoro + `"client_id": "{file.PATH}", "client_secret": "s"}`,
		"client_secret":         `{` + optoro + `"client_id": "id", "client_secret": "{file.PATH}"}`,
		"ca":                    `{` + optoro + `"client_id": "id", "client_secret": "s", "transport": {"ca": "{file.PATH}"}}`,
		"proxy":                 `{` + optoro + `"client_id": "id", "client_secret": "s", "transport": {"proxy": "{file.PATH}"}}`,
		"api_hosts":             `{` + optoro + `"client_id": "id", "client_secret": "s", "api_hosts": ["{file.PATH}"]}`,
		"api_hosts, in part":    `{` + optoro + `"client_id": "id", "client_secret": "s", "api_hosts": ["{file.PATH}:443"]}`,
		"token_url":             `{"provider": {"name": "optoro", "token_url": "{file.PATH}"}, "client_id": "id", "client_secret": "s"}`,
		"issuer":                `{"provider": {"name": "oauth2", "issuer": "{file.PATH}"}, "client_id": "id", "client_secret": "s"}`,
		"scope":                 oauth2(`"client_auth": "none", "scope": ["{file.PATH}"]`),
		"resource":              oauth2(`"client_auth": "none", "resource": ["{file.PATH}"]`),
		"param":                 oauth2(`"client_auth": "none", "params": {"a": "{file.PATH}"}`),
		"param, in part":        oauth2(`"client_auth": "none", "params": {"a": "x{file.PATH}"}`),
		"header":                oauth2(`"client_auth": "none", "headers": {"a": "{file.PATH}"}`),
		"header, in part":       oauth2(`"client_auth": "none", "headers": {"a": "x{file.PATH}"}`),
		"signing_key":           oauth2(`"client_auth": "private_key_jwt", "signing_key": "{file.PATH}"`),
		"client_assertion_file": oauth2(`"client_auth": "private_key_jwt", "client_assertion_file": "PATH"`),
		"client_certificate": oauth2(`"client_auth": "tls_client_auth", "client_certificate": "{file.PATH}",
			"client_certificate_key": "` + key + `"`),
		"client_certificate_key": oauth2(`"client_auth": "tls_client_auth", "client_certificate": "` + certificate + `",
			"client_certificate_key": "{file.PATH}"`),
	} {
		t.Run(option, func(t *testing.T) {
			started := time.Now()
			_, err := tryProvisionCredential(t, strings.ReplaceAll(config, "PATH", fifo))
			name, _, _ := strings.Cut(option, ",")
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), fifo+" is not a regular file") {
				t.Errorf("got error %v", err)
			}
			if d := time.Since(started); d > fileTimeout/2 {
				t.Errorf("it took %s", d)
			}
		})
	}
}

// A FIFO in the place of a secret does not hold Caddy's configuration lock: what runs goes on, and the next
// configuration can be loaded.
func TestLoadWithAFIFO(t *testing.T) {
	tokens := newTokenServer(t)
	api := serveHTTP(t, tokens.api()).URL
	addr := freeAddr(t)
	config := func(secret string) string {
		return globalOptions(fmt.Sprintf("credential api {\n provider optoro {\n token_url %s\n }\n client_id %s\n client_secret %s\n}\n",
			tokens.url, tokens.ClientID, secret)) + siteConfig(addr, "token_proxy api "+api)
	}
	s := startCaddy(t, config(devserver.DefaultClientSecret))
	get(t, "http://"+addr).wantStatus(t, 200)
	for what, name := range irregularFiles(t) {
		started := time.Now()
		err := s.load(config("{file." + name + "}"))
		if err == nil || !strings.Contains(err.Error(), "client_secret") || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: got error %v", what, err)
		}
		if d := time.Since(started); d > fileTimeout {
			t.Errorf("%s: the load took %s", what, d)
		}
		get(t, "http://"+addr).wantStatus(t, 200)
	}
	if err := s.load(config(secretFile(t, devserver.DefaultClientSecret))); err != nil {
		t.Error(err)
	}
	get(t, "http://"+addr).wantStatus(t, 200)
}

// A secret that becomes a FIFO, or anything else without an end, is a failure like that of a missing one: told at once,
// and over as soon as the file is repaired, without a reload.
func TestSecretBecomesIrregular(t *testing.T) {
	for what, irregular := range irregularFiles(t) {
		t.Run(what, func(t *testing.T) {
			tokens := newTokenServer(t)
			file := secretFiles[1].create(t.TempDir()) // renamed onto, since who writes into a FIFO waits for a reader
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, tokens.url, tokens.ClientID, serveHTTP(t, tokens.api()).URL)
			s.secret = "{file." + file.path + "}"
			s.start(t)
			if err := os.Remove(file.path); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(irregular, file.path); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				started := time.Now()
				get(t, s.url()).wantProblem(t, 502, "proxy_configuration_error")
				if d := time.Since(started); d > fileTimeout {
					t.Errorf("a request waited %s", d)
				}
			}
			if n := tokens.Calls(); n != 0 {
				t.Errorf("%d token calls without a secret", n)
			}
			if err := file.write(devserver.DefaultClientSecret); err != nil {
				t.Fatal(err)
			}
			back := time.Now()
			eventually(t, "to be served", func() bool { return get(t, s.url()).StatusCode == 200 })
			if d := time.Since(back); d > time.Second {
				t.Errorf("served %s after the file was repaired", d)
			}
		})
	}
}
